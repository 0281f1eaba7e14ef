"""The asymmetric loss: a focal loss of each class, with the margin m at the negatives.

With e the odds against a hard target, and m = 0 at a positive,

    q_m = max(e / (1 + e) - m, 0)      e_m = q_m / (1 - q_m)      ce = log1p(e_m)
    L = q_m ** gamma ce
    dL/du = -q_m ** gamma (q / (1 + e)) (gamma ce / q_m + 1 / (1 - q_m))      where q_m > 0

In float64 all of this is textbook, as in `odds`; 1 - q_m = 1 / (1 + e) + m is no difference.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics import odds
from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import computation, is_ordinary
from parfocal.numerics.closed_form import Gamma, difference, sides
from parfocal.numerics.elementwise_sum import Weight, elementwise_sum, total_of


def asymmetric(x: Tensor, y: Tensor, gamma_neg: Gamma, gamma_pos: Gamma, margin: float) -> Tensor:
    """The loss of each element, as a composition; y and the gammas as in `focal`."""
    one = torch.ones_like(x)
    positive = focal(x, one, gamma_pos)
    if margin == 0:
        negative = focal(x, 1 - one, gamma_neg)
    else:
        negative = _shifted_negative(x, gamma_neg, margin)
    # An infinite loss of weight 0 adds nothing.
    return torch.where(y > 0, y * positive, 0.0) + torch.where(y < 1, (1 - y) * negative, 0.0)


def asymmetric_sum(
    x: Tensor,
    y: Tensor,
    gamma_neg: float,
    gamma_pos: float,
    margin: float,
    *,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight L; None for soft targets, else as `elementwise_sum`.

    With a margin, gamma_neg is at least 1.
    """
    is_quick = computation(x) == torch.float32 and (margin == 0 or gamma_neg >= 1)
    form = partial(_total, gamma_neg=gamma_neg, gamma_pos=gamma_pos, margin=margin)
    composition = partial(asymmetric, gamma_neg=gamma_neg, gamma_pos=gamma_pos, margin=margin)
    forms = (form,) if is_quick else ()
    return elementwise_sum(x, forms, composition, y, weight=weight, mask=mask, scale=scale)


def _total(
    x: Tensor,
    y: Tensor,
    *,
    gamma_neg: float,
    gamma_pos: float,
    margin: float,
    weight: Weight,
    scale: float,
    out: Tensor | None,
) -> float | None:
    target = odds.hard(y)
    if target is None or not is_ordinary(x):
        return None
    e = (target.direction * x).double().exp_()
    p = (e + 1).reciprocal_()
    q = e.mul_(p)
    pq = torch.mul(p, q).float()
    if margin:
        shift = target.other.double().mul_(margin)
        q.sub_(shift).clamp_(min=0.0)
        p.add_(shift)
    cross_entropy = torch.div(q, p).float().log1p_()
    gamma: float | Tensor = gamma_neg
    factor = _power(q, gamma_neg)
    if gamma_pos != gamma_neg:
        gamma = torch.lerp(x.new_tensor(gamma_neg), x.new_tensor(gamma_pos), y)
        factor = torch.lerp(factor, _power(q, gamma_pos), y)
    slope = None
    if out is not None:
        # Where q_m = 0 so is ce, and any finite quotient will do.
        inner = cross_entropy / q.float().clamp_(min=torch.finfo(torch.float32).tiny)
        inner.mul_(gamma).add_(p.reciprocal_())
        slope = inner.mul_(pq).mul_(factor).mul_(target.direction)
    return total_of(factor.mul_(cross_entropy), slope, weight, scale, out)


def _power(base: Tensor, gamma: float) -> Tensor:
    """base ** gamma in float32; a whole power by products, for which float64 has digits enough."""
    if gamma != int(gamma) or gamma > 8:
        exponent: Any = rounded(gamma, torch.float32)
        return base.float().pow_(exponent)
    power = torch.ones_like(base)
    for bit in f"{int(gamma):b}":
        power.mul_(power)
        if bit == "1":
            power.mul_(base)
    return power.float()


def _shifted_negative(x: Tensor, gamma: Gamma, margin: float) -> Tensor:
    """p_m ** gamma (-log(1 - p_m)), with p_m = p - margin > 0 and 1 - p_m = (1 - p) + margin."""
    p_m = difference(x, torch.full_like(x, margin))
    counts = ~(p_m <= 0)  # NaN stays
    p_m = torch.where(counts, p_m, 0.5)
    s = sides(x, torch.ones_like(x))
    q = torch.lerp(torch.ones_like(s.t), s.t, s.h) / s.n
    # The logarithm of what is near 1 goes through log1p.
    near_one = p_m < 0.5
    cross_entropy = torch.where(
        near_one,
        -torch.log1p(-torch.where(near_one, p_m, 0.0)),
        -torch.log(torch.where(near_one, 1.0, q + margin)),
    )
    return torch.where(counts, p_m**gamma * cross_entropy, 0.0)
