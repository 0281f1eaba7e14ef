"""The focal loss of a negative log-likelihood L = -log p, in closed form.

With m = -expm1(-L), which is 1 - p without a subtraction, and k = L / expm1(L), in [0, 1],

    F         = m ** gamma L
    F'        = m ** gamma (1 + gamma k)
    F''       = gamma m ** gamma (r (2 + (gamma - 1) k) - k)      r = (log m)' = 1 / expm1(L)
    dF/dgamma = m ** gamma L log m

are sums of terms of one sign up to the first order. Near L = 0, m is L, F is L ** (1 + gamma), and
F' is (1 + gamma) L ** gamma: 0 at L = 0, where the usual code multiplies an infinite m ** (gamma -
1) by L.

F'' is gamma (1 + gamma) L ** (gamma - 1) there: infinite at L = 0 for 0 < gamma < 1. That is true
of F; the derivatives above the first are given as 0 at such an L, which what it depends on can't be
told from. Below tiny ** (1 / 4) they are those at that bound.

A p slightly above 1, by the rounding of what summed its logarithm up, counts as 1: m is 0 for
L < 0. Then F is 0, and L itself for gamma = 0. Below -2 ** -7, L is no logarithm of a probability.
"""

import math

import torch
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, finite
from parfocal.numerics.data import Evaluation

# The least L that is taken for a rounded 0: at which p is 1 + eps of bfloat16.
LEAST = -(2.0**-7)

# From there on exp(-L) is 0 in float64, and derivatives above the first are.
_FAR = 1024.0


def evaluate(
    x: Tensor, gamma: Gamma, weight: Tensor | None = None, *, needs_slope: bool, ordinary: bool
) -> Evaluation:
    """weight F and weight F' of numbers L; not itself differentiated.

    ordinary: that all L are finite and >= 0.
    """
    bounded = x if ordinary else finite(x).clamp(min=0.0)
    m = torch.expm1(-bounded).neg_()
    factor = torch.pow(m, gamma)
    if weight is not None:
        factor.mul_(weight)
    value, slope = factor * x, None
    if needs_slope:
        # 1 at L = 0, also where subnormal numbers are flushed.
        k = torch.exp(-bounded).mul_(bounded).div_(m).nan_to_num_(1.0, 1.0)
        slope = k.mul_(gamma).add_(1.0).mul_(factor)
        if not ordinary:
            slope.masked_fill_(x.isinf(), 0.0).masked_fill_(x.isnan(), torch.nan)
    return Evaluation(value, slope)


def gamma_slope(x: Tensor, gamma: Gamma) -> Tensor:
    """dF/dgamma of numbers L: m ** gamma may be subnormal where its product with L log m isn't."""
    near = finite(x).clamp(min=0.0)
    m = torch.expm1(-near).neg_()
    return m**gamma * (near * _log(m, near))


def compose(x: Tensor, gamma: Gamma) -> Tensor:
    """F as a composition that autograd may differentiate any number of times, in every mode.

    Around L0 = L, with d = L - L0 and E = 1 - exp(-d), which are 0, both 1 - p and log(1 - p) are
    developments in E:

        m = m0 (1 + r E)      F = m0 ** gamma (1 + r E) ** gamma (L0 + d)

    The terms of first order, gamma k E + d, are taken out of the product: k = r L0 is formed at
    once, where r alone may overflow and L0 ** (1 + gamma) underflow. What remains begins with
    second order.
    """
    x = x + torch.where(x.detach() < LEAST, torch.nan, 0.0)
    bounded = finite(x)
    fixed = bounded.detach()
    step = bounded - fixed
    e = -torch.expm1(-step)

    near = fixed.clamp(min=0.0)
    m = -torch.expm1(-near)
    is_0 = m == 0
    k = torch.where(is_0, 1.0, near * torch.exp(-near) / torch.where(is_0, 1.0, m))
    first = fixed + gamma * k * e + step

    bound = torch.finfo(x.dtype).tiny ** 0.25
    inner = near.clamp(min=bound, max=_FAR)
    m_inner = -torch.expm1(-inner)
    r_e = torch.exp(-inner) / m_inner * e
    growth = torch.expm1(gamma * torch.log1p(r_e))
    beyond = inner * (growth - gamma * r_e) + step * growth
    has_limit = (gamma >= 1) & (fixed == 0) if isinstance(gamma, Tensor) else fixed == 0
    if not isinstance(gamma, Tensor) and gamma < 1:
        has_limit = torch.zeros_like(has_limit)
    beyond = torch.where((fixed > 0) | has_limit, beyond, 0.0)

    result = _power(m, near, gamma) * first + _power(m_inner, inner, gamma) * beyond
    return result + torch.where(x.detach() == torch.inf, torch.inf, 0.0)


def _power(m: Tensor, x: Tensor, gamma: Gamma) -> Tensor:
    """m ** gamma of constants m = 1 - exp(-x), differentiable in gamma."""
    if not isinstance(gamma, Tensor):
        return m**gamma
    exponent = gamma * _log(m, x)
    return m ** gamma.detach() * torch.exp(exponent - exponent.detach())


def _log(m: Tensor, x: Tensor) -> Tensor:
    """log m, 0 at m = 0: from x = log 2 on as log1p(-exp(-x)).

    Maechler, "Accurately Computing log(1 - exp(-|a|))", 2012.
    """
    is_small = x < math.log(2)
    of_m = torch.log(torch.where(is_small & (m > 0), m, 1.0))
    return torch.where(is_small, of_m, torch.log1p(-torch.where(is_small, 0.0, torch.exp(-x))))
