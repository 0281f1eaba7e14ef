"""What a user reads first, and the call that an audit gives in the place of a loss."""

import pytest
import torch
import torch.nn.functional as F

import parfocal
from parfocal.audit import audit
from parfocal.audit.output.summary import summary

few = {"quick": True, "gammas": (0.5, 2.0), "modes": ()}


def one_sided(logits, targets, gamma=2.0):
    """3 on the negatives."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 + 2 * (1 - targets)) * (1 - torch.exp(-ce)) ** gamma * ce


def alpha_and_scale(logits, targets, gamma=2.0):
    """alpha 0.25, times 8."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return 8 * (0.75 - 0.5 * targets) * (1 - torch.exp(-ce)) ** gamma * ce


def of_classes(logits, targets, gamma=2.0):
    """A softmax."""
    log_p = F.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p


def without_gamma(logits, targets, gamma=2.0):
    """The exponent 3, whatever gamma is."""
    return one_sided(logits, targets, 3.0)


def one_more(logits, targets, gamma=2.0):
    """The exponent gamma + 1."""
    return one_sided(logits, targets, gamma + 1)


def half(logits, targets, gamma=2.0):
    """The exponent gamma / 2."""
    return one_sided(logits, targets, gamma / 2)


def weighted(logits, targets, gamma=2.0):
    """Weights of two classes."""
    return weight[targets] * of_classes(logits, targets, gamma)


weight = torch.tensor([0.25, 0.75], dtype=torch.float64)

LOSSES = [
    one_sided, alpha_and_scale, of_classes, without_gamma, one_more, half, weighted,
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_the_replacement_gives_the_same(loss):
    """At mild logits, where both are right."""
    report = audit(loss, dtypes=[torch.float32], **few)
    if loss in (of_classes, weighted):
        x, y = torch.randn(8, 2, dtype=torch.float64), torch.arange(8) % 2
    else:
        x, y = torch.randn(8, dtype=torch.float64), (torch.arange(8) % 2).double()
    names = {"parfocal": parfocal, "torch": torch, "x": x, "y": y, "gamma": 1.5, "weight": weight}
    torch.testing.assert_close(eval(report.instead, names), loss(x, y, 1.5))


def mean_by_default(logits, targets, gamma=2.0, reduction="mean"):
    loss = alpha_and_scale(logits, targets, gamma)
    return loss.mean() if reduction == "mean" else loss


def over_positives(logits, targets, gamma=2.0):
    return alpha_and_scale(logits, targets, gamma).sum() / (targets.sum() + 1e-6)


def mean_of_the_last_axis(logits, targets, gamma=2.0):
    if logits.ndim != 2:
        raise ValueError("expected rows")
    return one_sided(logits, targets, gamma).mean(1).sum()


def quality(logits, targets, gamma=2.0):
    """Of soft targets."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((logits.sigmoid() - targets).abs() ** gamma * ce).mean()


def varifocal(logits, targets, gamma=2.0):
    weight = torch.where(targets > 0, targets, 0.75 * logits.sigmoid() ** gamma)
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weight * ce).sum()


def grown(logits, targets, gamma=2.0):
    return (1 + gamma) * one_sided(logits, targets, gamma)


@pytest.mark.parametrize(
    "loss",
    [mean_by_default, over_positives, mean_of_the_last_axis, quality, varifocal, grown],
)
def test_the_replacement_has_the_mean_and_the_soft_targets_of_the_loss(loss):
    """Called as users do, with what it has by default."""
    report = audit(loss, dtypes=[torch.float32], **few)
    x, y = torch.randn(4, 3, dtype=torch.float64), (torch.arange(12) % 3 == 0).double()
    y = y.reshape(4, 3) * (torch.rand(4, 3) if loss in (quality, varifocal) else 1)
    names = {"parfocal": parfocal, "x": x, "y": y, "gamma": 1.5}
    torch.testing.assert_close(eval(report.instead, names), loss(x, y, 1.5))


def root_mean(logits, targets, gamma=2.0):
    """Divided by a root, which this package has no word for."""
    return one_sided(logits, targets, gamma).sum() / logits.numel() ** 0.5


def test_a_mean_that_has_no_word_has_no_replacement():
    assert not audit(root_mean, dtypes=[torch.float32], **few).instead


def test_the_first_line_says_where_it_breaks():
    report = audit(of_classes, dtypes=[torch.float32, torch.bfloat16], **few)
    first, second = summary(report)
    assert first.startswith(
        "Trains safely in float32 at gamma 2. At gamma < 1 its gradient becomes"
    )
    assert "NaN from a logit of 1" in first
    assert second.startswith("In its place: parfocal.softmax_focal_loss(")


def fails_at_an_ignored_class(logits, targets, gamma=2.0, ignore_index=-100):
    """Right, but for a class in the middle that is to be ignored."""
    if ignore_index >= 0 and bool((targets == ignore_index).any()):
        raise IndexError("no such class")
    return parfocal.softmax_focal_loss(
        logits, targets, gamma=gamma, ignore_index=ignore_index, reduction="none"
    )


def leaks_through_its_own_mask(logits, targets, gamma=2.0, mask=None):
    """At gamma 0.5 alone, as zero times infinity."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = (1 - torch.exp(-ce)) ** gamma * ce
    return loss if mask is None else loss * mask


@pytest.mark.parametrize(
    ("loss", "name"),
    [(fails_at_an_ignored_class, "ignore_index"), (leaks_through_its_own_mask, "mask")],
)
def test_a_mask_of_its_own_is_told_as_that_and_not_as_one_from_outside(loss, name):
    first = summary(audit(loss, dtypes=[torch.float32], **few))[0]
    assert first.startswith("Trains safely in float32 at gamma 2.")
    assert f"Its own mask fails or leaks: {name}." in first


def test_a_right_loss_needs_no_other():
    report = audit(parfocal.sigmoid_focal_loss, dtypes=[torch.float32], **few)
    assert len(summary(report)) == 1
    assert report.status == 0


def test_what_is_wrong_with_the_function_comes_first():
    def of_the_mean(logits, targets, gamma=2.0):
        ce = F.binary_cross_entropy_with_logits(logits, targets)
        return (1 - torch.exp(-ce)) ** gamma * ce

    assert summary(audit(of_the_mean, dtypes=[torch.float32], **few))[0].startswith("Of a batch it")
