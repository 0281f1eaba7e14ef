"""The binary focal loss in arbitrary precision: the truth that floating point is held to.

Ball arithmetic (python-flint) encloses every number: what is returned is proved, not estimated.
The formulas are the textbook's, with the product and chain rules applied by hand,

    p_t = y p + (1 - y)(1 - p)
    L   = (1 - p_t + epsilon) ** gamma * (-y log p - (1 - y) log(1 - p)),

in which 1 - p is 1 / (1 + exp(x)) so that precision need not grow with x. They share no code and
no algebra with `parfocal.numerics`.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from flint import arb, ctx
from torch import Tensor

# Enough for the 53 bits of `Truth.hi`, about as many of `Truth.lo`, and the cancellations.
PRECISION = 160
_ACCURACY = 110
MOST_PRECISION = 1 << 14

# Below every number of every dtype, and of their products: enclosed in +-2 ** -1200, taken for 0.
_NEGLIGIBLE = arb(2) ** -1200


class Truth(NamedTuple):
    """Exact results as unevaluated sums hi + lo of two float64, and the scale of their terms.

    `scale` is the sum of the absolute values of the terms of the formula. Where terms cancel, as
    in the curvature, no evaluation from rounded numbers can be accurate beyond ulp(scale).
    """

    hi: Tensor
    lo: Tensor
    scale: Tensor

    def __neg__(self) -> "Truth":
        return Truth(-self.hi, -self.lo, self.scale)

    def flip(self) -> "Truth":
        """The same results in the reverse order of points."""
        return Truth(*(part.flip(0) for part in self))


class FocalTruth(NamedTuple):
    """The loss and its derivatives at each of some logits."""

    value: Truth
    gradient: Truth
    curvature: Truth
    gamma_gradient: Truth
    target_gradient: Truth


class Ball(NamedTuple):
    """An enclosure of a sum, and one of the sum of the absolute values of its terms."""

    result: arb
    scale: arb


def focal_truth(
    logits: Iterable[float], target: float, gamma: float, epsilon: float = 0.0
) -> FocalTruth:
    """The binary focal loss without alpha, and its derivatives, at finite logits.

    Args:
        logits: finite numbers; each is taken exactly as it is given.
        target: in [0, 1].
        gamma: >= 0. The dtype's own rounding of gamma is the caller's business.
        epsilon: the smoothing constant of the paper; 0 is the exact loss.

    >>> truth = focal_truth([0.0], target=1.0, gamma=0.0)
    >>> truth.value.hi.item(), truth.gradient.hi.item()
    (0.6931471805599453, -0.5)
    """
    columns = zip(*(_certified(x, target, gamma, epsilon) for x in logits), strict=True)
    return FocalTruth(*(truth_of(column) for column in columns))


def _certified(x: float, y: float, gamma: float, epsilon: float) -> tuple[Ball, ...]:
    """The five results, at the first precision whose enclosures decide them."""
    previous = ctx.prec
    # exp(x) loses as many bits as x has before its binary point.
    precision = PRECISION + max(0, math.frexp(x)[1])
    try:
        while precision <= MOST_PRECISION:
            ctx.prec = precision
            balls = _textbook(arb(x), arb(y), arb(gamma), arb(epsilon))
            if all(is_decided(ball) for ball in balls):
                return balls
            precision *= 2
    finally:
        ctx.prec = previous
    raise ArithmeticError(
        f"no enclosure below {MOST_PRECISION} bits at x={x!r}, y={y!r}, gamma={gamma!r}"
    )


def is_decided(ball: Ball, bits: int = _ACCURACY) -> bool:
    """Whether the radius is far below an ULP of the scale; false for a ball that is not finite."""
    result, scale = ball
    if result.rel_accuracy_bits() > bits:
        return True
    return bool(result.rad() < scale * _radius(bits) or scale < _NEGLIGIBLE)


@functools.cache
def _radius(bits: int) -> arb:
    return arb(2) ** -bits


def _textbook(x: arb, y: arb, g: arb, epsilon: arb) -> tuple[Ball, ...]:
    one = arb(1)
    exp_x, exp_minus_x = x.exp(), (-x).exp()
    p, q = one / (one + exp_minus_x), one / (one + exp_x)
    log_p, log_q = -exp_minus_x.log1p(), -exp_x.log1p()
    n = one - y

    b = y * q + n * p + epsilon
    db = (y - n) * -(p * q)
    ddb = (y - n) * -(p * q * (q - p))
    ce = -(y * log_p) - n * log_q
    dce_terms = (-(y * q), n * p)
    ddce = p * q

    log_b = b.log()
    factor = (g * log_b).exp()
    dfactor = g * factor / b * db
    ddfactor_terms = (g * (g - one) * factor / (b * b) * db * db, g * factor / b * ddb)
    dce = dce_terms[0] + dce_terms[1]

    gradient = (dfactor * ce, *(factor * term for term in dce_terms))
    curvature = (*(term * ce for term in ddfactor_terms), 2 * dfactor * dce, factor * ddce)
    return (
        _sum(factor * ce),
        _sum(*gradient),
        _sum(*curvature),
        _sum(factor * ce * log_b),
        _sum(g * factor / b * (q - p) * ce, factor * -x),
    )


def _sum(*terms: arb) -> Ball:
    result, scale = terms[0], abs(terms[0])
    for term in terms[1:]:
        result, scale = result + term, scale + abs(term)
    return Ball(result, scale)


def truth_of(balls: Iterable[Ball], exact: bool = True) -> Truth:
    """Decided enclosures, one a point, as numbers; lo is 0 if one float64 is exact enough."""
    his, los, scales = [], [], []
    for result, scale in balls:
        hi = float(result)  # of its middle
        his.append(hi)
        los.append(float(result.mid() - hi) if hi and exact else 0.0)
        scales.append(float(scale))
    return Truth(*(torch.tensor(part, dtype=torch.float64) for part in (his, los, scales)))
