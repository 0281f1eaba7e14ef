"""The oracle against other ways to the same numbers."""

import math

import mpmath
import pytest
import torch
from flint import arb, arb_series, ctx

from parfocal.audit.oracle import focal_truth

POINTS = [0.0, 0.3, -0.7, 2.5, -4.0, 17.0, -20.0, 40.0, 104.0, -104.0, 700.0]
TARGETS = [0.0, 1.0, 0.3, 1e-6]
GAMMAS = [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0]
EPSILONS = [0.0, 1e-3]


def _mpmath_loss(x, y, gamma, epsilon):
    p = 1 / (1 + mpmath.exp(-x))
    p_t = y * p + (1 - y) * (1 - p)
    ce = -y * mpmath.log(p) - (1 - y) * mpmath.log(1 - p)
    return (1 - p_t + epsilon) ** gamma * ce


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", TARGETS)
def test_value_is_that_of_mpmath_with_700_digits(target, gamma, epsilon):
    """1 - p is formed by subtraction here, which 700 digits can afford."""
    truth = focal_truth(POINTS, target, gamma, epsilon).value
    with mpmath.workdps(700):
        for x, hi, lo in zip(POINTS, truth.hi.tolist(), truth.lo.tolist(), strict=True):
            expected = _mpmath_loss(*map(mpmath.mpf, (x, target, gamma, epsilon)))
            error = abs(mpmath.mpf(hi) + mpmath.mpf(lo) - expected)
            assert error <= abs(expected) * 2.0**-100 + mpmath.mpf(2) ** -1074


@pytest.mark.parametrize("gamma", [0.1, 2.0])
@pytest.mark.parametrize("target", TARGETS)
def test_derivatives_are_those_of_mpmath(target, gamma):
    """Numerical differentiation in 60 digits, in the logit, gamma and the target."""
    points = [0.3, -4.0, 17.0]
    truth = focal_truth(points, target, gamma)
    with mpmath.workdps(60):
        for i, x in enumerate(points):
            exact = {
                "gradient": mpmath.diff(lambda x: _mpmath_loss(x, target, gamma, 0), x),
                "curvature": mpmath.diff(lambda x: _mpmath_loss(x, target, gamma, 0), x, 2),
                "gamma_gradient": mpmath.diff(
                    lambda g, x=x: _mpmath_loss(mpmath.mpf(x), target, g, 0), gamma
                ),
            }
            if 0 < target < 1:
                exact["target_gradient"] = mpmath.diff(
                    lambda y, x=x: _mpmath_loss(mpmath.mpf(x), y, gamma, 0),
                    mpmath.mpf(target),
                    h=mpmath.mpf(10) ** -25,
                )
            for name, expected in exact.items():
                assert math.isclose(getattr(truth, name).hi[i], expected, rel_tol=1e-14), name


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", TARGETS)
def test_gradient_and_curvature_are_the_taylor_coefficients(target, gamma, epsilon):
    """Power-series arithmetic over balls differentiates the textbook value by itself."""
    truth = focal_truth(POINTS, target, gamma, epsilon)
    ctx.prec, ctx.cap = 2500, 3  # 1 - p at x = 700 needs 1010 bits
    try:
        for i, x in enumerate(POINTS):
            u = arb_series([x, 1])
            p = 1 / (1 + (-u).exp())
            p_t = target * p + (1 - arb(target)) * (1 - p)
            ce = -arb(target) * p.log() - (1 - arb(target)) * (1 - p).log()
            loss = ((1 - p_t + epsilon).log() * arb(gamma)).exp() * ce
            for exact, expected in ((truth.gradient, loss[1]), (truth.curvature, 2 * loss[2])):
                error = abs(arb(exact.hi[i].item()) + arb(exact.lo[i].item()) - expected)
                assert error < arb(exact.scale[i].item()) * arb(2) ** -100 + arb(2) ** -1074
    finally:
        ctx.prec, ctx.cap = 53, 10


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_targets_mirror_the_logits(gamma):
    """L(x, y) = L(-x, 1 - y): what the ledger uses to measure one target by the other."""
    logits = [-700.0, -3.0, -0.0, 0.5, 90.0]
    at_one = focal_truth(logits, 1.0, gamma)
    at_zero = focal_truth([-x for x in logits], 0.0, gamma)
    assert torch.equal(at_one.value.hi, at_zero.value.hi)
    assert torch.equal(at_one.gradient.hi, -at_zero.gradient.hi)
    assert torch.equal(at_one.curvature.lo, at_zero.curvature.lo)
    assert torch.equal(at_one.gamma_gradient.hi, at_zero.gamma_gradient.hi)


@pytest.mark.parametrize("x", [1e308, -1e308, 3.4e38, 5e-324])
def test_extreme_logits_are_decided(x):
    """The value tends to 0 on one side, to |x| on the other, to (ln 2) / 2 ** gamma at 0."""
    truth = focal_truth([x], 1.0, 0.5).value.hi.item()
    expected = 0.0 if x > 1 else -x if x < 0 else math.log(2) / math.sqrt(2)
    assert math.isclose(truth, expected, rel_tol=1e-15)


def test_precision_of_the_caller_is_left_alone():
    """The oracle works at its own precision and puts the caller's back."""
    before = ctx.prec
    focal_truth([1.0], 1.0, 0.5)
    assert ctx.prec == before
