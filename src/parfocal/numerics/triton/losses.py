"""The elementwise losses and their slopes in the logit, as a program of a GPU evaluates them.

In the notation of `closed_form`. Hard targets have the short form: of the margin u, x at a positive
and -x at a negative, with q = 1 - p_t, ce and q ** gamma from `arithmetic`. Soft ones have the
general one: with p = s(x) and q = s(-x),

    b = y q + (1 - y) p        ce = l + v |x|        ce' = (1 - y) p - y q        b' = (1 - 2 y) p q

v the share of the target that doesn't agree with the sign of x. A block that has no soft target
doesn't evaluate the general form.
"""

import triton
import triton.language as tl

from parfocal.numerics.triton.arithmetic import (
    LARGEST,
    log,
    log1p_reduced,
    logistic,
    modulating_factor,
    power,
)


@triton.jit
def evaluate(
    x, y, gamma, c, c_rest, alpha, number, second, c_2, c_2_rest,
    LOSS: tl.constexpr, SOFT: tl.constexpr, GRADE: tl.constexpr,
):  # fmt: skip
    """A loss and its slope in x, in float32.

    gamma, c, c_rest: an exponent, as `arithmetic.exponent` gives it; second, ...: another.
    alpha: the weight of a positive, beside 1 - alpha; or None.
    SOFT: whether targets may be soft: "never", "maybe", or "always", if none has the short form.
    GRADE: of how many bits the results are.
    """
    if LOSS == "gaussian":
        is_centre = y == 1.0
        value, slope = _focal(x, is_centre, gamma, c, c_rest, GRADE)
        penalty = tl.where(is_centre, 1.0, power(1.0 - y, second))
        value, slope = penalty * value, penalty * slope
    elif LOSS == "varifocal":
        value, slope = _varifocal(x, y, gamma, c, c_rest, number, GRADE)
    elif LOSS == "asymmetric":
        value, slope = _asymmetric(
            x, y, gamma, c, c_rest, second, c_2, c_2_rest, number, SOFT, GRADE
        )
    elif SOFT == "always":
        value, slope = _of_soft(x, y, gamma, number, LOSS)
    else:
        value, slope = _of_hard(x, y > 0.5, gamma, c, c_rest, number, LOSS, GRADE)
        if SOFT == "maybe":
            is_soft = (y != 0.0) & (y != 1.0)
            if tl.max(is_soft.to(tl.int32), axis=0) > 0:
                soft_value, soft_slope = _of_soft(x, y, gamma, number, LOSS)
                value = tl.where(is_soft, soft_value, value)
                slope = tl.where(is_soft, soft_slope, slope)
    if alpha is not None:
        alpha_t = tl.fma(y, alpha, (1.0 - y) * (1.0 - alpha))
        value, slope = alpha_t * value, alpha_t * slope
    return value, slope


@triton.jit
def _of_hard(x, is_positive, gamma, c, c_rest, number, LOSS: tl.constexpr, GRADE: tl.constexpr):
    """The short form, of a target of 1 or 0."""
    if LOSS == "poly":
        return _poly(x, is_positive, gamma, c, c_rest, number, GRADE)
    return _focal(x, is_positive, gamma, c, c_rest, GRADE)


@triton.jit
def _margin(x, is_positive, c, c_rest, GRADE: tl.constexpr):
    """q ** gamma, ce, p_t and q of the margin."""
    u = tl.where(is_positive, x, -x)
    l, p, q = logistic(u, GRADE)
    ce = l + tl.where(u > 0.0, 0.0, -u)  # NaN isn't above 0, and stays
    return modulating_factor(u, l, c, c_rest, GRADE), ce, p, q


@triton.jit
def _bounded(ce):
    """An infinite cross-entropy as a number: what multiplies it in a slope is 0 then."""
    return tl.where(ce > LARGEST, LARGEST, ce)


@triton.jit
def _focal(x, is_positive, gamma, c, c_rest, GRADE: tl.constexpr):
    """q ** gamma ce; its slope in u is -q ** gamma (gamma p ce + q)."""
    factor, ce, p, q = _margin(x, is_positive, c, c_rest, GRADE)
    slope = factor * tl.fma(gamma * p, _bounded(ce), q)
    return factor * ce, tl.where(is_positive, -slope, slope)


@triton.jit
def _poly(x, is_positive, gamma, c, c_rest, epsilon_1, GRADE: tl.constexpr):
    """q ** gamma (ce + epsilon_1 q).

    Its slope in u is -q ** gamma (q + p (gamma ce + epsilon_1 (gamma + 1) q)).
    """
    factor, ce, p, q = _margin(x, is_positive, c, c_rest, GRADE)
    added = epsilon_1 * (gamma + 1.0) * p  # gamma times a bounded ce is infinite, gamma p is not
    slope = factor * tl.fma(gamma * p, _bounded(ce), tl.fma(added, q, q))
    return factor * tl.fma(q, epsilon_1, ce), tl.where(is_positive, -slope, slope)


@triton.jit
def _cross_entropy(x, y):
    """ce and ce' at any target, with p = s(x) and q = s(-x)."""
    l, p, q = logistic(x, 32)
    v = tl.where(x > 0.0, 1.0 - y, y)
    ce = l + tl.where(v > 0.0, v * tl.abs(x), 0.0)
    slope = tl.fma(1.0 - y, p, -(y * q))
    is_nan = x != x  # noqa: PLR0124
    return tl.where(is_nan, x, ce), tl.where(is_nan, x, slope), p, q


