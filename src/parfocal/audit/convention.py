"""Which function a loss computes, before it is asked how well; found by experiment."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from parfocal.audit.batch import batch_of
from parfocal.audit.definitions import BASES, LINEAR, Base, Definition
from parfocal.audit.evaluate import evaluate
from parfocal.audit.findings import Kind
from parfocal.audit.fit import MILD, ROUGH, WIDE, Fit, fit, fit_slope
from parfocal.audit.rows import Rows, rows_of
from parfocal.audit.subject import Subject, SubjectError

# Exponents that are asked for; a loss may refuse some of them.
GAMMAS = (2.0, 1.0, 3.0, 0.5)
SOFT = 0.375

_NEAR = 3e-5

Target = float


class Exponent(NamedTuple):
    """The exponent of a class, by the gamma that was asked for."""

    slope: float = 1.0
    constant: float = 0.0

    def at(self, gamma: float) -> float:
        """For a gamma."""
        return gamma if self == ASKED else self.slope * gamma + self.constant

    def source(self) -> str:
        """In Python."""
        return str(self).replace(" gamma", " * gamma") if self.slope not in (0, 1) else str(self)

    def __str__(self) -> str:
        if self.slope == 0:
            return f"{self.constant:g}"
        part = "gamma" if self.slope == 1 else f"{self.slope:g} gamma"
        return part + (f" {'+' if self.constant > 0 else '-'} {abs(self.constant):g}"
                       if self.constant else "")  # fmt: skip


ASKED = Exponent()


class Fault(NamedTuple):
    """What is wrong with a function by itself, as a finding has it."""

    kind: Kind
    words: str


class Side(NamedTuple):
    """What a loss is at one of both targets: a fit that holds for every gamma."""

    fit: Fit
    exponent: Exponent

    @property
    def is_focal(self) -> bool:
        """Whether it is a focal loss, of whatever exponent, but for a constant that was added."""
        return self.fit.form == "focal" and self.fit.base >= 0


class Convention(NamedTuple):
    """What a loss means.

    definition: the function that it is held to; None if it is none that is known.
    positive, negative: the factors of both classes. exponents: those of both classes.
    soft: what it means at soft targets; None if it takes none, or another function.
    lines: the same, and what else was found, in words.
    other: the name of the function that it computes, where it isn't the focal loss that was asked.
    bias: what makes it another function than the one it is held to, where that was found out.
    faults: what is wrong by itself.
    constant: that of `bias`; 0 for none.
    is_shifted: whether its values have what other logits add to them, and its gradients haven't.
    divisor: what it divides a batch by where nothing is said; None if it gives each loss.
    """

    definition: Definition | None
    positive: float = 1.0
    negative: float = 1.0
    soft: Definition | None = None
    lines: tuple[str, ...] = ()
    other: str | None = None
    exponents: tuple[Exponent, Exponent] = (ASKED, ASKED)
    bias: str | None = None
    faults: tuple[Fault, ...] = ()
    constant: float = 0.0
    is_shifted: bool = False
    divisor: str | None = None

    def factor(self, target: Target) -> float:
        """By what the definition is multiplied at a target."""
        return target * self.positive + (1 - target) * self.negative

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
    positive, negative = sides
    if positive is None or negative is None:
        names = [f"target {y:g}: {_name_of(side)}" for y, side in zip((1, 0), sides, strict=True)]
        told = names if positive is not negative else ["no focal loss that is known"]
        return Convention(None, lines=(*told, *lines), other="an unknown function")
    return _convention(subject, (positive, negative), seen, rows, lines)


class _Results(NamedTuple):
    """Values and gradients in the margin at one target, by gamma, and why others are refused."""

    target: Target
    by_gamma: dict[float, tuple[Tensor | None, Tensor]]
    refused: dict[float, str]


def _results(subject: Subject, target: Target, *, is_shifted: bool = False) -> _Results:
    gammas = (*GAMMAS, 0.0) if subject.gamma is not None else (subject.fixed_gamma,)
    sign = 1.0 if target else -1.0
    logits = sign * torch.tensor(WIDE, dtype=subject.widest)
    by_gamma: dict[float, tuple[Tensor | None, Tensor]] = {}
    refused: dict[float, str] = {}
    for gamma in gammas:
        try:
            found = evaluate(subject, logits, target, gamma, second=False)
        except Exception as error:
            refused[gamma] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
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
    if not all(_is_same(first, other) for other in fits.values()):
        return None
    if subject.gamma is None:
        return Side(first, Exponent(0.0, first.exponent))
    exponent = _line(list(fits), [found.exponent for found in fits.values()])
    return None if exponent is None else Side(first, exponent)


def _is_same(a: Fit, b: Fit) -> bool:
    """But for the exponent."""
    numbers = ((f.factor, f.base, f.logarithm, f.second) for f in (a, b))
    near = (abs(x - y) <= 1e-2 * max(abs(x), abs(y)) for x, y in zip(*numbers, strict=True))
    return a.form == b.form and all(near)


def _line(gammas: Sequence[float], exponents: Sequence[float]) -> Exponent | None:
    """The line on which the exponents are."""
    if len(gammas) == 1:
        return ASKED if exponents[0] == gammas[0] else Exponent(0.0, exponents[0])
    slope = (exponents[1] - exponents[0]) / (gammas[1] - gammas[0])
    slope = round(slope, 4)
    line = Exponent(slope, round(exponents[0] - slope * gammas[0], 4))
    near = all(
        abs(line.at(g) - s) <= 1e-3 * max(1.0, s) for g, s in zip(gammas, exponents, strict=True)
    )
    return line if near else None


def _convention(
    subject: Subject,
    sides: tuple[Side, Side],
    seen: Mapping[Target, _Results],
    rows: Rows | None,
    lines: list[str],
) -> Convention:
    """In words and numbers."""
    positive, negative = (side.fit.factor for side in sides)
    exponents = sides[0].exponent, sides[1].exponent
    faults: list[Fault] = []
    if min(positive, negative) < 0:
        words = "the loss falls where the focal loss rises"
        faults.append(Fault("wrong sign", f"{words}{_of_class(positive, negative)}"))
    others = [_form(side) for side in sides]
    other = next((name for name in others if name), None)
    is_held = all(side.is_focal for side in sides)
    if other is None:
        other = _exponent_words(subject, exponents)
    if subject.gamma is not None and all(e.slope == 0 for e in exponents):
        own = [f"{e}" for e in dict.fromkeys(exponents)]
        words = f"gamma is never read: the exponent is {' at target 1, '.join(own)}"
        faults.append(Fault("gamma ignored", words + (" at target 0" if len(own) == 2 else "")))
    bias, constant = _bias(sides)
    detached, of_gradients = _gradients(sides, seen)
    definition = Definition(detached=detached) if is_held else None
    if detached:
        lines.append("the modulating factor is detached: another gradient")
        other = other or "a cross-entropy weighed by a detached factor"
    elif of_gradients and is_held:
        lines.append(of_gradients)
        bias = bias or of_gradients
        other = other or of_gradients
    if bias:
        lines.append(bias)
    words_of_classes = _class_words if subject.kind == "multiclass" else _alpha_words
    if all(side.fit.form == "focal" for side in sides):
        lines.insert(0, words_of_classes(positive, negative))
    if exponents == (Exponent(0.0, 0.0), ASKED) and _is_varifocal(subject, positive):
        other = "the varifocal loss"
        lines.append("soft targets: the varifocal loss, y BCE")
    definition_of_soft, of_soft = _soft_of(subject, definition, sides)
    lines += of_soft
    if rows is not None:
        lines += rows.lines
        other = rows.other or other
    divisor = None
    if subject.framework == "torch":
        batch = batch_of(subject, (positive, negative), exponents[0].at(2.0))
        lines += batch.lines
        divisor = batch.divisor
        if batch.too_early:
            faults.append(Fault("reduced too early", batch.too_early))
    told = [fault.words for fault in faults if fault.kind != "reduced too early"]
    return Convention(
        definition, positive, negative, definition_of_soft, (*told, *lines), other,
        exponents, bias, tuple(faults), constant, rows is not None and rows.is_one_vs_rest,
        divisor,
    )  # fmt: skip


def _name_of(side: Side | None) -> str:
    """What it is at a target."""
    return "no function that is known" if side is None else _form(side) or "the focal loss"


def _form(side: Side) -> str | None:
    """The name of a function that isn't the focal loss; None of one that is."""
    found = side.fit
    if found.form == "focal":
        if found.base < 0:
            return f"an asymmetric loss, which takes {-found.base:.4g} from the probability"
        return None
    share = found.second / (1 + found.second)
    return {
        "swapped": "a loss with p_t ** gamma for (1 - p_t) ** gamma: it weighs easy answers most",
        "without logarithm": "(1 - p_t) ** gamma without the logarithm",
        "poly": f"a poly focal loss, with {found.second:.4g} (1 - p_t) ** (gamma + 1)",
        "smoothed labels": f"the focal loss of smoothed labels, {share:.4g} of the other class",
        "sum": f"a sum of the focal loss and {found.second:.4g} times the cross-entropy",
    }[found.form]


