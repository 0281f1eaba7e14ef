"""What the objectives have in common: parameters, policies, the signatures of the libraries."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from parfocal.boosting.arrays import Floats, is_number, or_none

Hessian = Literal["gauss_newton", "exact", "absolute", "floor"]

# Of the policy `floor`, as a share of what Gauss-Newton gives.
FLOOR = 1e-2


class Objective:
    """A loss of labels and raw scores, as each library asks for it."""

    # CatBoost would compile each method by itself, without its numbers.
    no_jit = True

    def __init__(self, gamma: float = 2.0, hessian: Hessian = "gauss_newton") -> None:
        name = type(self).__name__
        if not (is_number(gamma) and 0 <= gamma < math.inf):
            raise ValueError(f"{name}: expected `gamma` >= 0, got {gamma!r}")
        if hessian not in get_args(Hessian):
            known = ", ".join(get_args(Hessian))
            raise ValueError(f"{name}: expected `hessian` to be one of {known}, got {hessian!r}")
        self.gamma, self.hessian = float(gamma), hessian

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and second derivative in the raw score, by the policy."""
        raise NotImplementedError

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        raise NotImplementedError

    def probabilities(self, score: ArrayLike) -> Floats:
        """Probabilities (N, C), as ``predict_proba`` returns them."""
        raise NotImplementedError

    def __call__(
        self, y_true: ArrayLike, y_pred: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """As the ``objective`` of the estimators of XGBoost and LightGBM.

        ``xgboost.train`` and ``lightgbm.train`` call an objective with scores and then their data,
        which have the labels; this works too.
        """
        if hasattr(y_pred, "get_label"):
            return self._of_data(y_true, y_pred)
        return self.derivatives(y_true, y_pred, sample_weight)

    def xgboost(self, predt: ArrayLike, dtrain: Any) -> tuple[Floats, Floats]:
        """As ``obj`` of ``xgboost.train``."""
        return self._of_data(predt, dtrain)

    def lightgbm(self, preds: ArrayLike, train_data: Any) -> tuple[Floats, Floats]:
        """As the ``objective`` among the parameters of ``lightgbm.train``."""
        return self._of_data(preds, train_data)

    def focal_loss(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """The mean loss, as ``eval_metric`` of XGBoost's estimators; smaller is better."""
        weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        losses = self.loss(y_true, y_pred)
        return float(np.average(losses.reshape(len(losses), -1).mean(1), weights=weights))

    def xgboost_metric(self, predt: ArrayLike, dmatrix: Any) -> tuple[str, float]:
        """The mean loss, as ``custom_metric`` of ``xgboost.train``."""
        weight = or_none(dmatrix.get_weight())
        return "focal_loss", self.focal_loss(dmatrix.get_label(), predt, weight)

    def lightgbm_metric(
        self, y_true: ArrayLike, y_pred: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[str, float, bool]:
        """The mean loss, as ``eval_metric`` of the fit of LightGBM's estimators.

        ``lightgbm.train`` calls its ``feval`` with scores and data, which works too.
        """
        if hasattr(y_pred, "get_label"):
            y_true, y_pred, sample_weight = y_pred.get_label(), y_true, y_pred.get_weight()
        return "focal_loss", self.focal_loss(y_true, y_pred, sample_weight), False

    @property
    def catboost_metric(self) -> str:
        """CatBoost's own log loss, as its ``eval_metric``, from which it learns the labels."""
        raise NotImplementedError

    @property
    def catboost_focal_loss(self) -> "MeanLoss":
        """The mean loss, as ``eval_metric`` of CatBoost, which needs its ``class_names`` then."""
        return MeanLoss(self)

    def _of_data(self, scores: ArrayLike, data: Any) -> tuple[Floats, Floats]:
        return self.derivatives(data.get_label(), scores, or_none(data.get_weight()))

    def _policy(self, exact: Callable[[], Tensor], gauss_newton: Tensor) -> Tensor:
        """The second derivative that a booster gets."""
        match self.hessian:
            case "exact":
                return exact()
            case "absolute":
                return exact().abs()
            case "floor":
                return torch.maximum(exact(), FLOOR * gauss_newton)
        return gauss_newton

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class MeanLoss:
    """The mean loss by CatBoost's protocol."""

    no_jit = True

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def evaluate(
        self, approxes: Any, target: ArrayLike, weight: ArrayLike | None
    ) -> tuple[float, float]:
        """Sums of the losses and of the weights."""
        scores = np.array(approxes, dtype=np.float64)
        losses = self.objective.loss(target, scores[0] if len(scores) == 1 else scores.T)
        weights = np.ones_like(losses) if weight is None else np.array(weight)
        return float((losses * weights).sum()), float(weights.sum())

    def is_max_optimal(self) -> bool:
        """Smaller is better."""
        return False

    def get_final_error(self, error: float, weight: float) -> float:
        """The mean."""
        return error / max(weight, 1e-300)