@triton.jit
def _of_soft(x, y, gamma, number, LOSS: tl.constexpr):
    """The general form, of a target in [0, 1]."""
    ce, ce_slope, p, q = _cross_entropy(x, y)
    bounded = _bounded(ce)
    if LOSS == "quality":  # |p - y| ** gamma ce, and p - y is ce'
        distance = tl.abs(ce_slope)
        factor = power(distance, gamma)
        is_apart = distance > 0.0
        log_slope = tl.where(is_apart, p * q / tl.where(is_apart, ce_slope, 1.0), 0.0)
        return factor * ce, factor * tl.fma(gamma * log_slope, bounded, ce_slope)
    b = tl.fma(y, q, (1.0 - y) * p)
    b_slope = (1.0 - 2.0 * y) * (p * q)
    if LOSS == "poly":  # b ** gamma (ce + epsilon_1 b)
        factor = power(b, gamma)
        log_slope = tl.where(b > 0.0, b_slope / tl.where(b > 0.0, b, 1.0), 0.0)
        inner = tl.fma(gamma * log_slope, bounded, ce_slope)
        return (
            factor * tl.fma(b, number, ce),
            factor * tl.fma(number * (gamma + 1.0), b_slope, inner),
        )
    b = b + number
    factor = power(b, gamma)
    log_slope = tl.where(b > 0.0, b_slope / tl.where(b > 0.0, b, 1.0), 0.0)
    return factor * ce, factor * tl.fma(gamma * log_slope, bounded, ce_slope)


@triton.jit
def _varifocal(x, y, gamma, c, c_rest, alpha, GRADE: tl.constexpr):
    """alpha p ** gamma ce of a negative, y <= 0, and y ce elsewhere."""
    ce, ce_slope, _, _ = _cross_entropy(x, y)
    value, slope = _focal(x, y > 2.0, gamma, c, c_rest, GRADE)
    is_negative = y <= 0.0
    return (
        tl.where(is_negative, alpha * value, y * ce),
        tl.where(is_negative, alpha * slope, y * ce_slope),
    )


@triton.jit
def _asymmetric(
    x, y, gamma, c, c_rest, second, c_2, c_2_rest, margin, SOFT: tl.constexpr, GRADE: tl.constexpr
):  # fmt: skip
    """y L_+ + (1 - y) L_-, with gamma at the negatives, `second` at the positives."""
    is_positive = y > 0.5
    if margin is None:
        value, slope = _focal(
            x,
            is_positive,
            tl.where(is_positive, second, gamma),
            tl.where(is_positive, c_2, c),
            tl.where(is_positive, c_2_rest, c_rest),
            GRADE,
        )
    else:
        value, slope = _focal(x, is_positive, second, c_2, c_2_rest, GRADE)
        other_value, other_slope = _shifted(x, gamma, margin)
        value = tl.where(is_positive, value, other_value)
        slope = tl.where(is_positive, slope, other_slope)
    if SOFT == "maybe":
        is_soft = (y != 0.0) & (y != 1.0)
        if tl.max(is_soft.to(tl.int32), axis=0) > 0:
            # The other side of a soft target, by which it is mixed.
            if margin is None:
                other_value, other_slope = _focal(
                    x,
                    y <= 0.5,
                    tl.where(is_positive, gamma, second),
                    tl.where(is_positive, c, c_2),
                    tl.where(is_positive, c_rest, c_2_rest),
                    GRADE,
                )
            else:
                positive_value, positive_slope = _focal(x, y <= 0.5, second, c_2, c_2_rest, GRADE)
                other_value, other_slope = _shifted(x, gamma, margin)
                other_value = tl.where(is_positive, other_value, positive_value)
                other_slope = tl.where(is_positive, other_slope, positive_slope)
            own, rest = tl.where(is_positive, y, 1.0 - y), tl.where(is_positive, 1.0 - y, y)
            value = tl.where(is_soft, tl.fma(own, value, rest * other_value), value)
            slope = tl.where(is_soft, tl.fma(own, slope, rest * other_slope), slope)
    return value, slope


@triton.jit
def _shifted(x, gamma, margin):
    """p_m ** gamma ce_m of a negative, p_m = max(p - margin, 0), ce_m = -log(1 - p_m).

    1 - p_m = q + margin is no difference. The slope in x is

        p_m ** gamma p q (gamma ce_m / p_m + 1 / (1 - p_m))
    """
    _, p, q = logistic(x, 32)
    p_m = p - margin
    counts = p_m > 0.0
    p_m = tl.where(counts, p_m, 0.5)
    rest = q + margin
    odds = p_m / rest
    ce = tl.where(p_m < 0.5, log1p_reduced(tl.minimum(odds, 1.0)), -log(rest))
    factor = power(p_m, gamma)
    slope = factor * (p * q) * tl.fma(gamma, ce / p_m, 1.0 / rest)
    value = tl.where(counts, factor * ce, 0.0)
    slope = tl.where(counts, slope, 0.0)
    is_nan = x != x  # noqa: PLR0124
    return tl.where(is_nan, x, value), tl.where(is_nan, x, slope)
