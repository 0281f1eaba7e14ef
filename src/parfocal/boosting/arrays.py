"""Arrays of the libraries as tensors, and what is asked of numbers and labels."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def as_tensor(values: ArrayLike) -> Tensor:
    """In float64, sharing memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def as_weights(name: str, weights: ArrayLike | None, like: Tensor) -> Tensor | None:
    """A weight for each sample, if there are any."""
    if weights is None:
        return None
    tensor = as_tensor(weights)
    if tensor.shape != like.shape[:1]:
        raise ValueError(
            f"{name}: expected `sample_weight` of shape ({len(like)},), got {tuple(tensor.shape)}"
        )
    return tensor


def is_number(value: object) -> bool:
    """Whether it is a real number of Python or NumPy; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def class_factors(name: str, alpha: Any) -> tuple[float, ...] | None:
    """A factor for each class, as floats."""
    if alpha is None:
        return None
    is_sequence = isinstance(alpha, Sequence | np.ndarray) and not isinstance(alpha, str)
    if not is_sequence or len(np.shape(alpha)) != 1 or not all(map(is_number, list(alpha))):
        raise ValueError(f"{name}: expected `alpha` to be a factor for each class, got {alpha!r}")
    factors = tuple(map(float, alpha))
    if len(factors) < 2 or not all(0 <= factor < math.inf for factor in factors):
        raise ValueError(f"{name}: expected a finite `alpha` >= 0 for each class, got {alpha!r}")
    return factors


def check_labels(name: str, labels: Tensor, expected: str, counts: Tensor) -> None:
    """A label that is none would be taken for another: arrays of NumPy cost nothing to look at."""
    if not bool(counts.all()):
        wrong = float(labels[~counts][0])
        raise ValueError(f"{name}: expected labels {expected}, got {wrong:g}")


def or_none(weights: Any) -> Any:
    """None for the empty array by which XGBoost says that there are no weights."""
    return weights if weights is not None and len(weights) else None
