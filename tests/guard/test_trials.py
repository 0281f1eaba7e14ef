"""What the guard's own calls of a loss may not do to a training, and what it may not say of it."""

import itertools
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from parfocal.guard import FocalGuard, FocalGuardError

pytestmark = pytest.mark.filterwarnings("ignore::parfocal.guard.FocalGuardWarning")

original = partial(sigmoid_focal_loss, gamma=0.5, reduction="mean")


def trained(loss, watch, steps=3, targets=None, **options):
    """Parameters and buffers of a network and its loss after a few steps."""
    torch.manual_seed(0)
    network = nn.Linear(5, 4)
    parts = nn.ModuleList([network, loss]) if isinstance(loss, nn.Module) else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs = torch.randn(64, 5)
    labels = (torch.randn(64, 4) > 0).float() if targets is None else targets
    called = FocalGuard(loss, **options).attach(optimizer) if watch else loss
    for _ in range(steps):
        optimizer.zero_grad()
        called(network(inputs), labels).backward()
        optimizer.step()
    state = {name: value.clone() for name, value in parts.state_dict().items()}
    return state, torch.rand(1), called


class Centred(nn.Module):
    """A centre that is a parameter without a gradient, as prototypes and teachers are."""

    def __init__(self):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x, y):
        """Of logits less the centre."""
        with torch.no_grad():
            self.centre.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return original(x - self.centre, y)


class Growing(nn.Module):
    """Tensors whose memory or shape is another after each call; and what isn't a tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("resized", torch.zeros(2))
        self.register_buffer("assigned", torch.arange(4.0))
        self.register_buffer("moved", torch.zeros(3))
        self.register_buffer("counted", torch.zeros(3))
        self.space, self.bytes = SimpleNamespace(calls=0), bytearray(b"\0")

    def forward(self, x, y):
        """The loss of logits beside."""
        self.resized.resize_(self.resized.numel() + 1)
        self.resized[-1] = 7.0
        self.assigned.data = torch.cat([self.assigned, x[:, 0].detach()])[-6:]
        self.moved.set_(torch.cat([self.moved, torch.ones(1)]))
        self.space.calls += 1
        self.bytes[0] += 1
        self.counted.copy_(torch.tensor([self.space.calls, self.bytes[0], len(self.bytes)]))
        return original(x, y)


class Normalised(nn.Module):
    """So many batch norms that they can't all be looked at."""

    def __init__(self, count=40):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(count))

    def forward(self, x, y):
        """Of the mean of all."""
        return original(torch.stack([norm(x) for norm in self.norms]).mean(0), y)


class Counted(nn.Module):
    """A count that is an attribute of the class."""

    calls = 0

    def forward(self, x, y):
        """Weighed by the count."""
        type(self).calls += 1
        return original(x, y) * (1 + 0.1 * type(self).calls)


def with_queue():
    """A queue in a closure that is larger than anything one would copy beforehand."""
    queue = torch.zeros(1 << 24)

    def loss(x, y):
        queue[: x.numel()] += x.detach().flatten()
        return original(x, y) + queue[:8].sum() * x.mean()

    return loss


def with_generator():
    """Random numbers of a stream of its own."""
    generator = torch.Generator().manual_seed(3)

    def loss(x, y):
        noise = torch.rand(x.shape, generator=generator)
        return original(x + noise, y)

    return loss


def with_global():
    """A tensor of the module's own globals."""

    def loss(x, y):
        KEPT.add_(x.detach().mean())
        return original(x + KEPT, y)

    return loss


KEPT = torch.zeros(())


@pytest.mark.parametrize(
    "make", [Centred, Growing, Normalised, Counted, with_queue, with_generator, with_global]
)
def test_a_watched_training_is_the_same_whatever_the_loss_keeps(make):
    results = []
    for watch in (False, True):
        KEPT.zero_()
        Counted.calls = 0
        state, drawn, called = trained(make(), watch)
        results.append((state, drawn))
        own = [notice.text for notice in getattr(called, "warnings", []) if notice.kind == "own"]
        assert own == []
    (plain, stream), (guarded, own_stream) = results
    assert plain.keys() == guarded.keys()
    assert all(torch.equal(plain[name], guarded[name]) for name in plain)
    assert torch.equal(stream, own_stream)


