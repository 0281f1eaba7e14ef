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

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from parfocal.numerics import closed_form
from parfocal.numerics.autograd import is_watched, rounded
from parfocal.numerics.blocks import is_readable
from parfocal.numerics.closed_form import Gamma
from parfocal.numerics.margin import margin
from parfocal.numerics.memory import keep_temporaries
from parfocal.numerics.odds import odds
from parfocal.numerics.summed import summed

# Up to there exp(x) is far from the ends of float32, and so are sums of it.
_MODERATE = 40.0

# Rows up to which torch's softmax leaves most of a vector empty; on maps it is slow at any length.
_SHORT = 32

# Into `out`, positive numbers in the ratios of the probabilities; whether that could be done.
Terms = Callable[[Tensor, Tensor], bool]

# Logits of a block: 4 MB in float32, that stay in the cache of a processor while they are used.
_BLOCK = 2**20


def class_focal_sum(
    x: Tensor, index: Tensor, gamma: Gamma, weight: Tensor | None = None, scale: float = 1.0
) -> Tensor | None:
    """scale times the sum over rows of weight L, of class indices; None where it has no such pass.

    Args:
        x: logits (N, C, ...), float32 or 16 bits, C > 1.
        index: classes (N, ...) in [0, C), int64.
        gamma: focusing exponent >= 0; a number, or (N, ...) in float32.
        weight: (N, ...) in float32, or None for 1; 0 where a row doesn't count.
        scale: a number, such as 1 / n for a mean.

    Returns:
        A scalar in float32. None in float64, where the logits aren't at hand, and where some are
        so far apart, or not finite, that a row has no odds in float32.
    """
    if not is_readable(x) or x.dtype == torch.float64 or x.shape[1] < 2 or is_watched(x):
        return None
    if isinstance(gamma, Tensor):
        return summed(x.contiguous(), _Weighted(None, scale), index, weight, gamma)
    exponent = float(rounded(gamma, torch.float32))
    return summed(x.contiguous(), _Weighted(exponent, scale), index, weight, None)


class _Weighted(NamedTuple):
    """The arguments of `class_focal_sum`; gamma is None where each row has its own."""

    gamma: float | None
    scale: float

    def total(
        self, x: Tensor, tensors: Sequence[Any], factor: float, out: Tensor | None
    ) -> float | None:
        """factor times the sum, and its gradient into `out`; None if a row has no odds."""
        of_rows = list(tensors)
        if x.ndim > 2:  # one dimension of pixels
            x = x.flatten(2)
            of_rows = [None if given is None else given.flatten(1) for given in tensors]
            out = None if out is None else out.flatten(2)
        scale = self.scale * factor
        is_short = x.ndim > 2 or x.shape[1] <= _SHORT
        for terms in (_exponentials, _probabilities) if is_short else (_probabilities,):
            total = self._sum_of_blocks(terms, x, of_rows, scale, out)
            if total is not None:
                return scale * total
        return None

    def _sum_of_blocks(
        self,
        terms: Terms,
        x: Tensor,
        of_rows: Sequence[Tensor | None],
        scale: float,
        out: Tensor | None,
    ) -> float | None:
        total = 0.0
        for logits, rows in _blocks(x):
            index, weight, gamma = (
                None if given is None else given[rows].unsqueeze(1) for given in of_rows
            )
            part = _block(
                terms,
                x[logits],
                cast(Tensor, index),
                weight,
                cast(Gamma, self.gamma if gamma is None else gamma),
                scale,
                None if out is None else out[logits],
            )
            if part is None:
                return None
            total += part
        return total

    def composed(self, x: Tensor, tensors: Sequence[Any]) -> Tensor:
        """The sum as a composition."""
        index, weight, gamma = tensors
        u, t = margin(x.float(), index)
        loss = closed_form.differentiable_value(
            u,
            torch.ones_like(u),
            gamma if self.gamma is None else self.gamma,
            0.0,
            t,
            target_varies=False,
        )
        return (loss if weight is None else weight * loss).sum() * self.scale


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


def _block(
    terms: Terms,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    gamma: Gamma,
    scale: float,
    out: Tensor | None,
) -> float | None:
    """The sum over a block, and its gradient into `out`; index and weight are (N, 1, ...).

    None if such terms aren't right for it.
    """
    p = out
    if p is None or p.dtype != torch.float32:
        p = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    if not terms(x.float(), p):
        return None
    own = p.gather(1, index)
    others = p.scatter_(1, index, 0.0).sum(1, keepdim=True)
    of_odds = odds(others.double().div_(own))
    factor = of_odds.factor(gamma)
    if weight is not None:
        factor.mul_(weight)
    total = (factor * of_odds.cross_entropy).sum().item()
    if not abs(total) < torch.inf:
        return None
    if out is not None:
        slope = of_odds.slope(gamma).mul_(factor).mul_(scale)
        # Where all others have underflown so has the slope, and any finite quotient will do.
        share = slope / others.clamp_(min=torch.finfo(torch.float32).tiny)
        if terms is _exponentials and _is_lost(share, slope):
            return None
        p.mul_(share)
        p.scatter_(1, index, slope.neg_())
        if out is not p:
            out.copy_(p)
    return total


def _is_lost(share: Tensor, slope: Tensor) -> bool:
    """Whether a slope over a large sum is no normal number."""
    tiny = torch.finfo(share.dtype).tiny
    low = share.abs().amin().item()
    return low < tiny and bool(((share.abs() < tiny) & (slope != 0)).any())


def _blocks(x: Tensor) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Where blocks are, among logits (N, C) or (N, C, S) and among their rows (N) or (N, S).

    Whole images if one fits a block, else runs of the pixels of one.
    """
    keep_temporaries()
    pixels = 1 if x.ndim == 2 else x.shape[2]
    size = max(1, _BLOCK // x.shape[1])
    images = max(1, size // pixels)
    for n in range(0, x.shape[0], images):
        some = slice(n, n + images)
        if x.ndim == 2:
            yield (some,), (some,)
            continue
        for i in range(0, pixels, size):
            run = slice(i, i + size)
            yield (some, slice(None), run), (some, run)
