"""What the targets of a loss mean, measured: for losses of every kind, of libraries and our own."""

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
from parfocal.guard import Form, LossCall, limits_of, measure_form
from parfocal.guard.loss_call import Places, places_of


def call_of(loss, shape, targets, dtype=torch.float32, **keywords):
    """A call at random logits."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return LossCall(loss, logits, targets, keywords=keywords)


def indices(shape, classes, *, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape):
    return indices(shape, 2).float()


def void(shape, classes, value):
    """Class indices, of which a third don't count."""
    index = indices(shape, classes)
    index.view(-1)[::3] = value
    return index


def last(loss):
    """A loss of logits (B, T, C)."""
    return lambda x, y: loss(x.flatten(0, 1), y.flatten())


def shifted(x, y):
    """Of a causal model: each label belongs to the logits before."""
    return F.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten())


def one_vs_rest(x, y):
    """Detectors: C is background."""
    one_hot = F.one_hot(y, x.shape[1] + 1)[:, :-1].to(x.dtype)
    return original(x, one_hot, gamma=2.0, reduction="sum")


def of_probabilities(x, y):
    """A loss that wants a sigmoid before it."""
    return F.binary_cross_entropy(x, y)


FORMS = [
    (partial(original, reduction="mean"), (6,), labels(6), Form("elementwise")),
    (partial(original, reduction="mean"), (6, 4), labels(6, 4), Form("elementwise")),
    (partial(original, reduction="sum"), (1,), torch.ones(1), Form("elementwise")),
    (nn.BCEWithLogitsLoss(), (3, 2, 4, 5), labels(3, 2, 4, 5), Form("elementwise")),
    (lambda x, y: original(x.squeeze(1), y).mean(), (8, 1), labels(8), Form("elementwise")),
    (smp.losses.FocalLoss("binary"), (2, 1, 4, 4), labels(2, 1, 4, 4), Form("elementwise")),
    (
        smp.losses.FocalLoss("binary", ignore_index=255),
        (2, 1, 4, 4),
        torch.where(labels(2, 1, 4, 4) > 0, 255.0, 1.0),
        Form("elementwise", ignored=(255.0,)),
    ),
    (
        lambda x, y: (F.binary_cross_entropy_with_logits(x, y, reduction="none") * (y >= 0)).mean(),
        (8, 3),
        torch.where(labels(8, 3) > 0, -1.0, 1.0),
        Form("elementwise", ignored=(-1.0,)),
    ),
    (parfocal.varifocal_loss, (6, 4), torch.rand(6, 4), Form("elementwise")),
    (F.cross_entropy, (6, 4), indices((6,), 4), Form("index")),
    (F.cross_entropy, (2, 5, 4, 3), indices((2, 4, 3), 5), Form("index")),
    (F.cross_entropy, (9, 4), void((9,), 4, -100), Form("index", ignored=(-100,))),
    (
        nn.CrossEntropyLoss(ignore_index=255),
        (2, 5, 4, 3),
        void((2, 4, 3), 5, 255),
        Form("index", ignored=(255,)),
    ),
    (nn.CrossEntropyLoss(ignore_index=0), (9, 4), indices((9,), 4), Form("index", ignored=(0,))),
    (F.cross_entropy, (6, 4), torch.randn(6, 4).softmax(1), Form("probabilities")),
    (partial(F.cross_entropy, label_smoothing=0.1), (6, 4), indices((6,), 4), Form("index")),
    (last(F.cross_entropy), (2, 5, 7), indices((2, 5), 7), Form("index", dim=2)),
    (
        last(F.cross_entropy),
        (2, 5, 7),
        void((2, 5), 7, -100),
        Form("index", dim=2, ignored=(-100,)),
    ),
    (
        kornia.losses.FocalLoss(alpha=0.5, reduction="mean"),
        (2, 5, 4, 3),
        indices((2, 4, 3), 5),
        Form("index"),
    ),
    (
        monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True),
        (2, 3, 4, 4),
        indices((2, 1, 4, 4), 3).float(),
        Form("index", has_channel=True),
    ),
    (
        monai.losses.FocalLoss(to_onehot_y=True),
        (2, 3, 4, 4),
        indices((2, 1, 4, 4), 3),
        Form("one-vs-rest", has_channel=True),
    ),
    (
        monai.losses.DiceLoss(softmax=True, to_onehot_y=True),
        (2, 3, 4, 4),
        indices((2, 1, 4, 4), 3),
        Form("index", has_channel=True),
    ),
    (  # whose softmax is that of the Dice loss alone
        monai.losses.DiceFocalLoss(softmax=True, to_onehot_y=True),
        (2, 3, 4, 4),
        indices((2, 1, 4, 4), 3),
        Form("one-vs-rest", has_channel=True),
    ),
    (
        smp.losses.FocalLoss("multiclass"),
        (2, 3, 4, 4),
        indices((2, 4, 4), 3),
        Form("one-vs-rest"),
    ),
    (one_vs_rest, (9, 4), void((9,), 4, 4), Form("one-vs-rest")),
    (parfocal.sigmoid_focal_loss, (9, 4), void((9,), 4, 4), Form("one-vs-rest")),
    # What can't be told isn't.
    (shifted, (2, 6, 7), indices((2, 6), 7), Form("unknown")),
    (of_probabilities, (6, 4), labels(6, 4), Form("unknown")),
    (F.mse_loss, (6, 4), torch.randn(6, 4), Form("unknown")),
    (F.l1_loss, (6, 4), labels(6, 4), Form("unknown")),
    (F.nll_loss, (6, 4), indices((6,), 4), Form("unknown")),
    (lambda x, y: x.square().mean(), (6, 4), labels(6, 4), Form("unknown")),
    (lambda x, y: (x[:, :3] - y).square().mean(), (6, 4), torch.randn(6, 3), Form("unknown")),
]


