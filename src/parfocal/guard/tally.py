"""The statistics of a training since the last reading, on its device."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from parfocal.guard import ranks
from parfocal.guard.limits import Limits
from parfocal.guard.loss_call import SMALL, Pass
from parfocal.guard.statistics import Reading, count, nothing, reading, thresholds

# Small passes that wait, at most, to be counted together.
_MOST_WAITING = 64


class Tally:
    """Counts passes, all small ones and of larger ones the last before a reading.

    step: of the training, so far.
    device, device_type: where the passes are. They are kept, as to ask a tensor for them at each
    step of a training is a good part of what a tally costs there.
    """

    def __init__(self) -> None:
        self.step = 0
        self._waiting: list[Pass] = []
        self._counted: Pass | None = None
        self.place(torch.device("cpu"))

    def place(self, device: torch.device) -> None:
        """Begin anew, on a device."""
        self.device, self.device_type = device, device.type
        self._highs, self._sums = nothing(device)
        self._thresholds = thresholds(None, torch.float32).to(device)
        self._waiting.clear()

    @property
    def last(self) -> Pass | None:
        """The last pass; None before the first."""
        return self._waiting[-1] if self._waiting else self._counted

    def add(self, seen: Pass) -> None:
        """A pass, which waits."""
        if seen.logits.numel() > SMALL:
            self._waiting = [one for one in self._waiting if one.logits.numel() <= SMALL]
        if len(self._waiting) >= _MOST_WAITING:
            self._count_waiting()
        self._waiting.append(seen)

    def count(self, seen: Pass) -> None:
        """A pass, now: of a compiled graph."""
        self._counted = seen
        with torch.no_grad():
            count(self._highs, self._sums, seen.logits, seen.targets, self._thresholds)

    def measure_by(self, limits: Sequence[Limits] | None, dtype: torch.dtype) -> None:
        """What a margin is dangerous, dead and saturated by, from the next count on."""
        self._thresholds.copy_(thresholds(limits, dtype).to(self.device))

    def read(self) -> Reading | None:
        """The statistics, of all processes, and begin anew; None if there was no pass."""
        self._count_waiting()
        highs, sums = ranks.largest(self._highs).tolist(), ranks.total(self._sums).tolist()
        self._highs.fill_(-math.inf)
        self._sums.zero_()
        return reading(self.step, highs, sums)

    def __len__(self) -> int:
        """Of the passes that wait."""
        return len(self._waiting)

    def _count_waiting(self) -> None:
        self._counted = self.last
        with torch.no_grad():
            for logits, targets in _joined((seen.logits, seen.targets) for seen in self._waiting):
                if logits.numel():
                    count(self._highs, self._sums, logits, targets, self._thresholds)
        self._waiting.clear()


def _joined(passes: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets of passes, those of one form in one."""
    forms: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for logits, targets in passes:
        form = logits.shape, logits.dtype, targets.shape, targets.dtype
        forms.setdefault(form if logits.ndim else id(logits), []).append((logits, targets))
    for parts in forms.values():
        if len(parts) == 1:
            yield parts[0]
        else:
            yield torch.cat([logits for logits, _ in parts]), torch.cat([y for _, y in parts])
