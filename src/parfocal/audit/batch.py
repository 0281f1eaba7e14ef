"""What a loss makes of a batch: what its mean divides by, and whether it is one at all."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from parfocal.audit.evaluate import arguments, tensor_of
from parfocal.audit.subject import Subject, SubjectError

_NEAR = 1e-4

_DEFAULT = "what it gives by default"
UNKNOWN_DIVISOR = "?"

# Batches of several sizes and shares of positives, and one of rows of two.
_BATCHES: tuple[tuple[tuple[float, ...], tuple[int, ...]], ...] = (
    ((-1.5, 0.25, 2.0, -0.5), (1, 1, 1, 1)),
    ((-1.5, 0.25, 2.0, -0.5), (1, 0, 1, 0)),
    ((0.75, -0.25, 1.5, -2.0, 0.5, 1.25), (1, 0, 0, 0, 0, 0)),
    ((-0.75, 1.0, 0.5, -1.25, 2.25), (0, 0, 0, 0, 0)),
    ((1.0, -2.0, 0.5), (1, 1, 0)),
)


class Batch(NamedTuple):
    """What was found: a line each, and the words of a loss that reduces too early.

    divisor: what it divides by where nothing is said of a reduction; None where that is no mean,
        `UNKNOWN_DIVISOR` where it is another function of the batch.
    is_weighted: whether it is a mean in which both classes have weights, which one answer alone
        doesn't show.
    """

    lines: tuple[str, ...] = ()
    too_early: str | None = None
    divisor: str | None = None
    is_weighted: bool = False


class _Seen(NamedTuple):
    """A batch, the loss of each of its answers, the number that came out, and its shape."""

    x: Tensor
    y: Tensor
    single: Tensor
    whole: float
    shape: tuple[int, ...]

    @property
    def divisor(self) -> float:
        """What the sum of the losses was divided by."""
        return float(self.single.sum()) / self.whole if self.whole else float("nan")


def batch_of(subject: Subject, factors: tuple[float, float], exponent: float) -> Batch:
    """What its reductions do.

    Args:
        subject: A loss of PyTorch that is known.
        factors: of the positive and the negative class.
        exponent: at gamma 2.
    """
    lines: list[str] = []
    too_early = divisor = None
    is_weighted = False
    for name, reduced in _reductions(subject):
        try:
            seen = [_seen(subject, reduced, *batch) for batch in _BATCHES]
        except Exception:
            continue  # a reduction that isn't taken
        seen += _of_other_shapes(subject, reduced)
        is_default = name == _DEFAULT or subject.reduced != "none"
        words = None
        if not _falls_with_classes(subject):
            words = _divisor(seen, factors, is_multiclass=subject.kind == "multiclass")
        divisor = (words or UNKNOWN_DIVISOR) if is_default else divisor
        if words is not None:
            lines += [] if words == "1" else [f"{name} divides by {words}"]
            continue
        early = _too_early(seen, factors, exponent)
        if early:
            lines.append(f"{name}: {early}")
            too_early = early
        elif ratio := _weighted(seen):
            lines.append(f"{name} is weighted: {ratio}")
            is_weighted = True
        else:
            lines.append(f"{name} isn't the mean of the losses of each answer: another function of "
                         "the batch")  # fmt: skip
    return Batch(tuple(dict.fromkeys(lines)), too_early, divisor, is_weighted)


def _reductions(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """What gives one number for a batch, by name."""
    for place in ("options", "on_call"):
        given: Mapping[str, Any] = getattr(subject, place)
        if "reduction" in given:
            for value in ("mean", "sum"):
                changed = {**given, "reduction": value}
                yield value, subject.with_options(**{place: changed})
            without = {key: v for key, v in given.items() if key != "reduction"}
            yield _DEFAULT, subject.with_options(**{place: without})
            return
        if "size_average" in given:
            yield "mean", subject.with_options(**{place: {**given, "size_average": True}})
            return
    if subject.reduced != "none":
        name = "mean" if subject.reduced == "mean" else "sum"
        yield name, subject.with_options(companion=False)


def _of_other_shapes(subject: Subject, reduced: Subject) -> Iterator[_Seen]:
    """Rows of two answers, or rows of three classes, where they are taken."""
    with suppress(Exception):
        if subject.kind == "binary" or subject.maps:
            yield _seen(subject, reduced, *_BATCHES[2], rows=3)
        else:
            single, whole = (one.with_options(classes=3) for one in (subject, reduced))
            yield _seen(single, whole, *_BATCHES[4])


def _falls_with_classes(subject: Subject) -> bool:
    """Whether the loss of one answer is another beside a third class that has no probability."""
    if subject.kind != "multiclass" or subject.maps:
        return False
    x, y = torch.tensor([0.5], dtype=subject.widest), torch.ones(1, dtype=subject.widest)
    try:
        two, three = (
            float(_loss(subject.with_options(classes=count), x, y).sum()) for count in (2, 3)
        )
    except Exception:
        return False  # one of both counts is refused
    return not _is_near(three, two)


def _seen(
    subject: Subject,
    reduced: Subject,
    x: tuple[float, ...],
    y: tuple[int, ...],
    rows: int | None = None,
) -> _Seen:
    logits = torch.tensor(x, dtype=subject.widest)
    targets = torch.tensor(y, dtype=subject.widest)
    single = [
        _loss(subject, logits[i : i + 1], targets[i : i + 1]).sum() for i in range(len(logits))
    ]
    whole = _loss(reduced, logits, targets, rows)
    if whole.numel() != 1:
        raise SubjectError("no one number")
    shape = tuple(arguments(subject, logits, targets)[0].shape)
    shape = shape if rows is None else (rows, len(x) // rows, *shape[2:])
    losses = torch.stack(single).double()
    return _Seen(logits.double(), targets.double(), losses, float(whole), shape)


def _loss(subject: Subject, x: Tensor, y: Tensor, rows: int | None = None) -> Tensor:
    """Of a batch; of so many rows, if that is said."""
    gamma = 2.0 if subject.gamma is not None else subject.fixed_gamma
    given: tuple[Tensor, ...] = arguments(subject, x.requires_grad_(), y)
    if rows is not None and subject.kind == "multiclass":  # maps of pixels
        given = tuple(t.reshape(rows, len(x) // rows, *t.shape[1:-2], 1).movedim(1, -2)
                      for t in given)  # fmt: skip
    elif rows is not None:
        ones = given[0].shape[2:]
        given = tuple(t.reshape(rows, len(x) // rows, *ones) for t in given)
    loss = tensor_of(subject.at(gamma)(*given))
    if loss is None:
        raise SubjectError("no tensor")
    return loss.detach()


def _divisor(seen: list[_Seen], factors: tuple[float, float], *, is_multiclass: bool) -> str | None:
    """What divides in all batches alike; None if no count does."""
    positive, negative = factors
    counts: dict[str, Callable[[_Seen], float]] = {
        "1": lambda b: 1.0,
        "the number of rows" if is_multiclass else "the number of elements": lambda b: len(b.x),
        "the number of logits" if is_multiclass else "the number of rows": (
            lambda b: math.prod(b.shape) if is_multiclass else b.shape[0]
        ),
        "the number of classes" if is_multiclass else "the size of the last axis": (
            lambda b: b.shape[-1]
        ),
        "the number of positives": lambda b: float(b.y.sum()),
        "the number of positives, at least 1": lambda b: max(float(b.y.sum()), 1.0),
        "the number of positives and 1": lambda b: float(b.y.sum()) + 1,
        "the sum of the weights": lambda b: float((b.y * positive + (1 - b.y) * negative).sum()),
    }
    if is_multiclass:
        counts["the number of foregrounds, at least 1"] = lambda b: max(float((1 - b.y).sum()), 1.0)
    for words, count in counts.items():
        if all(_is_near(b.divisor, count(b)) for b in seen):
            return words
    more = next((b.divisor for b in seen if not bool(b.y.any())), 0.0)
    if 0 < more < 0.5 and all(_is_near(b.divisor, float(b.y.sum()) + more) for b in seen):
        return f"the number of positives and {more:.3g}"
    # A count that isn't known, but is the same part of another in all batches.
    for words, count in counts.items():
        parts = [b.divisor / count(b) if count(b) else float("nan") for b in seen]
        if all(_is_near(part, parts[0]) for part in parts):
            return f"{parts[0]:.4g}" + ("" if words == "1" else f" times {words}")
    return None


def _weighted(seen: list[_Seen]) -> str:
    """A mean in which both classes have weights: the ratio of these, from one batch."""
    for b in seen:
        first, rest = b.single[b.y > 0.5], b.single[b.y <= 0.5]
        below = b.whole * len(rest) - float(rest.sum())
        if not len(first) or not len(rest) or not below:
            continue
        ratio = (float(first.sum()) - b.whole * len(first)) / below
        if ratio > 0 and all(_is_near(_weighted_mean(other, ratio), other.whole) for other in seen):
            return f"the other class weighs {ratio:.4g} times the first"
        return ""
    return ""


def _weighted_mean(b: _Seen, ratio: float) -> float:
    weight = torch.where(b.y > 0.5, 1.0, ratio)
    return float((weight * b.single).sum() / weight.sum())


def _too_early(seen: list[_Seen], factors: tuple[float, float], exponent: float) -> str | None:
    """The modulator of a mean or a sum of cross-entropies."""
    for name, total in (("mean", torch.mean), ("sum", torch.sum)):
        for weights in ("", "inside", "outside"):
            if all(
                _is_near(b.whole, _of_total(b, total, factors, exponent, weights)) for b in seen
            ):
                return (
                    f"the modulator is that of the {name} of the whole batch, not of each answer: "
                    "the cross-entropy is reduced first"
                )
    return None


def _of_total(
    b: _Seen,
    total: Callable[[Tensor], Tensor],
    factors: tuple[float, float],
    exponent: float,
    weights: str,
) -> float:
    """The focal loss of a total; the factors are in it, or before it, or their mean is."""
    x = b.x.detach()
    entropy = torch.where(b.y > 0.5, softplus(-x), softplus(x))
    weight = b.y * factors[0] + (1 - b.y) * factors[1]
    if weights == "inside":
        whole = total(weight * entropy)
        return float((-torch.expm1(-whole)) ** exponent * whole)
    whole = total(entropy)
    factor = float(weight.mean()) if weights == "outside" else factors[0]
    return float(factor * (-torch.expm1(-whole)) ** exponent * whole)


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= _NEAR * abs(b)
