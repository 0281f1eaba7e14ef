"""What a reading shows of the steps to come: a cliff that is near, labels that can't be learned."""

import math
from typing import Literal

from parfocal.guard import notices
from parfocal.guard.form import Form
from parfocal.guard.loss_call import LossCall
from parfocal.guard.measures import Measures
from parfocal.guard.statistics import Reading
from parfocal.guard.trend import Trend
from parfocal.guard.voice import Voice

# Readings before a trend is believed, and from one look at the labels to the next.
_BELIEVED = 10
_LABELS = 5

# Steps without another answer than one after which something is said.
_ONE_SIDED = 200


class Outlook:
    """Looks at each reading of a training, with the last call before it."""

    def __init__(self, voice: Voice, measures: Measures) -> None:
        self._voice, self._measures = voice, measures
        self._trends = Trend(), Trend()
        self._readings = 0
        self._varied: int | None = None

    def look(
        self, last: Reading, call: LossCall, *, near: float, horizon: int, has_failed: bool
    ) -> None:
        """Warn of what the reading shows.

        near, horizon: a cliff is near within 1 - `near` of its margin, or within so many steps.
        has_failed: whether a margin beyond a cliff has been told as the failure that it was.
        """
        self._readings += 1
        ahead = last, call, near, horizon, has_failed
        self._voice.safely("look ahead", self._look_ahead, *ahead)
        self._voice.safely("look at the labels", self._look_at_labels, last, call)

    def _look_ahead(
        self, last: Reading, call: LossCall, near: float, horizon: int, has_failed: bool
    ) -> None:
        limits = self._measures.limits(call)
        if limits is None:
            return
        sides: tuple[tuple[Literal["right", "wrong"], float, float], ...] = (
            ("right", last.distance, min(t.cliff for t in limits)),
            ("wrong", last.distance_wrong, min(t.cliff_wrong for t in limits)),
        )
        for trend, (side, distance, cliff) in zip(self._trends, sides, strict=True):
            is_told = distance <= 0 and has_failed
            if math.isinf(cliff) or not math.isfinite(distance) or is_told:
                continue
            trend.add(last.step, -distance)
            left = trend.steps_left(last.step, 0.0)
            soon = left <= horizon and self._readings >= _BELIEVED
            if distance <= (1 - near) * cliff or soon:
                text = notices.of_cliff(call, side, distance, cliff, left)
                self._voice.notice(side, text, distance, left)

    def _look_at_labels(self, last: Reading, call: LossCall) -> None:
        form = self._measures.form(call)
        if self._readings % _LABELS == 1 and form.kind != "one-vs-rest":
            self._look_at_values(form, call)
        is_varied = 0 < last.positives < 1 or (not form.is_binary and last.positives > 0)
        self._varied = last.step if is_varied or self._varied is None else self._varied
        if last.step - self._varied >= _ONE_SIDED:
            one = notices.of_one_class(last.positives, _ONE_SIDED)
            text = one if form.is_binary else notices.of_one_label(_ONE_SIDED)
            self._voice.notice("one class", text)

    def _look_at_values(self, form: Form, call: LossCall) -> None:
        values, y = form.outside(call), call.targets
        if values == [-1] and form.kind == "elementwise" and not bool((y == 0).any()):
            return  # the negatives of a loss of targets -1 and 1
        if values and (values := self._measures.form_anew(call).outside(call)):
            self._voice.notice("labels", notices.of_labels(values))
