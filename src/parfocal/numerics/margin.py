"""The margin: how far the logit of a class is above all others together.

    u_c = x_c - log(sum of exp(x_j) over j != c)        softmax(x)_c = 1 / (1 + exp(-u_c))

so that the binary kernel at (u_c, 1) is the multiclass loss of class c. Beside u the kernel gets
t = exp(-|u|), from the sum itself and from differences without their rounding: an exponential of
the rounded u would be off by |u| ULP and more.

The sum is taken from its own largest term on: it lies between 1 and the number of classes,
whatever was added to all logits of a row, and neither it nor its derivatives can overflow or
vanish. In exact arithmetic nothing depends on which term that is; of all classes together nothing
is differentiated through it. Of one class, with b the sum of the terms beside the largest,

    log(sum) = top + log1p(b)                   the slope of top is 1 - b / (1 + b)
             = top0 + log(exp(top - top0) + b)  its curvature is a slope less its square

at top0 = top. Where b is small the first form is used, which leaves nothing to cancel in the
curvature; where b > 1, among many classes that are alike, the second, whose slope doesn't cancel.

Infinite logits count as the largest numbers, in the margins of the others too, whose limits these
are. A class that is ruled out, by -inf or by the +inf of another, has the margin -inf.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from parfocal.numerics.closed_form import finite


class Margin(NamedTuple):
    """u, and t = exp(-|u|), which is a constant to autograd."""

    u: Tensor
    t: Tensor


def margin(x: Tensor, index: Tensor) -> Margin:
    """u and t of one class a row.

    Args:
        x: logits (N, C, ...), float32 or float64.
        index: class indices (N, ...) in [0, C), int64.

    Returns:
        Each (N, ...). With a single class u is infinite: its probability is 1.
    """
    index = index.unsqueeze(1)
    logits, x = x.detach(), finite(x)
    own = x.gather(1, index).squeeze(1)
    if x.shape[1] == 1:
        return _certain(own)
    is_own = _is_class(x, index)
    others = x.masked_fill(is_own, -torch.inf)
    top, place = others.max(dim=1, keepdim=True)
    fixed = top.detach()
    is_crowded = (others.detach() - fixed).exp().sum(dim=1, keepdim=True) > 2
    base = torch.where(is_crowded, fixed, top)
    beside = (others - base).masked_fill(_is_class(x, place), -torch.inf).exp().sum(dim=1)
    is_crowded, step = is_crowded.squeeze(1), (top - fixed).squeeze(1)
    log_others = torch.where(is_crowded, (step.exp() + beside).log(), torch.log1p(beside))
    is_ruled_out = _is_ruled_out(logits.gather(1, index), logits.gather(1, place)).squeeze(1)
    return _margin(own, base.squeeze(1), log_others, 1 + beside.detach(), is_ruled_out)


def margins(x: Tensor) -> Margin:
    """u and t of every class: (N, C, ...) to (N, C, ...).

    The sum over the others of a class is the sum over all less its own term; that cancels for the
    largest class alone, whose sum is taken over the others themselves.
    """
    logits, x = x.detach(), finite(x)
    if x.shape[1] == 1:
        return _certain(x)
    top, index = x.detach().max(dim=1, keepdim=True)
    is_top = _is_class(x, index)
    second, of_top = _sum_exp(x.masked_fill(is_top, -torch.inf))
    terms = (x - top).exp()
    beside_top = terms.masked_fill(is_top, 0.0)
    # The top term is 1, and no other is larger: what remains after the subtraction is not small.
    sums = terms.gather(1, index) + (beside_top.sum(dim=1, keepdim=True) - beside_top)
    others = torch.where(is_top, of_top, sums)
    is_ruled_out = _is_ruled_out(logits, logits.gather(1, index))
    return _margin(x, torch.where(is_top, second, top), others.log(), others, is_ruled_out)


def _sum_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of dim 1, and the sum of exp(x - largest)."""
    top = x.detach().amax(dim=1, keepdim=True)
    return top, (x - top).exp().sum(dim=1, keepdim=True)


def _margin(
    own: Tensor, top: Tensor, log_others: Tensor, others: Tensor, is_ruled_out: Tensor
) -> Margin:
    """u = own - top - log_others, the logarithm of the others, summed relative to top.

    exp(-u) is formed from the halves of own - top, none of which is subnormal where t is normal,
    and corrected by the rounding of that difference, which Knuth's two-sum gives.
    """
    ahead = own - top
    fixed = ahead.detach()
    back = own.detach() - fixed
    error = (own.detach() - (fixed + back)) + (back - top.detach())
    error = torch.where(error.isfinite(), error, 0.0)
    half = torch.exp(-fixed.abs() / 2)
    total = others.detach()
    u = ahead - log_others + torch.where(is_ruled_out, -torch.inf, 0.0)
    product = torch.where(fixed > 0, total * half * half, total / half / half)
    return Margin(u, torch.where(u >= 0, product * (1 - error), (1 + error) / product))


def _certain(x: Tensor) -> Margin:
    """The margin of a class that is the only one: its probability is 1."""
    return Margin(x + torch.inf, torch.where(x.isnan(), x.detach(), 0.0))


def _is_ruled_out(logit: Tensor, top: Tensor) -> Tensor:
    """Whether a class has probability 0, by its own logit or by the largest of the others."""
    return (logit == -torch.inf) & (top > -torch.inf) | (logit < torch.inf) & (top == torch.inf)


def _is_class(x: Tensor, index: Tensor) -> Tensor:
    """Of each class along dim 1 of x, whether the index (N, 1, ...) is it."""
    if type(x) not in (Tensor, Parameter):  # a DTensor, say, is compared with its like alone
        return torch.zeros_like(x, dtype=torch.bool).scatter(1, index, True)
    classes = torch.arange(x.shape[1], device=x.device)
    return classes.view(-1, *(1,) * (x.ndim - 2)) == index
