"""Focal losses that are exact for every gamma, in every precision."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# The file of `parfocal.losses` that defines each name.
_FILES = {
    "SigmoidFocalLoss": "sigmoid",
    "SoftmaxFocalLoss": "softmax",
    "asymmetric_loss": "asymmetric",
    "focal_matching_cost": "matching",
    "gaussian_focal_loss": "gaussian",
    "init_prior_bias_": "prior",
    "poly_focal_loss": "poly",
    "positive_count": "normalizer",
    "quality_focal_loss": "quality",
    "sigmoid_asymmetric_unified_focal_loss": "unified",
    "sigmoid_focal_loss": "sigmoid",
    "sigmoid_focal_tversky_loss": "tversky",
    "sigmoid_tversky_loss": "tversky",
    "sigmoid_unified_focal_loss": "unified",
    "softmax_asymmetric_unified_focal_loss": "unified",
    "softmax_focal_loss": "softmax",
    "softmax_focal_tversky_loss": "tversky",
    "softmax_tversky_loss": "tversky",
    "softmax_unified_focal_loss": "unified",
    "varifocal_loss": "varifocal",
}


def __getattr__(name: str) -> Any:
    """Import a loss when it is first asked for: `parfocal --help` then needs no torch."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"parfocal.losses.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What the package exports, also what wasn't asked for yet."""
    return __all__
