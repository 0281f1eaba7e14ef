"""Elementwise losses on the CPU, each position or their sum, in blocks.

A form of a loss knows one block, in the dtype of the computation; here it is told which positions
count, and the blocks are added up in float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics import closed_form, hard
from parfocal.numerics.closed_form import Gamma, is_ordinary, round_exponent
from parfocal.numerics.cpu.blocks import flat, is_finite, multiply, parts, row_blocks, scale_of
from parfocal.numerics.cpu.memory import fresh
from parfocal.numerics.cpu.threads import in_parallel
from parfocal.numerics.data import (
    Data,
    Form,
    Loss,
    computation,
    over_classes,
    prepare,
    tensors_of,
)
from parfocal.numerics.hard import constant, terms_from_odds


def elementwise_sum(
    loss: Loss,
    x: Tensor,
    data: Data,
    divisor: float | Tensor,
    needs_gradient: bool,
    incoming: Tensor | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """The sum of weight L over the divisor, and its gradient in x times the incoming one."""
    scale = scale_of(divisor, incoming)
    if scale is None or x.numel() == 0:
        return None
    gradient = fresh(x.shape, x.dtype) if needs_gradient else None
    data = over_classes(x, data)
    columns = [flat(column) for column in (gradient, x, *data, *tensors_of(loss))]
    blocks, dtype = row_blocks(x.numel()), computation(x)
    for attempt, form in enumerate(loss.forms(dtype)):
        work = partial(_sum_of_block, loss, form, attempt, columns, scale)
        sums = in_parallel(work, blocks, x.numel())
        if sums is not None:
            return torch.full((), scale * sum(sums), dtype=dtype, device="cpu"), gradient
    return None


def _sum_of_block(
    loss: Loss,
    form: Form,
    attempt: int,
    columns: list[Tensor | None],
    scale: float,
    block: slice | None,
) -> float | None:
    """The sum over a block by one of the forms, and the gradient there; None if it isn't right."""
    place, x, y, weight, mask, *fields = parts(columns, block)
    loss, x, (y, weight, _) = prepare(loss, fields, x, Data(y, weight, mask))
    if mask is not None and weight is None:
        weight = mask.to(x.dtype)
    if fields:
        form = loss.forms(x.dtype)[attempt]
    evaluation = form(x, y, weight=weight, needs_slope=place is not None)
    if evaluation is None:
        return None
    value, slope = evaluation
    if slope is not None:
        factor = constant(scale, slope.dtype)
        if place.dtype == slope.dtype:
            torch.mul(slope, factor, out=place)
        else:
            place.copy_(slope.mul_(factor))
    total = value.sum().item()
    return total if is_finite(total) else None


def elementwise_rescale(
    loss: Loss, x: Tensor, data: Data, divisor: float | Tensor, kept: Tensor, incoming: Tensor
) -> Tensor:
    """The finished gradient times the incoming one; made again where it can't be multiplied."""
    gradient = multiply(kept, incoming)
    if gradient is None:
        evaluation = elementwise_sum(loss, x, data, divisor, True, incoming)
        assert evaluation is not None
        gradient = evaluation[1]
    assert gradient is not None
    return gradient


def elementwise_values(*_: object) -> None:
    """None: a composition takes the blocks of `pointwise`."""


# The closed forms that have a quicker one for hard targets in float32.
_FROM_ODDS = {closed_form.value: hard.value, closed_form.slope: hard.slope}


def pointwise(
    form: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float,
    t: Tensor | None,
    incoming: Tensor | None,
) -> Tensor | None:
    """A closed form of the focal loss at each position, times the incoming gradient if any."""
    quick = _FROM_ODDS.get(form)
    if quick is not None and x.dtype == torch.float32 and not epsilon and t is None:
        result = blockwise(quick, incoming, x, y, gamma)
        if result is not None:
            return result

    def careful(x: Tensor, *arguments: Any) -> Tensor:
        return form(x, *arguments, ordinary=is_ordinary(x))

    return blockwise(careful, incoming, x, y, gamma, epsilon, t)


def blockwise(
    form: Callable[..., Tensor | None], incoming: Tensor | None, x: Tensor, *arguments: Any
) -> Tensor | None:
    """form(x, *arguments) times the incoming gradient; None if the form gives that for a block."""
    out = fresh(x.shape, x.dtype)
    columns = [flat(column) for column in (out, incoming, x, *arguments)]

    def write(block: slice | None) -> bool | None:
        place, factor, *arguments = parts(columns, block)
        result = form(*arguments)
        if result is None:
            return None
        if factor is None:
            place.copy_(result)
        else:
            torch.mul(result, factor, out=place)
        return True

    return None if in_parallel(write, row_blocks(x.numel()), x.numel()) is None else out


def opposed(x: Tensor, alpha: float, gamma: float) -> Tensor | None:
    """The focal loss of a positive less that of a negative, where all logits are ordinary."""
    if x.dtype != torch.float32 or not is_ordinary(x):
        return None
    return blockwise(_opposed_from_odds, None, x, alpha, round_exponent(gamma, x.dtype))


def _opposed_from_odds(x: Tensor, alpha: float, gamma: Gamma) -> Tensor:
    """The one loss from the odds against the positive class, the other from their inverse."""
    e = x.double().neg_().exp_()
    inverse = e.reciprocal()
    positive, negative = (
        terms.factor(gamma).mul_(terms.cross_entropy)
        for terms in (terms_from_odds(e), terms_from_odds(inverse))
    )
    return positive.mul_(alpha).sub_(negative, alpha=1 - alpha)