def test_an_argument_that_the_loss_writes_into_is_put_back():
    def loss(x, y, mean):
        mean.mul_(0.5).add_(x.detach().mean(), alpha=0.5)
        return original(x - mean, y)

    means = []
    for watch in (False, True):
        torch.manual_seed(0)
        x, mean = torch.randn(8, 4, requires_grad=True), torch.zeros(())
        called = FocalGuard(loss) if watch else loss
        for _ in range(2):
            called(x, torch.ones(8, 4), mean).backward()
            if watch:
                called.check()
        means.append(mean.item())
    assert means[0] == means[1] != 0


def test_a_loss_that_keeps_an_iterator_is_left_alone():
    """Nothing can put it back, so that it isn't called; what it gives stays what it was."""

    def make():
        steps = itertools.count()
        return lambda x, y: original(x, y) * next(steps)

    plain, *_ = trained(make(), watch=False)
    with pytest.warns(UserWarning, match="can't be restored"):
        guarded, _, guard = trained(make(), watch=True)
    assert all(torch.equal(plain[name], guarded[name]) for name in plain)
    assert guard.failures == []


def test_a_guard_within_a_guard_sees_the_training_alone():
    def by_hand(x, y):
        p = x.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    inner = FocalGuard(by_hand)
    outer = FocalGuard(lambda x, y: inner(x, y) + 0.1 * x.square().mean())
    x = torch.randn(16, 4, requires_grad=True)
    for _ in range(2):
        outer(x, torch.ones(16, 4)).backward()
        assert inner.check()
        assert outer.check()
    assert inner.readings[0].positions == 64


def test_a_loss_works_in_place_on_its_logits():
    """As F.relu(inplace=True) and a temperature do."""

    def loss(x, y):
        return original(x.div_(0.5), y)

    network, inputs = nn.Linear(5, 4), torch.randn(8, 5)
    guard = FocalGuard(loss)
    guard(network(inputs), torch.ones(8, 4)).backward()
    assert guard.check()
    assert guard.readings == []
    assert "writes into its logits" in guard.warnings[0].text


def test_anomaly_detection_hears_nothing_of_trials():
    with torch.autograd.set_detect_anomaly(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Anomaly Detection")
        _, _, guard = trained(original, watch=True)
    assert len(guard.readings) == 1


def test_a_loss_that_is_only_logged_stops_nothing():
    network, inputs = nn.Linear(5, 4), torch.randn(8, 5)
    guard = FocalGuard(original)
    guard(network(inputs) * float("nan"), torch.ones(8, 4)).item()
    assert guard.check()
    assert guard.failures == []


def test_a_sum_in_place_is_told_as_one():
    network, inputs = nn.Linear(5, 4), torch.randn(8, 5)
    guard = FocalGuard(original)
    loss = guard(network(inputs), torch.ones(8, 4))
    loss += torch.tensor(float("nan"))
    loss.backward()
    with pytest.raises(FocalGuardError, match="its loss has been written into since"):
        guard.check()


def test_several_losses_of_one_call_are_one():
    """As detectors return them, the one that breaks not the first."""
    boxes = nn.Parameter(torch.ones(3))

    def losses(x, y):
        return {"loss_box": boxes.square().mean(), "losses": {"loss_cls": original(x, y)}}

    x = torch.full((4, 2), 20.0, requires_grad=True)
    guard = FocalGuard(losses)
    result = guard(x, torch.ones(4, 2))
    (result["loss_box"] + result["losses"]["loss_cls"]).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert raised.value.diagnosis.cause == "focal term"


def test_a_result_without_a_loss_is_said():
    guard = FocalGuard(lambda x, y: {"a": [{"b": {"c": {"d": original(x, y)}}}]})
    with pytest.warns(UserWarning, match="found no tensor with a gradient"):
        guard(torch.zeros(4, requires_grad=True), torch.ones(4))


def test_large_arguments_are_not_held():
    """Features of a pass, beside its few logits."""
    guard = FocalGuard(lambda x, y, features: original(x, y) + features.mean())
    alive = []
    for _ in range(5):
        features = torch.randn(64, 2000, requires_grad=True) * 1
        alive.append(torch.utils.weak.WeakTensorKeyDictionary({features: None}))
        guard(features[:, :4] * 1, torch.ones(64, 4), features).backward()
        guard.check()
        del features
    assert sum(map(len, alive)) == 0


def test_gradients_that_a_skipped_step_left_out_are_there_afterwards():
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    guard = FocalGuard(original, action="skip").attach(optimizer)
    before = [p.clone() for p in network.parameters()]
    guard(network(torch.ones(1, 1)) * 0 + 20, torch.ones(1, 1)).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(p.grad is not None for p in network.parameters())


def test_a_sparse_gradient_that_broke_is_heard():
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(list(table.parameters()), lr=0.1)
    guard = FocalGuard(original).attach(optimizer)
    nn.Linear.__new__(nn.Linear)  # a module that nobody has made, among all those of the process
    rows = table(torch.arange(4))
    rows.register_hook(lambda gradient: gradient * float("nan"))
    guard(rows * 1, torch.ones(4, 4)).backward()
    with pytest.raises(FocalGuardError, match=r"gradient of parameter weight"):
        optimizer.step()


def test_a_compiled_graph_takes_targets_of_two_kinds():
    network = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    guard = FocalGuard(F.cross_entropy, every=2).attach(optimizer)
    step = torch.compile(lambda x, y: guard(network(x), y), backend="eager", fullgraph=True)
    inputs, index = torch.randn(8, 5), torch.arange(8) % 4
    for i in range(6):
        optimizer.zero_grad()
        step(inputs, index if i % 2 else F.one_hot(index, 4).float()).backward()
        optimizer.step()
    assert guard.readings


def test_names_of_the_loss_are_those_of_the_guard():
    assert FocalGuard(sigmoid_focal_loss).__name__ == "sigmoid_focal_loss"
    with pytest.raises(AttributeError, match="a separate guard"):
        FocalGuard(sigmoid_focal_loss).loss = F.cross_entropy


def test_transforms_and_meta_tensors_go_through_without_a_word():
    guard = FocalGuard(original)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.randn(6, 4)
        torch.func.vmap(torch.func.grad(guard))(x, torch.ones(6, 4))
        guard(torch.zeros(4, device="meta", requires_grad=True), torch.ones(4, device="meta"))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (F.soft_margin_loss, torch.randn(64, 4).sign()),
        (F.cross_entropy, torch.randn(64, 4)),
        (lambda x, y: (F.softmax(x / 4, 1) - y).square().mean(), torch.randn(64, 4).relu()),
    ],
)
def test_data_that_are_right_are_not_accused(loss, targets):
    """Targets of -1 and 1, a teacher's logits, grades."""
    _, _, guard = trained(loss, watch=True, targets=targets, action="record")
    assert [notice for notice in guard.warnings if notice.kind == "labels"] == []