@pytest.mark.parametrize(("loss", "shape", "targets", "form"), FORMS)
def test_the_form_is_measured(loss, shape, targets, form):
    """Of losses whose meaning is known."""
    assert measure_form(call_of(loss, shape, targets)) == form


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_form_is_measured_in_every_precision(dtype):
    """A sum of rounded gradients is 0 to that precision."""
    exact = parfocal.softmax_focal_loss
    assert measure_form(call_of(exact, (6, 9), indices((6,), 9), dtype)) == Form("index")
    exact = partial(parfocal.sigmoid_focal_loss, reduction="mean")
    assert measure_form(call_of(exact, (6, 9), labels(6, 9), dtype)) == Form("elementwise")


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_the_form_of_every_loss_of_the_package(case):
    """By what its case says that its targets are."""
    x, y = case.draw()
    form = measure_form(LossCall(case.loss, x, y))
    is_softmax = "softmax" in case.name
    if case.kind == "likelihoods":  # whose targets are none
        expected = "unknown"
    elif x.shape == y.shape:
        expected = "probabilities" if is_softmax else "elementwise"
    else:
        expected = "index" if is_softmax else "one-vs-rest"
    assert form.kind == expected


@pytest.mark.parametrize("name", ["mask", "weight"])
def test_the_argument_that_leaves_positions_out_is_found(name):
    """A mask, or a map of weights with zeros; one that has none leaves nothing out."""
    shape = (3, 2, 4, 4)
    for zeros in (True, False):
        value = torch.ones(3, 1, 4, 4)
        value[:, :, :2] = 0.0 if zeros else 1.0
        value = value.bool() if name == "mask" else value
        call = call_of(parfocal.sigmoid_focal_loss, shape, labels(*shape), **{name: value})
        assert measure_form(call).mask == (name if zeros else None)
    form = Form("elementwise", mask="mask")
    mask = torch.ones(3, 2, 4, 4, dtype=torch.bool)
    mask[0] = False
    counts = form.counts(call_of(original, shape, labels(*shape), mask=mask))
    assert torch.equal(counts, mask)


