"""What is counted in each pass, in a few operations on the device, and never read there.

    largest of    u; u - cliff, on the right side of a target and on the wrong one
    number of     answers, positives, saturated answers, dead gradients

An answer is saturated when p_t rounds to 1, and its gradient is dead when it is exactly 0, which
for a loss of known limits is a matter of its margin. What doesn't count isn't counted.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.guard.form import Form
from parfocal.guard.limits import Limits, saturation
from parfocal.guard.loss_call import LossCall

# The statistics of a pass are so many maxima, then so many counts.
MAXIMA, COUNTS = 3, 4

# A margin: on the host, or for a graph, which is compiled once for all of them, on the device.
Margin = float | Tensor


class Reading(NamedTuple):
    """The statistics of the passes since the last reading, over all processes.

    distance, distance_wrong: of the margin closest to a cliff; infinite where there is none.
    largest_margin: u of the most confident right answer.
    positives, saturated, dead: as shares of the answers that count; positions: how many do.
        For a softmax, a positive is an answer of another class than the first of its pass: without
        one, there is only one class.
    """

    step: int
    distance: float
    distance_wrong: float
    largest_margin: float
    positives: float
    saturated: float
    dead: float
    positions: int


class Thresholds(NamedTuple):
    """What a margin is dangerous and dead by, at targets 0 and 1, and what it is saturated by.

    is_soft: whether some targets are between 0 and 1.
    """

    zero: Sequence[Margin] = Limits()
    one: Sequence[Margin] = Limits()
    saturated: Margin = saturation(torch.float32)
    is_soft: bool = False

    def tensor(self) -> Tensor:
        """All in a row."""
        return torch.tensor([*self.zero, *self.one, self.saturated], dtype=torch.float32)

    @classmethod
    def of_tensor(cls, row: Tensor) -> "Thresholds":
        """The elements of `tensor`, without a look at them."""
        *limits, saturated = row.unbind()
        return cls(limits[:4], limits[4:], saturated)


class Statistics(NamedTuple):
    """Of a pass, on its device.

    maxima: (3,), the largest of u, u - cliff on the right side, -u - cliff on the wrong one.
    counts: positives, saturated and dead, the last of which is left out where none can be.
    positions: the number of answers, where it needs no look at the device.
    """

    maxima: Tensor
    counts: Tensor
    positions: int | Tensor

    def row(self) -> list[float]:
        """All on the host: the maxima, then positions and counts."""
        counts = self.counts.tolist()
        none = [0.0] * (COUNTS - 1 - len(counts))
        return [*self.maxima.tolist(), float(self.positions), *counts, *none]


def empty_row() -> list[float]:
    """That of no pass."""
    return [-math.inf] * MAXIMA + [0.0] * COUNTS


def statistics_of(call: LossCall, form: Form, thresholds: Thresholds) -> Statistics:
    """The statistics of a pass."""
    if form.is_binary:
        is_positive = form.is_one(call)
        x = form.over_classes(call.logits).float()
        u = torch.where(is_positive, x, -x)
        right, wrong, dead, dead_wrong = (
            _by_target(is_positive, zero, one)
            for zero, one in zip(thresholds.zero, thresholds.one, strict=True)
        )
    else:
        u, y = form.margins(call).float(), form.targets(call)
        y = y.argmax(1) if form.kind == "probabilities" else y
        is_positive = y != y.flatten()[0]
        right, wrong, dead, dead_wrong = thresholds.one
    highs = [
        u,
        None if _is_never(right) else u - right,
        None if _is_never(wrong) else -u - wrong,
    ]
    is_dead = [] if _is_never(dead) else [u >= dead]
    is_dead += [] if _is_never(dead_wrong) else [u <= -dead_wrong]
    is_dead = _any(is_dead)
    if thresholds.is_soft:  # of a target between 0 and 1 the gradient isn't 0
        y = form.targets(call)
        is_dead = [flag & ((y == 0) | (y == 1)) for flag in is_dead]
    flags = torch.stack([is_positive, u >= thresholds.saturated, *is_dead])
    positions: int | Tensor = u.numel()
    counted = form.counts(call)
    if counted is not None:
        highs = [None if h is None else torch.where(counted, h, -math.inf) for h in highs]
        flags, positions = flags & counted, counted.sum()
    maxima = [_no_margin(u.device) if h is None else h.amax() for h in highs]
    return Statistics(torch.stack(maxima), flags.flatten(1).sum(1), positions)


def _any(flags: list[Tensor]) -> list[Tensor]:
    return [flags[0] | flags[1]] if len(flags) == 2 else flags


@cache
def _no_margin(device: torch.device) -> Tensor:
    return torch.full((), -math.inf, device=device)


def _by_target(is_positive: Tensor, zero: Margin, one: Margin) -> Margin:
    """The limit of each target."""
    is_same = isinstance(zero, float) and zero == one
    return zero if is_same else torch.where(is_positive, one, zero)


def _is_never(limit: Margin) -> bool:
    """Whether it is known on the host that no margin gets there: nothing is computed then."""
    return isinstance(limit, float) and limit == math.inf


def joined(parts: Iterable[Sequence[float]]) -> list[float]:
    """The rows of several passes together. A NaN is told by the failure that it is."""
    columns = list(zip(empty_row(), *parts, strict=True))
    maxima = [
        max((x for x in of if not math.isnan(x)), default=-math.inf) for of in columns[:MAXIMA]
    ]
    return [*maxima, *map(sum, columns[MAXIMA:])]


def reading(step: int, row: Sequence[float]) -> Reading | None:
    """What a row says; None if nothing was counted."""
    largest, ahead, behind, positions, positives, saturated, dead = row
    if not positions:
        return None
    return Reading(
        step,
        -ahead,
        -behind,
        largest,
        positives / positions,
        saturated / positions,
        dead / positions,
        int(positions),
    )
