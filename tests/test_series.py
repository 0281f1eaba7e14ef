"""The oracle of formulas over power series agrees with the one whose derivatives are by hand."""

import pytest
import torch
from flint import arb

from parfocal.audit.oracle import focal_truth
from series import derivative_truth


@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
def test_binary_focal_loss(gamma):
    """Value and derivative, to all 106 bits that a truth has."""
    logits = [-300.0, -20.0, -1e-3, 0.0, 0.7, 20.0, 90.0, 300.0]

    def formula(x):
        p = 1 / (1 + (-x[0]).exp())
        return [-((1 - p) ** arb(gamma)) * p.log()]

    found = derivative_truth(formula, [(x,) for x in logits])
    expected = focal_truth(logits, 1.0, gamma)
    for ours, theirs in ((found.value, expected.value), (found.gradient, expected.gradient)):
        assert torch.equal(ours.hi, theirs.hi)
        assert ((ours.lo - theirs.lo).abs() <= 2.0**-105 * ours.hi.abs()).all()


def test_scale_is_the_sum_of_the_terms_sizes():
    """Of the value and of the derivative."""
    truth = derivative_truth(lambda x: [x[0], -2 * x[1] * x[0]], [(3.0, 5.0)], variable=0)
    assert (truth.value.hi.item(), truth.value.scale.item()) == (-27.0, 33.0)
    assert (truth.gradient.hi.item(), truth.gradient.scale.item()) == (-9.0, 11.0)


def test_undecidable_is_an_error():
    """What isn't a number has no enclosure at any precision."""
    with pytest.raises(ArithmeticError, match="no enclosure"):
        derivative_truth(lambda x: [(-x[0]).log()], [(3.0,)])
