"""The call of this package that means what another loss does."""

from parfocal.audit.convention import ASKED, Convention
from parfocal.audit.subject import Subject


def replacement(subject: Subject, convention: Convention) -> str:
    """The call of this package that means the same; empty if there is none, or it is one."""
    is_held = convention.definition is not None and not convention.is_shifted
    is_plain = convention.exponents == (convention.exponents[0],) * 2
    if not is_held or not is_plain or subject.target.startswith("parfocal"):
        return ""
    asked = convention.exponents[0] == ASKED or subject.gamma is not None
    gamma = "gamma=gamma" if asked else f"gamma={convention.exponents[0].constant:g}"
    positive, negative = convention.positive, convention.negative
    if min(positive, negative) <= 0:
        positive, negative = abs(positive), abs(negative)
    if subject.kind == "multiclass":
        weight = (
            ""
            if positive == negative == 1
            else f", weight=torch.tensor([{positive:g}, {negative:g}])"
        )
        return f'parfocal.softmax_focal_loss(x, y{weight}, {gamma}, reduction="none")'
    total = positive + negative
    if positive == negative:
        factor, alpha = positive, "None"
    else:
        factor, alpha = total, f"{positive / total:g}"
    scale = "" if abs(factor - 1) < 1e-6 else f"{factor:g} * "
    module = "parfocal.jax" if subject.framework == "jax" else "parfocal"
    reduction = "" if subject.framework == "jax" else ', reduction="none"'
    return f"{scale}{module}.sigmoid_focal_loss(x, y, alpha={alpha}, {gamma}{reduction})"
