"""The sum of a binary focal loss over all its elements, in one pass over blocks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import closed_form, odds
from parfocal.numerics.autograd import focal, is_watched, rounded
from parfocal.numerics.blocks import blocks, computation, is_ordinary, is_readable
from parfocal.numerics.closed_form import Gamma, alpha_t
from parfocal.numerics.summed import summed


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
    if varies or not is_readable(x) or is_watched(x, y, gamma):
        y = y.to(computation(x))
        return _balanced(focal(x.to(y.dtype), y, gamma, epsilon), y, alpha).sum() * scale
    exponent = rounded(gamma, computation(x))
    number, of_element = (None, exponent) if isinstance(exponent, Tensor) else (exponent, None)
    total = summed(x, _Balanced(number, epsilon, alpha, scale), y, of_element)
    assert total is not None  # the general form is right everywhere
    return total


def _balanced(loss: Tensor, y: Tensor, alpha: float | None) -> Tensor:
    return loss if alpha is None else alpha_t(y, alpha) * loss


class _Balanced(NamedTuple):
    """The arguments of `focal_sum`; gamma is None where a tensor of it stands beside y."""

    gamma: float | None
    epsilon: float
    alpha: float | None
    scale: float

    def total(self, x: Tensor, tensors: Sequence[Any], factor: float, out: Tensor | None) -> float:
        """factor times the sum, and its gradient into `out`."""
        y, of_element = tensors
        gamma = self._exponent(of_element)
        scale = self.scale * factor
        if computation(x) == torch.float32 and not self.epsilon:
            total = self._sum_of_blocks(odds.total, x, y, gamma, scale, out)
            if total is not None:
                return scale * total
        total = self._sum_of_blocks(self._general, x, y, gamma, scale, out)
        assert total is not None  # the general form is right everywhere
        return scale * total

    def composed(self, x: Tensor, tensors: Sequence[Any]) -> Tensor:
        """The sum as a composition."""
        y, of_element = tensors
        x, y = x.to(computation(x)), y.to(computation(x))
        loss = closed_form.differentiable_value(
            x, y, self._exponent(of_element), self.epsilon, target_varies=False
        )
        return _balanced(loss, y, self.alpha).sum() * self.scale

    def _exponent(self, of_element: Tensor | None) -> Gamma:
        if of_element is not None:
            return of_element
        assert self.gamma is not None
        return self.gamma

    def _general(
        self,
        x: Tensor,
        y: Tensor,
        gamma: Gamma,
        alpha: float | None,
        scale: float,
        out: Tensor | None,
    ) -> float:
        return closed_form.total(
            x,
            y,
            gamma,
            self.epsilon,
            alpha=alpha,
            scale=scale,
            out=out,
            ordinary=is_ordinary(x),
        )

    def _sum_of_blocks(
        self,
        form: Callable[..., float | None],
        x: Tensor,
        y: Tensor,
        gamma: Gamma,
        scale: float,
        gradient: Tensor | None,
    ) -> float | None:
        """The sum over the blocks, in float64; None if the form isn't right for them all."""
        dtype, total = computation(x), 0.0
        flat = None if gradient is None else gradient.view(-1)
        for block, (narrow, targets, exponent) in blocks(x, y, gamma):
            wide = narrow.to(dtype)
            out = place = None if flat is None else flat[block]
            if place is not None and place.dtype != dtype:
                out = torch.empty_like(wide)
            part = form(wide, targets.to(dtype), exponent, self.alpha, scale, out)
            if part is None:
                return None
            if place is not None and out is not None and out is not place:
                place.copy_(out)
            total += part
        return total
