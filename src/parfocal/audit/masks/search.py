"""What a mask means, by trying: whether it is read, and in which form it leaves positions out."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from parfocal.audit.masks.calls import (
    Batch,
    Mask,
    Result,
    call,
    kept_positions,
    loss_of,
    with_left_out,
)
from parfocal.audit.subject import Subject

_NEAR = 1e-3


def class_count(subject: Subject) -> int:
    """Three classes where they are taken: beside an ignored one of two there is one alone.

    Raises:
        Exception: it takes no batch of several positions.
    """
    gamma = 2.0 if subject.gamma is not None else subject.fixed_gamma
    counts = (3, 2) if subject.kind == "multiclass" and subject.classes == 2 else (subject.classes,)
    for count in counts:
        try:
            call(subject, Mask(), kept_positions(subject, count, None).to(subject.widest), gamma)
        except Exception:
            if count == counts[-1]:
                raise
        else:
            break
    return count


def words_of(error: Exception) -> str:
    """Its name and its first line."""
    first = (str(error).splitlines() or [""])[0][:160].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def refusal(subject: Subject, mask: Mask, batch: Batch, gamma: float) -> str:
    """What the loss raises; empty if nothing."""
    try:
        loss_of(subject, mask, batch, gamma)
    except Exception as error:
        return words_of(error)
    return ""


def is_calm(subject: Subject, mask: Mask, plain: Batch, gamma: float) -> bool:
    """Whether gradients are numbers where nothing is left out."""
    try:
        return bool(call(subject, mask, plain, gamma).gradient.isfinite().all())
    except Exception:
        return False


def form_of(subject: Subject, mask: Mask, classes: int, gamma: float) -> tuple[Mask | None, bool]:
    """The form in which an argument leaves positions out, and whether any result depends on it.

    It is that one if each position in turn loses its loss or its gradient, and the others keep
    their gradients, all times one number: what a mean divides by may change. So a factor of each
    class is none: it takes other positions of the class along.
    """
    plain = kept_positions(subject, classes, None).to(subject.widest)
    ones = torch.eye(len(plain.rows), dtype=torch.bool)
    seen: list[bool] = []
    for form in _forms(mask):
        try:
            everyone = call(subject, form, plain, gamma)
            results = [call(subject, form, plain._replace(left_out=out), gamma) for out in ones]
        except Exception:
            continue
        pairs = zip(results, ones, strict=True)
        if all(_is_left_out(everyone, without, out) for without, out in pairs):
            return form, True
        seen += [_is_same(everyone, without) for without in results]
    return None, not (seen and all(seen))


def _forms(mask: Mask) -> Iterator[Mask]:
    """Dtypes, shapes and meanings that an argument with an entry a position may have."""
    for is_wide in (False, True):
        form = mask._replace(is_wide=is_wide)
        if mask.is_weight:
            yield form._replace(dtype="float")
            continue
        for dtype in ("bool", "float"):
            for marks in (False, True):
                yield form._replace(dtype=dtype, marks=marks)


def _is_left_out(everyone: Result, without: Result, out: Tensor) -> bool:
    """Whether one position is gone, and the others are as they were."""
    if not bool((everyone.gradient != 0).any(1).all()):
        return False
    before, after = everyone.gradient[~out], without.gradient[~out]
    ratios = (after / before)[before != 0]
    is_kept = bool(ratios[0] > 0) and bool((ratios / ratios[0] - 1).abs().amax() < _NEAR)
    values = without.values
    has_no_value = values is not None and not bool(values[out].any())
    return is_kept and (has_no_value or not bool(without.gradient[out].any()))


def is_ignored(subject: Subject, mask: Mask, classes: int, gamma: float) -> bool:
    """Whether a target that no argument names has no gradient, at calm logits."""
    plain = kept_positions(subject, classes, mask.ignored)
    try:
        batch = with_left_out(plain, (0.5, 2.0), subject.widest)
        result = call(subject, mask, batch, gamma)
    except Exception:
        return False
    values, out = result.values, batch.left_out
    is_calm = not bool(result.gradient[out].any()) and bool(result.gradient[~out].any(1).all())
    return is_calm and (values is None or not bool(values[out].any()))


def is_never_read(subject: Subject, masks: Sequence[Mask], classes: int, gamma: float) -> bool:
    """Whether no result depends on which target is ignored, of those that are tried."""
    compared = 0
    for mask in masks:
        plain = kept_positions(subject, classes, None)
        batch = with_left_out(plain, (0.5, 2.0), subject.widest)
        batch = batch._replace(classes=batch.targets(mask))  # the same targets, whatever is said
        for other in (0, 1):
            one = _outcome(subject, mask, batch, gamma)
            two = _outcome(subject, mask._replace(ignored=other), batch, gamma)
            if isinstance(one, Result) and isinstance(two, Result):
                if not _is_same(one, two):
                    return False
                compared += mask.ignored != other
            elif type(one) is not type(two):
                return False
    return compared > 0


def _outcome(subject: Subject, mask: Mask, batch: Batch, gamma: float) -> Result | Exception:
    try:
        none = batch._replace(left_out=torch.zeros_like(batch.left_out))
        return call(subject, mask, none, gamma)
    except Exception as error:
        return error


def _is_same(one: Result, two: Result) -> bool:
    """Whether two calls gave the same, NaN for NaN."""
    same = one.whole == two.whole or (one.whole != one.whole and two.whole != two.whole)
    return same and bool(torch.allclose(one.gradient, two.gradient, rtol=0, atol=0, equal_nan=True))
