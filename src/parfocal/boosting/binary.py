"""The binary objective."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from parfocal.boosting import rows, start
from parfocal.boosting.arrays import Floats, as_tensor, as_weights, check_labels, is_number
from parfocal.boosting.objective import Hessian, Objective
from parfocal.numerics import HardLoss, SoftLoss


class FocalObjective(Objective):
    r"""Binary focal loss for gradient boosting, exact at every gamma >= 0.

    With ``p = sigmoid(score)`` and ``p_t = y p + (1 - y)(1 - p)``::

        L = alpha_t (1 - p_t) ** gamma (-y log p - (1 - y) log(1 - p))

    Args:
        gamma: Focusing exponent, >= 0. At 0 it is the log loss.
        alpha: Weight of positives, in [0, 1]; negatives get ``1 - alpha``. None turns it off.
        hessian: Which second derivative the booster gets. The true one is negative at hard samples,
            and boosters divide by its sum over a leaf.

            - ``"gauss_newton"``, the default, drops the curvature of the modulating factor. At
              labels 0 and 1 the loss is a function of the cross-entropy, and
              ``dL/dce ce'' = p |L'|`` remains: never negative, without a constant, and exact at
              gamma 0. Gradient and second derivative are then those of the log loss with the weight
              dL/dce at each sample. So each round is one of log loss, and what is known about its
              settings (``min_child_weight``, the step of a leaf) still holds. At labels in between
              it is ``q ** gamma (ce'' + gamma r ** 2 ce)`` with q = 1 - p_t and r = (log q)', which
              is the same at 0 and 1.
            - ``"exact"``: the true one. XGBoost and LightGBM may then divide by a sum near 0.
            - ``"absolute"``: its absolute value, which is 0 where the sign changes.
            - ``"floor"``: the true one, but at least 0.01 of Gauss-Newton's.

    Labels are numbers in [0, 1], one per sample, (N,), or several, (N, K); others are refused. The
    same object works with each library:

    ==========  ============================================================================
    XGBoost     ``XGBClassifier(objective=o, base_score=o.base_score(y))``
                ``xgboost.train({"base_score": o.initial_score(y)}, ..., obj=o)``
    LightGBM    ``LGBMClassifier(objective=o).fit(X, y, init_score=numpy.full(len(y), s))``,
                and ``s`` added to raw predictions; ``lightgbm.train({"objective": o}, ...)``
    CatBoost    ``CatBoostClassifier(loss_function=o, eval_metric=o.catboost_metric)``
    ==========  ============================================================================

    `FocalXGBClassifier`, `FocalLGBMClassifier` and `FocalCatBoostClassifier` do this for you.

    Accuracy: gradient within 4 + 2 gamma ULP of the true one in float64 at labels 0 and 1, second
    derivative within half as much again of the sum of the absolute values of its terms.

    Example:
        >>> import numpy as np
        >>> from parfocal.boosting import FocalObjective
        >>> objective = FocalObjective(gamma=0.5)
        >>> gradient, hessian = objective(np.array([1, 0]), np.array([20.0, -1.0]))
        >>> gradient
        array([-1.40364344e-13,  1.98854322e-01])

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = None,
        hessian: Hessian = "gauss_newton",
    ) -> None:
        super().__init__(gamma, hessian)
        if alpha is not None and not (is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"FocalObjective: expected `alpha` in [0, 1] or None, got {alpha!r}")
        self.alpha = None if alpha is None else float(alpha)

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and second derivative in the raw score, by the policy."""
        y, x = _arrays(y_true, score)
        loss, sign = self._loss(y, x)
        gradient = loss.slope if sign is None else sign * loss.slope
        second = self._policy(lambda: loss.curvature, loss.gauss_newton)
        factor = self._factor(y, sample_weight)
        if factor is not None:
            gradient, second = gradient * factor, second * factor
        return gradient.numpy(), second.numpy()

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        y, x = _arrays(y_true, score)
        loss, factor = self._loss(y, x)[0].value, self._factor(y, None)
        return (loss if factor is None else loss * factor).numpy()

    def initial_score(self, y_true: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The constant score with the smallest loss, where boosting should begin.

        At gamma 0 without alpha it is the log odds of the positives.
        """
        y = as_tensor(y_true)
        _check(y)
        labels, weights = _totals(y, sample_weight)
        if not (weights @ labels > 0 and weights @ (1 - labels) > 0):
            raise ValueError("FocalObjective.initial_score: expected samples of both classes")

        def rises(score: Tensor) -> Tensor:
            gradient, _ = self.derivatives(labels, score.expand(len(labels)), weights)
            return torch.tensor(gradient.sum() > 0)

        far = torch.tensor(start.FAR, dtype=torch.float64)
        return float(start.bisect(rises, -far, far))

    def base_score(self, y_true: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The initial score as a probability, as XGBoost's estimators take it."""
        return 1 / (1 + math.exp(-self.initial_score(y_true, sample_weight)))

    def probabilities(self, score: ArrayLike) -> Floats:
        """Probabilities of negatives and positives, (N, 2), as ``predict_proba`` returns them."""
        x = as_tensor(score)
        return torch.stack([(-x).sigmoid(), x.sigmoid()], 1).numpy()

    @property
    def catboost_metric(self) -> str:
        """CatBoost's own log loss, as its ``eval_metric``, from which it learns the labels."""
        return "Logloss"

    def calc_ders_range(self, approxes: Floats, targets: Floats, weights: Floats | None) -> Floats:
        """As CatBoost asks for them: of what is to be made larger, in pairs.

        It asks for 500 rows at a time, for which a compiled loop is many times faster than calls
        of arrays. It is compiled where numba is installed.
        """
        if rows.IS_COMPILED:
            return rows.binary(approxes, targets, weights, self.gamma, self.alpha, self.hessian)
        gradient, second = self.derivatives(targets, approxes, weights)
        return -np.stack([gradient, second], 1)

    def _loss(self, y: Tensor, x: Tensor) -> tuple[HardLoss | SoftLoss, Tensor | None]:
        """The loss; at labels 0 and 1 of the margin of the true class, whose sign comes with it."""
        sign = 2 * y - 1
        if bool((sign.abs() == 1).all()):
            return HardLoss(sign * x, self.gamma), sign
        return SoftLoss(x, y, self.gamma), None

    def _factor(self, y: Tensor, sample_weight: ArrayLike | None) -> Tensor | None:
        """alpha_t times the weight, or None if both are 1."""
        weight = as_weights("FocalObjective", sample_weight, y)
        if weight is not None and y.ndim == 2:
            weight = weight.unsqueeze(1)
        if self.alpha is None:
            return weight
        alpha_t = self.alpha * y + (1 - self.alpha) * (1 - y)
        return alpha_t if weight is None else alpha_t * weight


def _arrays(y_true: ArrayLike, score: ArrayLike) -> tuple[Tensor, Tensor]:
    """Labels and scores."""
    y, x = as_tensor(y_true), as_tensor(score)
    if y.shape != x.shape or y.ndim not in (1, 2):
        raise ValueError(
            f"FocalObjective: expected labels and scores of the same shape, (N,) or (N, K), got "
            f"{tuple(y.shape)} and {tuple(x.shape)}"
        )
    _check(y)
    return y, x


def _check(y: Tensor) -> None:
    check_labels("FocalObjective", y, "in [0, 1]", (y >= 0) & (y <= 1))


def _totals(y: Tensor, sample_weight: ArrayLike | None) -> tuple[Tensor, Tensor]:
    """Each label once, with the sum of its weights."""
    weight = as_weights("FocalObjective", sample_weight, y)
    labels, index = y.unique(return_inverse=True)
    weight = torch.ones_like(y) if weight is None else weight
    return labels, torch.zeros_like(labels).index_add_(0, index, weight)
