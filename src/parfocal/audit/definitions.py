"""What a binary focal loss may mean, and each meaning in ball arithmetic.

With p the probability of the logit, q = 1 - p, n = 1 - y, and ce = -y log p - n log q, a loss is

    L = b ** gamma ce

for a base b, or a mixture of two such. At hard targets all bases are one; at soft ones they are
four functions, all of which are called the focal loss:

    linear    b = y q + n p                 1 - p_t of torchvision, optax, Keras
    mixture   y q ** gamma (-log p) + n p ** gamma (-log q)              kornia
    margin    b = s(-(2 y - 1) x)           MONAI
    entropy   b = 1 - exp(-ce)              segmentation_models_pytorch

Derivatives are by the product and chain rules, applied by hand; no kernel and no algebra is shared
with the losses of this package.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from flint import arb, ctx

from parfocal.audit.oracle import MOST_PRECISION, PRECISION, Ball, Truth, is_decided, truth_of

Base = Literal["linear", "mixture", "margin", "entropy"]

BASES: tuple[Base, ...] = ("linear", "mixture", "margin", "entropy")


class Definition(NamedTuple):
    """One meaning.

    base: what stands for 1 - p_t.
    epsilon: a constant that is added to it.
    detached: whether the factor b ** gamma is a constant to the derivatives.
    """

    base: Base = "linear"
    epsilon: float = 0.0
    detached: bool = False

    def __str__(self) -> str:
        parts = {
            "linear": "p_t = y p + (1 - y)(1 - p)",
            "mixture": "a mixture of the losses of both classes",
            "margin": "1 - p_t = sigmoid(-(2 y - 1) x)",
            "entropy": "1 - p_t = 1 - exp(-BCE)",
        }
        text = parts[self.base]
        if self.epsilon:
            text += f", with {self.epsilon:g} added to 1 - p_t"
        return text + (", the modulating factor detached" if self.detached else "")


LINEAR = Definition()

# From there on the loss is its limit, as `_far` proves.
_FAR = 1024.0
_MOST_GAMMA = 1024.0


class Derivatives(NamedTuple):
    """A loss and its first two derivatives in the logit, at each of some logits."""

    value: Truth
    gradient: Truth
    curvature: Truth

    def of(self, quantity: str) -> Truth:
        """One of them by its name."""
        truth = getattr(self, quantity)
        assert isinstance(truth, Truth)
        return truth


class _Term(NamedTuple):
    """weight b ** gamma ce and what its derivatives need, none of which depends on gamma.

    With r = (log b)': L' = b ** gamma (ce' + gamma r ce), and

        L'' = b ** gamma (ce'' + gamma (2 r ce' + (b'' / b - r ** 2) ce + gamma r ** 2 ce))

    slopes are the terms of ce', and bend is (b'' / b - r ** 2) ce in its two terms.
    """

    weight: arb
    log_b: arb
    ce: arb
    slopes: tuple[arb, ...]
    pull: arb  # r ce
    second: arb  # ce''
    cross: arb  # 2 r ce'
    bend: tuple[arb, arb]
    square: arb  # r ** 2 ce


def derivatives(
    logits: Iterable[float],
    target: float,
    gammas: Sequence[float],
    definition: Definition = LINEAR,
    *,
    bits: int = 110,
) -> list[Derivatives]:
    """One entry a gamma: certified values at finite logits.

    Args:
        logits: finite numbers, taken exactly.
        target: in [0, 1].
        gammas: >= 0; a dtype's own rounding of them is the caller's business.
        definition: what the loss means.
        bits: how far below the scale of its terms the radius of an enclosure ends.

    >>> [truth] = derivatives([0.0], 1.0, [2.0])
    >>> truth.value.hi.item(), truth.gradient.hi.item()
    (0.17328679513998632, -0.29828679513998635)
    """
    columns: list[list[list[Ball]]] = [[[], [], []] for _ in gammas]
    for x in logits:
        for column, balls in zip(
            columns, certified(x, target, gammas, definition, bits), strict=True
        ):
            for parts, ball in zip(column, balls, strict=True):
                parts.append(ball)
    exact = bits > 64  # beyond what the second number of a sum is for
    return [Derivatives(*(truth_of(parts, exact) for parts in column)) for column in columns]


def certified(
    x: float, y: float, gammas: Sequence[float], definition: Definition, bits: int
) -> Iterator[tuple[Ball, ...]]:
    """Value, gradient and curvature, each at the first precision whose enclosures decide it."""
    if abs(x) >= _FAR and definition == LINEAR and max(gammas) <= _MOST_GAMMA:
        wrong = 1 - y if x > 0 else y
        if wrong == 0 or wrong > 2.0**-60:
            yield from (_far(x, wrong, gamma) for gamma in gammas)
            return
    previous = ctx.prec
    # exp(x) loses as many bits as x has before its binary point.
    start = bits + 40 + max(0, math.frexp(x)[1])
    try:
        ctx.prec = start
        shared = _terms(arb(x), arb(y), definition)
        for gamma in gammas:
            precision, terms = start, shared
            while True:
                ctx.prec = precision
                balls = _evaluated(terms, arb(gamma), definition.detached)
                value, gradient, curvature = balls
                if (
                    is_decided(value, bits)
                    and is_decided(gradient, bits)
                    and is_decided(curvature, bits)
                ):
                    yield balls
                    break
                precision *= 2
                if precision > MOST_PRECISION:
                    raise ArithmeticError(
                        f"no enclosure below {MOST_PRECISION} bits at x={x!r}, y={y!r}, "
                        f"gamma={gamma!r}"
                    )
                ctx.prec = precision
                terms = _terms(arb(x), arb(y), definition)
    finally:
        ctx.prec = previous


def _far(x: float, wrong: float, gamma: float) -> tuple[Ball, ...]:
    """The limit far from 0, enclosed: L -> w ** gamma w |x|, with w the share of the other side.

    For |x| >= 1024 and d = exp(-|x|) < 2 ** -1477, b, b', b'', ce - w |x| and ce' are within d of
    w, 0, 0, 0 and w sign(x). So with gamma <= 1024 and w >= 2 ** -60 the relative errors of L and
    L' are below 2 ** 80 |x| d < 2 ** -1200, and so is all of L''; if w = 0 everything is.
    """
    zero = Ball(arb(0), arb(0))
    if wrong == 0:
        return zero, zero, zero
    previous = ctx.prec
    try:
        ctx.prec = PRECISION
        w, near = arb(wrong), arb(1, 2.0**-1000)
        slope = w ** arb(gamma) * w * near
        value, gradient = slope * abs(arb(x)), slope if x > 0 else -slope
    finally:
        ctx.prec = previous
    return Ball(value, abs(value)), Ball(gradient, abs(gradient)), zero


def _terms(x: arb, y: arb, definition: Definition) -> list[_Term]:
    one = arb(1)
    e, f = x.exp(), (-x).exp()
    p, q = one / (one + f), one / (one + e)
    pq = p * q
    minus_log_p, minus_log_q = f.log1p(), e.log1p()
    n = one - y
    bend = pq * (q - p)  # (p q)'
    if definition.base == "mixture" and y not in (0, 1):
        eps = arb(definition.epsilon)
        return [
            _term(y, q + eps, -pq, -bend, minus_log_p, (-q,), pq),
            _term(n, p + eps, pq, bend, minus_log_q, (p,), pq),
        ]
    ce, dce = y * minus_log_p + n * minus_log_q, (-(y * q), n * p)
    if definition.base == "margin":
        slope = n - y  # b = s(slope x)
        e, f = (slope * x).exp(), (-(slope * x)).exp()
        b, other = one / (one + f), one / (one + e)
        product = b * other
        db, ddb = slope * product, slope * slope * product * (other - b)
    elif definition.base == "entropy":
        fall = (-ce).exp()
        b, first = -((-ce).expm1()), dce[0] + dce[1]
        db, ddb = fall * first, fall * (pq - first * first)
    else:
        b, db, ddb = y * q + n * p, (n - y) * pq, (n - y) * bend
    return [_term(one, b + arb(definition.epsilon), db, ddb, ce, dce, pq)]


def _term(
    weight: arb, b: arb, db: arb, ddb: arb, ce: arb, dce: tuple[arb, ...], ddce: arb
) -> _Term:
    slopes = tuple(part for part in dce if part != 0)
    r = db / b
    square = r * r * ce
    cross = 2 * r * sum(dce[1:], dce[0])
    return _Term(weight, b.log(), ce, slopes, r * ce, ddce, cross, (ddb / b * ce, -square), square)


def _evaluated(terms: Sequence[_Term], g: arb, detached: bool) -> tuple[Ball, ...]:
    values: list[arb] = []
    gradients: list[arb] = []
    curvatures: list[arb] = []
    for weight, log_b, ce, slopes, pull, second, cross, bend, square in terms:
        factor = (g * log_b).exp()
        if len(terms) > 1:
            factor *= weight
        values.append(factor * ce)
        gradients += [factor * part for part in slopes]
        curvatures.append(factor * second)
        if detached or g == 0:
            continue
        focus = factor * g
        gradients.append(focus * pull)
        curvatures += [focus * cross, focus * bend[0], focus * bend[1], focus * g * square]
    return _sum(values), _sum(gradients), _sum(curvatures)


def _sum(terms: Sequence[arb]) -> Ball:
    result = terms[0]
    scale = abs(result)
    for term in terms[1:]:
        result, scale = result + term, scale + abs(term)
    return Ball(result, scale)
