"""CatBoost's classifier with a focal loss."""

import os
from collections.abc import Sequence
from typing import Any

import catboost
import numpy as np
from numpy.typing import ArrayLike, NDArray

from parfocal.boosting.arrays import Floats
from parfocal.boosting.classifier import (
    classes_of,
    objective_of,
    places,
    product,
    repeat,
    start_of,
    temporarily,
)
from parfocal.boosting.objective import Hessian

_OURS = ("gamma", "alpha", "hessian")

# How a file names a loss or a metric that isn't CatBoost's own.
_FOREIGN = "PythonUserDefined"

# Of Newton in each leaf of two classes: CatBoost's own, for its log loss in 200 rounds and more.
_LEAF_STEPS = 10


class FocalCatBoostClassifier(catboost.CatBoostClassifier):  # type: ignore[misc]
    """`catboost.CatBoostClassifier` with the exact focal loss, for two classes or more.

    Args:
        gamma: Focusing exponent, >= 0. At 0 it is the log loss.
        alpha: For two classes, the weight of the second of `classes_`, in [0, 1]; the first gets
            1 - alpha. For more classes, a factor for each. None turns it off.
        hessian: Which second derivative CatBoost gets; see `FocalObjective`.
        others: Those of `catboost.CatBoostClassifier`, without `loss_function` and `classes_count`.
            `class_weights` and `auto_class_weights` are its own. For two classes the default of
            `leaf_estimation_iterations` is 10, as for CatBoost's log loss over 200 rounds. The
            `learning_rate` is 0.03 unless given: CatBoost chooses one only for its own losses.

    It begins from the best constant, which is the model's bias: files have it too. `classes_`,
    `predict` and `predict_proba` are as with CatBoost's own losses. The focal loss is the metric of
    an `eval_set` unless another is given. With numba installed the loss is a compiled loop.

    Raises:
        ValueError: for numbers out of range, a `loss_function`, or an `init_model`, whose bias
            CatBoost drops when training continues.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from parfocal.boosting import FocalCatBoostClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> options = {"iterations": 5, "thread_count": 1, "allow_writing_files": False}
        >>> model = FocalCatBoostClassifier(gamma=0.5, verbose=False, **options)
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
        super().__init__(**others)
        self._init_params |= {"gamma": gamma, "alpha": alpha, "hessian": hessian}

    def fit(
        self,
        X: Any,
        y: Any = None,
        cat_features: Any = None,
        text_features: Any = None,
        embedding_features: Any = None,
        graph: Any = None,
        sample_weight: ArrayLike | None = None,
        baseline: ArrayLike | None = None,
        use_best_model: bool | None = None,
        eval_set: Any = None,
        **others: Any,
    ) -> "FocalCatBoostClassifier":
        """As that of `catboost.CatBoostClassifier`; with a `baseline` from there, no `init_model`.

        A `Pool` that has no baseline is copied.
        """
        if isinstance(X, str | os.PathLike):
            X = catboost.Pool(X, column_description=others.get("column_description"))
        if others.get("init_model") is not None:
            raise ValueError(
                "FocalCatBoostClassifier: expected no `init_model`, since CatBoost continues "
                "without its bias; pass its raw scores as the `baseline`"
            )
        params = {name: value for name, value in self._init_params.items() if name not in _OURS}
        self._refuse(params)
        is_pool = isinstance(X, catboost.Pool)
        y_of_all = X.get_label() if is_pool else y
        classes, index = self._classes(y_of_all)
        objective = objective_of(len(classes), *(self._init_params[name] for name in _OURS))
        params |= {"loss_function": objective, "class_names": classes.tolist()}
        if len(classes) <= 2:
            params.setdefault("leaf_estimation_iterations", _LEAF_STEPS)
        if params.get("eval_metric") is None:
            is_evaluated = eval_set is not None or params.get("eval_fraction")
            metric = objective.catboost_focal_loss if is_evaluated else objective.catboost_metric
            params["eval_metric"] = metric
        given = X.get_baseline() if is_pool else baseline
        begins = given is None or not np.size(given)
        if begins:
            weight = X.get_weight() if is_pool else sample_weight
            weight = product(weight, _class_weights(params, classes, index, weight)[index])
            start = start_of(objective, index, weight)
            features = _features(X, params, cat_features, text_features, embedding_features)
            if is_pool:
                X = _with_baseline(X, start)
            else:
                baseline = repeat(start, len(index))
            eval_set = _sets_with_baseline(eval_set, start, features)
        with temporarily(self, _init_params=params, _canonized_params=None):
            super().fit(
                X,
                y,
                cat_features,
                text_features,
                embedding_features,
                graph,
                sample_weight,
                baseline,
                use_best_model,
                eval_set,
                **others,
            )
        if begins:
            scale, bias = self.get_scale_and_bias()
            self.set_scale_and_bias(scale, (np.asarray(bias) + start).tolist())
        return self

    def load_model(self, *arguments: Any, **options: Any) -> Any:
        """As that of `catboost.CatBoostClassifier`; gamma, alpha and hessian aren't saved."""
        ours = {name: self._init_params[name] for name in _OURS}
        super().load_model(*arguments, **options)
        of_file = self._init_params.items()
        own = {name: value for name, value in of_file if not str(value).startswith(_FOREIGN)}
        self._init_params: dict[str, Any] = own | ours
        self._canonized_params = None
        return self

    def grid_search(self, *_: Any, **__: Any) -> Any:
        """CatBoost's own searches don't know gamma."""
        raise NotImplementedError(
            "FocalCatBoostClassifier: expected a scikit-learn search, such as GridSearchCV, "
            "got CatBoost's own, which doesn't know gamma"
        )

    randomized_search = select_features = grid_search

    def get_params(self, **others: Any) -> dict[str, Any]:
        """What was set; the values themselves, which `sklearn.base.clone` wants."""
        return dict(self._init_params)

    def _classes(self, y: Any) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """The labels in the order of `class_names`, or sorted, and the place of each sample's."""
        classes, index = classes_of(y)
        names = self._init_params.get("class_names")
        if names is None:
            return classes, index
        return np.asarray(names), places(y, np.asarray(names))

    def _refuse(self, params: dict[str, Any]) -> None:
        """What is ours to set."""
        for name in ("loss_function", "objective", "classes_count", "boost_from_average"):
            if params.get(name) not in (None, False):
                raise ValueError(
                    f"{type(self).__name__}: expected no `{name}`, got {params[name]!r}"
                )


