"""Sums of an elementwise loss over all positions, in one pass over blocks.

A form of a loss knows one block: logits, targets and the weight of each position, in the dtype of
the computation. Here it is told which positions count, and its blocks are added up in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.autograd import is_watched
from parfocal.numerics.blocks import blocks, computation, is_readable
from parfocal.numerics.summed import summed

Weight = Tensor | None


# form(x, *tensors, weight=, scale=, out=) gives the sum of weight L over a block, and scale times
# its gradient into `out`, if there is one; None for logits or targets of which it isn't right.
Form = Callable[..., float | None]


def elementwise_sum(
    x: Tensor,
    forms: Sequence[Form],
    composition: Callable[..., Tensor],
    *tensors: Tensor | None,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight L where the mask is True, differentiable in x.

    Args:
        x: logits of any shape and floating dtype; 16 bits are widened a block at a time.
        forms: what is tried in turn; one is taken for the whole of x.
        composition: the unreduced loss of (x, *tensors), for further derivatives.
        tensors: what the forms take beside x, of its shape; data.
        weight, mask: of the shape of x, or None; data.
        scale: a number, such as 1 / n for a mean.

    Returns:
        A scalar in the dtype of the computation; None where x isn't at hand, something other than
        x is differentiated, or no form is right.
    """
    data = (*tensors, weight, mask)
    if not is_readable(x) or is_watched(x, *data) or any(varies(given) for given in data):
        return None
    return summed(x, _ElementwiseSum(tuple(forms), composition, scale), *data)


def varies(given: object) -> bool:
    """Whether autograd differentiates in it."""
    return isinstance(given, Tensor) and given.requires_grad


def total_of(
    value: Tensor, slope: Tensor | None, weight: Weight, scale: float, out: Tensor | None
) -> float | None:
    """The end of a form: the sum of its values, and its slopes into `out`; None if not finite.

    The memory of both is free afterwards.
    """
    if weight is not None:
        value.mul_(weight)
    if slope is not None and out is not None:
        if weight is not None:
            slope.mul_(weight)
        torch.mul(slope, scale, out=out)
    total = value.sum().item()
    return total if abs(total) < torch.inf else None


class _ElementwiseSum(NamedTuple):
    """The arguments of `elementwise_sum` of the same names; weight and mask end the tensors."""

    forms: tuple[Form, ...]
    composition: Callable[..., Tensor]
    scale: float

    def total(
        self, x: Tensor, tensors: Sequence[Any], factor: float, out: Tensor | None
    ) -> float | None:
        """factor times the sum, and its gradient into `out`."""
        scale = self.scale * factor
        for form in self.forms:
            total = _sum_of_blocks(form, x, tensors, scale, out)
            if total is not None:
                return scale * total
        return None

    def composed(self, x: Tensor, tensors: Sequence[Any]) -> Tensor:
        """The sum as a composition."""
        x, data, weight = _taken(x, tensors)
        loss = self.composition(x, *data)
        return (loss if weight is None else weight * loss).sum() * self.scale


def _sum_of_blocks(
    form: Form, x: Tensor, tensors: Sequence[Any], scale: float, gradient: Tensor | None
) -> float | None:
    """The sum over the blocks, in float64; None if the form isn't right for them all."""
    total = 0.0
    flat = None if gradient is None else gradient.view(-1)
    for block, (narrow, *parts) in blocks(x, *tensors):
        wide, data, weight = _taken(narrow, parts)
        out = place = None if flat is None else flat[block]
        if place is not None and place.dtype != wide.dtype:
            out = torch.empty_like(wide)
        part = form(wide, *data, weight=weight, scale=scale, out=out)
        if part is None:
            return None
        if place is not None and out is not None and out is not place:
            place.copy_(out)
        total += part
    return total


def _taken(x: Tensor, tensors: Sequence[Any]) -> tuple[Tensor, list[Any], Weight]:
    """All in the dtype of the computation, and 0 where the mask is False, the weight as well."""
    *data, weight, mask = tensors
    dtype = computation(x)
    wide: list[Any] = [
        given if given is None or given.dtype == dtype else given.to(dtype)
        for given in (x, *data, weight)
    ]
    if mask is not None:
        wide = [None if given is None else torch.where(mask, given, 0.0) for given in wide]
        if wide[-1] is None:
            wide[-1] = mask.to(dtype)
    return wide[0], wide[1:-1], wide[-1]
