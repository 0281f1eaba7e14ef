"""Lines on a mask that leaves positions out: what a mean divides by, and a batch without any."""

from collections.abc import Sequence

import torch

from parfocal.audit.masks.calls import Batch, Mask, call, kept_positions, loss_of, with_left_out
from parfocal.audit.masks.search import is_calm, refusal, words_of
from parfocal.audit.subject import Subject

_NEAR = 1e-4

# Of batches, of which five positions are left.
_SIZES = (6, 9, 13)


def lines_of(
    subject: Subject,
    clean: Sequence[Mask],
    classes: int,
    gamma: float,
    *,
    is_read: bool,
    reaches_nan: bool,
) -> list[str]:
    """What is so of the settings of an argument at which nothing is wrong at finite logits."""
    if not clean:
        return []
    mask = clean[0]
    plain = kept_positions(subject, classes, mask.ignored).to(subject.widest)
    batch = with_left_out(plain, (0.5, 2.0), subject.widest)
    if not (is_calm(subject, mask, plain, gamma) and is_calm(subject, mask, batch, gamma)):
        return []  # in a dtype that wasn't tried
    name = mask.name if mask.name and is_read else f"target {mask.ignored}"
    position = "an ignored position" if name == mask.name else "a position with it"
    if mask.ignored is None:
        position = f"a position that is {mask.state}"
    what = _what(subject, mask, plain, batch, gamma, position)
    if reaches_nan:
        what += ", also where its logits are NaN or infinite"
    else:
        what += " at finite logits"
    if mask.ignored is not None and name == mask.name:
        what += f" ({', '.join(str(one.ignored) for one in clean)} tried)"
    elif mask.ignored is not None:
        what += f", whatever {mask.name} is" if mask.name else ", though no argument says so"
    lines = [f"{name}: {what}"]
    mean = _mean_of(subject)
    for reduced, words in ((mean, "mean"), (subject if mean is None else None, "loss")):
        if reduced is not None:
            lines += [f"{name}: {line}" for line in _of_nobody(reduced, mask, batch, gamma, words)]
    if mean is not None:
        words = _divisor(subject, mean, mask, plain, batch, gamma)
        lines += [f"{name}: {words}"] if words else []
    return lines


def _what(
    subject: Subject, mask: Mask, plain: Batch, batch: Batch, gamma: float, position: str
) -> str:
    """What such positions haven't: no value either, if each has one, or they are dropped."""
    result = call(subject, mask, batch, gamma)
    alone = call(subject, mask, plain, gamma)
    is_dropped = result.size == alone.size > 1
    if result.values is not None or is_dropped:
        return f"value and gradient of {position} are exactly 0"
    return f"the gradient of {position} is exactly 0"


def _mean_of(subject: Subject) -> Subject | None:
    """The loss with a mean, if it has one."""
    for place in ("options", "on_call"):
        given = getattr(subject, place)
        if "reduction" in given:
            return subject.with_options(**{place: {**given, "reduction": "mean"}})
        if "size_average" in given:
            return subject.with_options(**{place: {**given, "size_average": True}})
    return subject if subject.reduced == "mean" else None


def _of_nobody(subject: Subject, mask: Mask, batch: Batch, gamma: float, words: str) -> list[str]:
    """A line on a batch in which every position is left out."""
    some = batch.only(~batch.left_out)
    if refusal(subject, mask, some, gamma):
        return []
    if words == "mean" and loss_of(subject, mask, some, gamma)[1].numel() != 1:
        return []
    told = f"a {words} in which all are left out"
    try:
        result = call(subject, mask, batch.only(batch.left_out), gamma)
    except Exception as error:
        return [f"{told} fails: {words_of(error)}"]
    if words == "loss" and result.whole == 0 and not bool(result.gradient.any()):
        return []
    if result.whole == result.whole and abs(result.whole) != float("inf"):
        told += " is 0" if result.whole == 0 else f" is {result.whole:.4g}"
        is_finite = bool(result.gradient.isfinite().all())
        return [told if is_finite else f"{told}, and its gradient isn't finite"]
    return [f"{told} is NaN" if result.whole != result.whole else f"{told} is infinite"]


def _divisor(
    subject: Subject, mean: Subject, mask: Mask, plain: Batch, batch: Batch, gamma: float
) -> str:
    """Whether a mean counts what is left out; empty of one that divides by no count of elements."""
    ones = [plain.only(torch.tensor([i])) for i in range(5)]
    try:
        single = [call(mean, mask, one, gamma).whole for one in ones]
        plainly = [call(subject, mask, one, gamma).whole for one in ones]
        for count in (5, 3, 2):
            some = call(mean, mask, plain.only(torch.arange(count)), gamma)
            if some.size != 1 or not _is_near(some.whole * count, sum(single[:count])):
                return ""
        wholes = {n: call(mean, mask, batch.only(torch.arange(n)), gamma).whole for n in _SIZES}
    except Exception:
        return ""
    is_plain = all(_is_near(a, b) for a, b in zip(single, plainly, strict=True))
    opening = "mean divides by the number of elements" if is_plain else "mean counts the elements"
    if all(_is_near(whole * size, sum(single)) for size, whole in wholes.items()):
        return f"{opening}, {'masked' if mask.ignored is None else 'ignored'} ones too"
    # Of weights of 0 and 1 the sum is the number of elements that are left.
    if not mask.is_weight and all(_is_near(whole * 5, sum(single)) for whole in wholes.values()):
        return f"{opening} that are left"
    return ""


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= _NEAR * abs(b)
