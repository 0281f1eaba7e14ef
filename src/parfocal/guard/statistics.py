"""What is counted in each pass, in a few operations on the device, and never read there.

    maxima   the largest of: u - cliff, on the right side of a target and on the wrong one; u
    counts   answers, positives, saturated answers, dead gradients

An answer is saturated when p_t rounds to 1, and its gradient is dead when it is exactly 0, which
for a loss of known limits is a matter of its margin. What doesn't count isn't counted.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.guard.form import Form
from parfocal.guard.limits import Limits, saturation
from parfocal.guard.loss_call import LossCall

# Stands for "no limit". Finite, because `torch.where` mixes it with real limits.
NONE = 1e30

MAXIMA, COUNTS = 3, 4


class Reading(NamedTuple):
    """The statistics of the passes since the last reading, of all processes.

    distance, distance_wrong: of the margin closest to a cliff; infinite where there is none.
    largest_margin: u, of the surest right answer.
    positives, saturated, dead: as shares of the answers that count; positions: how many these are.
        Of a softmax a positive is an answer of another class than the first of its pass: with none
        there is but one class.
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
        [
            *(min(x, NONE) for x in (t.cliff, t.dead, t.cliff_wrong, t.dead_wrong)),
            saturation(dtype),
        ]
        for t in limits or (Limits(), Limits())
    ]
    return torch.tensor(rows, dtype=torch.float32)


def empty_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Statistics of no pass."""
    return torch.full((MAXIMA,), -math.inf, device=device), torch.zeros(COUNTS, device=device)


def add_statistics(
    maxima: Tensor, counts: Tensor, call: LossCall, form: Form, limits: Tensor
) -> None:
    """Add a pass, in place.

    limits: from `thresholds`, on the device of the logits.
    """
    if form.is_binary:
        is_positive = form.is_one(call)
        x = form.over_classes(call.logits).float()
        u = torch.where(is_positive, x, -x)
        # (2, 5) to five of the shape of the answers.
        shaped = limits.view(2, 5, *(1,) * u.ndim)
        right, dead, wrong, dead_wrong, saturated = torch.where(is_positive, shaped[1], shaped[0])
    else:
        u, y = form.margins(call).float(), form.targets(call)
        y = y.argmax(1) if form.kind == "probabilities" else y
        is_positive = y != y.flatten()[0]
        right, dead, wrong, dead_wrong, saturated = limits[1]
    is_saturated = u >= saturated
    is_dead = (u >= dead) | (u <= -dead_wrong)
    ahead, behind = u - right, -u - wrong
    counted = form.counts(call)
    positions = torch.full_like(counts[0], u.numel())
    if counted is not None:
        is_positive, is_saturated, is_dead = (
            flag & counted for flag in (is_positive, is_saturated, is_dead)
        )
        ahead, behind, u = (torch.where(counted, x, -math.inf) for x in (ahead, behind, u))
        positions = counted.sum()
    high = torch.stack([ahead.amax(), behind.amax(), u.amax()])
    # A NaN is told by the failure that it is.
    maxima.copy_(torch.fmax(maxima, high))
    counts.add_(torch.stack([positions, is_positive.sum(), is_saturated.sum(), is_dead.sum()]))


def reading(step: int, maxima: Sequence[float], counts: Sequence[float]) -> Reading | None:
    """What they say; None if nothing was counted."""
    positions, positives, saturated, dead = counts
    if not positions:
        return None
    distance, distance_wrong, largest = maxima
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