def test_margins_of_every_form():
    """By hand: log-odds of the answer that the target names."""
    x = torch.tensor([[4.0, 1.0, -2.0]])
    others = {0: [1.0, -2.0], 1: [4.0, -2.0], 2: [4.0, 1.0]}
    u = {c: x[0, c] - torch.tensor(o).logsumexp(0) for c, o in others.items()}
    call = LossCall(original, x, torch.tensor([[1.0, 0.0, 1.0]]))
    assert Form("elementwise").margins(call).tolist() == [[4.0, -1.0, -2.0]]
    index = call._replace(targets=torch.tensor([1]))
    assert torch.allclose(Form("index").margins(index), u[1])
    assert Form("one-vs-rest").margins(index).tolist() == [[-4.0, 1.0, 2.0]]
    background = call._replace(targets=torch.tensor([3]))
    assert Form("one-vs-rest").margins(background).tolist() == [[-4.0, -1.0, 2.0]]
    assert torch.allclose(Form("index").margins(background), u[0])  # of no class: the surest
    mixed = call._replace(targets=torch.tensor([[0.0, 0.3, 0.7]]))
    assert torch.allclose(Form("probabilities").margins(mixed), max(u[1], u[2]))
    channel = Form("index", has_channel=True)
    assert torch.allclose(channel.margins(call._replace(targets=torch.tensor([[1]]))), u[1])
    rows = LossCall(original, x.unsqueeze(1), torch.tensor([[1]]))
    assert torch.allclose(Form("index", dim=2).margins(rows), u[1])


def test_limits_of_one_vs_rest_are_those_of_each_side():
    """A sure absence breaks where torchvision's loss of target 0 does."""
    call = call_of(
        smp.losses.FocalLoss("multiclass", gamma=0.5), (2, 3, 4, 4), indices((2, 4, 4), 3)
    )
    absent, present = limits_of(call, Form("one-vs-rest"))
    x = torch.tensor([[-absent.cliff]], requires_grad=True)
    smp.losses.FocalLoss("binary", gamma=0.5)(x, torch.zeros(1, 1)).backward()
    assert not x.grad.isfinite()
    x = torch.tensor([[present.cliff]], requires_grad=True)
    smp.losses.FocalLoss("binary", gamma=0.5)(x, torch.ones(1, 1)).backward()
    assert not x.grad.isfinite()


def test_limits_of_a_loss_that_needs_positives():
    """A normaliser of 0 positives is no cliff: trials have some."""
    loss = lambda x, y: original(x, y, gamma=2.0, reduction="sum") / y.sum()  # noqa: E731
    for limits in limits_of(call_of(loss, (8,), labels(8)), Form("elementwise")):
        assert limits.cliff == limits.cliff_wrong == float("inf")


def test_limits_of_a_loss_in_which_one_answer_breaks_all():
    """The mean of all is raised to a power: trials together would blame the calmest."""

    def region(x, y):
        p = x.sigmoid()
        return (1 - (p * y + (1 - p) * (1 - y))).mean().sqrt() + 0 * original(
            x, y, gamma=0.5
        ).mean()

    call = call_of(region, (8,), labels(8))
    limits = limits_of(call, Form("elementwise"))
    assert limits is None or limits[1].cliff > 16


CALLS = [
    (lambda inputs, targets: ..., ("x", "y"), {}, Places(0, 1)),
    (lambda y_true, y_pred: ..., ("y", "x"), {}, Places(1, 0)),
    (lambda targets, inputs: ..., (), {"targets": "y", "inputs": "x"}, Places("inputs", "targets")),
    (lambda inputs, targets: ..., ("x",), {"targets": "y"}, Places(0, "targets")),
    (lambda pred, weight, target: ..., ("x", "w", "y"), {}, Places(0, 2)),
    (lambda pred, target, weight: ..., ("x",), {"weight": "w", "target": "y"}, Places(0, "target")),
    (lambda *args: ..., ("x", "y", "w"), {}, Places(0, 1)),
    (lambda features, boxes: ..., (), {}, None),
    (lambda inputs, targets: ..., ("x",), {}, None),
]


@pytest.mark.parametrize(("loss", "arguments", "keywords", "places"), CALLS)
def test_logits_and_targets_are_found_by_name_and_gradient(loss, arguments, keywords, places):
    """Whatever order the loss has them in."""
    tensors = {"x": torch.zeros(3, 2, requires_grad=True), "y": torch.zeros(3), "w": torch.ones(2)}
    found = places_of(
        loss, [tensors[a] for a in arguments], {k: tensors[v] for k, v in keywords.items()}
    )
    assert found == places
