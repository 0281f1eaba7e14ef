"""`parfocal.integrations.mmdetection.FocalLoss` by mmdetection's formulas, and in a registry."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from parfocal.integrations.mmdetection import FocalLoss


def anchors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, generator=generator), torch.tensor([0, 3, 2, 1, 3, 3])


def one_hot(target):
    """As mmdetection makes it: the column of the background goes."""
    return torch.nn.functional.one_hot(target, 4)[:, :3].float()


def reduced(losses, weight=None, avg_factor=None, reduction="mean"):
    """`weight_reduce_loss` of mmdetection."""
    losses = losses if weight is None else losses * weight
    if avg_factor is not None and reduction == "mean":
        return losses.sum() / avg_factor
    return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]


@pytest.mark.parametrize("weights", [None, (6,), (18,), (6, 3)])
@pytest.mark.parametrize(
    ("reduction", "avg_factor"),
    [
        ("mean", None),
        ("mean", 2.0),
        ("mean", torch.tensor(3)),
        ("sum", None),
        ("none", None),
        ("none", 2.0),
    ],
    ids=["mean", "by a number", "by a tensor", "sum", "none", "none by a number"],
)
def test_it_is_the_formula(reduction, avg_factor, weights):
    """Of a weight an anchor, or an anchor and class; reduced by the call or by the constructor."""
    x, target = anchors()
    weight = None if weights is None else torch.rand(weights)
    over_classes = None if weight is None else weight.view(6, -1)
    losses = sigmoid_focal_loss(x, one_hot(target), alpha=0.25, gamma=2)
    expected = 1.5 * reduced(losses, over_classes, avg_factor, reduction)
    loss = FocalLoss(loss_weight=1.5)(x, target, weight, avg_factor, reduction)
    torch.testing.assert_close(loss, expected)
    loss = FocalLoss(loss_weight=1.5, reduction=reduction)(x, one_hot(target), weight, avg_factor)
    torch.testing.assert_close(loss, expected)


def test_what_does_not_fit_is_refused():
    """With the words of mmdetection's constructor and call."""
    with pytest.raises(ValueError, match="expected use_sigmoid=True"):
        FocalLoss(use_sigmoid=False)
    with pytest.raises(ValueError, match="expected no `avg_factor` with a sum, got 2"):
        FocalLoss(reduction="sum")(*anchors(), avg_factor=2)
    with pytest.raises(ValueError, match=r"`weight` of 6 or \d+ numbers, got \(5,\)"):
        FocalLoss()(*anchors(), torch.ones(5))


def test_a_factor_of_0_is_the_spacing_at_1():
    """As in mmdetection, which adds it to each: finite where an image has no anchor that counts."""
    x, target = anchors()
    total = FocalLoss(reduction="sum")(x, target)
    for zero in (0, 0.0, torch.tensor(0.0)):
        torch.testing.assert_close(FocalLoss()(x, target, avg_factor=zero), total * 2**23)


def test_a_registry_builds_it_from_a_configuration():
    """The one of mmengine, where that is installed."""
    registry = pytest.importorskip("mmengine.registry", reason="needs mmengine")
    losses = registry.Registry("losses")
    losses.register_module("ParfocalFocalLoss", module=FocalLoss)
    loss = losses.build({"type": "ParfocalFocalLoss", "gamma": 0.5, "loss_weight": 2.0})
    assert isinstance(loss, FocalLoss)
    assert (loss.gamma, loss.loss_weight) == (0.5, 2.0)
