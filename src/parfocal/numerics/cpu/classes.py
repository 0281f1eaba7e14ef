"""The sum of a softmax focal loss over rows of class logits, in one pass over blocks of rows.

The probabilities of a block, up to a factor of each row, are written into the memory of its
gradient, where they become it:

    q = sum of p_j over j != t        e = q / p_t, the odds against the true class t
    dL/dx_j = -(dL/du) p_j / q        dL/dx_t = dL/du

The probability of t is set aside before the others are summed: q is never 1 - p_t.

A term exp(x_j - max) feels the rounding of the difference, which of a spread d is up to 2 ** -24 d;
that is d ULP where the result is just below a power of two. A sum of positive terms is off by no
more than the worst of them and its own rounding, and q ** (1 + gamma) by 1 + gamma times that:
(1 + gamma)(8 + d + log2(C) / 2) ULP, the 8 for exponentials, power and products, and half an ULP
for each level of the sum.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, round_exponent
from parfocal.numerics.cpu.blocks import Block, blocks, is_finite, multiply, scale_of
from parfocal.numerics.cpu.memory import fresh
from parfocal.numerics.cpu.threads import in_parallel
from parfocal.numerics.data import ClassKernel
from parfocal.numerics.hard import terms_from_odds

# Up to there exp(x) is far from the ends of float32, and so are sums of it.
_MODERATE = 40.0

# Rows up to which torch's softmax leaves most of a vector empty; on maps it is slow at any length.
_SHORT = 32

# Logits of a block for each thread: what is done a row is little beside them.
_BLOCK = 2**20

# Into `out`, positive numbers in the ratios of the probabilities; whether that could be done.
Terms = Callable[[Tensor, Tensor], bool]


class _Rows(NamedTuple):
    """What is summed: logits (N, C) or (N, C, S), and of each row its class and its weight.

    gamma: a number, or one a row. out: memory of the gradient, if there is one.
    """

    x: Tensor
    labels: Tensor
    weight: Tensor | None
    gamma: Gamma
    out: Tensor | None

    def flatten(self) -> "_Rows":
        """The same with one dimension of pixels."""
        x, labels, weight, gamma, out = self
        return _Rows(
            x.flatten(2),
            labels.flatten(1),
            None if weight is None else weight.flatten(1),
            gamma.flatten(1) if isinstance(gamma, Tensor) else gamma,
            None if out is None else out.flatten(2),
        )

    def block(self, block: Block) -> "_Rows":
        """Some of the rows, with a dimension of one class."""
        images, pixels = block
        of_logits = (images,) if self.x.ndim == 2 else (images, slice(None), pixels)
        of_rows = (images,) if self.x.ndim == 2 else (images, pixels)
        index, weight, gamma = (
            column[of_rows].unsqueeze(1) if isinstance(column, Tensor) else column
            for column in (self.labels, self.weight, self.gamma)
        )
        out = None if self.out is None else self.out[of_logits]
        return _Rows(self.x[of_logits], index, weight, gamma, out)  # type: ignore[arg-type]


def class_sum(
    loss: ClassKernel,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    divisor: float | Tensor,
    needs_gradient: bool,
    incoming: Tensor | None = None,
) -> tuple[Tensor, Tensor | None] | None:
    """The sum of weight L over rows, over the divisor; its gradient in x, times the incoming one.

    None for smoothing, or if a row has no odds; arguments as in `sums.class_sum`.
    """
    scale = scale_of(divisor, incoming)
    if (
        loss.smoothing
        or scale is None
        or x.dtype == torch.float64
        or x.numel() == 0
        or x.shape[1] < 2
    ):
        return None
    x = x.contiguous()
    gradient = fresh(x.shape, x.dtype) if needs_gradient else None
    rows = _Rows(x, index, weight, round_exponent(loss.gamma, torch.float32), gradient)
    if x.ndim > 2:
        rows = rows.flatten()
    pieces = blocks(len(x), rows.x.shape[2] if x.ndim > 2 else 1, width=x.shape[1], most=_BLOCK)
    is_short = x.ndim > 2 or x.shape[1] <= _SHORT
    for terms in (_exponentials, _probabilities) if is_short else (_probabilities,):
        sums = in_parallel(partial(_sum_of_block, terms, rows, scale), pieces, x.numel())
        if sums is not None:
            return torch.full((), scale * sum(sums), dtype=torch.float32, device="cpu"), gradient
    return None


def class_values(*_: object) -> None:
    """None: a composition takes the blocks of `pointwise`."""


def class_rescale(
    loss: ClassKernel,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    divisor: float | Tensor,
    kept: Tensor,
    incoming: Tensor,
) -> Tensor:
    """The finished gradient times the incoming one; made again where it can't be multiplied."""
    gradient = multiply(kept, incoming)
    if gradient is None:
        evaluation = class_sum(loss, x, index, weight, divisor, True, incoming)
        assert evaluation is not None
        gradient = evaluation[1]
    assert gradient is not None
    return gradient


def _exponentials(x: Tensor, out: Tensor) -> bool:
    """exp(x) as it is, if no logit is large: nothing is subtracted, and nothing rounded for it."""
    low, high = x.aminmax()
    if not (low.item() >= -_MODERATE and high.item() <= _MODERATE):
        return False
    torch.exp(x, out=out)
    return True


def _probabilities(x: Tensor, out: Tensor) -> bool:
    """The same, relative to its sum over the classes."""
    torch.softmax(x, 1, out=out)
    return True


def _sum_of_block(terms: Terms, rows: _Rows, scale: float, block: Block) -> float | None:
    """The sum over a block, and its gradient into `out`; None if such terms aren't right for it."""
    x, index, weight, gamma, out = rows.block(block)
    p = out
    if p is None or p.dtype != torch.float32:
        p = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    if not terms(x.float(), p):
        return None
    true_class = p.gather(1, index)
    other_classes = p.scatter_(1, index, 0.0).sum(1, keepdim=True)
    odds = terms_from_odds(other_classes.double().div_(true_class))
    factor = odds.factor(gamma)
    if weight is not None:
        factor.mul_(weight)
    total = (factor * odds.cross_entropy).sum().item()
    if not is_finite(total):
        return None
    if out is not None:
        slope = odds.slope(gamma).mul_(factor).mul_(scale)
        # Where all others have underflown so has the slope, and any finite quotient will do.
        quotient = slope / other_classes.clamp_(min=torch.finfo(torch.float32).tiny)
        if terms is _exponentials and _is_lost(quotient, slope):
            return None
        p.mul_(quotient)
        p.scatter_(1, index, slope.neg_())
        if out is not p:
            out.copy_(p)
    return total


def _is_lost(quotient: Tensor, slope: Tensor) -> bool:
    """Whether a slope over a large sum is no normal number."""
    tiny = torch.finfo(quotient.dtype).tiny
    low = quotient.abs().amin().item()
    return low < tiny and bool(((quotient.abs() < tiny) & (slope != 0)).any())
