"""Rows of class logits inside a kernel: where they are, their exponentials, and one class's odds.

A tile has classes by positions, in whichever order they are in memory. Infinite logits count as
the largest numbers, and no gradient reaches them. NaN stays.
"""

import math

import triton
import triton.language as tl

from parfocal.numerics.triton.arithmetic import (
    LARGEST,
    LOG2E,
    LOG2E_REST,
    MAGIC,
    exp2_reduced,
    log,
    log1p_reduced,
    power,
    quotient,
    reciprocal,
)

# Terms of a row are kept times 2 ** 96: those of every logit are normal numbers, and so is a sum.
SHIFT = tl.constexpr(96.0)
SHIFTED = tl.constexpr(2.0**96)
SHIFTED_BACK = tl.constexpr(2.0**-96)

LOG_OF_2 = tl.constexpr(math.log(2.0))

ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def within(x, low, high):
    """x between two bounds, NaN if it is."""
    return tl.minimum(tl.maximum(x, low, propagate_nan=ALL), high, propagate_nan=ALL)


@triton.jit
def finite(x):
    """x with the largest numbers for infinities."""
    return within(x, -LARGEST, LARGEST)


@triton.jit
def exp_of_fall(top, x, BY: tl.constexpr, GRADE: tl.constexpr):
    """2 ** BY exp(x - top) for x <= top, and no less than 2 ** -126; 1 for an x above top.

    2 ** j is made of its exponent j + 127, MAGIC's own bits being shifted out, and multiplied with
    exp2(f), in [0.7, 1.5]: a sum of their bits would lose a NaN, all of whose bits may be set.
    """
    if GRADE == 16:
        z = tl.fma(x - top, LOG2E, BY)
        return tl.exp2(tl.minimum(z, BY, propagate_nan=ALL))
    a = within(top - x, 0.0, (124 + BY) * LOG_OF_2)
    z = tl.fma(a, -LOG2E, MAGIC + BY + 127.0)
    f = tl.fma(a, -LOG2E_REST, tl.fma(a, -LOG2E, -(z - (MAGIC + BY + 127.0))))
    return exp2_reduced(f) * (z.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)


@triton.jit
def probabilities(own, top, s, classes):
    """p, q, ce of a class, and 1 / s, from its logit, the largest of the others and their sum.

    ce is of the largest numbers for infinities, and so is finite.
    """
    ahead = finite(own) - finite(top)
    # Terms of -inf alone are a sum of 0: they count as equals then.
    s = tl.where(s < 0.5, classes - 1.0, s)
    over_s = reciprocal(s)
    fall = exp_of_fall(0.0, -tl.abs(ahead), SHIFT, 32)
    is_ahead = ahead >= 0.0
    ratio = tl.where(is_ahead, s * fall, quotient(fall, s, over_s)) * SHIFTED_BACK
    odds = tl.where(is_ahead, tl.maximum(ratio, 1.0), s)  # and exp(-ahead) where it is behind
    wins = is_ahead & (ratio <= 1.0)
    t = tl.where(ratio > 1.0, reciprocal(odds), ratio)
    l = log1p_reduced(t)
    n = 1.0 + t
    r = reciprocal(n)
    smaller = quotient(t, n, r)
    q = tl.where(wins, smaller, r)
    p = tl.where(wins, r, smaller)
    return p, q, l + (log(odds) + tl.maximum(-ahead, 0.0)), over_s


@triton.jit
def row_terms(own, top, s, classes, gamma):
    """L, -dL/du and 1 / s of a row, from its logit, the largest of the others and their sum."""
    p, q, ce, over_s = probabilities(own, top, s, classes)
    is_ruled_out = ((own == float("-inf")) & (top > float("-inf"))) | (
        (own < float("inf")) & (top == float("inf"))
    )
    factor = power(q, gamma)
    slope = factor * (gamma * p * tl.minimum(ce, LARGEST) + q)
    return factor * tl.where(is_ruled_out, ce + float("inf"), ce), slope, over_s


@triton.jit
def reached(g, x):
    """A gradient, 0 where the logit is infinite; NaN stays."""
    return tl.where(tl.abs(x) == float("inf"), g * 0.0, g)


@triton.jit
def term_factors(g, top):
    """Two factors of terms relative to top, which together are g 2 ** -96.

    The 2 ** -96 of the terms goes with the first where that is large, and else comes last, when no
    digit is lost by it.
    """
    g = reached(g, top)
    is_large = tl.abs(g) > 1.0
    first = tl.where(is_large, g * SHIFTED_BACK, g)
    return first, tl.where(is_large, 1.0, SHIFTED_BACK)


@triton.jit
def rows_of_program(positions, image_stride, position_stride, POSITIONS: tl.constexpr):
    """Which rows a program has, where each starts, and whether there is one."""
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, POSITIONS)
    image = (program // tiles).to(tl.int64)
    position = (program % tiles).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    start = image * image_stride + position * position_stride
    return image * positions + position, start, position < positions


@triton.jit
def weight_of(weight_ptr, row, is_row):
    """What a row counts; 0 where it doesn't."""
    weight = tl.where(is_row, 1.0, 0.0)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + row, mask=is_row, other=0.0).to(tl.float32)
    return weight


@triton.jit
def true_class(logit, index_ptr, row, counts, classes, class_stride):
    """The class of a row and its logit; NaN where it is no class."""
    index = tl.load(index_ptr + row, mask=counts, other=0)
    is_class = counts & (index >= 0) & (index < classes)
    own = tl.load(logit + index * class_stride, mask=is_class, other=float("nan"))
    return index.to(tl.int32), own.to(tl.float32)


@triton.jit
def others(logit, column, own, classes, class_stride, counts):
    """A tile of logits in float32; -inf for the true class, and where there is nothing to count."""
    mask = (column < classes) & counts
    at = logit + column.to(tl.int64) * class_stride
    x = tl.load(at, mask=mask, other=float("-inf")).to(tl.float32)
    return tl.where(column == own, float("-inf"), x)
