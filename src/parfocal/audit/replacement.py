"""The call of this package that means what another loss does."""

from parfocal.audit.convention import Convention
from parfocal.audit.subject import Subject


def replacement(subject: Subject, convention: Convention) -> str:
    """The call of logits x and targets y that means the same; empty if there is none, or it is one.

    gamma, and the weights of classes, stand for those of the caller.
    """
    exponent, negatives = convention.exponents
    is_held = convention.definition is not None and not convention.is_shifted
    if not is_held or exponent != negatives or subject.target.startswith("parfocal"):
        return ""
    gamma = f"gamma={exponent.source()}"
    positive, negative = abs(convention.positive), abs(convention.negative)
    factor, total = positive, positive + negative
    if subject.kind == "multiclass":
        weight = "" if positive == negative else ", weight=weight"
        factor = 1.0 if weight else factor
        call = f'parfocal.softmax_focal_loss(x, y{weight}, {gamma}, reduction="none")'
    else:
        alpha = "None"
        if positive != negative:
            factor, alpha = total, f"{positive / total:g}"
        is_jax = subject.framework == "jax"
        module, reduction = ("parfocal.jax", "") if is_jax else ("parfocal", ', reduction="none"')
        call = f"{module}.sigmoid_focal_loss(x, y, alpha={alpha}, {gamma}{reduction})"
    return call if abs(factor - 1) < 1e-6 else f"{factor:g} * {call}"
