"""Poly-1: the focal loss and epsilon_1 times one more power of q = 1 - p_t.

L = q ** gamma (ce + epsilon_1 q)
dL/du = -q ** gamma (q + p (gamma ce + epsilon_1 (gamma + 1) q))
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics import odds
from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import computation
from parfocal.numerics.closed_form import Gamma, modulator, shares
from parfocal.numerics.elementwise_sum import Weight, elementwise_sum, total_of


def poly(x: Tensor, y: Tensor, gamma: Gamma, epsilon_1: float) -> Tensor:
    """The loss of each element, as a composition; arguments as in `focal`."""
    # The rounding of gamma + 1 would be felt in the power as often as log q is large.
    added = modulator(x, y, gamma) * modulator(x, y, 1.0)
    return focal(x, y, gamma) + epsilon_1 * added


def poly_sum(
    x: Tensor,
    y: Tensor,
    gamma: float,
    epsilon_1: float,
    share: float | None = None,
    *,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight alpha_t L; None for soft targets, else as `elementwise_sum`."""

    def composition(x: Tensor, y: Tensor) -> Tensor:
        loss = poly(x, y, gamma, epsilon_1)
        return loss if share is None else shares(y, share) * loss

    quick = partial(_total, gamma=gamma, epsilon_1=epsilon_1, share=share)
    forms = (quick,) if computation(x) == torch.float32 else ()
    return elementwise_sum(x, forms, composition, y, weight=weight, mask=mask, scale=scale)


def _total(
    x: Tensor,
    y: Tensor,
    *,
    gamma: float,
    epsilon_1: float,
    share: float | None,
    weight: Weight,
    scale: float,
    out: Tensor | None,
) -> float | None:
    target = odds.hard(y)
    if target is None:
        return None
    exponent: Any = rounded(gamma, x.dtype)
    terms = target.odds(x)
    q, cross_entropy = terms.q, terms.cross_entropy
    factor = torch.pow(q, exponent)
    if share is not None:
        factor.mul_(target.shares(share))
    value = torch.add(cross_entropy, q, alpha=epsilon_1).mul_(factor)
    slope = None
    if out is not None:
        inner = cross_entropy.mul_(exponent).add_(q, alpha=epsilon_1 * (gamma + 1))
        slope = q.addcmul_(terms.p, inner).mul_(factor).mul_(target.direction)
    return total_of(value, slope, weight, scale, out)
