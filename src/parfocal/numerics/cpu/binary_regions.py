"""Powers of Tversky indices from margins, with slopes in closed form, in blocks.

With s(u) and s(-u), neither by subtraction, the slope of a pixel is

    dP/du = s(u) s(-u) (y (dP/dG - alpha dP/dE) + (1 - y) beta dP/dE).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import is_ordinary
from parfocal.numerics.cpu.blocks import Block, blocks
from parfocal.numerics.cpu.memory import fresh
from parfocal.numerics.cpu.threads import in_parallel
from parfocal.numerics.region import Power, Regions

# Pixels of a block for each thread: a block makes few operations, in two passes.
_BLOCK = 2**19


class _Kept(NamedTuple):
    """What slopes are made of: s(u) s(-u) of the pixels, 0 where masked, and the regions."""

    variances: Tensor
    regions: Regions


def region_power(
    power: Power,
    u: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dims: tuple[int, ...],
    needs_gradient: bool,
) -> tuple[Tensor, _Kept | None] | None:
    """The powers, and what their slopes are made of; None unless in float32 of ordinary size."""
    if u.dtype != torch.float32 or u.numel() == 0:
        return None
    variances = fresh(u.shape, u.dtype) if needs_gradient else None
    sums = _sums(u, y, mask, dims, variances)
    if sums is None:
        return None
    regions = power.regions(sums)
    kept = None if variances is None else _Kept(variances, regions)
    return regions.power().to(u.dtype), kept


def region_slope(
    power: Power, y: Tensor, dims: tuple[int, ...], kept: _Kept, incoming: Tensor
) -> Tensor:
    """The slopes in u, times what comes in for each region, in the memory of the variances."""
    variances, regions = kept
    dP_dE, dP_dG = regions.slopes()  # noqa: N806 - the symbols of the docstring
    incoming = incoming.double()
    shape = y.shape[: -_spatial(dims)]
    positive, negative = (
        slope.float().expand(shape).reshape(-1, 1)
        for slope in ((dP_dG - power.alpha * dP_dE) * incoming, power.beta * dP_dE * incoming)
    )
    targets, slope = _as_maps(y, dims), _as_maps(variances, dims)

    def finish(block: Block) -> bool:
        rows = block[0]
        # The ends of a lerp are exact.
        slope[block].mul_(torch.lerp(negative[rows], positive[rows], targets[block]))
        return True

    in_parallel(finish, blocks(len(targets), targets.shape[1], most=_BLOCK), y.numel())
    return variances


def _sums(
    u: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dims: tuple[int, ...],
    variances: Tensor | None,
) -> Tensor | None:
    """FN, FP and TP over each region; None unless all margins are ordinary.

    And s(u) s(-u) into `variances`, 0 where masked.
    """
    logits, targets, counts, places = (_as_maps(tensor, dims) for tensor in (u, y, mask, variances))

    def sums_of(block: Block) -> list[Tensor] | None:
        if not is_ordinary(logits[block]):
            return None
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
        return [term.sum(1) for term in (missed, wrongly, right)]

    pieces = blocks(len(logits), logits.shape[1], most=_BLOCK)
    parts = in_parallel(sums_of, pieces, u.numel())
    if parts is None:
        return None
    sums = torch.zeros(3, len(logits), dtype=torch.float64, device="cpu")
    for (rows, _), terms in zip(pieces, parts, strict=True):
        for total, term in zip(sums, terms, strict=True):
            total[rows] += term
    of_maps = sums.view(3, *u.shape[: -_spatial(dims)])
    return of_maps.sum(1) if 0 in dims else of_maps


def _spatial(dims: tuple[int, ...]) -> int:
    """How many of the last dimensions a region extends over."""
    return sum(1 for dim in dims if dim != 0)


def _as_maps(tensor: Tensor | None, dims: tuple[int, ...]) -> Any:
    """(..., d1, ...) as rows of pixels."""
    if tensor is None:
        return None
    return tensor.flatten(-_spatial(dims)).flatten(0, -2)
