"""Focal losses that are exact for every gamma, in every precision."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parfocal.guard import FocalGuard
    from parfocal.losses.asymmetric import asymmetric_loss
    from parfocal.losses.balance import alpha_from_counts, label_counts
    from parfocal.losses.gaussian import gaussian_focal_loss
    from parfocal.losses.likelihood import likelihood_focal_loss
    from parfocal.losses.linear import linear_softmax_focal_loss
    from parfocal.losses.matching import focal_matching_cost
    from parfocal.losses.modules import (
        AsymmetricLoss,
        FocalMatchingCost,
        GaussianFocalLoss,
        LikelihoodFocalLoss,
        LinearSoftmaxFocalLoss,
        PolyFocalLoss,
        QualityFocalLoss,
        SigmoidFocalLoss,
        SoftmaxAsymmetricLoss,
        SoftmaxFocalLoss,
        VarifocalLoss,
    )
    from parfocal.losses.poly import poly_focal_loss
    from parfocal.losses.quality import quality_focal_loss
    from parfocal.losses.region_modules import (
        SigmoidAsymmetricUnifiedFocalLoss,
        SigmoidFocalTverskyLoss,
        SigmoidTverskyLoss,
        SigmoidUnifiedFocalLoss,
        SoftmaxAsymmetricUnifiedFocalLoss,
        SoftmaxFocalTverskyLoss,
        SoftmaxTverskyLoss,
        SoftmaxUnifiedFocalLoss,
    )
    from parfocal.losses.scale import gradient_scale, target_margins
    from parfocal.losses.schedule import GammaSchedule
    from parfocal.losses.setup import init_prior_bias_, positive_count
    from parfocal.losses.sigmoid import sigmoid_focal_loss
    from parfocal.losses.softmax import softmax_focal_loss
    from parfocal.losses.softmax_asymmetric import softmax_asymmetric_loss
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
    "AsymmetricLoss",
    "FocalGuard",
    "FocalMatchingCost",
    "GammaSchedule",
    "GaussianFocalLoss",
    "LikelihoodFocalLoss",
    "LinearSoftmaxFocalLoss",
    "PolyFocalLoss",
    "QualityFocalLoss",
    "SigmoidAsymmetricUnifiedFocalLoss",
    "SigmoidFocalLoss",
    "SigmoidFocalTverskyLoss",
    "SigmoidTverskyLoss",
    "SigmoidUnifiedFocalLoss",
    "SoftmaxAsymmetricLoss",
    "SoftmaxAsymmetricUnifiedFocalLoss",
    "SoftmaxFocalLoss",
    "SoftmaxFocalTverskyLoss",
    "SoftmaxTverskyLoss",
    "SoftmaxUnifiedFocalLoss",
    "VarifocalLoss",
    "alpha_from_counts",
    "asymmetric_loss",
    "focal_matching_cost",
    "gaussian_focal_loss",
    "gradient_scale",
    "init_prior_bias_",
    "label_counts",
    "likelihood_focal_loss",
    "linear_softmax_focal_loss",
    "poly_focal_loss",
    "positive_count",
    "quality_focal_loss",
    "sigmoid_asymmetric_unified_focal_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_tversky_loss",
    "sigmoid_tversky_loss",
    "sigmoid_unified_focal_loss",
    "softmax_asymmetric_loss",
    "softmax_asymmetric_unified_focal_loss",
    "softmax_focal_loss",
    "softmax_focal_tversky_loss",
    "softmax_tversky_loss",
    "softmax_unified_focal_loss",
    "target_margins",
    "varifocal_loss",
]
__version__ = "0.1.0"

# The file that defines each name.
_FILES = {
    "AsymmetricLoss": "losses.modules",
    "FocalGuard": "guard",
    "FocalMatchingCost": "losses.modules",
    "GammaSchedule": "losses.schedule",
    "GaussianFocalLoss": "losses.modules",
    "LikelihoodFocalLoss": "losses.modules",
    "LinearSoftmaxFocalLoss": "losses.modules",
    "PolyFocalLoss": "losses.modules",
    "QualityFocalLoss": "losses.modules",
    "SigmoidAsymmetricUnifiedFocalLoss": "losses.region_modules",
    "SigmoidFocalLoss": "losses.modules",
    "SigmoidFocalTverskyLoss": "losses.region_modules",
    "SigmoidTverskyLoss": "losses.region_modules",
    "SigmoidUnifiedFocalLoss": "losses.region_modules",
    "SoftmaxAsymmetricLoss": "losses.modules",
    "SoftmaxAsymmetricUnifiedFocalLoss": "losses.region_modules",
    "SoftmaxFocalLoss": "losses.modules",
    "SoftmaxFocalTverskyLoss": "losses.region_modules",
    "SoftmaxTverskyLoss": "losses.region_modules",
    "SoftmaxUnifiedFocalLoss": "losses.region_modules",
    "VarifocalLoss": "losses.modules",
    "alpha_from_counts": "losses.balance",
    "asymmetric_loss": "losses.asymmetric",
    "focal_matching_cost": "losses.matching",
    "gaussian_focal_loss": "losses.gaussian",
    "gradient_scale": "losses.scale",
    "init_prior_bias_": "losses.setup",
    "label_counts": "losses.balance",
    "likelihood_focal_loss": "losses.likelihood",
    "linear_softmax_focal_loss": "losses.linear",
    "poly_focal_loss": "losses.poly",
    "positive_count": "losses.setup",
    "quality_focal_loss": "losses.quality",
    "sigmoid_asymmetric_unified_focal_loss": "losses.unified",
    "sigmoid_focal_loss": "losses.sigmoid",
    "sigmoid_focal_tversky_loss": "losses.tversky",
    "sigmoid_tversky_loss": "losses.tversky",
    "sigmoid_unified_focal_loss": "losses.unified",
    "softmax_asymmetric_loss": "losses.softmax_asymmetric",
    "softmax_asymmetric_unified_focal_loss": "losses.unified",
    "softmax_focal_loss": "losses.softmax",
    "softmax_focal_tversky_loss": "losses.tversky",
    "softmax_tversky_loss": "losses.tversky",
    "softmax_unified_focal_loss": "losses.unified",
    "target_margins": "losses.scale",
    "varifocal_loss": "losses.varifocal",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: `parfocal --help` then needs no torch."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"parfocal.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What the package exports, also what wasn't asked for yet."""
    return __all__