def _exponent_words(subject: Subject, exponents: tuple[Exponent, Exponent]) -> str | None:
    """What the exponents make of it, where they aren't those that were asked for."""
    positive, negative = exponents
    if positive == negative:
        if positive.slope == 0 and positive.constant == 0:
            return "the cross-entropy" + (", whatever gamma is" if subject.gamma else "")
        if positive in (ASKED, Exponent(0.0, positive.constant)) and (
            subject.gamma is None or positive == ASKED
        ):
            return None
        return f"the focal loss of the exponent {positive}"
    if positive == Exponent(0.0, 0.0):
        return f"a cross-entropy of the positives, the exponent {negative} on the negatives"
    return (
        f"an asymmetric focal loss: the exponent is {positive} at target 1, {negative} at target 0"
    )


def _of_class(positive: float, negative: float) -> str:
    """Which class it is, if it is one alone."""
    if positive < 0 and negative < 0:
        return ""
    return f", on the {'positive' if positive < 0 else 'negative'} class"


def _bias(sides: tuple[Side, Side]) -> tuple[str | None, float]:
    """The constant that was added, as it was fitted, in words and as a number."""
    for side in sides:
        base, logarithm = side.fit.base, side.fit.logarithm
        if base > 0 and logarithm > 0:
            return f"{base:.4g} is added to 1 - p_t and to p_t in the logarithm", base
        if base > 0:
            return f"{base:.4g} is added to 1 - p_t", base
        if logarithm > 0 and base == 0:
            return f"{logarithm:.4g} is added to p_t in the logarithm", logarithm
    return None, 0.0


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
            exact = side.fit._replace(exponent=side.exponent.at(gamma))
            if _is_near(slope[mild], exact.slope(u)):
                verdicts.add("whole" if exact.exponent else "")
            elif exact.form == "focal" and _is_near(slope[mild], exact.slope(u, detached=True)):
                verdicts.add("detached")
            else:
                verdicts.add("another")
    if "another" in verdicts or {"whole", "detached"} <= verdicts:
        return False, "its gradient isn't the derivative of its value"
    return "detached" in verdicts, None


