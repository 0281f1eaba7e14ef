"""What a guard says: who, what, where, why, and what to do."""

import math
from collections.abc import Sized
from pathlib import Path
from typing import Literal, NamedTuple

from parfocal.guard.diagnosis import Diagnosis
from parfocal.guard.loss_call import LossCall

Kind = Literal[
    "right", "wrong", "prior", "outside", "unknown", "scale", "skipping", "unchecked", "uncalled",
    "labels", "one class", "samples", "captures", "unheard", "own",
]  # fmt: skip


class Notice(NamedTuple):
    """What a guard warned of.

    Attributes:
        kind: right or wrong, a cliff on that side of the answers; prior, a first loss far above
            that of a head that knows the class frequencies; outside, a gradient that was broken
            when it reached the loss; unknown, a loss that can't be tried by itself; scale, a loss
            scale that is too large; skipping, repeatedly skipped steps; unchecked, passes that
            nothing checks; uncalled, a guard that no loss goes through; labels, invalid targets;
            one class, only positives or none; samples, numbers that don't match the batch;
            captures, the limit is reached; unheard, a result in which no loss was found; own, an
            error of the guard.
        distance, steps_left: to the cliff; steps_left follows from the trend.
    """

    step: int
    kind: Kind
    text: str
    distance: float = math.nan
    steps_left: float = math.nan

    @property
    def is_ahead(self) -> bool:
        """Whether it warns of a cliff."""
        return self.kind in ("right", "wrong")


class FocalGuardWarning(UserWarning):
    """A loss is near a margin at which it breaks, or something else deserves a look."""


class FocalGuardError(FloatingPointError):
    """A loss or its gradient isn't finite; `diagnosis` says why, `capture` is its file."""

    def __init__(self, text: str, diagnosis: Diagnosis, capture: Path | None) -> None:
        super().__init__(text)
        self.diagnosis, self.capture = diagnosis, capture


def of_cliff(call: LossCall, side: str, distance: float, cliff: float, left: float) -> str:
    """Of a margin that is near one."""
    dtype = str(call.logits.dtype).removeprefix("torch.")
    gamma = "" if call.gamma is None else f" at gamma {call.gamma:g}"
    surest = "correct" if side == "right" else "wrong"
    where = f"{distance:.3g} away from it" if distance > 0 else "past it"
    if distance > 0 and left < 1e6:
        where += f"; at the pace so far it gets there in about {left:.0f} steps"
    return (
        f"from a margin of {cliff:.6g} on, the gradient of this loss isn't finite in {dtype}"
        f"{gamma}, and the most confident {surest} answer is {where}. "
        "Use a loss that is finite at every margin, such as parfocal's, or a gamma of 1 or more."
    )


UNKNOWN = (
    "the guard couldn't measure what the targets of this loss mean, or where it breaks: at the "
    "guard's test logits, it showed no known pattern. The guard reads no margins and can't warn "
    "ahead; it still reports a loss or a gradient that isn't finite. There is nothing to do."
)
DOWNSTREAM = (
    "the gradient that reached the loss isn't finite, and a GradScaler or the loop skipped the "
    "step. The loss itself is finite: look at what happens to it before `backward`."
)
SCALE = (
    "a factor applied after the loss makes the gradient overflow, as the initial AMP loss scale "
    "may; the loss itself is finite. A GradScaler skips the step and lowers its scale. There is "
    "nothing to do unless this continues."
)
UNCALLED = (
    "the optimizer takes steps, but no loss has gone through this guard. Call the guard instead "
    "of the loss, or patch the name by which the model's own module calls the loss: "
    "`guard.patching('package.module.name')`, with the module that imports the loss, not the one "
    "that defines it."
)
IN_PLACE = (
    "the loss writes into its logits, so they aren't those it was given: the guard reads no "
    "margins. It still reports a gradient that isn't finite."
)


def of_unheard(result: object) -> str:
    """Of a result that has no loss in it."""
    return (
        f"the loss returned {type(result).__name__}, and the guard found no tensor with a gradient "
        "in it, so it isn't watched. Return a tensor, or a tuple or mapping that holds one."
    )


def of_skipping(count: int) -> str:
    """Of steps that are left out one after the other."""
    return (
        f"the last {count} passes had a gradient that isn't finite, and no step followed. A "
        "GradScaler that skips every step halves its scale until it is 0. Look at the first of "
        "them, in `guard.failures` or in the warning before this one."
    )


def of_skipped_parameter(count: int, name: str) -> str:
    """The same, where the loss is fine."""
    return (
        f"no step followed the last {count} passes, and the gradient of {name} isn't finite, "
        "though the loss and its gradient in the logits are. Either a GradScaler's scale is still "
        "too high, or the network breaks between its parameters and the logits, and the scale "
        "halves until it is 0. torch.autograd.set_detect_anomaly(True) names the operation."
    )


def of_unchecked(count: int) -> str:
    """Of passes that nobody checks."""
    return (
        f"{count} passes since the last check: call `guard.attach(optimizer)` once, or "
        "`guard.check()` between `backward` and `step`, so that the guard can stop a step."
    )


def of_labels(values: list[float]) -> str:
    """Of targets that no form allows."""
    told = ", ".join(f"{value:g}" for value in values[:3])
    return (
        f"some targets are {told}. The loss has a gradient there, so it learns from them. If they "
        "mark positions to leave out, give the loss its ignore_index, or a weight of 0 for them."
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
        f"got {given}: a failure is reported only by its place in the batch."
    )


def of_captures(count: int) -> str:
    """Of files that aren't written any more."""
    return f"{count} captures have been written; later failures are reported without a file."


def of_own_error(what: str, error: BaseException) -> str:
    """Of the guard itself."""
    return (
        f"the guard couldn't {what}: {type(error).__name__}: {error}. Training isn't affected; "
        "the guard continues without it."
    )
