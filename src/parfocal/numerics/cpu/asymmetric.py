"""The asymmetric loss of class indices on the CPU, with its gradient, in blocks of rows.

With top the largest logit of a row, e_c = exp(x_c - top), and rest the sum of all e_c but that of
the top class, which is 1,

    total = 1 + rest        p_c = e_c / total       ce_c = -log p_c = (top - x_c) + log1p(rest)
    q_c = 1 - p_c                                   of the top class rest / total

are sums of numbers of one sign, or differences from 1 of what is at most 1 / 2. The gradient is
that of logarithms: with D_c = dL / d(log p_c), of the wrong classes and of the true one t,

    D_c = y_c p_c ** gamma (gamma ce_c - 1)         D_t = -y_t q ** gamma (gamma p ce / q + 1)
    dL/dx_j = D_j - p_j (sum of D_c)                of the top class D q - p (sum of the others)

p ** gamma is exp(-gamma ce), which may be a normal number where p is none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import round_exponent
from parfocal.numerics.cpu.blocks import Block, blocks
from parfocal.numerics.cpu.memory import fresh
from parfocal.numerics.cpu.threads import in_parallel
from parfocal.numerics.data import AsymmetricKernel

# Logits of a block for each thread, of which a dozen temporaries fit a cache.
_BLOCK = 2**16


class _Rows(NamedTuple):
    """Logits (N, C) or (N, C, S); of each row its class, and memory of its loss and gradient."""

    x: Tensor
    labels: Tensor
    loss: Tensor
    gradient: Tensor | None

    def block(self, block: Block) -> "_Rows":
        """Some of the rows, with a dimension of one class."""
        images, pixels = block
        of_logits = (images,) if self.x.ndim == 2 else (images, slice(None), pixels)
        of_rows = (images,) if self.x.ndim == 2 else (images, pixels)
        gradient = None if self.gradient is None else self.gradient[of_logits]
        labels, loss = (column[of_rows].unsqueeze(1) for column in (self.labels, self.loss))
        return _Rows(self.x[of_logits], labels, loss, gradient)


def asymmetric_values(
    loss: AsymmetricKernel, x: Tensor, index: Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The loss of each row, and its gradient in x.

    None for an exponent that is a tensor, or where a logit isn't finite.

    Args:
        loss: exponents, smoothing and weights of classes.
        x: logits (N, C, ...) in the dtype of the computation.
        index: classes (N, ...) in [0, C), int64.
        needs_gradient: whether there is to be one.
    """
    if isinstance(loss.gamma_neg, Tensor) or isinstance(loss.gamma_pos, Tensor) or not x.numel():
        return None
    x = x.contiguous()
    losses = torch.empty(index.shape, dtype=x.dtype, device="cpu")
    gradient = fresh(x.shape, x.dtype) if needs_gradient else None
    rows = _Rows(x, index, losses, gradient)
    if x.ndim > 2:
        of_maps = None if gradient is None else gradient.flatten(2)
        rows = _Rows(x.flatten(2), index.flatten(1), losses.view(len(x), -1), of_maps)
    pieces = blocks(len(x), rows.x.shape[2] if x.ndim > 2 else 1, width=x.shape[1], most=_BLOCK)

    def work(block: Block) -> bool | None:
        return _write_block(loss, rows.block(block))

    return None if in_parallel(work, pieces, x.numel()) is None else (losses, gradient)


def _write_block(loss: AsymmetricKernel, rows: _Rows) -> bool | None:
    """The losses of a block and their gradient, each into its memory; None if it isn't finite."""
    x, own, out, gradient = rows
    top, place = x.max(dim=1, keepdim=True)
    ce = top - x
    if not ce.sum().isfinite():
        return None
    p = ce.neg().exp_().scatter_(1, place, 0.0)
    rest = p.sum(dim=1, keepdim=True)
    total = 1 + rest
    p.scatter_(1, place, 1.0).div_(total)
    ce.add_(rest.log1p())

    of_true, of_wrong = loss.shares(x)
    gamma_neg, gamma_pos = (round_exponent(g, x.dtype) for g in (loss.gamma_neg, loss.gamma_pos))
    own_ce, own_p, top_q = ce.gather(1, own), p.gather(1, own), rest.div_(total)
    own_q = torch.where(own == place, top_q, 1 - own_p)
    own_factor = own_q**gamma_pos
    if isinstance(of_true, Tensor):
        of_true = of_true.expand(len(x), *of_true.shape[1:]).expand_as(x).gather(1, own)
    own_factor.mul_(of_true)
    factor = (ce * -gamma_neg).exp_().mul_(of_wrong).scatter_(1, own, 0.0)
    torch.sum(factor * ce, dim=1, keepdim=True, out=out)
    out.addcmul_(own_factor, own_ce)
    if gradient is None:
        return True

    # ce / q is 1 where both have underflown, and finite in any case.
    quotient = torch.where(own_q == 0, 1.0, own_ce / own_q)
    own_slope = (quotient.mul_(own_p).mul_(gamma_pos).add_(1.0)).mul_(own_factor).neg_()
    slopes = ce.mul_(gamma_neg).sub_(1.0).mul_(factor).scatter_(1, own, own_slope)
    of_top = slopes.gather(1, place)
    others = slopes.scatter_(1, place, 0.0).sum(dim=1, keepdim=True)
    top_p = p.gather(1, place)
    torch.sub(slopes, p.mul_(others + of_top), out=gradient)
    gradient.scatter_(1, place, of_top.mul_(top_q).sub_(top_p.mul_(others)))
    return True
