"""The call of this package that means what another loss does."""

from collections.abc import Mapping

from parfocal.audit.convention import Convention
from parfocal.audit.definitions import LINEAR
from parfocal.audit.subject import Subject

# What a mean divides by, as this package is told it.
_MEANS: Mapping[str | None, str] = {
    None: 'reduction="none"',
    "1": 'reduction="sum"',
    "the number of elements": 'reduction="mean"',
    "the number of rows": 'reduction="mean"',
    "the number of positives": 'reduction="sum", normalizer=y.sum()',
    "the number of positives, at least 1": 'reduction="sum", normalizer=y.sum().clamp(min=1)',
    "the number of positives and 1": 'reduction="sum", normalizer=y.sum() + 1',
}


def replacement(subject: Subject, convention: Convention) -> str:
    """The call of logits x and targets y that means the same; empty if there is none, or it is one.

    gamma, and the weights of classes, stand for those of the caller; alpha and the mean are those
    that the loss has by default.
    """
    exponent, negatives = convention.exponents
    is_held = convention.definition is not None and not convention.is_shifted
    if not is_held or exponent != negatives or subject.target.startswith("parfocal"):
        return ""
    gamma = f"gamma={exponent.source()}"
    factors = subject.default_factors or (convention.positive, convention.negative)
    positive, negative = map(abs, factors)
    factor, reduction = positive, _MEANS.get(convention.divisor, 'reduction="none"')
    if subject.kind == "multiclass":
        weight = "" if positive == negative else ", weight=weight"
        factor = 1.0 if weight else factor
        if weight and "mean" in reduction:  # a mean with weights divides by their sum
            reduction = 'reduction="sum", normalizer=len(y)'
        call = f"parfocal.softmax_focal_loss(x, y{weight}, {gamma}, {reduction})"
    else:
        alpha = "None"
        if positive != negative:
            factor, alpha = positive + negative, f"{positive / (positive + negative):g}"
        is_jax = subject.framework == "jax"
        module = "parfocal.jax" if is_jax else "parfocal"
        rest = "" if is_jax else f", {reduction}"
        call = f"{module}.sigmoid_focal_loss(x, y, alpha={alpha}, {gamma}{rest})"
        if convention.soft not in (None, LINEAR):
            call += "  # of hard targets: of soft ones both are other functions"
    return call if abs(factor - 1) < 1e-6 else f"{factor:g} * {call}"
