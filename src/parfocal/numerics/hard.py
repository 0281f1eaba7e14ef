"""The focal loss of a hard target in float32, from the odds against it in float64.

With u the margin of the true class and e = exp(-u) the odds against it,

    q = e / (1 + e)      p = 1 / (1 + e)      ce = log1p(e)
    L   = q ** gamma * ce
    L'  = -q ** gamma (gamma p ce + q)
    L'' = q ** gamma p (gamma ce (gamma p - q) + (2 gamma + 1) q)

In float64 this is the textbook's form, with none of the care that `closed_form` takes: what
float64 loses is far below an ULP of float32, so that q and p are right to half of one. It is the
cheaper form too: no side of the logit has to be told from the other.

Logits from 88 on, where e overflows in float32, infinities and NaN leave a sum that is no finite
number. That and soft targets are left to `closed_form`, which takes all of a tensor then: no
result depends on where a block ends.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import Gamma
from parfocal.numerics.data import Evaluation, Number

# Nothing here is itself differentiated: the memory of a term that has been used takes the next one.
# Small tensors are bound by the number of calls, and a Python number costs half a call to convert.


@functools.lru_cache(maxsize=64)
def constant(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Python number as a tensor; as itself it costs three times as much in a product."""
    return torch.tensor(value, dtype=dtype, device="cpu")


class OddsTerms(NamedTuple):
    """The terms of the loss, in float32: q is 1 - p_t; n is 1 + e, in float64."""

    q: Tensor
    n: Tensor
    cross_entropy: Tensor

    def take_p(self) -> Tensor:
        """p_t, in the memory of n, once."""
        return self.n.reciprocal_().float()

    def factor(self, gamma: Gamma) -> Tensor:
        """q ** gamma."""
        return torch.pow(self.q, gamma)

    def slope(self, gamma: Gamma) -> Tensor:
        """-(dL/du) / q ** gamma = gamma p ce + q, in the memory of q and n."""
        focusing = self.take_p().mul_(self.cross_entropy)
        if isinstance(gamma, Tensor):
            return self.q.addcmul_(focusing, gamma)
        return self.q.add_(focusing, alpha=gamma)


def terms_from_odds(e: Tensor) -> OddsTerms:
    """The terms at odds in float64, whose memory they take."""
    cross_entropy = e.float().log1p_()
    n = e + constant(1.0, torch.float64)
    return OddsTerms(e.div_(n).float(), n, cross_entropy)


class HardTarget(NamedTuple):
    """A target of 0 or 1: its other, 1 - y, and its direction, -du/dx = 1 - 2 y."""

    y: Tensor
    other: Tensor
    direction: Tensor

    def odds(self, x: Tensor) -> Tensor:
        """exp(-u), in float64."""
        return (self.direction * x).double().exp_()

    def alpha_t(self, alpha: Number) -> Tensor:
        """alpha at positives, 1 - alpha at negatives, in the memory of `other`."""
        if isinstance(alpha, Tensor):
            return self.other.mul_(1 - alpha) + alpha * self.y
        return self.other.mul_(constant(1 - alpha)).add_(self.y, alpha=alpha)


def hard_target(y: Tensor) -> HardTarget | None:
    """The targets, if all of them are 0 or 1: no term of the sum of y (1 - y) is negative."""
    other, y = constant(1.0) - y, y.contiguous()
    if torch.dot(y, other).item() != 0:
        return None
    return HardTarget(y, other, other - y)


def evaluate(
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    alpha: Number | None = None,
    *,
    weight: Tensor | None = None,
    needs_slope: bool,
) -> Evaluation | None:
    """weight alpha_t L and its slope in x; None for soft targets."""
    target = hard_target(y)
    if target is None:
        return None
    terms = terms_from_odds(target.odds(x))
    factor = terms.factor(gamma)
    if alpha is not None:
        factor.mul_(target.alpha_t(alpha))
    if weight is not None:
        factor.mul_(weight)
    slope = terms.slope(gamma).mul_(factor).mul_(target.direction) if needs_slope else None
    return Evaluation(factor.mul_(terms.cross_entropy), slope)


def value(x: Tensor, y: Tensor, gamma: Gamma) -> Tensor | None:
    """L, or None if this form isn't the right one."""
    evaluation = evaluate(x, y, gamma, needs_slope=False)
    return (
        evaluation.value if evaluation is not None and evaluation.value.sum().isfinite() else None
    )


def slope(x: Tensor, y: Tensor, gamma: Gamma) -> Tensor | None:
    """dL/dx, or None if this form isn't the right one."""
    evaluation = evaluate(x, y, gamma, needs_slope=True)
    return (
        evaluation.slope if evaluation is not None and evaluation.value.sum().isfinite() else None
    )
