"""What a focal loss is, in mpmath's arithmetic: the truth that statements of an audit are held to.

Value, slope and curvature are carried through every operation; nothing is shared with the auditor,
whose truth comes from ball arithmetic and other formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import mpmath
import torch
from torch.nn.functional import logsigmoid

QUANTITIES = ("value", "gradient", "curvature")

_BITS = 240


class Jet(NamedTuple):
    """A number that depends on the logit, with its first two derivatives."""

    value: mpmath.mpf
    gradient: mpmath.mpf
    curvature: mpmath.mpf

    def __add__(self, other: "Jet") -> "Jet":  # type: ignore[override]
        return Jet(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, other: "Jet") -> "Jet":  # type: ignore[override]
        (f, df, ddf), (g, dg, ddg) = self, other
        return Jet(f * g, df * g + f * dg, ddf * g + 2 * df * dg + f * ddg)

    def times(self, number: float) -> "Jet":
        """A multiple."""
        return Jet(*(mpmath.mpf(number) * part for part in self))

    def apply(self, f: mpmath.mpf, df: mpmath.mpf, ddf: mpmath.mpf) -> "Jet":
        """A function of it, with the derivatives that it has at `value`."""
        _, d, dd = self
        return Jet(f, df * d, ddf * d * d + df * dd)

    def power(self, s: float) -> "Jet":
        """Of a positive number."""
        v, s = self.value, mpmath.mpf(s)
        return self.apply(v**s, s * v ** (s - 1), s * (s - 1) * v ** (s - 2))

    def constant(self) -> "Jet":
        """Detached."""
        return Jet(self.value, mpmath.mpf(0), mpmath.mpf(0))


class Parts(NamedTuple):
    """p, 1 - p and the logarithms of both."""

    p: Jet
    q: Jet
    log_p: Jet
    log_q: Jet


def _parts(x: float) -> Parts:
    x = mpmath.mpf(x)
    e, f = mpmath.exp(x), mpmath.exp(-x)
    p, q = 1 / (1 + f), 1 / (1 + e)
    pq = p * q
    return Parts(
        Jet(p, pq, pq * (q - p)),
        Jet(q, -pq, pq * (p - q)),
        Jet(-mpmath.log1p(f), q, -pq),
        Jet(-mpmath.log1p(e), -p, -pq),
    )


def truth(x: float, y: float, s: float, *, soft: str = "linear", detached: bool = False) -> Jet:
    """The focal loss of exponent s and its derivatives at one logit."""
    with mpmath.workprec(_BITS):
        parts = _parts(x)
        p, q, log_p, log_q = parts
        ce = log_p.times(-y) + log_q.times(y - 1)
        if soft == "mixture" and y not in (0, 1):
            return (q.power(s) * log_p).times(-y) + (p.power(s) * log_q).times(y - 1)
        base = _BASES[soft](parts, y, ce, x)
        factor = base.power(s)
        return (factor.constant() if detached else factor) * ce


def _linear(parts: Parts, y: float, ce: Jet, x: float) -> Jet:
    if y in (0, 1):
        return parts.q if y else parts.p
    return parts.q.times(y) + parts.p.times(1 - y)


def _margin(parts: Parts, y: float, ce: Jet, x: float) -> Jet:
    m = mpmath.mpf(2 * y - 1)
    v, d, c = _parts(m * mpmath.mpf(x)).q
    return Jet(v, m * d, m * m * c)


def _entropy(parts: Parts, y: float, ce: Jet, x: float) -> Jet:
    fall = mpmath.exp(-ce.value)
    return ce.apply(-mpmath.expm1(-ce.value), fall, -fall)


_BASES: dict[str, Callable[[Parts, float, Jet, float], Jet]] = {
    "linear": _linear, "mixture": _linear, "margin": _margin, "entropy": _entropy,
}  # fmt: skip


def truths(x: torch.Tensor, y: float, s: float, *, detached: bool) -> dict[str, torch.Tensor]:
    """Value and gradient at many logits and a hard target, in float64: 13 digits of them."""
    u = (x if y else -x).double()
    q, p, ce = torch.sigmoid(-u), torch.sigmoid(u), -logsigmoid(u)
    factor = torch.exp(-s * -logsigmoid(-u)) if s else torch.ones_like(u)
    slope = -factor * (q if detached else s * p * ce + q)
    return {"value": factor * ce, "gradient": slope if y else -slope}
