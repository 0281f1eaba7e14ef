"""The term of a wrong class: p ** gamma (-log p) of its margin u, p = s(u).

    N  = p ** gamma ce           ce = -log p = softplus(-u)
    N' = p ** gamma q (gamma ce - 1)

It is 0 at both ends, p = 0 (for gamma > 0) and p = 1. The slope changes sign at p = exp(-1 /
gamma): its error is that of its terms. p ** gamma may be a normal number where p is none: there it
is exp(-gamma a), a = |u|. Notation and care are those of `closed_form`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, differentiable_value, finite, over_n, sides
from parfocal.numerics.data import Evaluation

# From there on exp(-a) is near the subnormal numbers, or one of them.
_FAR = {torch.float32: 80.0, torch.float64: 700.0}

# The part of the floating-point range kept free for products of ce with gamma.
_HEADROOM = 2.0**-20


class _Parts(NamedTuple):
    """N = factor * cross_entropy, and q."""

    factor: Tensor
    cross_entropy: Tensor
    q: Tensor


def evaluate(u: Tensor, gamma: Gamma, t: Tensor, *, needs_slope: bool) -> Evaluation:
    """N and N' of numbers u, with t = exp(-|u|); not itself differentiated."""
    factor, cross_entropy, q = _parts(u, gamma, t)
    value, slope = factor * torch.where(u == -torch.inf, -u, cross_entropy), None
    if needs_slope:
        slope = cross_entropy.mul_(gamma).sub_(1.0).mul_(factor).mul_(q)
        slope.masked_fill_(u.isinf(), 0.0)
    return Evaluation(torch.where(factor == 0, factor, value), slope)


def gamma_slope(u: Tensor, gamma: Gamma, t: Tensor) -> Tensor:
    """dN/dgamma = p ** gamma ce log p = -p ** gamma ce ** 2 of numbers u."""
    factor, cross_entropy, _ = _parts(u, gamma, t)
    return -(factor * cross_entropy) * cross_entropy


def _parts(u: Tensor, gamma: Gamma, t: Tensor) -> _Parts:
    """The parts; an infinite u counts as the largest number whose products are finite."""
    s = sides(finite(u, _HEADROOM), torch.ones_like(u), t)
    power = over_n(s, torch.addcmul(s.w, s.v, s.t)) ** gamma
    is_far = (s.v > 0) & (s.a > _FAR[u.dtype])
    factor = torch.where(is_far, torch.exp(-s.a * gamma), power)
    return _Parts(factor, s.cross_entropy(), over_n(s, torch.addcmul(s.v, s.w, s.t)))


def compose(u: Tensor, gamma: Gamma, t: Tensor) -> Tensor:
    """N as a composition that autograd may differentiate any number of times, in every mode.

    The factor is exp(h) with h = -gamma ce, whose value is that of numbers.
    """
    fixed = gamma.detach() if isinstance(gamma, Tensor) else gamma
    factor = _parts(u.detach(), fixed, t).factor
    h = -gamma * _cross_entropy(finite(u, _HEADROOM), t)
    cross_entropy = torch.where(factor == 0, 0.0, _cross_entropy(u, t))
    return factor * torch.exp(h - h.detach()) * cross_entropy


def _cross_entropy(u: Tensor, t: Tensor) -> Tensor:
    """ce = -log s(u)."""
    return differentiable_value(u, torch.ones_like(u), 0.0, 0.0, t, target_varies=False)
