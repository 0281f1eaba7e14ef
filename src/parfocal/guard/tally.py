"""The statistics of a training since the last reading, on its device."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from parfocal.guard import ranks
from parfocal.guard.form import Form
from parfocal.guard.limits import Limits, saturation
from parfocal.guard.loss_call import LossCall
from parfocal.guard.statistics import (
    MAXIMA,
    Reading,
    Statistics,
    Thresholds,
    empty_row,
    joined,
    reading,
    statistics_of,
)

# Small passes that wait, at most, to be counted together.
_MOST_WAITING = 64


class Tally:
    """Counts passes, all small ones and of larger ones the last before a reading.

    step: of the training, so far.
    kind: dimensions of logits and targets that this form is for, and whether targets are floats.
    form: how targets are read; None until it is measured. Nothing is counted before.
    device, device_type: where the passes are. They are kept, as to ask a tensor for them at each
    step of a training is a good part of what a tally costs there.
    """

    def __init__(self) -> None:
        self.step = 0
        self.form: Form | None = None
        self.kind: tuple[int, int, bool] | None = None
        self._waiting: list[LossCall] = []
        self._counted: LossCall | None = None
        self.place(torch.device("cpu"))

    def place(self, device: torch.device) -> None:
        """Begin anew, on a device."""
        self.device, self.device_type = device, device.type
        self._thresholds = Thresholds()
        self._statistics: list[Statistics] = []
        # Those of compiled graphs, which can't change a list, and are compiled for all thresholds.
        self._of_graphs = torch.tensor(empty_row(), device=device)
        self._is_traced = False
        self._of_thresholds = self._thresholds.tensor().to(device)
        self._waiting.clear()

    @property
    def last(self) -> LossCall | None:
        """The last pass; None before the first."""
        return self._waiting[-1] if self._waiting else self._counted

    def add(self, call: LossCall) -> None:
        """A pass, which waits."""
        if call.is_large:
            self._waiting = [one for one in self._waiting if not one.is_large]
        if len(self._waiting) >= _MOST_WAITING:
            self._count_waiting()
        self._waiting.append(call)

    def count(self, call: LossCall) -> None:
        """A pass, now: of a compiled graph."""
        self._counted, self._is_traced = call, True
        if self.form is not None and self.form.kind != "unknown" and self._is_of_form(call):
            with torch.no_grad():
                thresholds = Thresholds.of_tensor(self._of_thresholds)
                new, so_far = statistics_of(call, self.form, thresholds), self._of_graphs
                so_far[:MAXIMA] = torch.fmax(so_far[:MAXIMA], new.maxima)
                so_far[MAXIMA] += new.positions
                so_far[MAXIMA + 1 :] += new.counts

    def measure_by(self, limits: Sequence[Limits] | None, call: LossCall) -> None:
        """What a margin is dangerous, dead and saturated by in calls like one, from now on."""
        zero, one = limits or (Limits(), Limits())
        y, form = call.targets, self.form
        self.kind = call.logits.ndim, y.ndim, y.is_floating_point()
        is_soft = form is not None and form.kind == "elementwise" and y.is_floating_point()
        is_soft = is_soft and bool(((y > 0) & (y < 1)).any())
        self._thresholds = Thresholds(zero, one, saturation(call.logits.dtype), is_soft)
        self._of_thresholds.copy_(self._thresholds.tensor())

    def _is_of_form(self, call: LossCall) -> bool:
        """Whether a call has targets of the kind that the form is of."""
        kind = call.logits.ndim, call.targets.ndim, call.targets.is_floating_point()
        return self.kind is None or kind == self.kind

    def read(self) -> Reading | None:
        """The statistics, of all processes, and begin anew; None if nothing was counted."""
        try:
            self._count_waiting()
        finally:  # the others wait for it
            rows = [one.row() for one in self._statistics]
            self._statistics.clear()
            if self._is_traced:
                rows.append(self._of_graphs.tolist())
                self._of_graphs.copy_(torch.tensor(empty_row()))
                self._is_traced = False
            row = ranks.together(joined(rows), MAXIMA, self.device)
        return reading(self.step, row)

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
                if call.logits.numel() and self._is_of_form(call):
                    self._statistics.append(statistics_of(call, form, self._thresholds))


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
