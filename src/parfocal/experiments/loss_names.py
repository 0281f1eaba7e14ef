"""The names of the three losses that every experiment compares, for those who only show them."""

from typing import Literal, get_args

LossName = Literal["original", "smoothed", "exact"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)

# The smoothing constant of the paper.
SMOOTHING = 1e-3

DESCRIPTIONS = {
    "original": "torchvision.ops.sigmoid_focal_loss",
    "smoothed": f"the paper's, (1 - p_t + {SMOOTHING:g}) ** gamma",
    "exact": "parfocal.sigmoid_focal_loss",
}
