"""The term of a wrong class: p ** gamma (-log p) of its margin u, p = s(u).

    N  = p ** gamma ce           ce = -log p = softplus(-u)
    N' = p ** gamma q (gamma ce - 1)

It is 0 at both ends, p = 0 (for gamma > 0) and p = 1. The slope changes sign at p = exp(-1 /
gamma): its error is that of its terms. Notation and care are those of `closed_form`.
"""

import torch
from torch import Tensor

from parfocal.numerics.closed_form import (
    Gamma,
    differentiable_value,
    finite,
    modulator,
    over_n,
    sides,
)
from parfocal.numerics.data import Evaluation


def evaluate(u: Tensor, gamma: Gamma, t: Tensor, *, needs_slope: bool) -> Evaluation:
    """N and N' of numbers u, with t = exp(-|u|); not itself differentiated."""
    s = sides(finite(u), torch.ones_like(u), t)
    p = over_n(s, torch.addcmul(s.w, s.v, s.t))
    factor = p.pow_(gamma)
    cross_entropy = s.cross_entropy()
    value = torch.where(factor == 0, factor, factor * torch.where(u == -torch.inf, -u, cross_entropy))
    slope = None
    if needs_slope:
        q = over_n(s, torch.addcmul(s.v, s.w, s.t))
        # Where the factor has underflown its product with a large ce has, too.
        slope = torch.where(factor == 0, factor, cross_entropy.mul_(gamma).sub_(1.0).mul_(factor))
        slope = slope.mul_(q).masked_fill_(u.isinf(), 0.0)
    return Evaluation(value, slope)


def gamma_slope(u: Tensor, gamma: Gamma, t: Tensor) -> Tensor:
    """dN/dgamma = p ** gamma ce log p = -p ** gamma ce ** 2 of numbers u."""
    s = sides(finite(u), torch.ones_like(u), t)
    factor = over_n(s, torch.addcmul(s.w, s.v, s.t)) ** gamma
    cross_entropy = torch.where(factor == 0, 0.0, s.cross_entropy())
    return -(factor * cross_entropy) * cross_entropy


def compose(u: Tensor, gamma: Gamma, t: Tensor) -> Tensor:
    """N as a composition that autograd may differentiate any number of times, in every mode."""
    one = torch.ones_like(u)
    factor = modulator(u, torch.zeros_like(u), gamma, t)
    cross_entropy = differentiable_value(u, one, 0.0, 0.0, t, target_varies=False)
    return factor * torch.where(factor == 0, 0.0, cross_entropy)
