"""Errors in units in the last place, by a metric that is total."""

import torch
from torch import Tensor

from parfocal.audit.oracle import Truth


def spacing(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of `dtype` around `magnitude`, in float64.

    For 2 ** e <= |magnitude| < 2 ** (e + 1) it is 2 ** e eps; below the smallest normal number
    it is the smallest subnormal.

    >>> spacing(torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64), torch.float16).tolist()
    [0.0009765625, 0.001953125, 5.960464477539063e-08]
    """
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(magnitude.abs().clamp(min=info.tiny, max=info.max).double())
    return torch.ldexp(torch.full_like(magnitude, info.eps, dtype=torch.float64), exponent - 1)


def ulp_error(computed: Tensor, truth: Truth, *, of_scale: bool = False) -> Tensor:
    """|computed - truth| in ULP of the truth, or of the scale of its terms; float64, never NaN.

    - An infinity is no error where the truth overflows the dtype, that is rounds beyond its
      largest number; a finite result there is measured against the largest number.
    - NaN, or an infinity anywhere else, is an infinite error.
    - Signed zeros are equal.

    >>> one = torch.tensor([1.0], dtype=torch.float64)
    >>> truth = Truth(one, torch.zeros_like(one), one)
    >>> ulp_error(torch.tensor([1.0 + 2**-23, float("nan"), float("inf")]), truth).tolist()
    [1.0, inf, inf]
    """
    dtype = computed.dtype
    info = torch.finfo(dtype)
    unit = spacing(truth.scale if of_scale else truth.hi, dtype)
    # Overflow starts half an ULP above the largest number; in float64 that is infinity already.
    overflow = info.max + (0.0 if dtype == torch.float64 else unit / 2)
    overflows = truth.hi.abs() >= overflow
    largest = torch.full_like(truth.hi, info.max).copysign(truth.hi)
    hi = torch.where(overflows, largest, truth.hi)
    lo = torch.where(overflows, 0.0, truth.lo)
    error = ((computed.double() - hi) - lo).abs() / unit
    right_infinity = overflows & computed.isinf() & (computed.sign() == truth.hi.sign())
    error = torch.where(right_infinity, 0.0, error)
    return torch.where(error.isnan(), float("inf"), error)
