"""Why a pass isn't finite: by its loss, by what came to it from downstream, or by another time."""

import torch
from torch import Tensor

from parfocal.guard import diagnosis, notices
from parfocal.guard.checks import Pass
from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.loss_call import LossCall
from parfocal.guard.measures import Measures
from parfocal.guard.trial import value_and_gradient
from parfocal.guard.voice import Voice


class Causes:
    """Looks for the cause of a failing pass by calling its loss again."""

    def __init__(self, voice: Voice, measures: Measures) -> None:
        self._voice, self._measures = voice, measures

    def find(self, one: Pass | LossCall, step: int, rank: int) -> tuple[LossCall, Diagnosis | None]:
        """The call as it is told, and its cause: None if it is broken by a loss scale alone.

        A LossCall is one of a compiled graph, of which no gradient is known.
        """
        call = one.call if isinstance(one, Pass) else one
        call = call._replace(step=step, rank=rank, samples=self._samples_of(call))
        found = self._voice.safely("explain a failure", lambda: (self._of(call, one),))
        if found is None:
            return call, diagnosis.of_another_time(call, "the guard couldn't look at it again")
        return call, found[0]

    def _of(self, call: LossCall, one: Pass | LossCall) -> Diagnosis | None:
        form, limits = self._measures.form(call), self._measures.limits(call)
        try:
            cause = diagnose(call, form, limits)
        except Exception as error:  # whatever the loss raises when it is called again
            told = f"it can't be called again ({type(error).__name__}: {error})"
            return diagnosis.of_another_time(call, told)
        if cause is not None or not isinstance(one, Pass):
            return cause
        incoming = one.incoming
        if incoming is not None and not bool(incoming.isfinite().all()):
            return diagnosis.of_factor(call, incoming)
        if incoming is not None and not one.changed and bool((incoming != 1).any()):
            _, gradient = value_and_gradient(call, call.logits, factor=incoming)
            if not bool(gradient.isfinite().all()):
                return None
        if one.changed:
            return diagnosis.of_another_time(call, f"its {one.changed} has been written into since")
        return diagnosis.of_another_time(call, "it is finite when it is called again")

    def _samples_of(self, call: LossCall) -> Tensor | None:
        """What the user calls the samples of a call; None, and a notice, if it is of another."""
        if call.samples is None:
            return None
        try:
            numbers = torch.as_tensor(call.samples)
        except (TypeError, ValueError, RuntimeError):
            numbers = torch.zeros(())
        if call.logits.ndim and numbers.shape[:1] == call.logits.shape[:1]:
            return numbers
        count = call.logits.shape[:1].numel()
        self._voice.notice("samples", notices.of_samples(call.samples, count))
        return None


def of_scale(one: Pass, step: int, rank: int) -> Diagnosis:
    """That of a pass which a factor has broken, and whose step is about to be taken."""
    assert one.incoming is not None
    return diagnosis.of_factor(one.call._replace(step=step, rank=rank), one.incoming)
