"""The paper's first experiment: the gradient of each loss against the true one."""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.oracle import focal_truth
from parfocal.experiments.losses import Loss, compared_loss
from parfocal.experiments.spec import LOSS_NAMES, LossName

# The paper's points: 100 logits from -38 to 38.
POINTS = 100
LIMIT = 38.0

# The search for a cliff: this many logits up to the limit, then bisection between two of them.
_SEARCH_POINTS = 1 << 16
_SEARCH_LIMIT = 120.0


class Curve(NamedTuple):
    """The gradient of one loss at one target."""

    loss: LossName
    target: int
    logits: Tensor
    gradient: Tensor
    truth: Tensor
    cliff: float | None

    @property
    def nonfinite(self) -> int:
        """How many points have a gradient that is NaN or infinite."""
        return int((~self.gradient.isfinite()).sum())

    @property
    def largest_relative_error(self) -> float:
        """Over the points at which the gradient is finite and the truth a normal number."""
        truth, gradient = self.truth, self.gradient.double()
        counts = gradient.isfinite() & (truth.abs() >= torch.finfo(self.gradient.dtype).tiny)
        error = ((gradient - truth) / truth).abs()[counts]
        return error.max().item() if error.numel() else 0.0


class GradientStudy(NamedTuple):
    """The curves of all losses at both targets, and the settings they were made with."""

    gamma: float
    alpha: float
    dtype: str
    curves: tuple[Curve, ...]


def gradient_study(
    gamma: float = 0.5, alpha: float = 0.5, dtype: torch.dtype = torch.float64
) -> GradientStudy:
    """Evaluate the three losses at the paper's logits; the defaults are the paper's."""
    logits = torch.linspace(-LIMIT, LIMIT, POINTS, dtype=torch.float64).to(dtype)
    curves = []
    for target in (1, 0):
        share = alpha if target else 1 - alpha
        truth = share * focal_truth(logits.double().tolist(), float(target), gamma).gradient.hi
        for name in LOSS_NAMES:
            loss = compared_loss(name, alpha=alpha, gamma=gamma, reduction="sum")
            curves.append(
                Curve(
                    loss=name,
                    target=target,
                    logits=logits.double(),
                    gradient=_gradient(loss, logits, target),
                    truth=truth,
                    cliff=smallest_nonfinite(loss, dtype, target),
                )
            )
    return GradientStudy(gamma, alpha, str(dtype).removeprefix("torch."), tuple(curves))


def smallest_nonfinite(loss: Loss, dtype: torch.dtype, target: int) -> float | None:
    """The smallest |logit| up to 120, on the target's own side, whose gradient isn't finite.

    A linear search finds the first interval in which the gradient stops being finite, and
    bisection finds the exact number. None where every gradient is finite.
    """
    sign = 1 if target else -1
    grid = torch.linspace(0, _SEARCH_LIMIT, _SEARCH_POINTS, dtype=torch.float64).to(dtype).unique()
    broken = ~_gradient(loss, sign * grid, target).isfinite()
    if not broken.any():
        return None
    first = int(broken.int().argmax())
    if first == 0:
        return float(grid[0])
    finite, cliff = grid[first - 1], grid[first]
    while (middle := (finite.double() + cliff.double()).div(2).to(dtype)) not in (finite, cliff):
        is_finite = _gradient(loss, (sign * middle).reshape(1), target).isfinite().item()
        finite, cliff = (middle, cliff) if is_finite else (finite, middle)
    return float(cliff)


def _gradient(loss: Loss, logits: Tensor, target: int) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, torch.full_like(leaf, target)), leaf)
    return gradient
