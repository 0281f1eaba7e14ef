"""The sum of a focal loss over all its elements, with its gradient made in the same pass.

A sum needs no loss of each element, and its incoming gradient is one number: most often 1. So the
slope is made where the value is made, from the same terms, and waits for the backward pass, which
hands it over as it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import closed_form, odds
from parfocal.numerics.autograd import focal, is_batched, is_watched, rounded
from parfocal.numerics.blocks import blocks, is_ordinary, is_readable
from parfocal.numerics.closed_form import Gamma, alpha_t


def focal_sum(
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float = 0.0,
    alpha: float | None = None,
    scale: float = 1.0,
) -> Tensor:
    """scale times the sum of alpha_t L, differentiable like `focal`.

    Args:
        x: logits of any shape and floating dtype; 16 bits are widened a block at a time.
        y: targets in [0, 1], of the shape of x, any real dtype.
        gamma, epsilon: as in `focal`; a tensor has the dtype of the computation.
        alpha: share of the positive class, or None for no balance.
        scale: a number, such as 1 / n for a mean.

    Returns:
        A scalar in the dtype of the computation: float32 for 16 bits.
    """
    dtype = _computation(x)
    gamma_varies = isinstance(gamma, Tensor) and gamma.requires_grad
    if (
        is_watched(x, y, gamma)
        or torch.compiler.is_compiling()
        or not is_readable(x)
        or y.requires_grad
        or gamma_varies
    ):
        y = y.to(dtype)
        loss = focal(x.to(dtype), y, gamma, epsilon)
        return (loss if alpha is None else alpha_t(y, alpha) * loss).sum() * scale
    gamma, weighing = rounded(gamma, dtype), Weighing(epsilon, alpha, scale)
    if x.requires_grad and torch.is_grad_enabled():
        return _FocalSum.apply(x, y, gamma, weighing)  # type: ignore[no-any-return]
    return torch.full((), _total(x, y, gamma, weighing, None), dtype=dtype)


def _computation(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Weighing(NamedTuple):
    """How the terms of the sum are weighed; the arguments of the same names."""

    epsilon: float
    alpha: float | None
    scale: float


class _FocalSum(torch.autograd.Function):
    """The sum, with a gradient that is made in the forward pass and given away once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        gamma: Gamma,
        weighing: Weighing,
    ) -> Tensor:
        is_tensor = isinstance(gamma, Tensor)
        ctx.save_for_backward(x, y, gamma if is_tensor else None)
        ctx.gamma = None if is_tensor else gamma
        ctx.weighing = weighing
        ctx.gradient = torch.empty(x.shape, dtype=x.dtype)
        total = _total(x, y, gamma, weighing, ctx.gradient)
        return torch.full((), total, dtype=_computation(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma = ctx.saved_tensors  # refuses an x that has been changed meanwhile
        gamma = ctx.gamma if gamma is None else gamma
        epsilon, alpha, scale = ctx.weighing
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            wide, y = x.to(_computation(x)), y.to(_computation(x))
            loss = closed_form.differentiable_value(wide, y, gamma, epsilon, target_varies=False)
            total = (loss if alpha is None else alpha_t(y, alpha) * loss).sum() * scale
            return grad * torch.autograd.grad(total, x, create_graph=True)[0], None, None, None
        if is_batched(grad):
            return grad * _slopes(x, y, gamma, ctx.weighing), None, None, None
        # Given away, so that autograd may keep it as x.grad without a copy: another backward pass
        # over the same graph makes its own.
        gradient, ctx.gradient = ctx.gradient, None
        incoming = grad.item()
        if gradient is None or not _may_scale(gradient, incoming):
            gradient = _slopes(x, y, gamma, Weighing(epsilon, alpha, scale * incoming))
        elif incoming != 1:
            gradient.mul_(incoming)
        return gradient, None, None, None


def _may_scale(gradient: Tensor, incoming: float) -> bool:
    """Whether a finished gradient can still take a factor.

    In 16 bits it is rounded already. And a factor above 1 would enlarge the rounding of numbers
    that have underflown.
    """
    return incoming == 1 or (gradient.dtype.itemsize > 2 and abs(incoming) <= 1)


def _total(
    x: Tensor, y: Tensor, gamma: Gamma, weighing: Weighing, gradient: Tensor | None
) -> float:
    """scale times the sum of alpha_t L; and scale dL/dx into `gradient`."""
    if _computation(x) == torch.float32 and weighing.epsilon == 0:
        total = _sum_of_blocks(_quick, x, y, gamma, weighing, gradient)
        if total is not None:
            return weighing.scale * total
    total = _sum_of_blocks(_general, x, y, gamma, weighing, gradient)
    assert total is not None  # the general form is right everywhere
    return weighing.scale * total


def _sum_of_blocks(
    form: Callable[..., float | None],
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    weighing: Weighing,
    gradient: Tensor | None,
) -> float | None:
    """The sum over the blocks, in float64; None if the form isn't the right one for them all."""
    dtype, total = _computation(x), 0.0
    flat = None if gradient is None else gradient.view(-1)
    for block, (narrow, targets, exponents) in blocks(x, y, gamma):
        wide = narrow.to(dtype)
        out = place = None if flat is None else flat[block]
        if place is not None and place.dtype != dtype:
            out = torch.empty_like(wide)
        part = form(wide, targets.to(dtype), exponents, weighing, out)
        if part is None:
            return None
        if place is not None and out is not None and out is not place:
            place.copy_(out)
        total += part
    return total


def _quick(
    x: Tensor, y: Tensor, gamma: Gamma, weighing: Weighing, out: Tensor | None
) -> float | None:
    if out is None:
        return odds.total(x, y, gamma, weighing.alpha)
    return odds.total_and_slope(x, y, gamma, weighing.alpha, weighing.scale, out)


def _general(x: Tensor, y: Tensor, gamma: Gamma, weighing: Weighing, out: Tensor | None) -> float:
    epsilon, alpha, scale = weighing
    ordinary = is_ordinary(x)
    if out is None:
        total = closed_form.value(x, y, gamma, epsilon, alpha=alpha, ordinary=ordinary).sum()
    else:
        total = closed_form.total_and_slope(
            x, y, gamma, epsilon, alpha=alpha, scale=scale, out=out, ordinary=ordinary
        )
    return total.item()


def _slopes(x: Tensor, y: Tensor, gamma: Gamma, weighing: Weighing) -> Tensor:
    """scale dL/dx, rounded once to the dtype of x."""
    gradient = torch.empty(x.shape, dtype=x.dtype)
    _total(x, y, gamma, weighing, gradient)
    return gradient
