"""What has been measured of a loss, once for each way of calling it."""

from typing import Any

from parfocal.guard.form import UNKNOWN, Form, measure_form
from parfocal.guard.limits import Limits, limits_of
from parfocal.guard.loss_call import LossCall
from parfocal.guard.voice import Voice

# Ways of calling a loss whose limits are kept: one with another number at each step has many.
_MOST = 20

Both = tuple[Limits, Limits]


class Measures:
    """The form of a loss's targets, and the limits of the loss, for calls like one that was made.

    An error of a measurement is told by the voice, and leaves form or limits unknown.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._forms: dict[tuple[Any, ...], Form] = {}
        self._limits: dict[tuple[Any, ...], Both | None] = {}

    def form(self, call: LossCall) -> Form:
        """How the targets are read."""
        key = _shape_key(call)
        if key not in self._forms:
            form = self._voice.safely("measure the targets", measure_form, call)
            self._keep(self._forms, key, UNKNOWN if form is None else form)
        return self._forms[key]

    def form_anew(self, call: LossCall) -> Form:
        """The same with the values of this call's targets, of which the first had perhaps none."""
        before, again = self.form(call), measure_form(call)
        if again.kind == before.kind:
            self._forms[_shape_key(call)] = again
        return self.form(call)

    def limits(self, call: LossCall) -> Both | None:
        """Where the loss breaks at targets 0 and 1; None if that can't be tried."""
        form = self.form(call)
        key = form, *key_of(call)
        if key not in self._limits:
            limits = self._voice.safely("measure the loss", limits_of, call, form)
            self._keep(self._limits, key, limits)
        return self._limits[key]

    @staticmethod
    def _keep(kept: dict[Any, Any], key: tuple[Any, ...], value: Any) -> None:
        if len(kept) >= _MOST:
            kept.clear()
        kept[key] = value


def key_of(call: LossCall) -> tuple[Any, ...]:
    """All on which the limits of a call may depend."""
    return *_shape_key(call), call.autocast, *call.numbers()


def _shape_key(call: LossCall) -> tuple[Any, ...]:
    """All on which the form of a call may depend."""
    x, y = call.logits, call.targets
    classes = x.shape[1:2] if y.ndim < x.ndim else ()
    return x.dtype, x.ndim, y.ndim, y.dtype, classes, call.places, tuple(call.keywords)
