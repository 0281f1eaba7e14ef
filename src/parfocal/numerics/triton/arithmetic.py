"""Arithmetic of a kernel in float32: exponentials, logarithms and powers that keep every tail.

Triton's own exp rounds x log2(e), half an ULP for each unit of the logit; libdevice's functions
flush subnormal numbers, run on NVIDIA alone and not in Triton's interpreter, and its power takes
110 instructions. Those below are polynomials of a reduced argument, in fused multiply-adds that are
written out: a product that the compiler contracted by itself would undo a compensation. There is no
float64, of which a consumer card has two lanes.

Of the special function unit the careful forms take the seed of a reciprocal, which a Newton step
corrects. Those for 16 bits take its exponential.
"""

import functools
import math
import struct
from typing import NamedTuple

import triton
import triton.language as tl

# exp2(f) = 1 + f (E1 + f (E2 + ...)) for |f| <= 1/2, to 2 ** -28.3
E1 = tl.constexpr(float.fromhex("0x1.62e43p-1"))
E2 = tl.constexpr(float.fromhex("0x1.ebfbdcp-3"))
E3 = tl.constexpr(float.fromhex("0x1.c6af7ap-5"))
E4 = tl.constexpr(float.fromhex("0x1.3b2dd2p-7"))
E5 = tl.constexpr(float.fromhex("0x1.5f0948p-10"))
E6 = tl.constexpr(float.fromhex("0x1.417a9ap-13"))

# log1p(t) = t + t ** 2 (L1 + t (L2 + ...)) for t in [0, 1], to 2 ** -30.0
L1 = tl.constexpr(float.fromhex("-0x1.fffff8p-2"))
L2 = tl.constexpr(float.fromhex("0x1.5553b6p-2"))
L3 = tl.constexpr(float.fromhex("-0x1.ffc59ep-3"))
L4 = tl.constexpr(float.fromhex("0x1.978b54p-3"))
L5 = tl.constexpr(float.fromhex("-0x1.4a72b2p-3"))
L6 = tl.constexpr(float.fromhex("0x1.ff28d8p-4"))
L7 = tl.constexpr(float.fromhex("-0x1.54f16cp-4"))
L8 = tl.constexpr(float.fromhex("0x1.58ff44p-5"))
L9 = tl.constexpr(float.fromhex("-0x1.c0a2p-7"))
L10 = tl.constexpr(float.fromhex("0x1.113634p-9"))

# The same to 2 ** -19.4, for results of 16 bits.
S1 = tl.constexpr(float.fromhex("-0x1.ffe7bep-2"))
S2 = tl.constexpr(float.fromhex("0x1.535bap-2"))
S3 = tl.constexpr(float.fromhex("-0x1.e38f52p-3"))
S4 = tl.constexpr(float.fromhex("0x1.354dc8p-3"))
S5 = tl.constexpr(float.fromhex("-0x1.15eacp-4"))
S6 = tl.constexpr(float.fromhex("0x1.de06a8p-7"))

# -log(1 - p) = p + p ** 2 (M1 + p (M2 + ...)) for p in [0, 1/2], to 2 ** -30.6
M1 = tl.constexpr(float.fromhex("0x1.fffff4p-2"))
M2 = tl.constexpr(float.fromhex("0x1.5559bep-2"))
M3 = tl.constexpr(float.fromhex("0x1.fee252p-3"))
M4 = tl.constexpr(float.fromhex("0x1.ab5dap-3"))
M5 = tl.constexpr(float.fromhex("0x1.69265ap-4"))
M6 = tl.constexpr(float.fromhex("0x1.268c4ap-1"))
M7 = tl.constexpr(float.fromhex("-0x1.5c79e2p+0"))
M8 = tl.constexpr(float.fromhex("0x1.a02c5ep+1"))
M9 = tl.constexpr(float.fromhex("-0x1.d8fc18p+1"))
M10 = tl.constexpr(float.fromhex("0x1.1878c8p+1"))

# The same to 2 ** -19.9, for results of 16 bits.
N1 = tl.constexpr(float.fromhex("0x1.ffdf62p-2"))
N2 = tl.constexpr(float.fromhex("0x1.5a0c48p-2"))
N3 = tl.constexpr(float.fromhex("0x1.8dfff2p-3"))
N4 = tl.constexpr(float.fromhex("0x1.ffc84ep-2"))
N5 = tl.constexpr(float.fromhex("-0x1.33a574p-1"))
N6 = tl.constexpr(float.fromhex("0x1.ef6dfp-1"))