def _features(X: Any, params: dict[str, Any], *given: Any) -> dict[str, Any]:
    """Which features are categories, texts and embeddings, by the data, the call or the model."""
    names = ("cat_features", "text_features", "embedding_features")
    if isinstance(X, catboost.Pool):
        categories, texts = X.get_cat_feature_indices(), X.get_text_feature_indices()
        given = (categories, texts, X.get_embedding_feature_indices())
    pairs = zip(names, given, strict=True)
    return {name: params.get(name) if one is None else one for name, one in pairs}


def _class_weights(
    params: dict[str, Any],
    classes: NDArray[Any],
    index: NDArray[np.intp],
    sample_weight: ArrayLike | None,
) -> Floats:
    """What CatBoost multiplies the weights of the samples of each class by, but for a factor."""
    given, automatic = params.get("class_weights"), params.get("auto_class_weights")
    if isinstance(given, dict):
        labels = classes.tolist()
        if set(given) != set(labels):
            raise ValueError(
                f"FocalCatBoostClassifier: expected `class_weights` of {labels}, got {given!r}"
            )
        return np.array([given[label] for label in labels], np.float64)
    if given is not None:
        return np.asarray(given, np.float64)
    if automatic in (None, "None"):
        return np.ones(len(classes))
    shares = 1 / np.bincount(index, sample_weight, minlength=len(classes))
    return np.sqrt(shares) if automatic == "SqrtBalanced" else shares


def _with_baseline(pool: catboost.Pool, start: Floats) -> catboost.Pool:
    """A copy that begins from the constants."""
    copied = pool.slice(np.arange(pool.num_row()))
    copied.set_baseline(repeat(start, pool.num_row()))
    return copied


def _sets_with_baseline(eval_set: Any, start: Floats, features: dict[str, Any]) -> Any:
    """What a model is evaluated by, from the constants."""
    if eval_set is None:
        return None
    sets = eval_set if isinstance(eval_set, list) else [eval_set]
    return [_set_with_baseline(one, start, features) for one in sets]


def _set_with_baseline(one: Any, start: Floats, features: dict[str, Any]) -> catboost.Pool:
    """A pool; of one, of a file, or of data and labels."""
    if isinstance(one, catboost.Pool):
        return _with_baseline(one, start)
    if isinstance(one, str | os.PathLike):
        return _with_baseline(catboost.Pool(one), start)
    x, y = one
    return catboost.Pool(x, y, baseline=repeat(start, len(y)), **features)
