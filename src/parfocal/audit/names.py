"""What a report calls the functions that a loss may be, and its factors."""

from collections.abc import Iterable

from parfocal.audit.fit import Fit
from parfocal.audit.laws import ASKED, Exponent, Growth
from parfocal.audit.subject import Subject


def name_of(found: Fit | None) -> str:
    """What a loss is at a target."""
    return "no function that is known" if found is None else other_name(found) or "the focal loss"


def other_name(found: Fit) -> str | None:
    """The name of a function that isn't the focal loss; None of one that is."""
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


def name_of_exponents(subject: Subject, exponents: tuple[Exponent, Exponent]) -> str | None:
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


def equalized_name(exponents: tuple[Exponent, Exponent], growth: Growth) -> str | None:
    """The equalized focal loss, of which the exponent and the factor have one number more."""
    more = exponents[0].constant
    if exponents[0] != exponents[1] or exponents[0].slope != 1 or not more:
        return None
    if abs(growth.inverse - more) > 1e-3 * abs(more) or growth.slope:
        return None
    return f"the equalized focal loss: {more:g} more than gamma, and the factor {growth.source()}"


def of_class(positive: float, negative: float) -> str:
    """Which class it is, if it is one alone."""
    if positive < 0 and negative < 0:
        return ""
    return f", on the {'positive' if positive < 0 else 'negative'} class"


def constant_of(fits: Iterable[Fit]) -> tuple[str | None, float]:
    """The constant that was added, as it was fitted, in words and as a number."""
    for found in fits:
        base, logarithm = found.base, found.logarithm
        if base > 0 and logarithm > 0:
            return f"{base:.4g} is added to 1 - p_t and to p_t in the logarithm", base
        if base > 0:
            return f"{base:.4g} is added to 1 - p_t", base
        if logarithm > 0 and base == 0:
            return f"{logarithm:.4g} is added to p_t in the logarithm", logarithm
    return None, 0.0


def factor_words(subject: Subject, positive: float, negative: float) -> str:
    """The factors of both classes."""
    words = _class_words if subject.kind == "multiclass" else _alpha_words
    return words(positive, negative)


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
