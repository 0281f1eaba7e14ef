"""The three losses that every experiment compares."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from parfocal.losses.sigmoid import sigmoid_focal_loss

LossName = Literal["original", "smoothed", "exact"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)

# The smoothing constant of the paper.
SMOOTHING = 1e-3

DESCRIPTIONS = {
    "original": "torchvision.ops.sigmoid_focal_loss",
    "smoothed": f"the paper's, (1 - p_t + {SMOOTHING:g}) ** gamma",
    "exact": "parfocal.sigmoid_focal_loss",
}

Loss = Callable[[Tensor, Tensor], Tensor]


def compared_loss(name: LossName, *, alpha: float, gamma: float, reduction: str) -> Loss:
    """The loss of that name, as a function of logits and targets."""
    epsilon = SMOOTHING if name == "smoothed" else 0.0

    def original(logits: Tensor, targets: Tensor) -> Tensor:
        return torchvision_loss(logits, targets, alpha, gamma, reduction)  # type: ignore[no-any-return]

    def ours(logits: Tensor, targets: Tensor) -> Tensor:
        return sigmoid_focal_loss(logits, targets, alpha, gamma, reduction, epsilon=epsilon)

    return original if name == "original" else ours
