"""What all expected results share: dtypes and their rounding, which positions count, reductions."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuzzing.stable import HUGE

Incoming = Callable[[tuple[int, ...]], Tensor]


class Expected(NamedTuple):
    """A result in float64, and how far a right one may be from it; a gradient likewise.

    NaN stands for itself, and what is beyond 1e200 for an infinity. Where the tolerance is
    infinite nothing is promised.
    """

    value: Tensor
    value_tolerance: Tensor
    gradient: Tensor
    gradient_tolerance: Tensor


class Arithmetic(NamedTuple):
    """The dtype of the logits, that of the computation, and that of the result."""

    inputs: torch.dtype
    computation: torch.dtype
    result: torch.dtype

    @property
    def ulp(self) -> float:
        """The relative distance of numbers of the computation."""
        return torch.finfo(self.computation).eps

    @property
    def least(self) -> float:
        """Below it numbers of the computation lose their digits."""
        return torch.finfo(self.computation).tiny

    def operand(self, given: Tensor) -> Tensor:
        """A tensor as it takes part."""
        return given.detach().to(self.computation).double()

    def exponent(self, given: Any) -> Tensor:
        """A number or a tensor as an exponent, which is rounded like every tensor."""
        if not isinstance(given, Tensor):
            given = torch.tensor(float(given), dtype=torch.float64)
        return self.operand(given)

    def finish(self, value: Tensor, tolerance: Tensor, dtype: torch.dtype) -> Tensor:
        """The tolerance with the last rounding, to dtype."""
        limits = torch.finfo(dtype)
        least = limits.smallest_normal * limits.eps if dtype.itemsize == 2 else limits.tiny
        rounding = limits.eps if dtype.itemsize == 2 else 2 * limits.eps
        return tolerance + rounding * value.abs() + 2 * least


def arithmetic(inputs: Tensor, autocast: bool) -> Arithmetic:
    """16 bits are computed in float32, which they stay under autocast."""
    wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    return Arithmetic(inputs.dtype, wide, wide if autocast else inputs.dtype)


def truth_ulps(a: Arithmetic, logarithm: Tensor) -> Tensor:
    """How far the truth itself may be off, in ULP of the computation: it is exp(logarithm)."""
    return 2 * torch.finfo(torch.float64).eps / a.ulp * logarithm.clamp(max=1e5)


def finite_logits(x: Tensor) -> Tensor:
    """Infinite logits as the largest numbers."""
    return x.clamp(-HUGE, HUGE)


def where_counted(mask: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Where positions count."""
    if mask is None:
        return torch.ones(tuple(shape), dtype=torch.bool)
    return (mask != 0).expand(tuple(shape))


def reduced(
    value: Tensor,
    tolerance: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    reduction: str,
    divisor: Tensor | float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and tolerance of the result, and the factor by which each position's slope counts."""
    if reduction == "none":
        factor = incoming(tuple(value.shape)).double()
        return value, a.finish(value, tolerance, a.result), factor
    grow = 4 + math.log2(max(2, value.numel()))
    divisor = torch.as_tensor(1.0 if divisor is None else divisor, dtype=torch.float64).reshape(())
    total = value.sum() / divisor
    slack = (tolerance.sum() + grow * a.ulp * value.abs().sum()) / divisor.abs()
    factor = incoming(()).double() / divisor
    return total, a.finish(total, slack, a.result), factor.expand(value.shape)
