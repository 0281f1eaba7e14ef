"""The focal loss of a hard target in float32, from the odds against it in float64.

With u the margin of the true class and e = exp(-u) the odds against it,

    q = e / (1 + e)      p = 1 / (1 + e)      ce = log1p(e)
    L = q ** gamma * ce          dL/du = -q ** gamma (gamma p ce + q)

In float64 this is the textbook's form, with none of the care that `closed_form` takes: what
float64 loses is far below an ULP of float32, so that q and p are right to half of one. It is the
cheaper form too: no side of the logit has to be told from the other.

Logits from 88 on, where e overflows in float32, infinities and NaN leave a total that is no finite
number. That and soft targets are left to `closed_form`, which takes all of a tensor then: no
result depends on where a block ends.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, Share

# Nothing here is itself differentiated: the memory of a term that has been used takes the next one.
# Small tensors are bound by the number of calls, and a Python number costs half a call to convert.
_ONE = torch.ones((), dtype=torch.float32, device="cpu")
_ONE_IN_FLOAT64 = torch.ones((), dtype=torch.float64, device="cpu")


@functools.lru_cache(maxsize=64)
def _number(value: float) -> Tensor:
    """A Python number in float32, which costs three times as much in a product."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


class Odds(NamedTuple):
    """The terms of the loss, in float32: q is 1 - p_t; n is 1 + e, in float64."""

    q: Tensor
    n: Tensor
    cross_entropy: Tensor

    @property
    def p(self) -> Tensor:
        """p_t; the end of n."""
        return self.n.reciprocal_().float()

    def factor(self, gamma: Gamma) -> Tensor:
        """q ** gamma."""
        return torch.pow(self.q, gamma)

    def slope(self, gamma: Gamma) -> Tensor:
        """-(dL/du) / q ** gamma = gamma p ce + q; the end of all three."""
        focusing = self.p.mul_(self.cross_entropy)
        if isinstance(gamma, Tensor):
            return self.q.addcmul_(focusing, gamma)
        return self.q.add_(focusing, alpha=gamma)


def odds(e: Tensor) -> Odds:
    """From e in float64, which ends here."""
    cross_entropy = e.float().log1p_()
    n = e + _ONE_IN_FLOAT64
    return Odds(e.div_(n).float(), n, cross_entropy)


class Target(NamedTuple):
    """A hard target: its other, 1 - y, and its direction, -du/dx = 1 - 2 y."""

    y: Tensor
    other: Tensor
    direction: Tensor

    def odds(self, x: Tensor) -> Odds:
        """Of a logit."""
        return odds((self.direction * x).double().exp_())

    def shares(self, share: float | Tensor) -> Tensor:
        """The factor of each element; the end of `other`."""
        if isinstance(share, Tensor):
            return share
        return self.other.mul_(_number(1 - share)).add_(self.y, alpha=share)


def hard(y: Tensor) -> Target | None:
    """The targets, if all of them are 0 or 1: no term of the sum of y (1 - y) is negative."""
    other, y = _ONE - y, y.contiguous()
    if torch.dot(y, other).item() != 0:
        return None
    return Target(y, other, other - y)


def value(x: Tensor, y: Tensor, gamma: Gamma) -> Tensor | None:
    """L, or None if this form isn't the right one."""
    target = hard(y)
    if target is None:
        return None
    terms = target.odds(x)
    loss = terms.factor(gamma).mul_(terms.cross_entropy)
    return loss if loss.sum().isfinite() else None


def slope(x: Tensor, y: Tensor, gamma: Gamma) -> Tensor | None:
    """dL/dx, or None if this form isn't the right one."""
    target = hard(y)
    if target is None:
        return None
    terms = target.odds(x)
    if not terms.cross_entropy.sum().isfinite():
        return None
    factor = terms.factor(gamma)
    return terms.slope(gamma).mul_(factor).mul_(target.direction)


def total(
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    share: Share,
    weight: Tensor | None,
    scale: float,
    out: Tensor | None,
) -> float | None:
    """The sum of weight share L, and scale times its slope into `out`; None as above."""
    target = hard(y)
    if target is None:
        return None
    terms = target.odds(x)
    factor = terms.factor(gamma)
    if share is not None:
        factor.mul_(target.shares(share))
    if weight is not None:
        factor.mul_(weight)
    if out is not None:
        slope = terms.slope(gamma).mul_(factor)
        torch.mul(slope, target.direction.mul_(_number(scale)), out=out)
    total = factor.mul_(terms.cross_entropy).sum().item()
    return total if abs(total) < torch.inf else None
