"""Focal losses that are exact for every gamma, in every precision."""

from parfocal.losses.asymmetric import asymmetric_loss
from parfocal.losses.gaussian import gaussian_focal_loss
from parfocal.losses.matching import focal_matching_cost
from parfocal.losses.normalizer import positive_count
from parfocal.losses.poly import poly_focal_loss
from parfocal.losses.prior import init_prior_bias_
from parfocal.losses.quality import quality_focal_loss
from parfocal.losses.sigmoid import SigmoidFocalLoss, sigmoid_focal_loss
from parfocal.losses.softmax import SoftmaxFocalLoss, softmax_focal_loss
from parfocal.losses.tversky import (
    sigmoid_focal_tversky_loss,
    sigmoid_tversky_loss,
    softmax_focal_tversky_loss,
    softmax_tversky_loss,
)
from parfocal.losses.unified import (
    sigmoid_asymmetric_unified_focal_loss,
    sigmoid_unified_focal_loss,
    softmax_asymmetric_unified_focal_loss,
    softmax_unified_focal_loss,
)
from parfocal.losses.varifocal import varifocal_loss

__all__ = [
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "asymmetric_loss",
    "focal_matching_cost",
    "gaussian_focal_loss",
    "init_prior_bias_",
    "poly_focal_loss",
    "positive_count",
    "quality_focal_loss",
    "sigmoid_asymmetric_unified_focal_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_tversky_loss",
    "sigmoid_tversky_loss",
    "sigmoid_unified_focal_loss",
    "softmax_asymmetric_unified_focal_loss",
    "softmax_focal_loss",
    "softmax_focal_tversky_loss",
    "softmax_tversky_loss",
    "softmax_unified_focal_loss",
    "varifocal_loss",
]
__version__ = "0.1.0"
