"""Sums over a tensor whose gradient is made in the forward pass.

A sum needs no loss of each element, and its incoming gradient is one number: most often 1. So the
slope is made where the value is made, from the same terms, and waits for the backward pass, which
hands it over as it is.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from parfocal.numerics.autograd import is_batched
from parfocal.numerics.blocks import computation
from parfocal.numerics.memory import fresh


class Summand(Protocol):
    """A sum over all elements of logits x, beside which tensors it takes are data."""

    def total(
        self, x: Tensor, tensors: Sequence[Any], factor: float, out: Tensor | None
    ) -> float | None:
        """factor times the sum; and its gradient in x into `out`, rounded once.

        None where it can't be had in this way.
        """

    def composed(self, x: Tensor, tensors: Sequence[Any]) -> Tensor:
        """The sum, as autograd may differentiate it any number of times."""


def summed(x: Tensor, summand: Summand, *tensors: Tensor | None) -> Tensor | None:
    """The sum, differentiable in x; None where the summand can't have it in this way.

    Args:
        x: contiguous logits on a CPU, whose values may be looked at.
        summand: what is summed.
        tensors: what it takes beside x.

    Returns:
        A scalar in the dtype of the computation.
    """
    needs_gradient = x.requires_grad and torch.is_grad_enabled()
    gradient = fresh(x.shape, x.dtype) if needs_gradient else None
    with torch.no_grad():
        total = summand.total(x, tensors, 1.0, gradient)
    if total is None:
        return None
    if gradient is None:
        return torch.full((), total, dtype=computation(x), device="cpu")
    return _Summed.apply(x, total, gradient, summand, *tensors)  # type: ignore[no-any-return]


class _Summed(torch.autograd.Function):
    """A total with a gradient that is there already, and is given away once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        total: float,
        gradient: Tensor,
        summand: Summand,
        *tensors: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, *tensors)
        ctx.summand, ctx.gradient = summand, gradient
        return torch.full((), total, dtype=computation(x), device="cpu")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors  # refuses an x that has been changed meanwhile
        rest = (None,) * (3 + len(tensors))
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            total = ctx.summand.composed(x, tensors)
            return grad * torch.autograd.grad(total, x, create_graph=True)[0], *rest
        if is_batched(grad):
            return grad * _remade(ctx.summand, x, tensors, 1.0), *rest
        # Given away, so that autograd may keep it as x.grad without a copy: another backward pass
        # over the same graph makes its own.
        gradient, ctx.gradient = ctx.gradient, None
        incoming = grad.item()
        if gradient is None or not _may_scale(gradient, incoming):
            gradient = _remade(ctx.summand, x, tensors, incoming)
        elif incoming != 1:
            gradient.mul_(incoming)
        return gradient, *rest


def _may_scale(gradient: Tensor, incoming: float) -> bool:
    """Whether a finished gradient can still take a factor.

    In 16 bits it is rounded already. And a factor above 1 would enlarge the rounding of numbers
    that have underflown.
    """
    return incoming == 1 or (gradient.dtype.itemsize > 2 and abs(incoming) <= 1)


def _remade(summand: Summand, x: Tensor, tensors: Sequence[Any], factor: float) -> Tensor:
    gradient = fresh(x.shape, x.dtype)
    total = summand.total(x, tensors, factor, gradient)
    assert total is not None  # it could be had in the forward pass
    return gradient
