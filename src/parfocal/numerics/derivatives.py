"""The loss with both derivatives in float64, for those who need numbers and no graph: boosting."""

from functools import cached_property

import torch
from torch import Tensor


class HardLoss:
    """The focal loss of the margin u of the true class.

    From exp(-|u|), without a subtraction from 1. p, q: of the true class, and of the others.
    cross_entropy: -log p. factor: q ** gamma.
    """

    def __init__(self, u: Tensor, gamma: float) -> None:
        t = u.abs().neg_().exp_()
        n = 1 + t
        smaller, larger = t / n, n.reciprocal_()
        is_right = u > 0
        self.gamma = gamma
        self.q = torch.where(is_right, smaller, larger)
        self.p = torch.where(is_right, larger, smaller)
        self.cross_entropy = t.log1p_().sub_(u.clamp(max=0))
        self.factor = self.q**gamma

    @property
    def value(self) -> Tensor:
        """L."""
        return self.factor * self.cross_entropy

    @cached_property
    def slope(self) -> Tensor:
        """L', which is negative."""
        inner = torch.addcmul(self.q, self.p, self.cross_entropy, value=self.gamma)
        return inner.mul_(self.factor).neg_()

    @property
    def curvature(self) -> Tensor:
        """L'', which is negative at hard samples."""
        gamma, p, q, ce = self.gamma, self.p, self.q, self.cross_entropy
        return self.factor * p * (gamma * ce * (gamma * p - q) + (2 * gamma + 1) * q)

    @property
    def gauss_newton(self) -> Tensor:
        """q ** gamma (ce'' + gamma p ** 2 ce) = p |L'|, which leaves out how the factor bends."""
        return (self.p * self.slope).neg_()


class SoftLoss:
    """The same of a logit x and labels between 0 and 1.

    With s = s(x), o = s(-x), q = y o + (1 - y) s and r = (log q)' = (1 - 2 y) s o / q:

        L'  = q ** gamma (gamma r ce + (1 - y) s - y o)
        L'' = q ** gamma (s o + 2 gamma r ce' + gamma (r' + gamma r ** 2) ce)   r' = r (o - s - r)
    """

    def __init__(self, x: Tensor, y: Tensor, gamma: float) -> None:
        t = x.abs().neg_().exp_()
        n = 1 + t
        smaller, larger = t / n, n.reciprocal_()
        is_above = x > 0
        s, o = torch.where(is_above, larger, smaller), torch.where(is_above, smaller, larger)
        self.gamma, self.s, self.o = gamma, s, o
        differs = torch.where(is_above, 1 - y, y)
        self.cross_entropy = t.log1p_().addcmul_(differs, x.abs())
        self.q = torch.lerp(s, o, y)
        self.factor = self.q**gamma
        self.log_loss_slope = (1 - y) * s - y * o
        # At y = 0 it is o, at y = 1 it is -s: also where q is 0, as s or o is.
        self.r = (1 - 2 * y) * torch.where(y == 0, o, torch.where(y == 1, s, s * o / self.q))

    @property
    def value(self) -> Tensor:
        """L."""
        return self.factor * self.cross_entropy

    @cached_property
    def slope(self) -> Tensor:
        """L'."""
        return self.factor * (self.gamma * self.r * self.cross_entropy + self.log_loss_slope)

    @property
    def curvature(self) -> Tensor:
        """L''."""
        gamma, r = self.gamma, self.r
        of_factor = gamma * r * (self.o - self.s - r + gamma * r) * self.cross_entropy
        return self.factor * (self.s * self.o + 2 * gamma * r * self.log_loss_slope + of_factor)

    @property
    def gauss_newton(self) -> Tensor:
        """q ** gamma (ce'' + gamma r ** 2 ce), at a hard label p |L'|."""
        return self.factor * (self.s * self.o + self.gamma * self.r**2 * self.cross_entropy)
