"""The guard takes the loss's place completely: every call, state, attribute and copy of it."""

import copy
import inspect
import pickle
from collections import OrderedDict
from functools import partial

import kornia
import monai
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from loss_cases import LOSSES
from torch import nn
from torchvision.ops import sigmoid_focal_loss as original

import parfocal
from parfocal.guard import FocalGuard, FocalGuardError

pytestmark = pytest.mark.filterwarnings("ignore::parfocal.guard.FocalGuardWarning")


def gradient(loss, x, *arguments, **keywords):
    """What the loss returns and its gradient, as bits."""
    x = x.clone().requires_grad_()
    result = loss(x, *arguments, **keywords)
    result.sum().backward()
    return result.detach(), x.grad


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_every_loss_of_the_package_is_what_it_was(case):
    """To the bit, over steps with trials between them."""
    x, y = case.draw(dtype=torch.float32)
    y = y.float() if y.is_floating_point() else y
    guard = FocalGuard(case.loss, every=1)
    for _ in range(3):
        expected, found = gradient(case.loss, x, y), gradient(guard, x, y)
        assert guard.check()
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def maps(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def classes(*shape):
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1))


INSTALLED = [
    (original, maps(6, 4), (maps(6, 4) > 0).float(), {"reduction": "mean"}),
    (nn.CrossEntropyLoss(weight=torch.rand(3)), maps(6, 3), classes(6), {}),
    (kornia.losses.FocalLoss(alpha=0.5), maps(2, 3, 4, 4), classes(2, 4, 4), {}),
    (monai.losses.FocalLoss(to_onehot_y=True), maps(2, 3, 4, 4), classes(2, 1, 4, 4), {}),
    (monai.losses.DiceFocalLoss(to_onehot_y=True), maps(2, 3, 4, 4), classes(2, 1, 4, 4), {}),
    (smp.losses.FocalLoss("multiclass"), maps(2, 3, 4, 4), classes(2, 4, 4), {}),
    (smp.losses.TverskyLoss("multiclass"), maps(2, 3, 4, 4), classes(2, 4, 4), {}),
]


@pytest.mark.parametrize(("loss", "x", "y", "keywords"), INSTALLED)
def test_losses_of_libraries_are_what_they_were(loss, x, y, keywords):
    """The same of those that are installed."""
    guard = FocalGuard(loss, every=1)
    for _ in range(3):
        expected, found = gradient(loss, x, y, **keywords), gradient(guard, x, y, **keywords)
        assert guard.check()
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert [n.text for n in guard.warnings if n.kind == "own"] == []


def broken(guard, *arguments, **keywords):
    """A call whose gradient is NaN is told, whatever its form."""
    loss = guard(*arguments, **keywords)
    values = list(loss.values()) if isinstance(loss, dict) else loss
    total = values[-1] if isinstance(values, list | tuple) else values
    total.backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    return raised.value.diagnosis


def mean(inputs, targets, gamma=0.5):
    return original(inputs, targets, gamma=gamma, reduction="mean")


def swapped(y_true, y_pred):
    return mean(y_pred, y_true)


@pytest.mark.parametrize(
    ("loss", "call"),
    [
        (mean, lambda g, x, y: ((x, y), {})),
        (mean, lambda g, x, y: ((), {"inputs": x, "targets": y})),
        (mean, lambda g, x, y: ((), {"targets": y, "inputs": x})),
        (mean, lambda g, x, y: ((x,), {"targets": y, "gamma": 0.3})),
        (mean, lambda g, x, y: ((x, y, 0.3), {})),
        (swapped, lambda g, x, y: ((y, x), {})),
        (swapped, lambda g, x, y: ((), {"y_pred": x, "y_true": y})),
        (lambda x, y: (x.detach(), mean(x, y)), lambda g, x, y: ((x, y), {})),
        (lambda x, y: {"n": 3, "loss": mean(x, y)}, lambda g, x, y: ((x, y), {})),
        (lambda x, y: OrderedDict(loss=mean(x, y)), lambda g, x, y: ((x, y), {})),
    ],
)
def test_every_way_of_calling_is_heard(loss, call):
    """Keywords, any order, and a loss within what is returned."""
    x = torch.tensor([1.0, 20.0], requires_grad=True)
    arguments, keywords = call(None, x, torch.ones(2))
    diagnosis = broken(FocalGuard(loss), *arguments, **keywords)
    assert (diagnosis.cause, diagnosis.sample, diagnosis.logit) == ("focal term", 1, 20.0)


