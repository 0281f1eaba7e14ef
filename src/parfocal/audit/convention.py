"""Which function a loss computes, before it is asked how well."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.definitions import BASES, Definition, derivatives
from parfocal.audit.evaluate import evaluate, torch_loss
from parfocal.audit.subject import Subject, SubjectError

# Mild logits, at which whatever computes the function in float64 is right to many digits.
PROBES = (-3.0, -2.25, -1.5, -0.75, -0.25, 0.5, 1.0, 1.75, 2.5, 3.25)
GAMMA = 2.0
SOFT = 0.375

# A loss may compute in float32 whatever it is given.
_TOLERANCE = 2e-5

# Smoothing constants that are seen in the wild, and change the function at mild logits.
_EPSILONS = (0.0, 1e-1, 1e-2, 1e-3, 1e-4)


class Convention(NamedTuple):
    """What a loss means.

    definition: the function, up to a factor of each class; None if it is none that is known.
    positive, negative: these factors.
    soft: what it means at soft targets; None if it takes none, or another function.
    lines: the same, and what else was found, in words.
    other: the name of another function that it computes, if it is known.
    """

    definition: Definition | None
    positive: float
    negative: float
    soft: Definition | None
    lines: tuple[str, ...]
    other: str | None = None

    def factor(self, target: float) -> float:
        """By what the definition is multiplied at a target."""
        return target * self.positive + (1 - target) * self.negative


def find_convention(subject: Subject) -> Convention:
    """The meaning of a loss, from its values and gradients at mild logits."""
    x = torch.tensor(PROBES, dtype=torch.float64)
    gamma = GAMMA if subject.gamma is not None else subject.fixed_gamma
    seen = {y: _results(subject, x, y, gamma) for y in (1.0, 0.0)}
    fit = next(_candidates(seen, gamma), None)
    if fit is None:
        other = _named(seen)
        line = other or "no focal loss that is known"
        return Convention(None, 1.0, 1.0, None, (line,), other or "an unknown function")
    definition, (positive, negative) = fit
    lines = [_alpha_words(positive, negative), *_mean_words(subject)]
    if min(positive, negative) < 0:
        lines.insert(0, "the sign is wrong: it falls where a loss rises")
    other = None
    if definition.epsilon:
        other = f"the smoothed focal loss of van Leeuwen et al., epsilon {definition.epsilon:g}"
    if definition.detached:
        lines.append("the modulating factor is detached: another gradient")
        other = "a cross-entropy weighed by a detached factor"
    soft = None
    if subject.kind == "binary":
        soft, words = _soft(subject, x, gamma, definition, positive, negative)
        lines.append(words)
    elif subject.framework == "torch" and not _is_softmax(subject, gamma):
        other = "one-vs-rest sigmoid losses, summed over the classes: not softmax"
        lines.append(other)
    return Convention(definition, positive, negative, soft, tuple(lines), other)


Results = tuple[Tensor | None, Tensor]


def _results(subject: Subject, x: Tensor, y: float, gamma: float) -> Results:
    found = evaluate(subject, x, y, gamma, second=False)
    if found.gradient is None:
        raise SubjectError("no gradient comes back")
    value = None if found.value is None else found.value.double()
    return value, found.gradient.double()


def _candidates(
    seen: dict[float, Results], gamma: float
) -> Iterator[tuple[Definition, tuple[float, float]]]:
    """The definitions that fit at hard targets, and the factors of both classes."""
    for detached in (False, True):
        for epsilon in _EPSILONS:
            definition = Definition("linear", epsilon, detached)
            factors = []
            for y, (value, gradient) in seen.items():
                [truth] = derivatives(PROBES, y, [gamma], definition)
                factor = _ratio(gradient, truth.gradient.hi)
                if factor is None:
                    break
                if value is not None and not _equal(value, factor * truth.value.hi):
                    break
                factors.append(factor)
            else:
                yield definition, (factors[0], factors[1])


def _ratio(computed: Tensor, truth: Tensor) -> float | None:
    """The constant c with computed = c truth."""
    ratios = computed / truth
    middle = float(ratios.median())
    if not abs(middle) > 1e-12 or not abs(middle) < 1e12:
        return None
    if not bool(((ratios - middle).abs() <= _TOLERANCE * abs(middle)).all()):
        return None
    for nice in (1.0, -1.0, 0.25, 0.75, 0.5):
        if abs(middle - nice) <= _TOLERANCE:
            return nice
    return middle


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() <= _TOLERANCE * b.abs()).all())


def _alpha_words(positive: float, negative: float) -> str:
    if positive == negative == 1:
        return "no alpha"
    if positive == negative:
        return f"a factor {positive:.4g} on both classes"
    if abs(positive + negative - 1) < 1e-6:
        return f"alpha {positive:.4g} on the positive class, {negative:.4g} on the negative"
    return f"a factor {positive:.4g} on the positive class, {negative:.4g} on the negative"


def _mean_words(subject: Subject) -> list[str]:
    """What a mean divides by, where a reduction can be asked for."""
    if "reduction" not in subject.options or subject.framework != "torch":
        return []
    x = torch.tensor(PROBES, dtype=torch.float64)
    try:
        options = {**subject.options, "reduction": "mean"}
        mean = torch_loss(subject.with_options(options=options), 1.0, GAMMA)(x)
        total = torch_loss(subject, 1.0, GAMMA)(x).sum()
        count = float(total / mean)
    except Exception:
        return []
    rows = "rows" if subject.kind == "multiclass" else "elements"
    if abs(count - len(x)) < 1e-3:
        return [f"mean divides by the number of {rows}"]
    return [f"mean divides by {count / len(x):.4g} times the number of {rows}"]


def _soft(
    subject: Subject,
    x: Tensor,
    gamma: float,
    hard: Definition,
    positive: float,
    negative: float,
) -> tuple[Definition | None, str]:
    try:
        value, gradient = _results(subject, x, SOFT, gamma)
    except Exception:
        return None, "soft targets are refused"
    factor = SOFT * positive + (1 - SOFT) * negative
    for base in BASES:
        definition = hard._replace(base=base)
        [truth] = derivatives(PROBES, SOFT, [gamma], definition)
        scale = factor * truth.gradient.scale
        near = ((gradient - factor * truth.gradient.hi).abs() <= _TOLERANCE * scale.abs()).all()
        if near and (value is None or _equal(value, factor * truth.value.hi)):
            return definition, f"soft targets: {definition}"
    if not bool(torch.isfinite(gradient).all()):
        return None, "soft targets give no numbers"
    return None, "soft targets: another function, none of the four that are known"


def _is_softmax(subject: Subject, gamma: float) -> bool:
    """Whether the gradient of a row sums to zero, in which one-vs-rest losses differ."""
    call = subject.at(gamma)
    x = torch.tensor([[1.0, 0.25], [-0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1])
    given = x.softmax(1) if subject.takes == "probabilities" else x
    target = torch.nn.functional.one_hot(y, 2).double() if subject.one_hot else y
    (gradient,) = torch.autograd.grad(call(given, target).sum(), x)
    return bool((gradient.sum(1).abs() <= 1e-5 * gradient.abs().amax(1)).all())


def _named(seen: dict[float, Results]) -> str | None:
    """Another function that is known."""
    [entropy] = derivatives(PROBES, 1.0, [0.0])
    _, gradient = seen[1.0]
    if _ratio(gradient, entropy.gradient.hi) is not None:
        return "the cross-entropy, whatever gamma is"
    for power in (0.5, 1.0, 1.5, 3.0, 4.0):
        [truth] = derivatives(PROBES, 1.0, [power])
        if _ratio(gradient, truth.gradient.hi) is not None:
            return f"the focal loss of the exponent {power:g}, where {GAMMA:g} was asked for"
    return None
