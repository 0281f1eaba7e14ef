"""The sum of a softmax focal loss over rows of class logits, in one pass over blocks of rows.

The probabilities of a block are written into the memory of its gradient, where they become it:

    q = sum of p_j over j != t        e = q / p_t, the odds against the true class t
    dL/dx_j = -(dL/du) p_j / q        dL/dx_t = dL/du

The probability of t is set aside before the others are summed: q is never 1 - p_t.
"""

from collections.abc import Iterator, Sequence
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
        total, scale = 0.0, self.scale * factor
        of_rows = list(tensors)
        if x.ndim > 2:  # one dimension of pixels
            x = x.flatten(2)
            of_rows = [None if given is None else given.flatten(1) for given in tensors]
            out = None if out is None else out.flatten(2)
        for logits, rows in _blocks(x):
            index, weight, gamma = (
                None if given is None else given[rows].unsqueeze(1) for given in of_rows
            )
            part = _block(
                x[logits],
                cast(Tensor, index),
                weight,
                cast(Gamma, self.gamma if gamma is None else gamma),
                scale,
                None if out is None else out[logits],
            )
            if not abs(part) < torch.inf:
                return None
            total += part
        return scale * total

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


def _block(
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    gamma: Gamma,
    scale: float,
    out: Tensor | None,
) -> float:
    """The sum over a block, and its gradient into `out`; index and weight are (N, 1, ...)."""
    p = out
    if p is None or p.dtype != torch.float32:
        p = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    torch.softmax(x.float(), 1, out=p)
    own = p.gather(1, index)
    others = p.scatter_(1, index, 0.0).sum(1, keepdim=True)
    terms = odds(others.double().div_(own))
    factor = terms.factor(gamma)
    if weight is not None:
        factor.mul_(weight)
    total = (factor * terms.cross_entropy).sum().item()
    if out is not None:
        slope = terms.slope(gamma).mul_(factor).mul_(scale)
        # Where all others have underflown so has the slope, and any finite quotient will do.
        p.mul_(slope / others.clamp_(min=torch.finfo(torch.float32).tiny))
        p.scatter_(1, index, slope.neg_())
        if out is not p:
            out.copy_(p)
    return total


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
