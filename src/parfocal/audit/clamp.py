"""A clamp of the probability or the logit, found by where a value no longer changes."""

import math

import torch

from parfocal.audit.convention import Convention
from parfocal.audit.evaluate import evaluate
from parfocal.audit.fit import Fit
from parfocal.audit.subject import Subject

# |logits| of wrong answers at which a value that is clamped has ended to change.
_BEYOND = (30.0, 45.0, 60.0)


def clamp_of(subject: Subject, convention: Convention, target: float, gamma: float) -> str:
    """In words: from which logit on the value of a wrong answer is one number; empty if none.

    The number tells the logit, as the loss of a wrong answer falls strictly with it; and just
    before that logit there is a gradient, just beyond it there is none.
    """
    if target not in (0, 1) or convention.definition is None or subject.widest != torch.float64:
        return ""
    sign = -1.0 if target else 1.0
    values = _results(subject, [sign * x for x in _BEYOND], target, gamma)[0]
    if values is None or len(set(values)) != 1 or not 0 < abs(values[0]) < math.inf:
        return ""
    factor, exponent = convention.factor(target, gamma), convention.exponent(gamma, target)
    logit = _logit_of(Fit(factor, exponent), values[0])
    if logit is None:
        return ""
    around = _results(subject, [sign * logit * 0.98, sign * logit * 1.02], target, gamma)[1]
    if around[0] == 0 or around[1] != 0:
        return ""
    p_t = 1 / (1 + math.exp(logit))
    return (
        f"its value ends to change at a wrong logit of {logit:.4g}, where p_t is {p_t:.3g}: a clamp"
    )


def _results(
    subject: Subject, logits: list[float], target: float, gamma: float
) -> tuple[list[float] | None, list[float]]:
    """Values and gradients, each of a logit alone."""
    values: list[float] = []
    gradients: list[float] = []
    for logit in logits:
        x = torch.tensor([logit], dtype=torch.float64)
        found = evaluate(subject, x, target, gamma, second=False)
        values += [] if found.value is None else [float(found.value)]
        gradients += [] if found.gradient is None else [float(found.gradient)]
    if len(gradients) != len(logits):
        gradients = [math.nan] * len(logits)
    return (values if len(values) == len(logits) else None), gradients


def _logit_of(function: Fit, value: float) -> float | None:
    """The |logit| of a wrong answer that has this value, by bisection."""
    low, high = 0.0, _BEYOND[0]

    def is_below(logit: float) -> bool:
        there = function.value(torch.tensor([-logit], dtype=torch.float64))
        return abs(float(there)) < abs(value)

    if not is_below(low) or is_below(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high