def test_a_call_without_targets_is_passed_on():
    """And an error of the loss is the loss's own."""
    guard = FocalGuard(lambda x: x.sum())
    x = torch.ones(2, requires_grad=True)
    guard(x).backward()
    assert guard.check()
    with pytest.raises(TypeError, match="missing"):
        FocalGuard(mean)(x)


class Net(nn.Module):
    """A model that has its loss."""

    def __init__(self, wrap):
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.criterion = wrap(parfocal.SoftmaxFocalLoss(weight=torch.tensor([1.0, 2.0, 3.0])))


def test_checkpoints_load_with_and_without_a_guard():
    """The same keys and values, and those of a guard of before."""
    plain, guarded = Net(lambda loss: loss), Net(FocalGuard)
    assert plain.state_dict().keys() == guarded.state_dict().keys()
    guarded.load_state_dict(plain.state_dict())
    plain.load_state_dict(guarded.state_dict())
    assert torch.equal(plain.layer.weight, guarded.layer.weight)
    former = {k.replace("criterion.", "criterion.loss."): v for k, v in plain.state_dict().items()}
    former["criterion.loss.weight"] = torch.tensor([4.0, 5.0, 6.0])
    guarded.load_state_dict(former)
    assert guarded.criterion.loss.weight.tolist() == [4.0, 5.0, 6.0]
    with pytest.raises(RuntimeError, match="Unexpected"):
        guarded.load_state_dict({**plain.state_dict(), "criterion.other": torch.ones(1)})
    names = [dict(net.named_buffers()).keys() for net in (plain, guarded)]
    assert names[0] == names[1]


class Own(nn.Module):
    """A loss with a parameter, a child, a mode and a state of its own."""

    def __init__(self):
        super().__init__()
        self.log_gamma = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(3)
        self.gamma = 2.0

    def forward(self, inputs, targets):
        """The loss of normalised logits."""
        return original(self.norm(inputs), targets, gamma=self.gamma, reduction="mean")

    def get_extra_state(self):
        """The exponent."""
        return self.gamma

    def set_extra_state(self, state):
        """The exponent."""
        self.gamma = state


def test_state_parameters_modes_and_attributes_are_the_losses_own():
    """As if it stood there itself."""
    loss = Own()
    guard = FocalGuard(loss)
    assert isinstance(guard, nn.Module)
    assert [name for name, _ in guard.named_parameters()] == [n for n, _ in loss.named_parameters()]
    assert guard.log_gamma is loss.log_gamma
    guard.eval()
    assert not loss.training
    assert not loss.norm.training
    guard.train()
    assert loss.training
    guard.gamma = 3.0  # a schedule
    assert loss.gamma == 3.0
    assert "gamma" not in vars(guard)
    assert guard.state_dict().keys() == loss.state_dict().keys()
    other = Own()
    FocalGuard(other).load_state_dict(guard.state_dict())
    assert other.gamma == 3.0
    guard.double()
    assert loss.log_gamma.dtype == loss.norm.running_mean.dtype == torch.float64
    with pytest.raises(AttributeError, match="nonsense"):
        _ = guard.nonsense
    assert "Own(" in repr(guard)
    assert "action='raise'" in repr(guard)
    assert inspect.signature(guard) == inspect.signature(loss.forward)
    assert inspect.signature(FocalGuard(mean)) == inspect.signature(mean)


def test_copies_share_with_their_own_loss():
    """By `deepcopy` and pickle: a copy's state is that of the copied loss, and it works."""
    guard = FocalGuard(Own())
    x = torch.randn(4, 3, requires_grad=True)
    guard(x, torch.ones(4, 3)).backward()
    for other in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert other.log_gamma is other.loss.log_gamma is not guard.log_gamma
        other(x, torch.ones(4, 3)).backward()
        assert other.check()
    function = pickle.loads(pickle.dumps(FocalGuard(partial(original, gamma=0.5))))
    assert function.loss.keywords == {"gamma": 0.5}


def test_a_function_has_no_state():
    """And is called by its name in a print."""
    guard = FocalGuard(F.cross_entropy)
    assert guard.state_dict() == {}
    assert list(guard.parameters()) == []
    assert repr(guard).startswith("FocalGuard(cross_entropy, ")
