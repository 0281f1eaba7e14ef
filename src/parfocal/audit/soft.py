"""What a loss means at soft targets, by its values and gradients at two of them."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from parfocal.audit.definitions import BASES, Base, Definition
from parfocal.audit.evaluate import evaluate
from parfocal.audit.fit import MILD, ROUGH
from parfocal.audit.laws import ASKED, Exponent
from parfocal.audit.subject import Subject, SubjectError

# Soft targets and exponents that are asked for.
SOFT_TARGET = 0.375
TARGETS = (SOFT_TARGET, 0.75)
GAMMAS = (2.0, 1.0)

_NEAR = 3e-5

# Up to which a function of 16 bits may be one that is known.
_DOUBTFUL = 0.1


class Hard(NamedTuple):
    """What is known at hard targets: the factors and exponents of both classes.

    definition: None if that is no focal loss. is_coarse: whether two digits are known.
    """

    definition: Definition | None
    factors: tuple[float, float]
    exponents: tuple[Exponent, Exponent]
    is_coarse: bool = False


class Soft(NamedTuple):
    """What soft targets mean.

    definition: that a grid is held to, if there is one. name: of one that has a name of its own.
    is_nan: whether every gradient is NaN.
    """

    words: str = ""
    definition: Definition | None = None
    name: str = ""
    is_nan: bool = False


class _Seen(NamedTuple):
    """Results at a soft target and a gamma; exponent is what stands for it."""

    y: float
    gamma: float
    exponent: float
    value: Tensor | None
    gradient: Tensor


# Of logits, the target, the exponent, and the gamma that was asked for.
Meaning = Callable[[Tensor, float, float, float], Tensor]


def _entropy(x: Tensor, y: float) -> Tensor:
    return y * softplus(-x) + (1 - y) * softplus(x)


def _linear(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return (y * (-x).sigmoid() + (1 - y) * x.sigmoid()) ** s * _entropy(x, y)


def _mixture(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    of_one = (-x).sigmoid() ** s * softplus(-x)
    return y * of_one + (1 - y) * x.sigmoid() ** s * softplus(x)


def _margin(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return ((1 - 2 * y) * x).sigmoid() ** s * _entropy(x, y)


def _of_entropy(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return (-torch.expm1(-_entropy(x, y))) ** s * _entropy(x, y)


def _quality(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return (y - x.sigmoid()).abs() ** s * _entropy(x, y)


def _gaussian(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return (1 - y) ** 4 * x.sigmoid() ** s * softplus(x)


def _gaussian_of_gamma(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return float((1 - y) ** gamma) * x.sigmoid() ** s * softplus(x)


def _rounded(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return _linear(x, float(y > 0.5), s, gamma)


def _varifocal(x: Tensor, y: float, s: float, gamma: float) -> Tensor:
    return y * _entropy(x, y)


_BASES: Mapping[Base, Meaning] = {
    "linear": _linear,
    "mixture": _mixture,
    "margin": _margin,
    "entropy": _of_entropy,
}

# Those that no grid is for: a name, words, and the function.
_NAMED: tuple[tuple[str, str, Meaning], ...] = (
    ("quality", "the quality focal loss, |y - p| ** gamma BCE", _quality),
    ("Gaussian", "the Gaussian focal loss, (1 - y) ** 4 on a negative", _gaussian),
    ("Gaussian", "the Gaussian focal loss, (1 - y) ** gamma on a negative", _gaussian_of_gamma),
    ("", "they are rounded to 0 or 1", _rounded),
)


def soft_of(subject: Subject, hard: Hard) -> Soft:
    """What they mean, where there may be some; nothing said of a loss that takes none."""
    if subject.kind != "binary" or subject.long or subject.companion:
        return Soft()  # of a mean over positives its divisor depends on them
    if hard.exponents == (Exponent(0.0, 0.0), ASKED):
        return _varifocal_of(subject, hard)
    if hard.definition is None or hard.exponents[0] != hard.exponents[1]:
        return Soft()
    try:
        seen = list(_seen(subject, hard.exponents[0]))
    except Exception:
        return Soft("soft targets are refused")
    return _meaning(seen, hard)


def _meaning(seen: list[_Seen], hard: Hard) -> Soft:
    for name in ("value", "gradient"):
        parts = [part for one in seen if (part := getattr(one, name)) is not None]
        if parts and all(bool(part.isnan().all()) for part in parts):
            return Soft(f"soft targets: the {name} is NaN", is_nan=True)
    if not all(bool(one.gradient.isfinite().all()) for one in seen):
        return Soft("soft targets: some gradients aren't finite")
    found = _found(seen, hard, ROUGH if hard.is_coarse else _NEAR)
    if found is None and hard.is_coarse and _found(seen, hard, _DOUBTFUL) is not None:
        return Soft()
    return found or Soft("soft targets: another function, none of those that are known")


def _found(seen: list[_Seen], hard: Hard, tolerance: float) -> Soft | None:
    """The first meaning that fits all of them."""
    assert hard.definition is not None
    for base in BASES:
        definition = hard.definition._replace(base=base)
        if all(_is_near(_BASES[base], one, hard, tolerance) for one in seen):
            return Soft(f"soft targets: {definition}", definition)
    for name, words, function in () if hard.definition.detached else _NAMED:
        if all(_is_near(function, one, hard, tolerance) for one in seen):
            return Soft(f"soft targets: {words}", None, name)
    return None


def _varifocal_of(subject: Subject, hard: Hard) -> Soft:
    """Whether a soft target weighs the cross-entropy that it is in."""
    alike = hard._replace(factors=(hard.factors[0], hard.factors[0]))
    try:
        seen = list(_seen(subject, ASKED))
    except Exception:
        return Soft()
    if all(_is_near(_varifocal, one, alike, _NEAR) for one in seen):
        return Soft("soft targets: the varifocal loss, y BCE", None, "varifocal")
    return Soft()


def _seen(subject: Subject, exponent: Exponent) -> Iterator[_Seen]:
    x = torch.tensor(MILD, dtype=subject.widest)
    for y in TARGETS:
        for gamma in GAMMAS if subject.gamma is not None else (subject.fixed_gamma,):
            found = evaluate(subject, x, y, gamma, second=False)
            if found.gradient is None:
                raise SubjectError("no gradient comes back")
            value = None if found.value is None else found.value.double()
            yield _Seen(y, gamma, exponent.at(gamma), value, found.gradient.double())


def _is_near(function: Meaning, one: _Seen, hard: Hard, tolerance: float) -> bool:
    """Whether it is this function, with the factor of its target between those of both classes."""
    x = torch.tensor(MILD, dtype=torch.float64, requires_grad=True)
    factor = one.y * hard.factors[0] + (1 - one.y) * hard.factors[1]
    loss = factor * function(x, one.y, one.exponent, one.gamma)
    if hard.definition is not None and hard.definition.detached:
        entropy = _entropy(x, one.y)
        loss = (loss / entropy).detach() * entropy
    (slope,) = torch.autograd.grad(loss.sum(), x)
    if one.value is not None and bool(((one.value - loss).abs() > tolerance * loss.abs()).any()):
        return False
    bound = (10 * tolerance if tolerance == _NEAR else tolerance) * slope.abs().amax()
    return bool(((one.gradient - slope).abs() <= bound).all())
