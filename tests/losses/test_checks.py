"""Bad input gets an error that says what was expected, what came, and in which call."""

import math
import re

import pytest
import torch

import parfocal
from parfocal import sigmoid_focal_loss
from parfocal.losses import values

X = torch.zeros(2, 3)
Y = torch.ones(2, 3)

# What is wrong, the arguments, the error, and what its message must contain.
CASES = {
    "logits of a list": (([0.0], Y), {}, TypeError, "`inputs` to be a tensor, got [0.0] (list)"),
    "integer logits": (
        (X.long(), Y),
        {},
        TypeError,
        "float64, float32, float16 or bfloat16, got a int64 tensor of shape (2, 3) on cpu",
    ),
    "complex logits": ((X.cfloat(), Y), {}, TypeError, "got a complex64 tensor of shape (2, 3)"),
    "complex targets": ((X, Y.cfloat()), {}, TypeError, "real numbers in [0, 1], got a complex64"),
    "other shape": ((X, Y[:1]), {}, ValueError, "(2, 3), got a float32 tensor of shape (1, 3)"),
    "other device": (
        (X, Y.to("meta")),
        {},
        ValueError,
        "`targets` on the device of `inputs`, cpu, got a float32 tensor of shape (2, 3) on meta",
    ),
    "negative gamma": (
        (X, Y),
        {"gamma": -0.5},
        ValueError,
        "`gamma` to be finite and >= 0, got -0.5",
    ),
    "gamma NaN": ((X, Y), {"gamma": float("nan")}, ValueError, "got nan"),
    "infinite gamma": ((X, Y), {"gamma": float("inf")}, ValueError, "got inf"),
    "gamma a string": ((X, Y), {"gamma": "2"}, TypeError, "a number or a tensor, got '2' (str)"),
    "gamma of a shape": (
        (X, Y),
        {"gamma": torch.ones(2)},
        ValueError,
        "`gamma` to broadcast to the shape of `inputs`, (2, 3), got a float32 tensor of shape (2,)",
    ),
    "gamma that enlarges": ((X, Y), {"gamma": torch.ones(4, 2, 3)}, ValueError, "(4, 2, 3)"),
    "alpha above 1": (
        (X, Y),
        {"alpha": 1.5},
        ValueError,
        "`alpha` in [0, 1], or None or a negative",
    ),
    "alpha NaN": ((X, Y), {"alpha": float("nan")}, ValueError, "got nan"),
    "alpha complex": ((X, Y), {"alpha": torch.ones(3).cfloat()}, TypeError, "hold real numbers"),
    "negative epsilon": ((X, Y), {"epsilon": -1e-3}, ValueError, "`epsilon` to be finite and >= 0"),
    "epsilon tensor": (
        (X, Y),
        {"epsilon": torch.ones(3)},
        TypeError,
        "`epsilon` to be a number, got",
    ),
    "unknown reduction": ((X, Y), {"reduction": "avg"}, ValueError, "'mean' or 'sum', got 'avg'"),
    "mask of floats": ((X, Y), {"mask": Y}, TypeError, "`mask` to be a boolean tensor"),
    "mask of a shape": ((X, Y), {"mask": Y[:, :2] > 0}, ValueError, "bool tensor of shape (2, 2)"),
    "weight on a device": ((X, Y), {"weight": Y.to("meta")}, ValueError, "`weight` on the device"),
    "weight a number": (
        (X, Y),
        {"weight": 2.0},
        TypeError,
        "`weight` to be a tensor, got 2.0 (float)",
    ),
    "normalizer of a mean": (
        (X, Y),
        {"normalizer": 3, "reduction": "mean"},
        ValueError,
        "`normalizer` with reduction='sum', since it divides the sum, got reduction='mean'",
    ),
    "normalizer of none": ((X, Y), {"normalizer": 3}, ValueError, "got reduction='none'"),
    "normalizer zero": (
        (X, Y),
        {"normalizer": 0, "reduction": "sum"},
        ValueError,
        "`normalizer` to be positive and finite, got 0",
    ),
    "normalizer of many": (
        (X, Y),
        {"normalizer": torch.ones(2), "reduction": "sum"},
        ValueError,
        "one number, got a float32 tensor of shape (2,)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_error_says_what_came(case):
    """Each wrong argument, its kind of error and the words that help."""
    arguments, options, error, words = CASES[case]
    with pytest.raises(error, match=re.escape(words)) as caught:
        sigmoid_focal_loss(*arguments, **options)
    assert str(caught.value).startswith("sigmoid_focal_loss: expected `")


def test_no_value_is_read():
    """Meta tensors have none: forward, backward and every option work on them all the same.

    0-dimensional CPU tensors are numbers to every device, as in PyTorch.
    """
    x = X.to("meta").requires_grad_()
    y = Y.to("meta")
    loss = sigmoid_focal_loss(
        x,
        y,
        torch.tensor(0.3),
        torch.tensor(2.0),
        "sum",
        weight=y,
        mask=y > 0,
        normalizer=(y > 0).sum(),
    )
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.shape == X.shape


VOID = pytest.mark.parametrize("void", [-1, 255])


@VOID
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64], ids=str)
def test_a_binary_label_that_is_none_is_refused(void, reduction, dtype):
    """Where looking is free; a mask leaves it out."""
    x, y = torch.randn(4), torch.tensor([0, void, 1, 1]).to(dtype)
    for loss in (sigmoid_focal_loss, parfocal.varifocal_loss, parfocal.gaussian_focal_loss):
        with pytest.raises(
            ValueError, match=rf"^{loss.__name__}: .* in \[0, 1\], got {void}; .*mask"
        ):
            loss(x, y, reduction=reduction)
        left_out = loss(x, y, reduction="sum", mask=y == y.clamp(0, 1))
        cut = torch.tensor([0, 2, 3])
        torch.testing.assert_close(left_out, loss(x[cut], y[cut], reduction="sum"))


