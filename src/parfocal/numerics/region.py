"""The Tversky index of a region, by its complement, from the margins of its pixels.

With s the logistic function, u the margin of a pixel and y its target,

    TP = sum of y s(u)      FN = sum of y s(-u)      FP = sum of (1 - y) s(u)
    E  = alpha FN + beta FP                          what is wrong
    G  = TP + smooth                                 what is right
    1 - T = E / (G + E) = 1 / (1 + G / E)

No complement is ever formed by subtraction, and in the last form neither is a derivative: G grows
where E shrinks. A power k < 1 of it is singular at E = 0 only, and E is 0 only where the region is
empty; but far into a perfect prediction E underflows. There every term has a factor exp(-|u|), so
that E = exp(-c) E', with E' summed from exp(c - |u|), and

    (1 - T) ** k = exp(-c) ** k / (exp(-c) + G / E') ** k.

So may G where nothing is added to it, and has a scale of its own then.

Where E and G are sums in float64, the power P = (1 - T) ** k and its derivatives are closed forms,

    P = (E / (E + G)) ** k
    dP/dE = k P G / (E (E + G))      dP/dG = -k P / (E + G)

where E and G are positive; elsewhere P is constant, 1 if anything is wrong and else 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import round_exponent, sides

# E' >= exp(-_NEAR) for one pixel, and its power -2 is finite for a million of them in float32.
_NEAR = 20.0

# Of 1 in the leading digits of an exponent.
_STEPS = 1024


class Regions(NamedTuple):
    """E, G and k of regions of one shape; E and G in float64."""

    wrong: Tensor
    right: Tensor
    exponent: float | Tensor

    @property
    def is_regular(self) -> Tensor:
        """Where both are positive, or not a number."""
        return ~((self.wrong <= 0) | (self.right <= 0))

    def power(self) -> Tensor:
        """P."""
        regular = (self.wrong / (self.wrong + self.right)) ** self.exponent
        return torch.where(self.is_regular, regular, (self.wrong > 0).to(regular.dtype))

    def slopes(self) -> tuple[Tensor, Tensor]:
        """dP/dE and dP/dG."""
        whole = self.wrong + self.right
        of_right = torch.where(self.is_regular, -self.exponent * self.power() / whole, 0.0)
        of_wrong = torch.where(self.is_regular, -of_right * self.right / self.wrong, 0.0)
        return of_wrong, of_right


class Power(NamedTuple):
    """Which power: the weights of FN and FP in E, both >= 0, what is added to G, and k > 0."""

    alpha: float
    beta: float
    smooth: float
    exponent: float | Tensor

    def round(self, dtype: torch.dtype) -> "Power":
        """As its numbers take part in a computation."""
        alpha, beta, smooth, exponent = (round_exponent(number, dtype) for number in self)
        return Power(float(alpha), float(beta), float(smooth), exponent)

    def regions(self, sums: Tensor | Sequence[Tensor]) -> Regions:
        """From FN, FP and TP."""
        missed, wrongly, right = sums
        wrong = self.alpha * missed + self.beta * wrongly
        return Regions(wrong, right + self.smooth, self.exponent)


def composed_power(
    u: Tensor,
    y: Tensor,
    mask: Tensor | None,
    dims: tuple[int, ...],
    power: Power,
) -> Tensor:
    """(1 - T) ** exponent, differentiable any number of times in u.

    Args:
        u: margins of the pixels, float32 or float64.
        y: targets in [0, 1], of the shape and dtype of u.
        mask: True where a pixel counts, of the shape of u; all count if None.
        dims: the dimensions of a region, over which is summed.
        power: which power; its exponent is a number, or a tensor that broadcasts to the result.

    Returns:
        u without `dims`. A region of which nothing counts has 0; one without TP, where smooth is
        0, has 1.
    """
    if u.numel() == 0:  # of which nothing counts
        return u.sum(dim=dims)
    alpha, beta, smooth, k = power
    # Not by as_tensor, which would have a compiler ask for the value of a symbol.
    exponent = (
        k.to(u) if isinstance(k, Tensor) else torch.full((), k, dtype=u.dtype, device=u.device)
    )
    s = sides(u, y)
    w, v = s.w, s.v
    if mask is not None:
        w, v = torch.where(mask, w, 0.0), torch.where(mask, v, 0.0)
    # With a factor t = exp(-|u|), and without: where the margin has the wrong sign.
    right = torch.lerp(beta * w, alpha * w, s.h)
    wrong = torch.lerp(alpha * v, beta * v, s.h)

    c, t = _scale_down(s.a, near=wrong, far=right, dims=dims)
    e = ((right * t + wrong) / s.n).sum(dim=dims)
    if smooth == 0:  # what is right may be far too, where a target is soft or a pixel wrong
        near, far = w * s.h, v * (1 - s.h)
        c_right, t_right = _scale_down(s.a, near=near, far=far, dims=dims)
        g = ((far * t_right + near) / s.n).sum(dim=dims)
        c, missing = (c - c_right).clamp(min=0.0), (c_right - c).clamp(min=0.0)
    else:
        g, missing = (torch.lerp(v * s.t, w, s.h) / s.n).sum(dim=dims) + smooth, None

    is_regular = ~((e <= 0) | (g <= 0))  # NaN stays
    limit = (e > 0).to(u.dtype)  # where nothing is right all is wrong, if anything counts at all
    g, e = torch.where(is_regular, g, 1.0), torch.where(is_regular, e, 1.0)
    # Around the point itself, where log(G / E) = h0 and d = exp(h - h0) - 1 = 0, the base is
    # b (1 + T d). Autograd's own power would feel the rounding of its exponent -k - 1, and its
    # result may underflow where the derivative doesn't.
    ratio = (g / e).detach()
    if missing is not None:
        ratio = ratio * torch.exp(-missing)
    base = torch.exp(-c) + ratio
    h = g.log() - e.log()
    d = torch.expm1(h - h.detach())
    result = base**-exponent * torch.exp(-exponent * torch.log1p(ratio / base * d))
    # The product of c, a whole number, with few digits of k is exact; with the others it is small.
    digits = (exponent * _STEPS).floor() / _STEPS  # at most k: no infinity beside a 0
    scale = torch.exp(-digits * c) * torch.exp((digits - exponent) * c)
    return torch.where(is_regular, result * scale, limit)


def _scale_down(
    a: Tensor, near: Tensor, far: Tensor, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """c of each region, and exp(c - a), for a sum of near + far exp(-a).

    c is a whole number, so that c - a is exact, and 0 where anything is near.
    """
    distance = torch.where(near > 0, 0.0, torch.where(far > 0, a.detach(), torch.inf))
    c = (distance.amin(dim=dims, keepdim=True) - _NEAR).clamp(min=0.0).floor()
    c = torch.where(c.isinf(), 0.0, c)
    # Where a pixel has no part in `far`, c is no bound of its distance, and exp might overflow.
    return c.squeeze(dims), torch.where(far > 0, c - a, 0.0).exp()
