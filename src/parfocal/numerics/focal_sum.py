"""The sum of a binary focal loss over all its elements, in one pass over blocks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import closed_form, odds
from parfocal.numerics.autograd import focal, is_watched, rounded
from parfocal.numerics.blocks import blocks, is_ordinary, is_readable
from parfocal.numerics.closed_form import Gamma, alpha_t
from parfocal.numerics.summed import computation, summed


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
    varies = y.requires_grad or (isinstance(gamma, Tensor) and gamma.requires_grad)
    if varies or not is_readable(x) or torch.compiler.is_compiling() or is_watched(x, y, gamma):
        y = y.to(computation(x))
        loss = focal(x.to(y.dtype), y, gamma, epsilon)
        return (loss if alpha is None else alpha_t(y, alpha) * loss).sum() * scale
    of_element = gamma if isinstance(gamma, Tensor) else None
    gamma = gamma if isinstance(gamma, Tensor) else rounded(gamma, computation(x))
    total = summed(x, _Balanced(gamma, epsilon, alpha, scale), y, of_element)
    assert total is not None  # the general form is right everywhere
    return total


class _Balanced(NamedTuple):
    """How the terms of the sum are weighed; the arguments of `focal_sum` of the same names."""

    gamma: Gamma
    epsilon: float
    alpha: float | None
    scale: float

    def total(self, x: Tensor, tensors: Sequence[Any], factor: float, out: Tensor | None) -> float:
        """factor times the sum, and its gradient into `out`."""
        y, gamma = tensors
        scale = self.scale * factor
        if computation(x) == torch.float32 and not self.epsilon:
            total = _sum_of_blocks(self._of_odds, x, y, gamma, scale, out)
            if total is not None:
                return scale * total
        total = _sum_of_blocks(self._general, x, y, gamma, scale, out)
        assert total is not None  # the general form is right everywhere
        return scale * total

    def composed(self, x: Tensor, tensors: Sequence[Any]) -> Tensor:
        """The sum as a composition."""
        x, y = x.to(computation(x)), tensors[0].to(computation(x))
        loss = closed_form.differentiable_value(x, y, self.gamma, self.epsilon, target_varies=False)
        return (loss if self.alpha is None else alpha_t(y, self.alpha) * loss).sum() * self.scale

    def _of_odds(
        self, x: Tensor, y: Tensor, gamma: Tensor | None, scale: float, out: Tensor | None
    ) -> float | None:
        exponent = self.gamma if gamma is None else gamma
        if out is None:
            return odds.total(x, y, exponent, self.alpha)
        return odds.total_and_slope(x, y, exponent, self.alpha, scale, out)

    def _general(
        self, x: Tensor, y: Tensor, gamma: Tensor | None, scale: float, out: Tensor | None
    ) -> float:
        exponent, ordinary = self.gamma if gamma is None else gamma, is_ordinary(x)
        if out is None:
            return (
                closed_form.value(x, y, exponent, self.epsilon, alpha=self.alpha, ordinary=ordinary)
                .sum()
                .item()
            )
        return closed_form.total_and_slope(
            x,
            y,
            exponent,
            self.epsilon,
            alpha=self.alpha,
            scale=scale,
            out=out,
            ordinary=ordinary,
        ).item()


def _sum_of_blocks(
    form: Callable[..., float | None],
    x: Tensor,
    y: Tensor,
    gamma: Tensor | None,
    scale: float,
    gradient: Tensor | None,
) -> float | None:
    """The sum over the blocks, in float64; None if the form isn't the right one for them all."""
    dtype, total = computation(x), 0.0
    flat = None if gradient is None else gradient.view(-1)
    for block, (narrow, targets, exponents) in blocks(x, y, gamma):
        wide = narrow.to(dtype)
        out = place = None if flat is None else flat[block]
        if place is not None and place.dtype != dtype:
            out = torch.empty_like(wide)
        part = form(wide, targets.to(dtype), exponents, scale, out)
        if part is None:
            return None
        if place is not None and out is not None and out is not place:
            place.copy_(out)
        total += part
    return total