# log2(e) is the sum of the first two, to 2 ** -49; log(2) in the same way.
LOG2E = tl.constexpr(float.fromhex("0x1.715476p+0"))
LOG2E_REST = tl.constexpr(float.fromhex("0x1.4ae0cp-26"))
LOG_2 = tl.constexpr(float.fromhex("0x1.62e43p-1"))
LOG_2_REST = tl.constexpr(float.fromhex("-0x1.05c61p-29"))

# 2 log2(e) / (2 k + 1), of the series of log2((1 + s) / (1 - s))
A0 = tl.constexpr(float.fromhex("0x1.715476p+1"))
A0_REST = tl.constexpr(float.fromhex("0x1.4ae0cp-25"))
A1 = tl.constexpr(2 * math.log2(math.e) / 3)
A2 = tl.constexpr(2 * math.log2(math.e) / 5)
A3 = tl.constexpr(2 * math.log2(math.e) / 7)
A4 = tl.constexpr(2 * math.log2(math.e) / 9)
A5 = tl.constexpr(2 * math.log2(math.e) / 11)

# 1.5 * 2 ** 23: adding it rounds to a whole number, which then stands in the lowest bits.
MAGIC = tl.constexpr(12582912.0)
MAGIC_BITS = tl.constexpr(0x4B400000)

# exp(-104) is below half of the least subnormal number, and 2 ** -250 in two steps is 0.
FARTHEST = tl.constexpr(104.0)
LEAST_POWER = tl.constexpr(-250.0)

# From here on exp(-a) is 0, and so is all that a factor q ** gamma is multiplied with.
LARGE = tl.constexpr(1e4)

LARGEST = tl.constexpr(float.fromhex("0x1.fffffep+127"))


class Exponent(NamedTuple):
    """gamma, and c = gamma log2(e) in two numbers of float32: what a kernel is told."""

    gamma: float
    c: float
    c_rest: float


@functools.lru_cache(maxsize=256)
def exponent(gamma: float) -> Exponent:
    """An exponent that float32 holds, as a kernel is told it; c to 2 ** -48, relative."""
    c = struct.unpack("f", struct.pack("f", gamma * math.log2(math.e)))[0]
    rest = math.fsum((gamma * LOG2E.value, -c, gamma * 1.9259629911266175e-08))
    return Exponent(gamma, c, rest)


@triton.jit
def exp2_reduced(f):
    """exp2(f) for |f| <= 3/4; the polynomial is fitted to 1/2."""
    p = tl.fma(tl.fma(tl.fma(f, E6, E5), f, E4), f, E3)
    return tl.fma(tl.fma(tl.fma(p, f, E2), f, E1), f, 1.0)


@triton.jit
def log1p_reduced(t):
    """log1p(t) for t in [0, 1]."""
    p = tl.fma(tl.fma(tl.fma(tl.fma(t, L10, L9), t, L8), t, L7), t, L6)
    p = tl.fma(tl.fma(tl.fma(tl.fma(tl.fma(p, t, L5), t, L4), t, L3), t, L2), t, L1)
    return tl.fma(p * t, t, t)


@triton.jit
def times_power_of_two(p, z):
    """p 2 ** j for z = j + MAGIC, in two steps: a subnormal result is rounded once."""
    j = z.to(tl.int32, bitcast=True) - MAGIC_BITS
    half = j >> 1
    first = ((half + 127) << 23).to(tl.float32, bitcast=True)
    second = ((j - half + 127) << 23).to(tl.float32, bitcast=True)
    return p * first * second


@triton.jit
def exp_of_minus(a):
    """exp(-a) for a >= 0, which may be infinite; of NaN the least."""
    a = tl.minimum(a, FARTHEST)
    z = tl.fma(a, -LOG2E, MAGIC)
    f = tl.fma(a, -LOG2E_REST, tl.fma(a, -LOG2E, -(z - MAGIC)))
    return times_power_of_two(exp2_reduced(f), z)


@triton.jit
def reciprocal(n):
    """1 / n of a normal n, to an ULP."""
    r = 1.0 / n
    return tl.fma(r, tl.fma(-n, r, 1.0), r)


@triton.jit
def quotient(t, n, r):
    """t / n, by the reciprocal r of n and its residual."""
    s = t * r
    return tl.fma(r, tl.fma(-n, s, t), s)