def _is_near(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= 10 * _NEAR * b.abs().clamp(min=1e-3 * b.abs().amax())).all())


def _alpha_words(positive: float, negative: float) -> str:
    if positive == negative == 1:
        return "no alpha"
    if positive == negative:
        return f"a factor {positive:.4g} on both classes"
    if abs(positive + negative - 1) < 1e-6:
        return f"alpha {positive:.4g} on the positive class, {negative:.4g} on the negative"
    return f"a factor {positive:.4g} on the positive class, {negative:.4g} on the negative"


def _class_words(first: float, second: float) -> str:
    if first == second == 1:
        return "no weights of classes"
    if first == second:
        return f"a factor {first:.4g} on all classes"
    return f"weights of classes: {first:.4g} of class 0, {second:.4g} of class 1"


# At soft targets

Soft = Callable[[Tensor, float, float], Tensor]


def _linear(x: Tensor, y: float, g: float) -> Tensor:
    return (y * (-x).sigmoid() + (1 - y) * x.sigmoid()) ** g * _entropy(x, y)


def _mixture(x: Tensor, y: float, g: float) -> Tensor:
    of_one = (-x).sigmoid() ** g * softplus(-x)
    return y * of_one + (1 - y) * x.sigmoid() ** g * softplus(x)


def _margin(x: Tensor, y: float, g: float) -> Tensor:
    return ((1 - 2 * y) * x).sigmoid() ** g * _entropy(x, y)


def _of_entropy(x: Tensor, y: float, g: float) -> Tensor:
    return (-torch.expm1(-_entropy(x, y))) ** g * _entropy(x, y)


def _entropy(x: Tensor, y: float) -> Tensor:
    return y * softplus(-x) + (1 - y) * softplus(x)


_BASES: Mapping[Base, Soft] = {
    "linear": _linear,
    "mixture": _mixture,
    "margin": _margin,
    "entropy": _of_entropy,
}

