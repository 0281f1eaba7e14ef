"""A power of what is wrong in a region, and its derivatives in closed form.

With E, what is wrong, and G, what is right, as in `region`, both in float64,

    P = (1 - T) ** k = (E / (E + G)) ** k
    dP/dE = k P G / (E (E + G))      dP/dG = -k P / (E + G)

where E and G are positive; elsewhere P is constant, 1 if anything is wrong and else 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.autograd import rounded


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

    def rounded(self, dtype: torch.dtype) -> "Power":
        """As its numbers take part in a computation."""
        alpha, beta, smooth, exponent = (rounded(given, dtype) for given in self)
        return Power(float(alpha), float(beta), float(smooth), exponent)

    def regions(self, sums: Tensor | Sequence[Tensor]) -> Regions:
        """From FN, FP and TP."""
        missed, wrongly, right = sums
        wrong = self.alpha * missed + self.beta * wrongly
        return Regions(wrong, right + self.smooth, self.exponent)
