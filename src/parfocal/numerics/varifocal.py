"""The varifocal loss: the cross-entropy of a soft positive, the focal loss of a negative.

With the indicator m of a negative, y = 0, and q = p, its 1 - p_t,

    L = (y + alpha m q ** gamma) ce
    dL/da = (y + alpha m q ** gamma) ce' + alpha m q ** gamma gamma (log q)' ce

in the notation of `closed_form`; a positive is not modulated.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import is_ordinary
from parfocal.numerics.closed_form import Gamma, over_n, sides
from parfocal.numerics.elementwise_sum import Weight, elementwise_sum, total_of


def varifocal(x: Tensor, y: Tensor, alpha: float, gamma: Gamma) -> Tensor:
    """The loss of each element, as a composition; gamma as in `focal`."""
    negative = (y <= 0).to(y.dtype)
    return torch.add(y, negative, alpha=alpha) * focal(x, y, negative * gamma)


def varifocal_sum(
    x: Tensor,
    y: Tensor,
    alpha: float,
    gamma: float,
    *,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight L; None where |x| is large, else as `elementwise_sum`."""
    form = partial(_total, alpha=alpha, gamma=gamma)
    composition = partial(varifocal, alpha=alpha, gamma=gamma)
    return elementwise_sum(x, (form,), composition, y, weight=weight, mask=mask, scale=scale)


def _total(
    x: Tensor,
    y: Tensor,
    *,
    alpha: float,
    gamma: float,
    weight: Weight,
    scale: float,
    out: Tensor | None,
) -> float | None:
    if not is_ordinary(x):
        return None
    exponent: Any = rounded(gamma, x.dtype)
    s = sides(x, y, ordinary=True)
    z = torch.addcmul(s.v, s.w, s.t)
    power = over_n(s, z).pow_(exponent).mul_(y.ceil().sub_(1).mul_(-alpha))
    factor = power + y
    cross_entropy = s.l.addcmul_(s.v, s.a)
    slope = None
    if out is not None:
        # ce' n = v - w t and (log q)' n = (v - w) t / z, of which z is 0 for no ordinary logit.
        inner = torch.addcmul(s.v, s.w, s.t, value=-1).mul_(factor)
        focusing = s.t.div_(z).mul_(s.v.sub_(s.w)).mul_(cross_entropy).mul_(power)
        slope = over_n(s, inner.add_(focusing, alpha=exponent)).mul_(s.sign())
    return total_of(factor.mul_(cross_entropy), slope, weight, scale, out)
