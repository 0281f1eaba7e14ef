"""LightGBM's classifier with a focal loss."""

from collections.abc import Sequence
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import ArrayLike

from parfocal.boosting.arrays import Floats
from parfocal.boosting.classifier import (
    AnyObjective,
    NamedMetric,
    class_weights,
    classes_of,
    error,
    log_loss,
    objective_of,
    places,
    product,
    repeat,
    start_of,
    temporarily,
)
from parfocal.boosting.objective import Hessian

# LightGBM's own take raw scores for probabilities beside an objective that isn't its own. At labels
# that are classes all of these are the log loss.
_LOG_LOSSES = {"logloss", "binary_logloss", "binary", "multi_logloss", "multiclass", "softmax"} | {
    "cross_entropy", "xentropy", "kullback_leibler", "kldiv"
}  # fmt: skip
_ERRORS = {"error", "binary_error", "multi_error"}
_MISREAD = {"multiclassova", "multiclass_ova", "ova", "ovr", "cross_entropy_lambda", "xentlambda"}

# Names of a parameter that LightGBM takes for one another.
_OBJECTIVES = ("objective", "objective_type", "app", "application", "loss")
_METRICS = ("metric", "metrics", "metric_types")

# What belongs to LightGBM's own losses, which it wouldn't tell, and what to take instead.
_DROPPED = {
    **dict.fromkeys(
        ("is_unbalance", "unbalance", "unbalanced_sets"), (False, "`alpha` or `class_weight`")
    ),
    "scale_pos_weight": (1, "`alpha` or `class_weight`"),
    "pos_bagging_fraction": (1, "`bagging_fraction`"),
    "neg_bagging_fraction": (1, "`bagging_fraction`"),
    "sigmoid": (1, "scores as they are"),
}


class FocalLGBMClassifier(lightgbm.LGBMClassifier):
    """`lightgbm.LGBMClassifier` with the exact focal loss, for two classes or more.

    Args:
        gamma: Focusing exponent, >= 0. At 0 it is the log loss.
        alpha: For two classes, the weight of the second of `classes_`, in [0, 1]; the first gets
            1 - alpha. For more classes, a factor for each. None turns it off.
        hessian: Which second derivative LightGBM gets; see `FocalObjective`.
        others: Those of `lightgbm.LGBMClassifier`, without `objective`. `class_weight` is its own.
            A random forest doesn't boost, and is refused.

    It begins from the best constant, which is stored in the leaves of the first tree, as with
    LightGBM's own losses: `booster_` and files have it too. Linear trees and
    `boost_from_average=False` begin from a score of 0. `predict_proba` gives probabilities. The
    metric of an `eval_set` is the focal loss unless another is given; LightGBM's log losses and
    errors would read raw scores as probabilities, so they are calculated here.

    Raises:
        ValueError: for numbers out of range, an `objective`, and what LightGBM would ignore:
            `is_unbalance`, `scale_pos_weight`, `sigmoid`, bagging by class.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from parfocal.boosting import FocalLGBMClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> model = FocalLGBMClassifier(gamma=0.5, n_estimators=5, n_jobs=1, verbose=-1)
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
        **others: Any,
    ) -> None:
        self.gamma, self.alpha, self.hessian = gamma, alpha, hessian
        super().__init__(**others)

    def fit(  # type: ignore[override]
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        init_score: ArrayLike | None = None,
        eval_set: Any = None,
        *,
        eval_init_score: Any = None,
        eval_metric: Any = None,
        init_model: Any = None,
        **others: Any,
    ) -> "FocalLGBMClassifier":
        """As that of `lightgbm.LGBMClassifier`; with an `init_score` or `init_model` from there."""
        self._refuse()
        classes, index = classes_of(y)
        objective = objective_of(len(classes), self.gamma, self.alpha, self.hessian)
        if others.get("eval_y") is not None:  # whose labels LightGBM 4.7 leaves as they are
            indices = tuple(places(labels, classes) for labels in _each(others["eval_y"]))
            others |= {"eval_X": _each(others.get("eval_X")), "eval_y": indices}
        sizes = _sizes(eval_set, others.get("eval_y"))
        params = self.get_params()
        from_best = params.get("boost_from_average", True) and not params.get("linear_tree")
        begins = init_score is None and init_model is None and from_best
        if begins:
            weight = product(sample_weight, class_weights(self.class_weight, y))
            start = start_of(objective, index, weight)
            init_score = repeat(start, len(index))
            if sizes and eval_init_score is None:
                eval_init_score = [repeat(start, size) for size in sizes]
        self._focal: AnyObjective = objective
        self._objective: Any = objective
        with temporarily(self, objective=objective):
            super().fit(
                X,
                y,
                sample_weight,
                init_score,
                eval_set,
                eval_init_score=eval_init_score,
                eval_metric=self._asked_metrics(objective, eval_metric) if sizes else None,
                init_model=init_model,
                **others,
            )
        if begins:
            _add_to_first_trees(self.booster_, start)
        return self

    def predict(  # type: ignore[override]
        self,
        X: Any,
        raw_score: bool = False,
        **others: Any,
    ) -> Any:
        """As that of `lightgbm.LGBMClassifier`: labels, or what is asked for."""
        if _asks_for_trees(raw_score, others):
            return super().predict_proba(X, raw_score, **others)
        scores = np.asarray(super().predict_proba(X, raw_score=True, **others))
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)]

    def predict_proba(  # type: ignore[override]
        self,
        X: Any,
        raw_score: bool = False,
        **others: Any,
    ) -> Any:
        """As that of `lightgbm.LGBMClassifier`: probabilities (N, C), or what is asked for."""
        if _asks_for_trees(raw_score, others):
            return super().predict_proba(X, raw_score, **others)
        scores = super().predict_proba(X, raw_score=True, **others)
        return self._focal.probabilities(scores)

    def _refuse(self) -> None:
        """What LightGBM would take no notice of."""
        name, params = type(self).__name__, self.get_params()
        for parameter in _OBJECTIVES:
            if params.get(parameter) is not None:
                raise ValueError(f"{name}: expected no `{parameter}`, got {params[parameter]!r}")
        for parameter, (neutral, instead) in _DROPPED.items():
            if params.get(parameter, neutral) != neutral:
                raise ValueError(
                    f"{name}: expected {instead} instead of `{parameter}`, "
                    f"got {params[parameter]!r}"
                )
        if params.get("boosting", self.boosting_type) in ("rf", "random_forest"):
            raise ValueError(f"{name}: expected a `boosting_type` that boosts, got a random forest")

    def _asked_metrics(self, objective: AnyObjective, asked: Any) -> list[Any]:
        """Those that are asked for, here or as `metric`; else the focal loss."""
        params = self.get_params()
        metrics = [
            *_listed(asked),
            *(one for name in _METRICS for one in _listed(params.get(name))),
        ]
        return [_metric(objective, metric) for metric in metrics or ["focal_loss"]]

    def _process_params(self, stage: str) -> dict[str, Any]:
        """What goes to LightGBM, which knows no gamma; metrics are given to `fit`."""
        params: dict[str, Any] = super()._process_params(stage)
        for name in ("gamma", "alpha", "hessian"):
            params.pop(name)
        if stage == "fit":
            for name in _METRICS:
                params.pop(name, None)
            params["metric"] = None
            # Without a feature that can be split LightGBM refuses objectives that aren't its own.
            params.setdefault("feature_pre_filter", False)
        return params


def _asks_for_trees(raw_score: bool, others: dict[str, Any]) -> bool:
    """Whether it isn't labels or probabilities that are asked for."""
    return bool(raw_score or others.get("pred_leaf") or others.get("pred_contrib"))


