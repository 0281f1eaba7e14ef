"""Bad input gets an error that says what was expected, what came, and in which call."""

import re

import pytest
import torch

from parfocal import sigmoid_focal_loss

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
        "together with reduction='sum', which it divides, got reduction='mean'",
    ),
    "normalizer of none": ((X, Y), {"normalizer": 3}, ValueError, "got reduction='none'"),
    "normalizer zero": (
        (X, Y),
        {"normalizer": 0, "reduction": "sum"},
        ValueError,
        "`normalizer` to be positive, got 0",
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
