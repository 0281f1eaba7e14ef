"""A loss's own masks, tried: ignored targets, and arguments with an entry a position."""

import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from parfocal.audit.masks.calls import (
    Batch,
    Mask,
    call,
    kept_positions,
    masks_of,
    one_thread,
    with_left_out,
)
from parfocal.audit.masks.lines import lines_of
from parfocal.audit.masks.search import (
    class_count,
    form_of,
    is_calm,
    is_ignored,
    is_never_read,
    refusal,
)
from parfocal.audit.subject import Subject

Stage = Literal["fails", "calm", "extreme", "not finite"]

# Logits of the positions that are left out: calm ones, those beyond every cliff, no numbers.
_SIZES: dict[Stage, tuple[float, ...]] = {
    "calm": (0.5, 2.0, 4.0),
    "extreme": (8.0, 20.0, 100.0, 1e4),
    "not finite": (math.nan, math.inf),
}

# Another order of rounding is no change of a gradient.
_NEAR = 1e-3


class MaskFault(NamedTuple):
    """The first thing that is wrong with a mask, at a dtype and a gamma.

    stage: at which logits of what is left out; "fails" if the call raises, in `words`.
    batch, position: what shows it; the position is one that is left out, or another.
    computed, truth: there.
    share: of the positions that are left out, or else of the others.
    is_read: whether any result depends on the argument.
    """

    mask: Mask
    stage: Stage
    dtype: str
    gamma: float
    batch: Batch
    position: int
    quantity: str = "gradient"
    computed: float | None = None
    truth: float | None = None
    share: float = 1.0
    words: str = ""
    is_read: bool = True


class MaskTrials(NamedTuple):
    """What came out of all trials: lines of what is so, and what is wrong."""

    lines: tuple[str, ...] = ()
    faults: tuple[MaskFault, ...] = ()


def try_masks(
    subject: Subject, gammas: Sequence[float], dtypes: Sequence[torch.dtype]
) -> MaskTrials:
    """Leave positions out in each way that a loss of PyTorch offers."""
    if subject.framework != "torch" or not gammas or not dtypes:
        return MaskTrials()
    lines: list[str] = []
    faults: list[MaskFault] = []
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        try:
            classes = class_count(subject)
            offered = masks_of(subject, classes)
        except Exception:  # it takes no batch of several positions
            return MaskTrials()
        for masks in offered:
            found = _of_argument(subject, masks, classes, gammas, dtypes)
            lines += found.lines
            faults += found.faults
    return MaskTrials(tuple(lines), tuple(faults))


def _of_argument(
    subject: Subject,
    masks: Sequence[Mask],
    classes: int,
    gammas: Sequence[float],
    dtypes: Sequence[torch.dtype],
) -> MaskTrials:
    """One argument, in all its settings."""
    lines: list[str] = []
    gamma = 2.0 if 2.0 in gammas else gammas[0]
    first = masks[0]
    is_read = True
    if first.ignored is None:
        form, is_read = form_of(subject, first, classes, gamma)
        masks = [] if form is None else [form]
        lines += [] if is_read else [f"{first.name}: no result that was tried depends on it"]
    elif not first.name:
        masks = [first] if is_ignored(subject, first, classes, gamma) else []
    else:
        is_read = not is_never_read(subject, masks, classes, gamma)
    clean: list[Mask] = []
    faults: list[MaskFault] = []
    last: set[Stage] = set()
    for mask in masks:
        trials = list(_trials(subject, mask, classes, gammas, dtypes, lines))
        found = [trial.fault for trial in trials if trial.fault is not None]
        faults += [fault._replace(is_read=is_read) for fault in found]
        stages = {trial.last for trial in trials}
        if (
            trials
            and stages <= {"extreme", "not finite"}
            and all(fault.stage == "not finite" for fault in found)
        ):
            clean.append(mask)
            last |= stages
    reaches_nan = last == {"not finite"} and not any(f.stage == "not finite" for f in faults)
    if not first.name:  # nothing was promised: a line says how far it goes
        faults = [fault for fault in faults if fault.stage == "extreme"]
    lines += lines_of(subject, clean, classes, gamma, is_read=is_read, reaches_nan=reaches_nan)
    return MaskTrials(tuple(lines), tuple(faults))


class _Trial(NamedTuple):
    """What came out at one dtype and gamma: the first fault, and the last stage that was tried."""

    fault: MaskFault | None
    last: Stage


