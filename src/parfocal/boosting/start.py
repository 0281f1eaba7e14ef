"""The constants from which boosting should begin: the scores of the smallest loss without features.

A constant prediction gives each class c a probability p_c, and a loss of n_c f(p_c) summed over the
classes, with n_c their weights and f(p) = -(1 - p) ** gamma log p. f is convex and falls, at every
gamma >= 0, so at the minimum -n_c f'(p_c) is the same number for each class, and

    -f'(p) = -L'(u) / (p q) = q ** gamma (gamma ce / q + 1 / p)     p = s(u), q = s(-u)

falls in the margin u of the class. Two bisections, one within the other, find it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

# Score beyond which no constant is sought.
FAR = 100.0

# From an interval of 200, and 400 (1 + gamma), to neighbours in float64 around a root of about 1.
_HALVINGS = 80


def bisect(falls_below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a predicate that is false at `low` and true at `high` changes, for each element."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = falls_below(middle)
        low, high = torch.where(is_below, low, middle), torch.where(is_below, middle, high)
    return (low + high) / 2


def best_constants(weights: Tensor, gamma: float) -> Tensor:
    """The scores (C,) of the smallest weighted sum of losses, with a sum of 0."""
    log_weights = (weights / weights.sum()).log()
    far = torch.full_like(log_weights, FAR)
    steepest = torch.tensor(2 * FAR * (1 + gamma), dtype=torch.float64)

    def margins(log_slope: Tensor) -> Tensor:
        """Where -n_c f'(p_c) is exp(log_slope)."""

        def is_below(u: Tensor) -> Tensor:
            ce, log_q = softplus(-u), -softplus(u)
            log_factor = (gamma * ce * (-log_q).exp() + ce.exp()).log()  # of 1 / q and 1 / p
            return log_weights + gamma * log_q + log_factor < log_slope

        return bisect(is_below, -far, far)

    def sum_is_below_1(log_slope: Tensor) -> Tensor:
        return margins(log_slope).sigmoid().sum() < 1

    log_slope = bisect(sum_is_below_1, -steepest, steepest)
    log_p = -softplus(-margins(log_slope))
    return log_p - log_p.mean()