@triton.jit
def log2_parts(b):
    """log2(b) of b > 0 as k + high + low, k a whole number and |high| <= 1/2, to 2 ** -28.5."""
    is_small = b < 1e-30
    bits = tl.where(is_small, b * 1.8446744073709552e19, b).to(tl.int32, bitcast=True)
    # From sqrt(1/2) to sqrt(2): 0x3F3504F3 are the bits of sqrt(1/2).
    k = (bits - 0x3F3504F3) >> 23
    m = (bits - (k << 23)).to(tl.float32, bitcast=True)
    n = m + 1.0
    lost = m - (n - 1.0)
    r = reciprocal(n)
    s = (m - 1.0) * r
    s_low = r * (tl.fma(-s, n, m - 1.0) - s * lost)
    s_2 = s * s
    series = tl.fma(tl.fma(tl.fma(tl.fma(s_2, A5, A4), s_2, A3), s_2, A2), s_2, A1)
    high = s * A0
    low = tl.fma(s, A0, -high) + tl.fma(s_low, A0, s * A0_REST)
    low = tl.fma(s_2 * s, series, low)
    whole = k.to(tl.float32) - tl.where(is_small, 64.0, 0.0)
    return whole, high, low


@triton.jit
def power(b, gamma):
    """b ** gamma of b in [0, 1] and more; 0 ** 0 is 1."""
    k, high, low = log2_parts(b)
    z = tl.fma(gamma, high, gamma * k) + MAGIC
    z = tl.maximum(z, MAGIC + LEAST_POWER)
    f = tl.fma(gamma, low, tl.fma(gamma, high, tl.fma(gamma, k, -(z - MAGIC))))
    result = times_power_of_two(exp2_reduced(tl.maximum(f, -0.75)), z)
    return tl.where(b > 0.0, result, tl.where(gamma == 0.0, 1.0, b))


@triton.jit
def log(b):
    """The natural logarithm of a positive number."""
    k, high, low = log2_parts(b)
    return tl.fma(k, LOG_2, tl.fma(high, LOG_2, tl.fma(k + high, LOG_2_REST, low * LOG_2)))


@triton.jit
def log_of_rest(p, GRADE: tl.constexpr):
    """-log(1 - p) for p in [0, 1/2], to its last digits however small p is."""
    if GRADE == 16:
        l = tl.fma(tl.fma(tl.fma(tl.fma(tl.fma(p, N6, N5), p, N4), p, N3), p, N2), p, N1)
        return tl.fma(l * p, p, p)
    l = tl.fma(tl.fma(tl.fma(tl.fma(p, M10, M9), p, M8), p, M7), p, M6)
    l = tl.fma(tl.fma(tl.fma(tl.fma(tl.fma(l, p, M5), p, M4), p, M3), p, M2), p, M1)
    return tl.fma(l * p, p, p)


@triton.jit
def logistic(u, GRADE: tl.constexpr):
    """Of a margin u: l = log1p(exp(-|u|)), p = s(u) and q = s(-u), neither by subtraction.

    GRADE: of how many bits the results are, 32 or 16.
    """
    a = tl.abs(u)
    if GRADE == 16:
        half = tl.exp2(a * (-0.5 * LOG2E))  # the unit flushes subnormal results, a product doesn't
        t = half * half
        r = 1.0 / (1.0 + t)
        s = t * r
        l = tl.fma(tl.fma(tl.fma(tl.fma(tl.fma(t, S6, S5), t, S4), t, S3), t, S2), t, S1)
        l = tl.fma(l * t, t, t)
    else:
        t = exp_of_minus(a)
        n = 1.0 + t
        r = reciprocal(n)
        s = t * r
        # n - 1 - t is what n lost to rounding, exactly: up to an ULP of s.
        s = tl.fma(r, tl.fma(n - 1.0 - t, s, tl.fma(-n, s, t)), s)
        l = log1p_reduced(t)
    right = u > 0.0
    return l, tl.where(right, r, s), tl.where(right, s, r)


@triton.jit
def modulating_factor(u, l, c, c_rest, GRADE: tl.constexpr):
    """q ** gamma = 2 ** -(c (l + max(u, 0))), which never sees the rounding of q."""
    a = tl.minimum(tl.maximum(u, 0.0), LARGE)
    if GRADE == 16:
        half = tl.exp2(c * (l + a) * -0.5)
        return half * half
    z = tl.maximum(tl.fma(-c, a, -c * l) + MAGIC, MAGIC + LEAST_POWER)
    f = tl.fma(-c_rest, a, tl.fma(-c, a, -(z - MAGIC)))
    f = tl.maximum(tl.fma(-c, l, f), -0.75)
    return times_power_of_two(exp2_reduced(f), z)
