"""Any loss of several logits in arbitrary precision, with its derivative in one of them.

The loss is given as its textbook formula over truncated power series in ball arithmetic. The rules
of differentiation are those of the series' own arithmetic; nothing is derived by hand, and nothing
is rearranged for stability: where terms cancel, the precision grows until the enclosure decides.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from flint import arb, arb_series, ctx

from parfocal.audit.oracle import MOST_PRECISION, PRECISION, Ball, Truth, is_decided, truth_of

Formula = Callable[[Sequence[arb_series]], Sequence[arb_series]]


class DerivativeTruth(NamedTuple):
    """A loss and its derivative, at each of some points."""

    value: Truth
    gradient: Truth


def derivative_truth(
    formula: Formula, points: Iterable[Sequence[float]], variable: int = 0
) -> DerivativeTruth:
    """A loss and its derivative in one logit.

    Args:
        formula: the loss as a sum of terms, each of the logits of a point.
        points: the logits of each point, finite numbers, taken exactly.
        variable: index of the logit in which the derivative is taken.

    >>> truth = derivative_truth(lambda x: [x[0] * x[1]], [(3.0, 5.0)])
    >>> truth.value.hi.item(), truth.gradient.hi.item()
    (15.0, 5.0)
    """
    columns = zip(*(_certified(formula, point, variable) for point in points), strict=True)
    return DerivativeTruth(*(truth_of(column) for column in columns))


def _certified(formula: Formula, point: Sequence[float], variable: int) -> tuple[Ball, Ball]:
    """Value and derivative, at the first precision whose enclosures decide them."""
    before = ctx.prec, ctx.cap
    precision = PRECISION
    try:
        ctx.cap = 2
        while precision <= MOST_PRECISION:
            ctx.prec = precision
            logits = [arb_series([arb(x), 1 if i == variable else 0]) for i, x in enumerate(point)]
            terms = formula(logits)
            balls = _ball(terms, 0), _ball(terms, 1)
            if all(is_decided(ball) for ball in balls):
                return balls
            precision *= 2
    finally:
        ctx.prec, ctx.cap = before
    raise ArithmeticError(f"no enclosure below {MOST_PRECISION} bits at {tuple(point)}")


def _ball(terms: Sequence[arb_series], order: int) -> Ball:
    parts = [term[order] for term in terms]
    return Ball(sum(parts, arb(0)), sum((abs(part) for part in parts), arb(0)))
