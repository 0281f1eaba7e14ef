"""Which function a loss computes, before it is asked how well; found by experiment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.batch import Batch, batch_of
from parfocal.audit.definitions import Definition
from parfocal.audit.evaluate import evaluate
from parfocal.audit.findings import UNKNOWN_FUNCTION, Kind
from parfocal.audit.fit import MILD, WIDE, Fit, fit, fit_slope
from parfocal.audit.laws import (
    ASKED,
    CONSTANT,
    Exponent,
    Growth,
    fit_exponent,
    fit_growth,
    rounded,
)
from parfocal.audit.names import (
    constant_of,
    equalized_name,
    factor_words,
    name_of,
    name_of_exponents,
    of_class,
    other_name,
)
from parfocal.audit.rows import Rows, rows_of
from parfocal.audit.soft import SOFT_TARGET, Hard, Soft, soft_of
from parfocal.audit.subject import Subject, SubjectError, in_a_line

# Exponents that are asked for; a loss may refuse some of them.
GAMMAS = (2.0, 1.0, 3.0, 0.5)
_NEAR = 3e-5

Target = float


class Fault(NamedTuple):
    """What is wrong with a function by itself, as a finding has it."""

    kind: Kind
    words: str


class Side(NamedTuple):
    """What a loss is at one of both targets: a fit that holds for every gamma."""

    fit: Fit
    exponent: Exponent
    growth: Growth = CONSTANT

    @property
    def is_focal(self) -> bool:
        """Whether it is a focal loss, of whatever exponent, but for a constant that was added."""
        return self.fit.form == "focal" and self.fit.base >= 0


class Convention(NamedTuple):
    """What a loss means.

    definition: the function that it is held to; None if it is none that is known.
    positive, negative: the factors of both classes. exponents: those of both classes.
    soft: what it means at soft targets.
    lines: the same, and what else was found, in words.
    other: the name of the function that it computes, where it isn't the focal loss that was asked.
    bias: what makes it another function than the one it is held to, where that was found out.
    faults: what is wrong by itself.
    constant: that of `bias`; 0 for none.
    growth: what both factors are multiplied by, of each gamma.
    is_shifted: whether its values have what other logits add to them, and its gradients haven't.
    divisor: what it divides a batch by where nothing is said; None if it gives each loss.
    """

    definition: Definition | None
    positive: float = 1.0
    negative: float = 1.0
    soft: Soft = Soft()
    lines: tuple[str, ...] = ()
    other: str | None = None
    exponents: tuple[Exponent, Exponent] = (ASKED, ASKED)
    bias: str | None = None
    faults: tuple[Fault, ...] = ()
    constant: float = 0.0
    growth: Growth = CONSTANT
    is_shifted: bool = False
    divisor: str | None = None

    def factor(self, target: Target, gamma: float) -> float:
        """By what the definition is multiplied at a target."""
        return self.growth.at(gamma) * (target * self.positive + (1 - target) * self.negative)

    def exponent(self, gamma: float, target: Target) -> float:
        """What stands for gamma at a target."""
        return self.exponents[0 if target > 0.5 else 1].at(gamma)


def find_convention(subject: Subject) -> Convention:
    """The meaning of a loss, from its values and gradients at mild logits.

    Raises:
        SubjectError: it gives no gradient at any gamma.
    """
    has_rows = subject.kind == "multiclass" and subject.framework == "torch"
    rows = rows_of(subject) if has_rows else None
    is_shifted = rows is not None and rows.is_one_vs_rest
    seen = {y: _results(subject, y, is_shifted=is_shifted) for y in (1.0, 0.0)}
    every = [one for results in seen.values() for one in results.refused.items()]
    refused = dict.fromkeys(f"gamma {gamma:g} is refused: {words}" for gamma, words in every)
    sides = [_side(subject, results) for results in seen.values()]
    lines = list(refused)
    sides = _with_nothing(subject, sides, seen)
    positive, negative = sides
    if positive is None or negative is None:
        fits = [None if side is None else side.fit for side in sides]
        names = [f"target {y:g}: {name_of(found)}" for y, found in zip((1, 0), fits, strict=True)]
        told = names if positive is not negative else ["no focal loss that is known"]
        return Convention(None, lines=(*told, *lines), other=UNKNOWN_FUNCTION)
    if positive.growth != negative.growth:
        told = ["the factors of both classes depend on gamma in two ways"]
        return Convention(None, lines=(*told, *lines), other=UNKNOWN_FUNCTION)
    return _convention(subject, (positive, negative), seen, rows, lines)


def _with_nothing(
    subject: Subject, sides: Sequence[Side | None], seen: Mapping[Target, "_Results"]
) -> list[Side | None]:
    """A class whose losses and gradients are all 0 has the factor 0 of the other's function."""
    found = list(sides)
    for i, results in enumerate(seen.values()):
        other = sides[1 - i]
        parts = [part for pair in results.by_gamma.values() for part in pair if part is not None]
        if subject.kind == "binary" and other and not any(bool(part.any()) for part in parts):
            found[i] = other._replace(fit=Fit(0.0, other.fit.exponent))
    return found


