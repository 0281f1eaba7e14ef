"""Focal losses that are exact for every gamma, in every precision."""

from parfocal.losses.sigmoid import SigmoidFocalLoss, sigmoid_focal_loss

__all__ = ["SigmoidFocalLoss", "sigmoid_focal_loss"]
__version__ = "0.1.0"
