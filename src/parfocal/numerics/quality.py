"""The quality focal loss, |p - y| ** beta times the cross-entropy of a soft label.

From the side to which the logit points, in the notation of `closed_form`,

    |p - y| = |v - w t| / n      d|p - y|/da = t / n ** 2 (v - w t) / |v - w t|
    dL/da   = |p - y| ** beta (beta t ce / (n (v - w t)) + (v - w t) / n)

which at a hard label is the focal loss. At p = y all of it is 0, for beta > 1 in truth.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import is_ordinary
from parfocal.numerics.closed_form import difference, over_n, sides
from parfocal.numerics.elementwise_sum import Weight, elementwise_sum, total_of


def quality(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """The loss of each element, as a composition; y of the dtype of x, in [0, 1]."""
    hard = focal(x, torch.where((y == 0) | (y == 1), y, 0.0), beta)
    distance = difference(x, y)
    # |.| ** beta is differentiated where it isn't 0 alone, and where the label is soft.
    is_soft = (y > 0) & (y < 1)
    counts = is_soft & (distance != 0)
    base = torch.where(counts, distance.abs(), 1.0)
    soft = torch.where(counts, base**beta * focal(x, y, 0.0), 0.0)
    return torch.where(is_soft, soft, hard)


def quality_sum(
    x: Tensor,
    y: Tensor,
    beta: float,
    *,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight L; None where |x| is large, else as `elementwise_sum`."""
    form, composition = partial(_total, beta=beta), partial(quality, beta=beta)
    return elementwise_sum(x, (form,), composition, y, weight=weight, mask=mask, scale=scale)


def _total(
    x: Tensor, y: Tensor, *, beta: float, weight: Weight, scale: float, out: Tensor | None
) -> float | None:
    if not is_ordinary(x):
        return None
    exponent: Any = rounded(beta, x.dtype)
    s = sides(x, y, ordinary=True)
    signed = torch.addcmul(s.v, s.w, s.t, value=-1)
    distance = over_n(s, signed)
    factor = distance.abs().pow_(exponent)
    cross_entropy = s.l.addcmul_(s.v, s.a)
    slope = None
    if out is not None:
        # At p = y the quotient is one of zeros; any number will do, for beta = 1 it has to be 0.
        inner = s.r.div_(signed).nan_to_num_(0.0, 0.0, 0.0)
        slope = inner.mul_(cross_entropy).mul_(exponent).add_(distance).mul_(factor).mul_(s.sign())
    return total_of(factor.mul_(cross_entropy), slope, weight, scale, out)