def _trials(
    subject: Subject,
    mask: Mask,
    classes: int,
    gammas: Sequence[float],
    dtypes: Sequence[torch.dtype],
    lines: list[str],
) -> Iterator[_Trial]:
    """One of each dtype and gamma at which the loss takes the argument; a line if it doesn't."""
    plain = kept_positions(subject, classes, mask.ignored)
    for dtype, gamma in product(dtypes, gammas):
        here = plain.to(dtype)
        words = refusal(subject, mask, here, gamma)
        if not words and is_calm(subject, mask, here, gamma):
            yield _trial(subject, mask, plain, dtype, gamma)
        is_first = (dtype, gamma) == (dtypes[0], gammas[0])
        if words and is_first and mask.name and not refusal(subject, Mask(), here, gamma):
            lines.append(f"{mask.name}={mask.ignored} is refused: {words}")


def _trial(subject: Subject, mask: Mask, plain: Batch, dtype: torch.dtype, gamma: float) -> _Trial:
    """From calm logits to those that are no numbers, until something is wrong."""
    small = with_left_out(plain, _SIZES["calm"], dtype).beside(len(plain.rows))
    words = refusal(subject, mask, small, gamma)
    if words:
        is_taken = not refusal(subject, mask, plain.beside(2).to(dtype), gamma)
        name = str(dtype).removeprefix("torch.")
        failure = MaskFault(mask, "fails", name, gamma, small, 2, words=words)
        return _Trial(failure if is_taken else None, "fails")
    last: Stage = "fails"
    for stage, sizes in _SIZES.items():
        if stage == "not finite" and mask.is_weight:
            break  # 0 times NaN is NaN
        try:
            fault = _fault(subject, mask, stage, with_left_out(plain, sizes, dtype), gamma)
        except Exception:
            break  # it refuses such logits, wherever they are
        last = stage
        if fault is not None:
            return _Trial(fault, last)
    return _Trial(None, last)


class _Wrong(NamedTuple):
    """Positions that are wrong in a batch, what they have and what they should have."""

    quantity: str
    where: Tensor
    numbers: Tensor
    truths: Tensor


def _fault(
    subject: Subject, mask: Mask, stage: Stage, batch: Batch, gamma: float
) -> MaskFault | None:
    """What is wrong in a batch, shown by three positions if these show it too."""
    wrong = _wrong(subject, mask, batch, gamma)
    if wrong is None:
        return None
    leaks = bool(wrong.where[batch.left_out].any())
    group = batch.left_out if leaks else ~batch.left_out
    share = float(wrong.where[group].double().mean())
    for i in batch.calmest(wrong.where if leaks else batch.left_out):
        small = batch.beside(i)
        again = _wrong(subject, mask, small, gamma)
        if again is None or again.quantity != wrong.quantity:
            continue
        if bool(again.where[small.left_out].any()) == leaks:
            batch, wrong = small, again
            break
    at = int((wrong.where & (batch.left_out == leaks)).nonzero()[0])
    off = (wrong.numbers[at].double() - wrong.truths[at].double()).abs().nan_to_num(math.inf)
    entry = int(off.argmax())
    return MaskFault(
        mask,
        stage,
        str(batch.rows.dtype).removeprefix("torch."),
        gamma,
        batch,
        at,
        wrong.quantity,
        float(wrong.numbers[at, entry]),
        float(wrong.truths[at, entry]),
        share,
    )


def _wrong(subject: Subject, mask: Mask, batch: Batch, gamma: float) -> _Wrong | None:
    """A position that is left out and isn't 0; or another that changes with it."""
    result = call(subject, mask, batch, gamma)
    for quantity, numbers in (("gradient", result.gradient), ("value", result.values)):
        if numbers is not None:
            where = batch.left_out & (numbers != 0).any(1)  # NaN is
            if bool(where.any()):
                return _Wrong(quantity, where, numbers, torch.zeros_like(numbers))
    quiet = call(subject, mask, batch.quiet(), gamma).gradient
    gradient, truth = result.gradient.double(), quiet.double()
    near = gradient.isfinite()  # in 16 bits no more is asked
    if batch.rows.dtype.itemsize > 2:
        near &= (gradient - truth).abs() <= _NEAR * (truth.abs() + _NEAR * truth.abs().amax())
    where = ~batch.left_out & (truth.isfinite() & ~near).any(1)
    return _Wrong("gradient", where, result.gradient, quiet) if bool(where.any()) else None
