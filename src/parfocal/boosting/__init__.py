"""Focal losses as objectives of gradient boosting: XGBoost, LightGBM and CatBoost.

Pass `FocalObjective` and `MulticlassFocalObjective` to the libraries. `FocalXGBClassifier`,
`FocalLGBMClassifier` and `FocalCatBoostClassifier` are their classifiers with such an objective,
its best constant as start, and its link; each imports its library on first use.

A booster needs the gradient and the second derivative of the loss in its raw score. They are those
of the margin u of the true class, `+-score` or `x_t - logsumexp(others)`, from the closed forms of
`numerics.derivatives`; the loss of classes has du/dx_t = 1 and du/dx_j = -s_j, s the softmax of the
others.
"""

import importlib
from typing import TYPE_CHECKING, Any

from parfocal import extras

with extras.needs("boosting", "parfocal.boosting"):
    import numpy as _numpy  # noqa: F401 - asked for before the objectives are, to name the extra

from parfocal.boosting.binary import FocalObjective
from parfocal.boosting.multiclass import MulticlassFocalObjective
from parfocal.boosting.objective import Hessian

if TYPE_CHECKING:
    from parfocal.boosting.catboost_classifier import FocalCatBoostClassifier
    from parfocal.boosting.lightgbm_classifier import FocalLGBMClassifier
    from parfocal.boosting.xgboost_classifier import FocalXGBClassifier

__all__ = [
    "FocalCatBoostClassifier",
    "FocalLGBMClassifier",
    "FocalObjective",
    "FocalXGBClassifier",
    "Hessian",
    "MulticlassFocalObjective",
]

_FILES = {
    "FocalCatBoostClassifier": "catboost_classifier",
    "FocalLGBMClassifier": "lightgbm_classifier",
    "FocalXGBClassifier": "xgboost_classifier",
}


def __getattr__(name: str) -> Any:
    """A classifier, with its library."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
