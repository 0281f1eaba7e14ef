"""Losses that are no function of a logit and a target are told as that, not judged by a grid."""

import pytest
import torch

from parfocal import sigmoid_focal_loss
from parfocal.audit import audit
from parfocal.audit.output.summary import summary

few = {"quick": True, "gammas": (2.0,), "modes": (), "dtypes": [torch.float32]}


def exact(logits, targets, gamma):
    return sigmoid_focal_loss(logits, targets, None, gamma)


def by_chance(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma) * (1 + torch.rand(()))


class Counting:
    """Half as large at each 37th call."""

    calls = 0


def by_count(logits, targets, gamma=2.0):
    Counting.calls += 1
    return exact(logits, targets, gamma) / (2 if Counting.calls % 37 == 0 else 1)


def of_the_batch(logits, targets, gamma=2.0):
    """Each logit less their mean."""
    return exact(logits - logits.mean(), targets, gamma)


def writing(logits, targets, gamma=2.0):
    loss = exact(logits, targets.clone(), gamma)
    targets.zero_()
    return loss


def without_negatives(logits, targets, gamma=2.0):
    return targets * exact(logits, targets, gamma)


def without_gradient(logits, targets, gamma=2.0):
    return exact(logits.detach(), targets, gamma) + 0 * logits


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (by_chance, "The same call gives another result"),
        (by_count, "The same call gives another result"),
        (of_the_batch, "The gradient of a logit depends on the others of its batch"),
        (writing, "It writes to the targets that it is given"),
        (without_negatives, "One class has no gradient"),
    ],
)
def test_the_first_line_says_so(loss, words):
    report = audit(loss, **few)
    assert words in summary(report)[0]
    assert "Trains safely" not in summary(report)[0]
    assert report.status == 1
    is_function = loss in (writing, without_negatives)
    assert bool(report.cells) == is_function


def test_a_function_has_none_of_these():
    report = audit(exact, **few)
    assert not report.findings


def test_without_a_gradient_it_is_said_and_no_other_order_is_tried():
    with pytest.raises(Exception, match="its gradient in the logits is 0 everywhere"):
        audit(without_gradient, **few)