def _listed(metrics: Any) -> list[Any]:
    """A metric, several or None as a list."""
    if metrics is None:
        return []
    if isinstance(metrics, str):
        return [name.strip() for name in metrics.split(",")]
    return list(metrics) if isinstance(metrics, list | tuple | set) else [metrics]


def _metric(objective: AnyObjective, metric: Any) -> Any:
    """One for `fit`; what LightGBM calculates from probabilities is calculated from scores."""
    if metric == "focal_loss":
        return objective.lightgbm_metric
    if metric in _LOG_LOSSES:
        return NamedMetric(metric, log_loss)
    if metric in _ERRORS:
        return NamedMetric(metric, error)
    if metric in _MISREAD:
        raise ValueError(
            f"FocalLGBMClassifier: expected a metric of scores or of class probabilities, "
            f"got {metric!r}"
        )
    return metric


def _each(values: Any) -> tuple[Any, ...]:
    """LightGBM takes one for one of many."""
    return values if isinstance(values, tuple) else (values,)


def _sizes(eval_set: Any, eval_y: Any) -> list[int]:
    """How many samples each set has by which it is evaluated."""
    if eval_set is not None:
        pairs = [eval_set] if isinstance(eval_set, tuple) else eval_set
        return [len(labels) for _, labels in pairs]
    return [] if eval_y is None else [len(labels) for labels in eval_y]


def _add_to_first_trees(booster: lightgbm.Booster, start: Floats) -> None:
    """A constant in the leaves of the first tree of each class, as LightGBM keeps its own."""
    trees = booster.dump_model(num_iteration=1)["tree_info"]
    for tree, constant in zip(trees, start, strict=True):
        number = tree["tree_index"]
        for leaf in range(tree["num_leaves"]):
            booster.set_leaf_output(number, leaf, booster.get_leaf_output(number, leaf) + constant)