class _Results(NamedTuple):
    """Values and gradients in the margin at one target, by gamma, and why others are refused."""

    target: Target
    by_gamma: dict[float, tuple[Tensor | None, Tensor]]
    refused: dict[float, str]


def _results(subject: Subject, target: Target, *, is_shifted: bool = False) -> _Results:
    gammas = (*GAMMAS, 0.0) if subject.gamma is not None else (subject.fixed_gamma,)
    if subject.reduced == "sum" and subject.framework == "torch":
        subject = subject.with_options(reduced="mean")  # one by one, so that there are values
    sign = 1.0 if target else -1.0
    logits = sign * torch.tensor(WIDE, dtype=subject.widest)
    by_gamma: dict[float, tuple[Tensor | None, Tensor]] = {}
    refused: dict[float, str] = {}
    for gamma in gammas:
        try:
            found = evaluate(subject, logits, target, gamma, second=False)
        except Exception as error:
            refused[gamma] = in_a_line(error)
            continue
        if found.gradient is None:
            raise SubjectError("no gradient comes back")
        if gamma == 0 and subject.gamma is not None:
            continue  # asked whether it is refused: nothing of a base or a form is in it
        value = None if found.value is None or is_shifted else found.value.double()
        by_gamma[gamma] = value, sign * found.gradient.double()
    if not by_gamma:
        raise SubjectError(next(iter(refused.values())))
    return _Results(target, by_gamma, refused)


def _side(subject: Subject, results: _Results) -> Side | None:
    """The function of a target."""
    u = torch.tensor(WIDE, dtype=torch.float64)
    fits: dict[float, Fit] = {}
    for gamma, (value, slope) in results.by_gamma.items():
        found = fit_slope(u, slope, gamma) if value is None else fit(u, value, gamma)
        if found is None:
            return None
        fits[gamma] = found
    first = next(iter(fits.values()))
    growth = fit_growth({gamma: found.factor for gamma, found in fits.items()})
    if growth is None or not all(_is_same(first, other) for other in fits.values()):
        return None
    first = first._replace(factor=rounded(first.factor / growth.at(next(iter(fits)))))
    if subject.gamma is None:
        return Side(first, Exponent(0.0, first.exponent))
    exponent = fit_exponent(list(fits), [found.exponent for found in fits.values()])
    return None if exponent is None else Side(first, exponent, growth)


def _is_same(a: Fit, b: Fit) -> bool:
    """But for the factor and the exponent."""
    numbers = ((f.base, f.logarithm, f.second) for f in (a, b))
    near = (abs(x - y) <= 1e-2 * max(abs(x), abs(y)) for x, y in zip(*numbers, strict=True))
    return a.form == b.form and all(near)


