"""The focal loss of a hard target with its first and second derivative, together, in float64.

With u the margin of the true class, q = 1 / (1 + exp(u)), p = 1 / (1 + exp(-u)), ce = -log p:

    L   = q ** gamma ce
    L'  = -q ** gamma (gamma p ce + q)
    L'' = q ** gamma p (gamma ce (gamma p - q) + (2 gamma + 1) q)

from exp(-|u|), without a subtraction from 1. For those who need numbers and no graph.
"""

import torch
from torch import Tensor


class HardLoss:
    """The terms of the loss at margins in float64.

    p, q: of the true class, and of the others. cross_entropy: -log p. factor: q ** gamma.
    """

    def __init__(self, u: Tensor, gamma: float) -> None:
        t = u.abs().neg_().exp_()
        n = 1 + t
        share, rest = t / n, n.reciprocal_()
        is_right = u > 0
        self.gamma = gamma
        self.q = torch.where(is_right, share, rest)
        self.p = torch.where(is_right, rest, share)
        self.cross_entropy = t.log1p_().sub_(u.clamp(max=0))
        self.factor = self.q**gamma

    def value(self) -> Tensor:
        """L."""
        return self.factor * self.cross_entropy

    def slope(self) -> Tensor:
        """L', which is negative."""
        inner = torch.addcmul(self.q, self.p, self.cross_entropy, value=self.gamma)
        return inner.mul_(self.factor).neg_()

    def curvature(self) -> Tensor:
        """L'', which is negative at hard samples."""
        gamma, p, q, ce = self.gamma, self.p, self.q, self.cross_entropy
        return self.factor * p * (gamma * ce * (gamma * p - q) + (2 * gamma + 1) * q)