OF_CLASSES = [
    parfocal.softmax_focal_loss,
    parfocal.SoftmaxFocalLoss(),
    parfocal.softmax_tversky_loss,
    parfocal.softmax_focal_tversky_loss,
    parfocal.softmax_unified_focal_loss,
    parfocal.softmax_asymmetric_unified_focal_loss,
]
LABELS = torch.tensor([[0, 1, 2, 0, 2], [2, 1, 1, 0, 0]])


@pytest.mark.parametrize("loss", OF_CLASSES, ids=lambda loss: getattr(loss, "__name__", "module"))
@pytest.mark.parametrize(
    ("targets", "remedy"),
    [
        (torch.nn.functional.one_hot(LABELS, 3).movedim(-1, 1), "targets.float()"),
        (LABELS.float(), "targets.long()"),
        (LABELS.unsqueeze(1), "targets.squeeze(1)"),
    ],
    ids=["one-hot", "float indices", "a channel"],
)
def test_class_targets_of_a_known_wrong_kind_are_told_what_mends_them(loss, targets, remedy):
    """And it does."""
    x = torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match=re.escape(remedy)):
        loss(x, targets)
    mended = eval(remedy, {"targets": targets})
    torch.testing.assert_close(loss(x, mended), loss(x, LABELS))


def test_classes_in_the_last_dimension_are_told():
    """As sequence models have them."""
    x, labels = torch.randn(2, 5, 3), LABELS
    with pytest.raises(ValueError, match=r"not last: `inputs.flatten\(0, -2\)`"):
        parfocal.softmax_focal_loss(x, labels)
    flat = parfocal.softmax_focal_loss(x.flatten(0, -2), labels.flatten())
    torch.testing.assert_close(flat, parfocal.softmax_focal_loss(x.movedim(-1, 1), labels))


