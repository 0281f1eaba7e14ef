"""What a loss of class logits does with rows: a softmax, or a sigmoid of each class."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from parfocal.audit.evaluate import losses_of_rows
from parfocal.audit.fit import WIDE, fit
from parfocal.audit.subject import Subject

_GAMMA = 2.0
_NEAR = 3e-5


class Rows(NamedTuple):
    """What was found, in lines; and another name of the loss, if it is no softmax."""

    lines: tuple[str, ...]
    other: str | None = None
    is_one_vs_rest: bool = False


def rows_of(subject: Subject) -> Rows:
    """The kind of a loss of rows, at two and three classes."""
    gamma = _GAMMA if subject.gamma is not None else subject.fixed_gamma
    found: dict[int, tuple[float, ...] | tuple[str, float, float] | None] = {}
    refused = ""
    for classes in (3, 2) if subject.classes == 2 else (subject.classes,):
        try:
            found[classes] = _softmax(subject, classes, gamma) or _one_vs_rest(
                subject, classes, gamma
            )
        except Exception as error:
            refused = f"{classes} classes are refused: {(str(error).splitlines() or [''])[0]}"
    lines = [refused] if refused and found else []
    known = next((kind for kind in found.values() if kind), None)
    if known is None:
        return Rows((*lines, "neither a softmax nor a sigmoid of each class"))
    if 3 in found and not found[3]:
        lines.append("with three classes it is another function than with two")
    if isinstance(known[0], str):
        positive = [kind[1] for kind in found.values() if kind]
        is_mean = len(positive) == 2 and abs(positive[0] * 3 - positive[1] * 2) <= 1e-4
        way = "the mean over the classes" if is_mean else "summed over the classes"
        other = f"one-vs-rest sigmoid losses, {way}: not softmax"
        return Rows((*lines, other), other, is_one_vs_rest=True)
    weights = found.get(3) or known
    if len(set(weights)) > 1:
        lines.append("weights of classes: " + ", ".join(f"{w:.4g}" for w in weights))
    return Rows(tuple(lines))


def _softmax(subject: Subject, classes: int, gamma: float) -> tuple[float, ...] | None:
    """The weight of each class, if its loss is a function of its margin alone."""
    generator = torch.Generator().manual_seed(0)
    u = torch.tensor(WIDE, dtype=subject.widest)
    weights = []
    for own in range(classes):
        rows = torch.randn(len(u), classes, generator=generator, dtype=subject.widest)
        rest = [c for c in range(classes) if c != own]
        rows[:, own] = u + rows[:, rest].logsumexp(1)
        index = torch.full((len(u),), own)
        value = losses_of_rows(subject, rows, index, gamma).detach().double()
        fitted = fit(u.double(), value, gamma)
        if fitted is None:
            return None
        weights.append(fitted.factor)
    return tuple(weights)


def _one_vs_rest(subject: Subject, classes: int, gamma: float) -> tuple[str, float, float] | None:
    """The factors of the true class and of the others, if the losses of all add up."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, classes, generator=generator, dtype=subject.widest) * 1.5
    index = torch.arange(len(x)) % classes
    value = losses_of_rows(subject, x, index, gamma).detach().double()
    is_true = torch.nn.functional.one_hot(index, classes).bool()
    u = torch.where(is_true, x, -x).double()
    losses = u.neg().sigmoid() ** gamma * softplus(-u)
    terms = torch.stack([losses[is_true], _sum(losses, ~is_true)], 1)
    if not bool(value.isfinite().all()):
        return None
    weights = torch.linalg.lstsq(terms, value[:, None]).solution
    near = (terms @ weights)[:, 0] - value
    if not bool((near.abs() <= _NEAR * value.abs()).all()):
        return None
    first, second = weights[:, 0].tolist()
    return "one-vs-rest", first, second


def _sum(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, 0.0).sum(1)