def _convention(
    subject: Subject,
    sides: tuple[Side, Side],
    seen: Mapping[Target, _Results],
    rows: Rows | None,
    refusals: Sequence[str],
) -> Convention:
    """In words and numbers."""
    fits = sides[0].fit, sides[1].fit
    factors, exponents = (fits[0].factor, fits[1].factor), (sides[0].exponent, sides[1].exponent)
    growth, faults = sides[0].growth, list(_faults(subject, factors, exponents))
    batch = _batch(subject, factors, exponents[0], growth)
    lines = [fault.words for fault in faults]
    if all(found.form == "focal" for found in fits) and not batch.is_weighted:
        lines.append(factor_words(subject, *factors))
    lines += refusals
    other = next((name for name in map(other_name, fits) if name), None)
    other = other or name_of_exponents(subject, exponents)
    if growth != CONSTANT:
        lines.append(f"a factor {growth.source()} on both classes")
        grown = f"{other or 'the focal loss'}, with a factor {growth.source()}"
        other = equalized_name(exponents, growth) or grown
    is_held = all(side.is_focal for side in sides)
    bias, constant = constant_of(fits)
    detached, of_gradients = _gradients(sides, seen)
    if detached:
        lines.append("the modulating factor is detached: another gradient")
        other = other or "a cross-entropy weighed by a detached factor"
    elif of_gradients and is_held:
        lines.append(of_gradients)
        bias, other = bias or of_gradients, other or f"a loss of which {of_gradients}"
    lines += [bias] if bias and bias != of_gradients else []
    is_coarse = any(found.is_coarse for found in fits)
    lines += ["it computes in 16 bits, whatever it is given"] if is_coarse else []
    definition = Definition(detached=detached) if is_held else None
    hard = Hard(definition, factors, exponents, is_coarse)
    soft = soft_of(subject, hard) if growth == CONSTANT else Soft()
    if soft.is_nan:
        faults.append(Fault("not finite", f"{soft.words}, at a logit of 0.5 as well"))
    lines += [soft.words] if soft.words else []
    if soft.name == "varifocal":
        other = "the varifocal loss"
    if rows is not None:
        lines += rows.lines
        other = rows.other or other
    faults += [Fault("reduced too early", batch.too_early)] if batch.too_early else []
    return Convention(
        definition=definition,
        positive=factors[0],
        negative=factors[1],
        soft=soft,
        lines=(*lines, *batch.lines),
        other=other,
        exponents=exponents,
        bias=bias,
        faults=tuple(faults),
        constant=constant,
        growth=growth,
        is_shifted=rows is not None and rows.is_one_vs_rest,
        divisor=batch.divisor,
    )


def _faults(
    subject: Subject, factors: tuple[float, float], exponents: tuple[Exponent, Exponent]
) -> Iterator[Fault]:
    """What is wrong with the function by itself."""
    if min(factors) < 0:
        words = "the loss falls where the focal loss rises"
        yield Fault("wrong sign", f"{words}{of_class(*factors)}")
    if 0 in factors:
        which = "positive" if factors[0] == 0 else "negative"
        yield Fault("dead gradient", f"the {which} class has no loss, and no gradient")
    if subject.gamma is None or any(e.slope for e in exponents) or _reads_gamma(subject):
        return
    own = [f"{e}" for e in dict.fromkeys(exponents)]
    words = f"gamma is never read: the exponent is {' at target 1, '.join(own)}"
    yield Fault("gamma ignored", words + (" at target 0" if len(own) == 2 else ""))


def _reads_gamma(subject: Subject) -> bool:
    """Whether a result at a soft target, or at gamma 0, depends on it."""
    x = torch.tensor(MILD, dtype=subject.widest)
    for y in (1.0, 0.0, SOFT_TARGET):
        gradients = []
        for gamma in (0.0, 0.5, 2.0):
            try:
                found = evaluate(subject, x, y, gamma, second=False).gradient
            except Exception:
                continue  # a gamma or a target that is refused
            gradients += [] if found is None else [found]
        if any(not torch.equal(found, gradients[0]) for found in gradients):
            return True
    return False


def _batch(
    subject: Subject, factors: tuple[float, float], exponent: Exponent, growth: Growth
) -> Batch:
    """What it makes of a batch, at gamma 2."""
    if subject.framework != "torch":
        return Batch()
    grown = growth.at(2.0 if subject.gamma is not None else subject.fixed_gamma)
    return batch_of(subject, (factors[0] * grown, factors[1] * grown), exponent.at(2.0))


def _gradients(
    sides: tuple[Side, Side], seen: Mapping[Target, _Results]
) -> tuple[bool, str | None]:
    """Whether the factor is detached, and what else is wrong with the gradients."""
    u = torch.tensor(MILD, dtype=torch.float64)
    mild = torch.tensor([abs(x) < 4 for x in WIDE])
    verdicts = set()
    for side, results in zip(sides, seen.values(), strict=True):
        for gamma, (value, slope) in results.by_gamma.items():
            if value is None or side.fit.is_coarse:
                continue
            factor = side.fit.factor * side.growth.at(gamma)
            exact = side.fit._replace(factor=factor, exponent=side.exponent.at(gamma))
            if _is_near(slope[mild], exact.slope(u)):
                verdicts.add("whole" if exact.exponent else "")
            elif exact.form == "focal" and _is_near(slope[mild], exact.slope(u, detached=True)):
                verdicts.add("detached")
            else:
                verdicts.add("another")
    if "another" in verdicts or {"whole", "detached"} <= verdicts:
        return False, "the gradient isn't the derivative of the value"
    return "detached" in verdicts, None


def _is_near(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= 10 * _NEAR * b.abs().clamp(min=1e-3 * b.abs().amax())).all())