@pytest.mark.parametrize("loss", OF_CLASSES, ids=lambda loss: getattr(loss, "__name__", "module"))
def test_a_void_class_is_told_how_to_be_ignored(loss):
    """255 among 3 classes; several may be."""
    x, y = torch.randn(2, 3, 5), LABELS.clone()
    y[0, 0], y[1, 1] = 255, 254
    with pytest.raises(IndexError, match=r"got 255, .*`ignore_index=255`"):
        loss(x, y)
    if isinstance(loss, torch.nn.Module):
        loss = parfocal.softmax_focal_loss
    several = loss(x, y, ignore_index=[255, 254])
    torch.testing.assert_close(several, loss(x, LABELS, mask=y < 3))


def test_void_is_no_positive():
    """255 of index maps by default, others that are named; a mask of 0 and 255 warns."""
    y = torch.tensor([0, 0, 1, 2, 255, 255, 254])
    assert parfocal.positive_count(y) == 3
    assert parfocal.positive_count(y, ignore_index=(255, 254)) == 2
    assert parfocal.positive_count(y, ignore_index=None) == 5
    assert parfocal.positive_count(y.to(torch.uint8)) == 3
    assert parfocal.positive_count(torch.tensor([0.2, 255.0])) == 2
    with pytest.warns(UserWarning, match="all positives of `targets` are 255"):
        parfocal.positive_count(torch.tensor([0, 255, 255], dtype=torch.uint8))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.int32], ids=str)
def test_a_mask_of_integers_counts_where_it_is_not_0(kind):
    """As an attention mask has them."""
    x, y = torch.randn(2, 3, 5), LABELS
    mask = torch.tensor([[1, 1, 1, 0, 0], [2, 1, 0, 0, 0]])
    for loss in OF_CLASSES:
        options = {"mask": mask.to(kind)}
        torch.testing.assert_close(loss(x, y, **options), loss(x, y, mask=mask != 0))
    logits, targets = torch.randn(2, 5), (LABELS > 0).float()
    found = sigmoid_focal_loss(logits, targets, reduction="mean", mask=mask.to(kind))
    expected = sigmoid_focal_loss(logits, targets, reduction="mean", mask=mask != 0)
    torch.testing.assert_close(found, expected)


def test_nothing_to_be_learned_warns():
    """A single class, and a heat map whose centres aren't exactly 1."""
    with pytest.warns(UserWarning, match="a single class") as caught:
        parfocal.softmax_focal_loss(torch.randn(3, 1), torch.zeros(3, dtype=torch.long))
    assert caught[0].filename == __file__
    values._have_centres.clear()
    with pytest.warns(UserWarning, match="exactly 1") as caught:
        parfocal.gaussian_focal_loss(torch.randn(3), torch.tensor([0.0, 0.3, 0.97]))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("value", [1e300, 2.0**21, math.inf, math.nan])
def test_an_exponent_that_no_computation_holds_is_refused(value):
    """Its products with logits would be infinite."""
    for loss, name in (
        (sigmoid_focal_loss, "gamma"),
        (parfocal.quality_focal_loss, "beta"),
        (parfocal.asymmetric_loss, "gamma_neg"),
        (parfocal.gaussian_focal_loss, "beta"),
    ):
        with pytest.raises(ValueError, match=f"expected `{name}` to be"):
            loss(torch.randn(3), torch.ones(3), **{name: value})


@pytest.mark.parametrize("normalizer", [1e-300, 10**400, math.inf, torch.tensor(2 + 0j)], ids=str)
def test_a_normalizer_that_no_computation_holds_is_refused(normalizer):
    """In the name of the call."""
    with pytest.raises(
        (TypeError, ValueError), match=r"^sigmoid_focal_loss: expected `normalizer`"
    ):
        sigmoid_focal_loss(torch.randn(3), torch.ones(3), reduction="sum", normalizer=normalizer)
