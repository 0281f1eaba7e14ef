"""The call of this package that means what another loss does."""

from collections.abc import Iterator, Mapping

from parfocal.audit.convention import Convention
from parfocal.audit.definitions import LINEAR
from parfocal.audit.laws import CONSTANT
from parfocal.audit.subject import Subject

# What a mean divides by, as this package is told it; None: it gives each loss.
_MEANS: Mapping[str | None, str] = {
    None: 'reduction="none"',
    "1": 'reduction="sum"',
    "the number of elements": 'reduction="mean"',
    "the number of rows": 'reduction="sum", normalizer=len(y)',
    "the number of positives": 'reduction="sum", normalizer=y.sum()',
    "the number of positives, at least 1": 'reduction="sum", normalizer=y.sum().clamp(min=1)',
    "the number of foregrounds, at least 1": (
        'reduction="sum", normalizer=(y > 0).sum().clamp(min=1)'
    ),
    "the size of the last axis": 'reduction="none"',
}


def replacement(subject: Subject, convention: Convention) -> str:
    """The call of logits x and targets y that means the same; empty if there is none, or it is one.

    gamma, and the weights of classes, stand for those of the caller; alpha and the mean are those
    that the loss has by default. What isn't the same is said in a comment.
    """
    if subject.target.startswith("parfocal") or _reduction(convention) is None:
        return ""
    call = _call(subject, convention)
    if not call:
        return ""
    remarks = "; ".join(_remarks(subject, convention))
    return f"{call}  # {remarks}" if remarks else call


def _reduction(convention: Convention) -> str | None:
    """The words of its mean; None if this package has none for it."""
    count, _, more = (convention.divisor or "").partition(" and ")
    if count == "the number of positives" and more:
        return f'reduction="sum", normalizer=y.sum() + {more}'
    return _MEANS.get(convention.divisor)


def _after(convention: Convention) -> str:
    """What makes the mean of the losses of each answer, where no argument does."""
    return ".mean(-1).sum()" if convention.divisor == "the size of the last axis" else ""


def _call(subject: Subject, convention: Convention) -> str:
    """Without remarks."""
    reduction = _reduction(convention) or ""
    if convention.soft.name == "varifocal":
        alpha = f"{abs(convention.negative):g}"
        call = f"parfocal.varifocal_loss(x, y, alpha={alpha}, gamma=gamma, {reduction})"
        return call + _after(convention)
    exponent, negatives = convention.exponents
    is_held = convention.definition is not None and not convention.is_shifted
    if not is_held or exponent != negatives:
        return ""
    gamma = exponent.source()
    factors = subject.default_factors or (convention.positive, convention.negative)
    positive, negative = map(abs, factors)
    factor = positive
    if convention.soft.name and positive == negative:
        call = _CALLS[convention.soft.name].format(gamma=gamma, reduction=reduction)
    elif subject.kind == "multiclass":
        weight = "" if positive == negative else ", weight=weight"
        factor = 1.0 if weight else factor
        if convention.divisor == "the number of rows":  # with weights a mean divides by their sum
            count = "len(y)" if subject.one_hot else "y.numel()"
            reduction = f'reduction="sum", normalizer={count}' if weight else 'reduction="mean"'
        call = f"parfocal.softmax_focal_loss(x, y{weight}, gamma={gamma}, {reduction})"
    else:
        alpha = "None"
        if positive != negative:
            factor, alpha = positive + negative, f"{positive / (positive + negative):g}"
        is_jax = subject.framework == "jax"
        module = "parfocal.jax" if is_jax else "parfocal"
        rest = "" if is_jax else f", {reduction}"
        call = f"{module}.sigmoid_focal_loss(x, y, alpha={alpha}, gamma={gamma}{rest})"
        call += f".{subject.reduced}()" if is_jax and subject.reduced != "none" else ""
    call += _after(convention)
    factors_before = [] if abs(factor - 1) < 1e-6 else [f"{factor:g}"]
    factors_before += [] if convention.growth == CONSTANT else [f"({convention.growth.source()})"]
    return " * ".join([*factors_before, call])


_CALLS = {
    "quality": "parfocal.quality_focal_loss(x, y, beta={gamma}, {reduction})",
    "Gaussian": "parfocal.gaussian_focal_loss(x, y, gamma={gamma}, {reduction})",
}


def _remarks(subject: Subject, convention: Convention) -> Iterator[str]:
    """What a caller has to know besides."""
    if subject.takes != "logits":
        yield f"of the logits x, not of {subject.takes}"
    is_named = bool(convention.soft.name)
    if (
        subject.kind == "binary"
        and not is_named
        and convention.soft.definition not in (None, LINEAR)
    ):
        yield "of hard targets: of soft ones both are other functions"
