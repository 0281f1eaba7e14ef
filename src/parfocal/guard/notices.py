"""What a guard says: who, what, where, why, and what to do."""

import math
from collections.abc import Sized
from pathlib import Path
from typing import Literal, NamedTuple

from parfocal.guard.diagnosis import Diagnosis
from parfocal.guard.loss_call import LossCall

Kind = Literal[
    "right", "wrong", "prior", "outside", "unknown", "scale", "skipping", "unchecked", "uncalled",
    "labels", "one class", "samples", "captures", "own",
]  # fmt: skip


class Notice(NamedTuple):
    """What a guard warned of.

    kind: a cliff on the right or the wrong side of the answers; prior, a first loss far above that
        of a head that knows the classes' frequencies; outside, a gradient that reached the loss
        broken; unknown, a loss that can't be tried by itself; scale, a loss scale that is too
        large; skipping, steps that are left out again and again; unchecked, passes that nobody
        checks; uncalled, a guard that no loss goes through; labels, targets that are no class; one
        class, no positives or nothing else; samples, numbers that aren't those of a batch;
        captures, no more of them; own, an error of the guard.
    distance, steps_left: to the cliff, the second by the trend.
    """

    step: int
    kind: Kind
    text: str
    distance: float = math.nan
    steps_left: float = math.nan

    @property
    def is_ahead(self) -> bool:
        """Whether it is of a cliff."""
        return self.kind in ("right", "wrong")


class FocalGuardWarning(UserWarning):
    """A loss is near a margin at which it breaks, or something else deserves a look."""


class FocalGuardError(FloatingPointError):
    """A loss or its gradient isn't finite; `diagnosis` says why, `capture` is the file of it."""

    def __init__(self, text: str, diagnosis: Diagnosis, capture: Path | None) -> None:
        super().__init__(text)
        self.diagnosis, self.capture = diagnosis, capture


def of_cliff(call: LossCall, side: str, distance: float, cliff: float, left: float) -> str:
    """Of a margin that is near one."""
    dtype = str(call.logits.dtype).removeprefix("torch.")
    steps = f"; at its pace so far it gets there in about {left:.0f} steps" if left < 1e6 else ""
    gamma = "" if call.gamma is None else f" at gamma {call.gamma:g}"
    return (
        f"the surest {side} answer is {max(distance, 0):.3g} from the cliff of this loss: from a "
        f"margin of {cliff:.6g} on its gradient isn't finite in {dtype}{gamma}{steps}."
    )


UNKNOWN = (
    "what the targets of this loss mean, or where it breaks, couldn't be measured by calling it at "
    "logits of the guard's own, so nothing is said of margins and cliffs; a number that isn't "
    "finite is told all the same."
)
DOWNSTREAM = (
    "the gradient that reached the loss from downstream isn't finite, a factor applied after it, "
    "and whoever decides about the steps left this one out. The loss itself is finite."
)
SCALE = (
    "the gradient overflows by the factor that is applied after the loss, as the AMP loss scale "
    "does at its beginning; a GradScaler leaves the step out and lowers its scale. The loss itself "
    "is finite."
)
UNCALLED = (
    "the optimizer takes its steps, but no loss has come through this guard. Call the guard in the "
    "place of the loss, or patch the name that the model's own module calls it by: "
    "`guard.patching('package.module.name')` of the module that imports the loss, not of the one "
    "that defines it."
)


def of_skipping(count: int) -> str:
    """Of steps that are left out one after the other."""
    return (
        f"{count} passes in a row had a gradient that isn't finite and were followed by no step. "
        "If a GradScaler leaves them out, its scale falls for ever: look at the first of these "
        "passes, in `guard.failures` or in the warning before this one."
    )


def of_skipped_parameter(count: int, name: str) -> str:
    """The same, where the loss is fine."""
    return (
        f"{count} passes in a row were followed by no step, and the gradient of {name} isn't "
        "finite, though the loss and its gradient in the logits are. If a GradScaler leaves the "
        "steps out, either its scale is still too high, or the network breaks between its "
        "parameters and the logits, and the scale falls for ever."
    )


def of_unchecked(count: int) -> str:
    """Of passes that nobody checks."""
    return (
        f"{count} passes since the last check: call `guard.attach(optimizer)` once, or "
        "`guard.check()` between `backward` and `step`, and the guard can stop a step."
    )


def of_labels(values: list[float]) -> str:
    """Of targets that no form allows."""
    told = ", ".join(f"{value:g}" for value in values)
    return (
        f"some targets are {told}, which is no class and no probability, and the loss doesn't "
        "leave them out: it learns from them. Look at the data, or give the loss its ignore_index."
    )


def of_one_class(positives: float, steps: int) -> str:
    """Of a training that sees no other answer."""
    what = "no target was positive" if positives == 0 else "every target was positive"
    return f"{what} in the last {steps} steps: look at the labels, and at how batches are drawn."


def of_one_label(steps: int) -> str:
    """The same of classes."""
    return f"all targets were of one class in the last {steps} steps: look at the labels."


def of_samples(samples: object, count: int) -> str:
    """Of what the user calls the samples of a batch."""
    has_length = isinstance(samples, Sized) and getattr(samples, "ndim", 1) > 0
    given = len(samples) if has_length else "none"  # type: ignore[arg-type]
    return (
        f"expected `guard.samples` to be a number for each of the {count} samples of the batch, "
        f"got {given}: a failure is told by the place in the batch alone."
    )


def of_captures(count: int) -> str:
    """Of files that aren't written any more."""
    return f"{count} captures have been written, and no more will be; failures are counted on."


def of_own_error(what: str, error: BaseException) -> str:
    """Of the guard itself."""
    return (
        f"the guard couldn't {what} ({type(error).__name__}: {error}); the training goes on, and "
        "so does the guard."
    )
