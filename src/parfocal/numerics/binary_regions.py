"""Powers of Tversky indices from margins, with slopes in closed form, in blocks.

With s(u) and s(-u), neither by subtraction, the slope of a pixel is

    dP/du = s(u) s(-u) (y (dP/dG - alpha dP/dE) + (1 - y) beta dP/dE).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics import blocks
from parfocal.numerics.autograd import is_batched, is_watched
from parfocal.numerics.blocks import is_ordinary, is_readable
from parfocal.numerics.memory import fresh, keep_temporaries
from parfocal.numerics.region import composed_power
from parfocal.numerics.region_power import Power, Regions


def tversky_power(
    u: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dims: tuple[int, ...],
    power: Power,
) -> Tensor:
    """(1 - T) ** exponent, differentiable any number of times in u; arguments as in `region`."""
    power = power.rounded(u.dtype)
    is_quick = u.dtype == torch.float32 and not is_watched(u, y) and not y.requires_grad
    if is_quick and is_readable(u) and is_ordinary(u):
        needs_gradient = u.requires_grad and torch.is_grad_enabled()
        return _TverskyPower.apply(u, y, mask, dims, power, needs_gradient)  # type: ignore[no-any-return]
    return composed_power(u, y, mask, dims, power)


class _TverskyPower(torch.autograd.Function):
    """The powers, from float32 margins of ordinary size."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        y: Tensor,
        mask: Tensor | None,
        dims: tuple[int, ...],
        power: Power,
        needs_gradient: bool,
    ) -> Tensor:
        variances = fresh(u.shape, u.dtype) if needs_gradient else None
        regions = power.regions(_sums(u, y, mask, dims, variances))
        ctx.save_for_backward(u, y, mask)
        ctx.dims, ctx.power, ctx.regions, ctx.variances = dims, power, regions, variances
        return regions.power().to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, y, mask = ctx.saved_tensors
        none = (None,) * 5
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            result = composed_power(u, y, mask, ctx.dims, ctx.power)
            return torch.autograd.grad(result, u, grad, create_graph=True)[0], *none
        batched = is_batched(grad)
        incoming = torch.ones_like(ctx.regions.wrong) if batched else grad.double()
        # Where the slopes end. A second pass over the graph needs them again.
        variances, ctx.variances = ctx.variances, None
        if variances is None:
            variances = fresh(u.shape, u.dtype)
            _sums(u, y, mask, ctx.dims, variances)
        slope = _slope(variances, y, ctx.dims, ctx.power, ctx.regions, incoming)
        if batched:
            for dim in sorted(ctx.dims):
                grad = grad.unsqueeze(dim)
            slope = grad * slope
        return slope, *none


def _sums(
    u: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dims: tuple[int, ...],
    variances: Tensor | None,
) -> Tensor:
    """FN, FP and TP over each region; and s(u) s(-u) into `variances`, 0 where masked."""
    logits, targets, counts, places = (_as_maps(given, dims) for given in (u, y, mask, variances))
    sums = torch.zeros(3, len(logits), dtype=torch.float64, device="cpu")
    for block in _blocks(logits):
        part = targets[block]
        p, q = logits[block].sigmoid(), torch.neg(logits[block]).sigmoid_()
        other = 1 - part
        if counts is not None:
            part, other = part * counts[block], other.mul_(counts[block])
        if places is not None:
            torch.mul(p, q, out=places[block])
            if counts is not None:
                places[block].mul_(counts[block])
        wrongly = other.mul_(p)
        right = part * p
        missed = q.mul_(part)
        for total, term in zip(sums, (missed, wrongly, right), strict=True):
            total[block[0]] += term.sum(1)
    of_maps = sums.view(3, *u.shape[: -_spatial(dims)])
    return of_maps.sum(1) if 0 in dims else of_maps


def _slope(
    variances: Tensor,
    y: Tensor,
    dims: tuple[int, ...],
    power: Power,
    regions: Regions,
    incoming: Tensor,
) -> Tensor:
    """The slopes in u, times what comes in for each region, in the memory of the variances."""
    of_wrong, of_right = regions.slopes()
    of_positive = (of_right - power.alpha * of_wrong) * incoming
    of_negative = power.beta * of_wrong * incoming
    shape = y.shape[: -_spatial(dims)]
    positive, negative = (
        given.float().expand(shape).reshape(-1, 1) for given in (of_positive, of_negative)
    )
    targets, slope = _as_maps(y, dims), _as_maps(variances, dims)
    for block in _blocks(targets):
        rows = block[0]
        # The ends of a lerp are exact.
        slope[block].mul_(torch.lerp(negative[rows], positive[rows], targets[block]))
    return variances


def _spatial(dims: tuple[int, ...]) -> int:
    """How many of the last dimensions a region extends over."""
    return sum(1 for dim in dims if dim != 0)


def _as_maps(given: Tensor | None, dims: tuple[int, ...]) -> Any:
    """(..., d1, ...) as rows of pixels."""
    if given is None:
        return None
    return given.flatten(-_spatial(dims)).flatten(0, -2)


def _blocks(maps: Tensor) -> Iterator[tuple[slice, slice]]:
    """Some rows at a time, or a part of one."""
    keep_temporaries()
    size = blocks._PER_THREAD * torch.get_num_threads()
    rows, pixels = maps.shape
    some = max(1, size // max(pixels, 1))
    for first in range(0, rows, some):
        for start in range(0, pixels, size):
            yield slice(first, first + some), slice(start, start + size)
