"""What the classifiers of the three libraries have in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from parfocal.boosting import start
from parfocal.boosting.arrays import Floats, is_number
from parfocal.boosting.binary import FocalObjective
from parfocal.boosting.multiclass import MulticlassFocalObjective

AnyObjective = FocalObjective | MulticlassFocalObjective


def objective_of(classes: int, gamma: Any, alpha: Any, hessian: Any) -> AnyObjective:
    """The objective of so many classes; a single one is taken for negatives."""
    if classes <= 2:
        if alpha is not None and not is_number(alpha):
            raise ValueError(
                f"FocalObjective: expected `alpha` for two classes to be a number in [0, 1], for "
                f"the second of `classes_`, got {alpha!r}"
            )
        return FocalObjective(gamma, alpha, hessian)
    if alpha is not None and (is_number(alpha) or isinstance(alpha, str) or len(alpha) != classes):
        raise ValueError(
            f"MulticlassFocalObjective: expected `alpha` for each of {classes} classes, "
            f"got {alpha!r}"
        )
    return MulticlassFocalObjective(gamma, alpha, hessian)


def classes_of(y: Any) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted labels, and the place of each sample's among them."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.dtype == object:  # of whole numbers, perhaps
        labels = np.asarray(labels.tolist())
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    classes, index = np.unique(labels, return_inverse=True)
    return classes, index.ravel()


def places(y: Any, classes: NDArray[Any]) -> NDArray[np.intp]:
    """The place of each label among the classes."""
    labels = np.asarray(y)
    order = np.argsort(classes)
    found: NDArray[np.intp] = order[
        np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)
    ]
    wrong = labels[classes[found] != labels].tolist()
    if wrong:
        raise ValueError(f"expected labels from {classes.tolist()}, got {wrong[0]!r}")
    return found


def start_of(
    objective: AnyObjective, index: NDArray[Any], sample_weight: ArrayLike | None
) -> Floats:
    """The scores to begin from, (1,) or (C,); of one class alone as far as any is looked for."""
    is_binary = isinstance(objective, FocalObjective)
    count = 2 if is_binary else int(index.max()) + 1
    weight = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    totals = np.bincount(index, weight, minlength=count)
    if not (totals > 0).all():
        far: Floats = np.where(totals > 0, start.FAR, -start.FAR) / 2 * (totals.max() > 0)
        return far[1:] - far[:1] if is_binary else far
    return np.atleast_1d(objective.initial_score(np.arange(count), totals))


def class_weights(class_weight: Any, y: Any) -> Floats | None:
    """The weight of each sample by its class, as scikit-learn has it."""
    if class_weight is None:
        return None
    weights: Floats = compute_sample_weight(class_weight, np.asarray(y))
    return weights


def product(one: ArrayLike | None, other: ArrayLike | None) -> Any:
    """The product of two weights, each of which may be None for 1."""
    if one is None or other is None:
        return other if one is None else one
    return np.asarray(one, np.float64) * np.asarray(other, np.float64)


def repeat(scores: Floats, size: int) -> Floats:
    """The constants for each sample, (N,) or (N, C)."""
    return np.repeat(scores, size) if len(scores) == 1 else np.tile(scores, (size, 1))


def log_loss(y_true: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> float:
    """The mean log loss of raw scores, with the classes of the scores."""
    is_binary = np.ndim(score) == 1 and np.size(score) == np.size(y_true)
    objective = FocalObjective(0.0) if is_binary else MulticlassFocalObjective(0.0)
    return objective.focal_loss(y_true, score, weight)


def error(y_true: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> float:
    """The share of samples whose largest score is that of another class."""
    scores = np.asarray(score)
    is_binary = scores.ndim == 1 and scores.size == np.size(y_true)
    weights = None if weight is None else np.asarray(weight, np.float64)
    label = scores > 0 if is_binary else scores.reshape(np.size(y_true), -1).argmax(1)
    return float(np.average(label != np.asarray(y_true), weights=weights))


class NamedMetric:
    """A metric of raw scores by LightGBM's protocol; smaller is better."""

    def __init__(self, name: str, metric: Callable[..., float]) -> None:
        self.name, self.metric = name, metric

    def __call__(
        self, y_true: ArrayLike, score: ArrayLike, weight: ArrayLike | None
    ) -> tuple[str, float, bool]:
        """Its name, its value, and that smaller is better."""
        return self.name, self.metric(y_true, score, weight), False


@contextmanager
def temporarily(owner: object, **attributes: Any) -> Iterator[None]:
    """The owner has other attributes meanwhile: a fit must not change what was set."""
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
