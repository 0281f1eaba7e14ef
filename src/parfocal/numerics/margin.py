"""The margin: how far the logit of a class is above all others together.

    u_c = x_c - log(sum of exp(x_j) over j != c)        softmax(x)_c = 1 / (1 + exp(-u_c))

so that the binary kernel at (u_c, 1) is the multiclass loss of class c. The sum is taken from its
own largest term on: it lies between 1 and the number of classes, whatever was added to all logits
of a row, and neither it nor its derivatives can overflow or vanish. In exact arithmetic nothing
depends on that largest term, and so nothing is differentiated through it.

Infinite logits count as the largest numbers: their margins are the limits.
"""

import torch
from torch import Tensor

from parfocal.numerics.closed_form import finite


def margin(x: Tensor, index: Tensor) -> Tensor:
    """u of one class a row.

    Args:
        x: logits (N, C, ...), float32 or float64.
        index: class indices (N, ...) in [0, C), int64.

    Returns:
        (N, ...). With a single class, infinity: its probability is 1.
    """
    x = finite(x)
    own = x.gather(1, index.unsqueeze(1)).squeeze(1)
    if x.shape[1] == 1:
        return own + torch.inf
    is_own = _classes(x) == index.unsqueeze(1)
    top, log_sum = _log_sum_exp(x.masked_fill(is_own, -torch.inf))
    return (own - top.squeeze(1)) - log_sum.squeeze(1)


def margins(x: Tensor) -> Tensor:
    """u of every class: (N, C, ...) to (N, C, ...).

    The sum over the others of a class is the sum over all less its own term; that cancels for the
    largest class alone, whose sum is taken over the others themselves.
    """
    x = finite(x)
    if x.shape[1] == 1:
        return x + torch.inf
    top, index = x.detach().max(dim=1, keepdim=True)
    is_top = _classes(x) == index
    second, log_beside_top = _log_sum_exp(x.masked_fill(is_top, -torch.inf))
    terms = (x - top).exp()
    beside_top = terms.masked_fill(is_top, 0.0)
    # The top term is 1, and no other is larger: what remains after the subtraction is not small.
    sums = terms.gather(1, index) + (beside_top.sum(dim=1, keepdim=True) - beside_top)
    return torch.where(is_top, (x - second) - log_beside_top, (x - top) - sums.log())


def _log_sum_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of dim 1, and the logarithm of the sum of exp(x - largest): kept apart.

    Added to the largest, the logarithm would be rounded to its digits. The derivatives are
    quotients of terms and their sum; those of torch.logsumexp are exp(x - result), which feels
    the rounding of the result.
    """
    top = x.detach().amax(dim=1, keepdim=True)
    return top, (x - top).exp().sum(dim=1, keepdim=True).log()


def _classes(x: Tensor) -> Tensor:
    """0, 1, ..., C - 1 along dim 1."""
    count = torch.arange(x.shape[1], device=x.device)
    return count.view(-1, *(1,) * (x.ndim - 2))
