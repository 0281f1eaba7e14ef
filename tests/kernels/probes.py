"""Kernels of the arithmetic alone: each function, and value and slope of a hard target."""

# ruff: noqa: E741, N803 - l = log1p(t); a constant of the compiler is upper case

import triton
import triton.language as tl

from parfocal.numerics.triton import arithmetic


@triton.jit
def function(x_ptr, out_ptr, n, NAME: tl.constexpr, BLOCK: tl.constexpr):
    """A function of one number."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=1.0)
    if NAME == "exp_of_minus":
        y = arithmetic.exp_of_minus(x)
    elif NAME == "log":
        y = arithmetic.log(x)
    elif NAME == "reciprocal":
        y = arithmetic.reciprocal(x)
    elif NAME == "share":  # x / (1 + x)
        n_1 = x + 1.0
        y = arithmetic.quotient(x, n_1, arithmetic.reciprocal(n_1))
    tl.store(out_ptr + at, y, mask=at < n)


@triton.jit
def log2_parts(x_ptr, whole_ptr, high_ptr, low_ptr, n, BLOCK: tl.constexpr):
    """The three parts of a binary logarithm."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    whole, high, low = arithmetic.log2_parts(tl.load(x_ptr + at, mask=at < n, other=1.0))
    tl.store(whole_ptr + at, whole, mask=at < n)
    tl.store(high_ptr + at, high, mask=at < n)
    tl.store(low_ptr + at, low, mask=at < n)


@triton.jit
def power(x_ptr, out_ptr, n, gamma, BLOCK: tl.constexpr):
    """A base to an exponent that all share."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=1.0)
    tl.store(out_ptr + at, arithmetic.power(x, gamma), mask=at < n)


@triton.jit
def logistic(u_ptr, l_ptr, p_ptr, q_ptr, n, GRADE: tl.constexpr, BLOCK: tl.constexpr):
    """log1p(exp(-|u|)), s(u) and s(-u)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    l, p, q = arithmetic.logistic(tl.load(u_ptr + at, mask=at < n, other=0.0), GRADE)
    tl.store(l_ptr + at, l, mask=at < n)
    tl.store(p_ptr + at, p, mask=at < n)
    tl.store(q_ptr + at, q, mask=at < n)


@triton.jit
def modulating_factor(
    u_ptr, l_ptr, out_ptr, n, c, c_rest, GRADE: tl.constexpr, BLOCK: tl.constexpr
):
    """q ** gamma, from a margin and its logarithm."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(u_ptr + at, mask=at < n, other=0.0)
    l = tl.load(l_ptr + at, mask=at < n, other=0.0)
    factor = arithmetic.modulating_factor(u, l, c, c_rest, GRADE)
    tl.store(out_ptr + at, factor, mask=at < n)


@triton.jit
def value_and_slope(
    x_ptr,
    y_ptr,
    value_ptr,
    slope_ptr,
    n,
    gamma,
    c,
    c_rest,
    GRADE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The focal loss of logits and hard targets, and its derivative."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    is_positive = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32) > 0.5
    u = tl.where(is_positive, x, -x)
    l, p, q = arithmetic.logistic(u, GRADE)
    factor = arithmetic.modulating_factor(u, l, c, c_rest, GRADE)
    ce = l + tl.maximum(-u, 0.0)
    slope = -factor * tl.fma(gamma * p, ce, q)
    slope = tl.where(is_positive, slope, -slope)
    tl.store(value_ptr + at, (factor * ce).to(value_ptr.dtype.element_ty), mask=inside)
    tl.store(slope_ptr + at, slope.to(slope_ptr.dtype.element_ty), mask=inside)


@triton.jit
def total_and_slope(
    x_ptr,
    y_ptr,
    total_ptr,
    slope_ptr,
    n,
    gamma,
    c,
    c_rest,
    alpha,
    scale,
    GRADE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of a block's weighted losses, and the slope of each, in one pass."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    is_positive = tl.load(y_ptr + at, mask=inside, other=0.0).to(tl.float32) > 0.5
    u = tl.where(is_positive, x, -x)
    l, p, q = arithmetic.logistic(u, GRADE)
    factor = arithmetic.modulating_factor(u, l, c, c_rest, GRADE)
    factor = tl.where(inside, tl.where(is_positive, alpha, 1.0 - alpha), 0.0) * factor
    ce = l + tl.maximum(-u, 0.0)
    tl.store(total_ptr + tl.program_id(0), tl.sum(factor * ce))
    slope = -factor * tl.fma(gamma * p, ce, q) * scale
    slope = tl.where(is_positive, slope, -slope)
    tl.store(slope_ptr + at, slope.to(slope_ptr.dtype.element_ty), mask=inside)


@triton.jit
def forbidden(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """What our kernels must not have: float64, and exponentials that flush."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    wide = tl.exp2(x).to(tl.float64) + 0.1
    tl.store(out_ptr + at, (wide * wide).to(tl.float32), mask=at < n)