def test_complementary_labels_are_no_probabilities():
    """The gradient is negative at the classes that the target leaves out."""
    y = F.one_hot(torch.arange(64) % 4, 4).float()
    _, _, guard = trained(lambda x, y: F.cross_entropy(x, (1 - y) / 3), watch=True, targets=y)
    assert guard.readings == []


def test_a_gradient_at_a_soft_target_is_not_dead():
    """Quality focal loss, 0.016 at a logit of 17 and a target of 0.6."""

    def quality(x, y):
        entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        return ((y - x.sigmoid()).abs() ** 2 * entropy).sum()

    guard = FocalGuard(quality)
    x = torch.full((8,), 17.0, requires_grad=True)
    guard(x, torch.full((8,), 0.6)).backward()
    guard.check()
    assert x.grad.abs().min() > 0
    assert guard.readings[0].dead == 0


def test_a_class_with_no_gradient_by_chance_counts():
    def easy_left_out(x, y):
        return F.relu(F.cross_entropy(x, y, reduction="none") - 1).sum()

    y = torch.arange(4)
    x = torch.zeros(4, 4, requires_grad=True)
    guard = FocalGuard(easy_left_out, action="record")
    guard(x * 1, y).backward()
    guard.check()
    assert all(reading.positions == 4 for reading in guard.readings)


def test_a_power_of_a_region_score_is_not_the_focal_term():
    def tversky(x, y, gamma=0.75):
        p = x.sigmoid()
        score = (p * y).sum() / (p * y + 0.5 * p * (1 - y) + 0.5 * (1 - p) * y).sum()
        return (1 - score) ** gamma

    y = torch.tensor([1.0, 0.0, 1.0, 0.0])
    x = ((2 * y - 1) * 200).requires_grad_()
    guard = FocalGuard(tversky)
    guard(x * 1, y).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert raised.value.diagnosis.cause != "focal term"


def test_probabilities_that_are_sure_are_no_normaliser():
    """The commonest loss written by hand, of a p that is 1."""

    def of_probabilities(p, y):
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    p = torch.tensor([1.0, 0.5], requires_grad=True)
    guard = FocalGuard(of_probabilities)
    guard(p * 1, torch.tensor([0.0, 1.0])).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert raised.value.diagnosis.cause != "normaliser"
