"""XGBoost's classifier with a focal loss."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from parfocal.boosting.arrays import Floats
from parfocal.boosting.classifier import (
    class_weights,
    classes_of,
    objective_of,
    places,
    product,
    start_of,
    temporarily,
)
from parfocal.boosting.objective import Hessian

# What XGBoost itself writes into `objective` for two classes, for more, and none.
_OWN = (None, "binary:logistic", "multi:softprob")

# Of a saved booster, which has the labels.
_ATTRIBUTE = "parfocal_classes"


class FocalXGBClassifier(xgboost.XGBClassifier):
    """`xgboost.XGBClassifier` with the exact focal loss, for two or more classes, any labels.

    Args:
        gamma: Focusing exponent, >= 0. At 0 it is the log loss. For XGBoost's own `gamma` use its
            other name, `min_split_loss`.
        alpha: For two classes, the weight of the second of `classes_`, in [0, 1]; the first gets
            1 - alpha. For more classes, a factor for each. None turns it off.
        hessian: Which second derivative XGBoost gets; see `FocalObjective`.
        class_weight: "balanced" or a weight for each label, as in scikit-learn.
        others: Those of `xgboost.XGBClassifier`, without `objective`.

    It begins from the best constant, unless you give a `base_score`; for more than two classes this
    needs XGBoost 3.1, and several labels per sample, (N, K), begin from a score of 0. The metric of
    an `eval_set` is the focal loss unless another is given. Labels are saved with the model.

    Raises:
        ValueError: for numbers out of range, an `objective` or `scale_pos_weight`, which XGBoost
            would ignore.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from parfocal.boosting import FocalXGBClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> model = FocalXGBClassifier(gamma=0.5, n_estimators=5, n_jobs=1)
        >>> model.fit(x, y).predict_proba(x).shape
        (150, 3)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | None = None,
        hessian: Hessian = "gauss_newton",
        class_weight: dict[Any, float] | str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.gamma, self.alpha, self.hessian = gamma, alpha, hessian
        self.class_weight = class_weight

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: ArrayLike | None = None,
        base_margin: ArrayLike | None = None,
        eval_set: Any = None,
        xgb_model: Any = None,
        **others: Any,
    ) -> "FocalXGBClassifier":
        """As that of `xgboost.XGBClassifier`; with a `base_margin` or `xgb_model` from there."""
        self._refuse()
        sample_weight = product(sample_weight, class_weights(self.class_weight, y))
        classes, labels = _encoded(y)
        objective = objective_of(len(classes), self.gamma, self.alpha, self.hessian)
        base_score = self.base_score
        begins = base_score is None and base_margin is None and xgb_model is None
        if begins and labels.ndim == 1:
            base_score = _base_score(start_of(objective, labels, sample_weight))
        metric = objective.focal_loss if self.eval_metric is None else self.eval_metric
        sets = None if eval_set is None else [(x, places(y, classes)) for x, y in eval_set]
        self._classes: NDArray[Any] | None = None
        with temporarily(self, objective=objective, base_score=base_score, eval_metric=metric):
            super().fit(
                X,
                labels,
                sample_weight=sample_weight,
                base_margin=base_margin,
                eval_set=sets,
                xgb_model=xgb_model,
                **others,
            )
        if labels.ndim == 1:
            self._classes = classes
        return self

    def predict(self, X: Any, *, output_margin: bool = False, **others: Any) -> Any:
        """As that of `xgboost.XGBClassifier`: labels, or raw scores."""
        result = super().predict(X, output_margin=output_margin, **others)
        return result if output_margin or np.ndim(result) > 1 else self.classes_[result]

    @property
    def classes_(self) -> NDArray[Any]:
        """The sorted labels."""
        classes = getattr(self, "_classes", None)
        return np.arange(self.n_classes_) if classes is None else classes

    def get_xgb_params(self) -> dict[str, Any]:
        """What goes to XGBoost, to which gamma and alpha are other things."""
        params: dict[str, Any] = super().get_xgb_params()
        for name in ("gamma", "alpha", "hessian", "class_weight"):
            params.pop(name, None)
        return params

    def save_model(self, fname: Any) -> None:
        """As that of `xgboost.XGBClassifier`, with the labels."""
        self.get_booster().set_attr(**{_ATTRIBUTE: json.dumps(self.classes_.tolist())})
        super().save_model(fname)

    def load_model(self, fname: Any) -> None:
        """As that of `xgboost.XGBClassifier`, with the labels."""
        super().load_model(fname)
        labels = self.get_booster().attr(_ATTRIBUTE)
        self._classes = None if labels is None else np.array(json.loads(labels))

    def _refuse(self) -> None:
        """What XGBoost would take no notice of."""
        name = type(self).__name__
        if self.objective not in _OWN:
            raise ValueError(f"{name}: expected no `objective`, got {self.objective!r}")
        if self.scale_pos_weight not in (None, 1):
            raise ValueError(
                f"{name}: expected `alpha`, `class_weight` or `sample_weight` instead of "
                f"`scale_pos_weight`, got {self.scale_pos_weight!r}"
            )


def _encoded(y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """The sorted labels, and the place of each sample's, or of all of a sample."""
    classes, index = classes_of(y)
    shape = np.shape(y)
    return classes, index.reshape(shape) if len(shape) == 2 and shape[1] > 1 else index


def _base_score(start: Floats) -> float | list[float]:
    """Scores as XGBoost takes them: of two classes as a probability, of more as they are."""
    return float(expit(start[0])) if len(start) == 1 else start.tolist()
