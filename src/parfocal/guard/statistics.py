"""What is counted in each pass, in a few operations on the device, and never read there.

    highs   the largest of: u - cliff, on the right side of a target and on the wrong one; u
    sums    positions, positives, saturated positions, dead gradients

A position is saturated when p_t rounds to 1, and its gradient is dead when it is exactly 0, which
for a loss of known limits is a matter of its margin.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.guard.limits import Limits, saturation
from parfocal.guard.loss_call import class_margin, kind_of

# In place of a limit that there is not: finite, so that it can be mixed with another.
NONE = 1e30

HIGHS, SUMS = 3, 4


class Reading(NamedTuple):
    """The statistics of the passes since the last reading, of all processes.

    distance, distance_wrong: of the margin closest to a cliff; infinite where there is none.
    largest_margin: u, of the surest right answer.
    positives, saturated, dead: as shares of the positions; positions: how many there were.
    """

    step: int
    distance: float
    distance_wrong: float
    largest_margin: float
    positives: float
    saturated: float
    dead: float
    positions: int


def thresholds(limits: Sequence[Limits] | None, dtype: torch.dtype) -> Tensor:
    """(2, 5): cliff and dead on the right side, the same on the wrong side, and saturation."""
    rows = [
        [*map(_finite, (t.cliff, t.dead, t.cliff_wrong, t.dead_wrong)), saturation(dtype)]
        for t in limits or (Limits(), Limits())
    ]
    return torch.tensor(rows, dtype=torch.float32)


def _finite(limit: float) -> float:
    return min(limit, NONE)


def nothing(device: torch.device) -> tuple[Tensor, Tensor]:
    """Statistics of no pass."""
    return torch.full((HIGHS,), -math.inf, device=device), torch.zeros(SUMS, device=device)


def count(highs: Tensor, sums: Tensor, logits: Tensor, targets: Tensor, limits: Tensor) -> None:
    """Add a pass, in place.

    limits: from `thresholds`, on the device of the logits.
    """
    x = logits.float()
    if kind_of(logits, targets) == "binary":
        is_one = targets > 0.5
        u = torch.where(is_one, x, -x)
        positives = is_one.sum()
        # (2, 5) to five of the shape of the logits.
        shaped = limits.view(2, 5, *(1,) * x.ndim)
        right, dead, wrong, dead_wrong, saturated = torch.where(is_one, shaped[1], shaped[0])
    else:
        u = class_margin(x, targets)
        positives = limits.new_zeros(())
        right, dead, wrong, dead_wrong, saturated = limits[1]
    is_saturated = u >= saturated
    is_dead = (u >= dead) | (u <= -dead_wrong)
    high = torch.stack([(u - right).amax(), (-u - wrong).amax(), u.amax()])
    positions = torch.full_like(positives, u.numel())
    total = torch.stack([positions, positives, is_saturated.sum(), is_dead.sum()])
    # A NaN is told by the failure that it is.
    highs.copy_(torch.fmax(highs, high))
    sums.add_(total)


def reading(step: int, highs: Sequence[float], sums: Sequence[float]) -> Reading | None:
    """What they say; None if there was no pass."""
    positions, positives, saturated, dead = sums
    if not positions:
        return None
    distance, distance_wrong, largest = highs
    return Reading(
        step,
        _distance(distance),
        _distance(distance_wrong),
        largest,
        positives / positions,
        saturated / positions,
        dead / positions,
        int(positions),
    )


def _distance(high: float) -> float:
    return math.inf if high < -NONE / 2 else -high
