"""Softmax losses at five classes: what two don't show."""

import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from parfocal import softmax_focal_loss
from parfocal.audit import audit
from parfocal.audit.audit import find_convention
from parfocal.audit.classes import _truth
from parfocal.audit.discover import discover

few = {"quick": True, "gammas": (0.5, 2.0), "modes": (), "dtypes": [torch.float32]}


def of_the_largest_other(logits, targets, gamma=2.0):
    """The margin to one other class alone: with two classes a softmax."""
    own = F.one_hot(targets, logits.shape[1]).bool()
    rest = torch.where(own, -1e30, logits).amax(1)
    return softmax_focal_loss(
        torch.stack([logits[own], rest], 1), torch.zeros_like(targets), gamma=gamma,
        reduction="none",
    )  # fmt: skip


def of_the_sum(logits, targets, gamma=2.0):
    """NaN where the exponentials of more than two add up to infinity."""
    loss = softmax_focal_loss(logits, targets, gamma=gamma, reduction="none")
    return loss + 0 * logits.mul(2.0).exp().sum(1) if logits.shape[1] > 2 else loss


def right(logits, targets, gamma=2.0):
    return softmax_focal_loss(logits, targets, gamma=gamma, reduction="none")


@pytest.mark.parametrize(
    ("loss", "kind"), [(of_the_largest_other, "inaccurate"), (of_the_sum, "not finite")]
)
def test_what_two_classes_dont_show_is_found(loss, kind):
    report = audit(f"{__file__}:{loss.__name__}", **few)
    found = [f for f in report.findings if f.mode == "5 classes"]
    assert {f.kind for f in found} == {kind}
    assert report.status == 1
    is_line = "with three classes it is another function than with two" in report.meaning
    assert is_line == (loss is of_the_largest_other)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", found[0].reproduce],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = [float(number) for number in re.findall(r"-?nan|-?\d[-+.\de]*", run.stdout)]
    assert any(
        number == pytest.approx(found[0].computed, rel=1e-3, abs=1e-4, nan_ok=True)
        for number in shown
    )


def test_a_right_loss_has_nothing():
    report = audit(right, **few)
    assert not [f for f in report.findings if f.mode == "5 classes"]
    assert report.status == 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_truth_is_that_of_autograd(gamma):
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.arange(6) % 2
    log_p = F.log_softmax(x, 1).gather(1, y[:, None])
    (expected,) = torch.autograd.grad((-((1 - log_p.exp()) ** gamma) * log_p).sum(), x)
    convention = find_convention(discover(right).subject)
    found = _truth(convention, x.detach(), y, gamma, torch.float64)
    torch.testing.assert_close(found, expected)