# Those that no grid is for, by their names.
_NAMED: Mapping[str, Soft] = {
    "the quality focal loss, |y - p| ** gamma BCE": (
        lambda x, y, g: (y - x.sigmoid()).abs() ** g * _entropy(x, y)
    ),
    "the Gaussian focal loss, (1 - y) ** 4 on a negative": (
        lambda x, y, g: (1 - y) ** 4 * x.sigmoid() ** g * softplus(x)
    ),
    "they are rounded to 0 or 1": lambda x, y, g: _linear(x, float(y > 0.5), g),
}


def _soft_of(
    subject: Subject, definition: Definition | None, sides: tuple[Side, Side]
) -> tuple[Definition | None, list[str]]:
    """What soft targets mean, where there may be some, with a line on it."""
    positive, negative = sides
    is_coarse = any(side.fit.is_coarse for side in sides)
    lines = ["it computes in 16 bits, whatever it is given"] if is_coarse else []
    is_one = positive.exponent == negative.exponent
    if subject.kind != "binary" or subject.long or definition is None or not is_one:
        return None, lines
    factors = positive.fit.factor, negative.fit.factor
    near = ROUGH if is_coarse else _NEAR
    soft, words = _soft(subject, definition, *factors, positive.exponent, near)
    return soft, [*lines, *([words] if words else [])]


def _soft(
    subject: Subject,
    hard: Definition,
    positive: float,
    negative: float,
    exponent: Exponent,
    tolerance: float,
) -> tuple[Definition | None, str]:
    """What soft targets mean, at two of them and two gammas."""
    known = [*((hard._replace(base=base), _BASES[base], str(hard._replace(base=base)))
               for base in BASES),
             *((None, function, name) for name, function in _NAMED.items())]  # fmt: skip
    try:
        seen = [
            (y, gamma, *results) for y in (SOFT, 0.75) for gamma, results in _softly(subject, y)
        ]
    except Exception:
        return None, "soft targets are refused"
    if not all(bool(gradient.isfinite().all()) for *_, gradient in seen):
        return None, "soft targets give no numbers"
    for near in (tolerance, 0.1):
        for definition, function, name in known:
            if hard.detached and definition is None:
                continue
            if all(
                _is_soft(
                    function, y, exponent.at(gamma), positive, negative, value, gradient, hard, near
                )
                for y, gamma, value, gradient in seen
            ):
                return (definition, f"soft targets: {name}") if near == tolerance else (None, "")
        if tolerance == _NEAR:
            break  # of 16 bits a function that is near one may be that
    return None, "soft targets: another function, none of those that are known"


def _is_varifocal(subject: Subject, positive: float) -> bool:
    """Whether a soft target weighs the cross-entropy that it is in."""
    try:
        seen = [
            (y, gamma, *results) for y in (SOFT, 0.75) for gamma, results in _softly(subject, y)
        ]
    except Exception:
        return False
    return all(
        _is_soft(_varifocal, y, gamma, positive, positive, value, gradient, LINEAR)
        for y, gamma, value, gradient in seen
    )


def _varifocal(x: Tensor, y: float, g: float) -> Tensor:
    return y * _entropy(x, y)


def _softly(subject: Subject, target: float) -> list[tuple[float, tuple[Tensor | None, Tensor]]]:
    x = torch.tensor(MILD, dtype=subject.widest)
    found = []
    for gamma in GAMMAS[:2] if subject.gamma is not None else (subject.fixed_gamma,):
        one = evaluate(subject, x, target, gamma, second=False)
        if one.gradient is None:
            raise SubjectError("no gradient comes back")
        value = None if one.value is None else one.value.double()
        found.append((gamma, (value, one.gradient.double())))
    return found


def _is_soft(
    function: Soft,
    y: float,
    gamma: float,
    positive: float,
    negative: float,
    value: Tensor | None,
    gradient: Tensor,
    hard: Definition,
    tolerance: float = _NEAR,
) -> bool:
    """Whether it is this function, with the factor of its target between those of both classes."""
    factor = y * positive + (1 - y) * negative
    x = torch.tensor(MILD, dtype=torch.float64, requires_grad=True)
    loss = factor * function(x, y, gamma)
    if hard.detached:
        entropy = _entropy(x, y)
        loss = (loss / entropy).detach() * entropy
    (slope,) = torch.autograd.grad(loss.sum(), x)
    near = value is None or bool(((value - loss).abs() <= tolerance * loss.abs()).all())
    near_gradient = 10 * tolerance if tolerance == _NEAR else tolerance
    return near and bool(((gradient - slope).abs() <= near_gradient * slope.abs().amax()).all())
