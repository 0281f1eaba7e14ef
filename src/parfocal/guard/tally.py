"""The statistics of a training since the last reading, on its device."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from parfocal.guard import ranks
from parfocal.guard.form import Form
from parfocal.guard.limits import Limits
from parfocal.guard.loss_call import SMALL, LossCall
from parfocal.guard.statistics import (
    Reading,
    add_statistics,
    empty_statistics,
    reading,
    thresholds,
)

# Small passes that wait, at most, to be counted together.
_MOST_WAITING = 64


class Tally:
    """Counts passes, all small ones and of larger ones the last before a reading.

    step: of the training, so far.
    form: how targets are read; None until it is measured. Nothing is counted before.
    device, device_type: where the passes are. They are kept, as to ask a tensor for them at each
    step of a training is a good part of what a tally costs there.
    """

    def __init__(self) -> None:
        self.step = 0
        self.form: Form | None = None
        self._waiting: list[LossCall] = []
        self._counted: LossCall | None = None
        self.place(torch.device("cpu"))

    def place(self, device: torch.device) -> None:
        """Begin anew, on a device."""
        self.device, self.device_type = device, device.type
        self._maxima, self._counts = empty_statistics(device)
        self._thresholds = thresholds(None, torch.float32).to(device)
        self._waiting.clear()

    @property
    def last(self) -> LossCall | None:
        """The last pass; None before the first."""
        return self._waiting[-1] if self._waiting else self._counted

    def add(self, call: LossCall) -> None:
        """A pass, which waits."""
        if call.logits.numel() > SMALL:
            self._waiting = [one for one in self._waiting if one.logits.numel() <= SMALL]
        if len(self._waiting) >= _MOST_WAITING:
            self._count_waiting()
        self._waiting.append(call)

    def count(self, call: LossCall) -> None:
        """A pass, now: of a compiled graph."""
        self._counted = call
        if self.form is not None and self.form.kind != "unknown":
            with torch.no_grad():
                add_statistics(self._maxima, self._counts, call, self.form, self._thresholds)

    def measure_by(self, limits: Sequence[Limits] | None, dtype: torch.dtype) -> None:
        """What a margin is dangerous, dead and saturated by, from the next count on."""
        self._thresholds.copy_(thresholds(limits, dtype).to(self.device))

    def read(self) -> Reading | None:
        """The statistics, of all processes, and begin anew; None if nothing was counted."""
        maxima, counts = self._maxima, self._counts
        try:
            self._count_waiting()
        finally:  # the others wait for it
            highs, sums = ranks.largest(maxima).tolist(), ranks.total(counts).tolist()
            maxima.fill_(-math.inf)
            counts.zero_()
        return reading(self.step, highs, sums)

    def __len__(self) -> int:
        """Of the passes that wait."""
        return len(self._waiting)

    def _count_waiting(self) -> None:
        self._counted = self.last
        waiting, self._waiting = self._waiting, []
        form = self.form
        if form is None or form.kind == "unknown":
            return
        with torch.no_grad():
            for call in waiting if form.mask is not None else _joined(waiting):
                if call.logits.numel():
                    add_statistics(self._maxima, self._counts, call, form, self._thresholds)


def _joined(passes: Iterable[LossCall]) -> Iterator[LossCall]:
    """Passes, those of one shape in one; what their arguments are doesn't matter any more."""
    shapes: dict[Any, list[LossCall]] = {}
    for call in passes:
        x, y = call.logits, call.targets
        shape = x.shape, x.dtype, y.shape, y.dtype
        shapes.setdefault(shape if x.ndim else id(x), []).append(call)
    for calls in shapes.values():
        first = calls[0]
        if len(calls) > 1:
            first = first._replace(
                logits=torch.cat([call.logits for call in calls]),
                targets=torch.cat([call.targets for call in calls]),
            )
        yield first
