"""Focal losses as objectives of gradient boosting: XGBoost, LightGBM and CatBoost.

A booster wants the gradient and the second derivative of the loss in its raw score. They are those
of the margin u of the true class, `+-score` or `x_t - logsumexp(others)`, from the closed forms of
`numerics.hard`; the loss of classes has du/dx_t = 1 and du/dx_j = -s_j, s the softmax of the
others. What a booster gets in the place of a negative second derivative is decided here.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from parfocal import extras
from parfocal.numerics import HardLoss, margin

with extras.needs("boosting", "parfocal.boosting"):
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Hessian = Literal["gauss_newton", "exact", "absolute", "floor"]

Floats = NDArray[np.float64]

# Of the policy `floor`, as a share of what Gauss-Newton gives.
_FLOOR = 1e-2

# Score beyond which no best constant is sought.
_FAR = 100.0


def _is_number(value: object) -> bool:
    """Whether it is a real number of Python or NumPy; a bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


class _Objective:
    """What both have: parameters, policies, and the signatures of the libraries."""

    def __init__(self, gamma: float = 2.0, hessian: Hessian = "gauss_newton") -> None:
        name = type(self).__name__
        if not (_is_number(gamma) and 0 <= gamma < math.inf):
            raise ValueError(f"{name}: expected `gamma` >= 0, got {gamma!r}")
        if hessian not in get_args(Hessian):
            known = ", ".join(get_args(Hessian))
            raise ValueError(f"{name}: expected `hessian` out of {known}, got {hessian!r}")
        self.gamma, self.hessian = float(gamma), hessian

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and second derivative in the raw score, by the policy."""
        raise NotImplementedError

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        raise NotImplementedError

    def __call__(
        self, y_true: ArrayLike, y_pred: Any, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """As the ``objective`` of the estimators of XGBoost and LightGBM.

        ``xgboost.train`` and ``lightgbm.train`` call an objective with scores and then their data,
        which have the labels: that is understood too.
        """
        if hasattr(y_pred, "get_label"):
            scores, data = y_true, y_pred
            return self.derivatives(data.get_label(), scores, _or_none(data.get_weight()))
        return self.derivatives(y_true, y_pred, sample_weight)

    def xgboost(self, predt: ArrayLike, dtrain: Any) -> tuple[Floats, Floats]:
        """As ``obj`` of ``xgboost.train``."""
        return self.derivatives(dtrain.get_label(), predt, _or_none(dtrain.get_weight()))

    def lightgbm(self, preds: ArrayLike, train_data: Any) -> tuple[Floats, Floats]:
        """As the ``objective`` among the parameters of ``lightgbm.train``."""
        return self.derivatives(train_data.get_label(), preds, train_data.get_weight())

    def focal_loss(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """The mean loss, as ``eval_metric`` of XGBoost's estimators; smaller is better."""
        weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        return float(np.average(self.loss(y_true, y_pred), weights=weights))

    def lightgbm_metric(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[str, float, bool]:
        """The mean loss, as ``eval_metric`` of the fit of LightGBM's estimators."""
        return "focal_loss", self.focal_loss(y_true, y_pred, sample_weight), False

    @property
    def catboost_metric(self) -> "_CatBoostMetric":
        """The mean loss, as ``eval_metric`` of CatBoost."""
        return _CatBoostMetric(self)

    def _policy(self, exact: Callable[[], Tensor], positive: Tensor) -> Tensor:
        """The second derivative that a booster gets; `positive` is what Gauss-Newton gives."""
        match self.hessian:
            case "exact":
                return exact()
            case "absolute":
                return exact().abs()
            case "floor":
                return torch.maximum(exact(), _FLOOR * positive)
        return positive

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class FocalObjective(_Objective):
    r"""Binary focal loss for gradient boosting, exact at every gamma >= 0.

    Args:
        gamma: Focusing exponent, >= 0. At 0 it is the log loss.
        alpha: Weight of positives, in [0, 1]; negatives get ``1 - alpha``. None for neither.
        hessian: Which second derivative the booster gets. The true one is negative at hard samples,
            and boosters divide by the sum of a leaf.

            - ``"gauss_newton"``, the default: the loss is a function of the cross-entropy, and its
              own bend is left out: ``dL/dce ce'' = p |L'|``. Never negative, without a constant,
              and exact at gamma 0. Gradient and second derivative are then those of the log loss
              with the weight dL/dce at each sample, so that each round is one of log loss, and what
              is known of its settings (``min_child_weight``, the step of a leaf) stays true.
            - ``"exact"``: the true one. XGBoost and LightGBM may divide by a sum near 0 with it.
            - ``"absolute"``: its absolute value, which is 0 where it changes its sign.
            - ``"floor"``: the true one, at least 0.01 of Gauss-Newton's.

    One object is the objective of each library:

    ==========  ============================================================================
    XGBoost     ``XGBClassifier(objective=o, base_score=o.base_score(y))``
                ``xgboost.train({"base_score": o.initial_score(y)}, ..., obj=o.xgboost)``
    LightGBM    ``LGBMClassifier(objective=o).fit(X, y, init_score=numpy.full(len(y), s))``,
                and ``s`` added to raw predictions
    CatBoost    ``CatBoostClassifier(loss_function=o, eval_metric=o.catboost_metric)``
    ==========  ============================================================================

    XGBoost's estimator then gives probabilities by itself; the others give raw scores, which
    `probabilities` turns into them.

    Accuracy: gradient within 4 + 2 gamma ULP of the true one in float64, second derivative within
    half as much again of the sum of the absolute values of its terms.

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
        if alpha is not None and not (_is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"FocalObjective: expected `alpha` in [0, 1] or None, got {alpha!r}")
        self.alpha = None if alpha is None else float(alpha)

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and second derivative in the raw score, by the policy."""
        sign, share, x = self._arranged(y_true, score)
        loss = HardLoss(sign * x, self.gamma)
        if sample_weight is not None:
            weight = _tensor(sample_weight)
            share = weight if share is None else share * weight
        slope = loss.slope()
        second = self._policy(loss.curvature, (loss.p * slope).neg_())
        gradient = slope.mul_(sign)
        if share is not None:
            gradient, second = gradient * share, second * share
        return gradient.numpy(), second.numpy()

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        sign, share, x = self._arranged(y_true, score)
        loss = HardLoss(sign * x, self.gamma).value()
        return (loss if share is None else loss * share).numpy()

    def initial_score(self, y_true: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The constant score of the smallest loss, from which boosting should begin.

        At gamma 0 without alpha it is the log odds of the positives.
        """
        y = _tensor(y_true)
        _check_labels("FocalObjective", y, "0 or 1", (y == 0) | (y == 1))
        weight = torch.ones_like(y) if sample_weight is None else _tensor(sample_weight)
        positive = float((weight * y).sum())
        negative = float(weight.sum()) - positive
        if not (positive > 0 and negative > 0):
            raise ValueError("FocalObjective.initial_score: expected samples of both classes")
        both, weights = np.array([1.0, 0.0]), np.array([positive, negative])
        low, high = -_FAR, _FAR
        while (middle := (low + high) / 2) not in (low, high):
            gradient, _ = self.derivatives(both, np.full(2, middle), weights)
            low, high = (low, middle) if gradient.sum() > 0 else (middle, high)
        return middle

    def base_score(self, y_true: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """The initial score as a probability, as XGBoost's estimators take it."""
        return 1 / (1 + math.exp(-self.initial_score(y_true, sample_weight)))

    def probabilities(self, score: ArrayLike) -> Floats:
        """Of negatives and positives, (N, 2), as ``predict_proba`` gives them."""
        x = _tensor(score)
        return torch.stack([(-x).sigmoid(), x.sigmoid()], 1).numpy()

    def calc_ders_range(
        self, approxes: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
    ) -> Floats:
        """As CatBoost asks for them: of what is to be made larger, in pairs."""
        gradient, second = self.derivatives(targets, approxes, weights)
        return -np.stack([gradient, second], 1)

    def _arranged(
        self, y_true: ArrayLike, score: ArrayLike
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """1 or -1 by the label, alpha_t if there is an alpha, and the scores."""
        y, x = _tensor(y_true), _tensor(score)
        if y.shape != x.shape or y.ndim != 1:
            raise ValueError(
                f"FocalObjective: expected labels and scores of one shape (N,), got "
                f"{tuple(y.shape)} and {tuple(x.shape)}"
            )
        _check_labels("FocalObjective", y, "0 or 1", (y == 0) | (y == 1))
        sign = y * 2 - 1
        if self.alpha is None:
            return sign, None, x
        return sign, torch.where(sign > 0, self.alpha, 1 - self.alpha), x


class MulticlassFocalObjective(_Objective):
    r"""Multiclass focal loss for gradient boosting, of scores (N, C) and labels 0 to C - 1.

    Args:
        gamma, hessian: as in `FocalObjective`. The second derivatives are the diagonal, of which
            ``"gauss_newton"`` is that of the softmax's cross-entropy, p_j (1 - p_j), with the
            weight dL/dce. XGBoost's own softmax takes twice that, LightGBM's C / (C - 1) times: use
            half their learning rate for the same steps, or take it as it is.

    ==========  ==================================================================
    XGBoost     ``XGBClassifier(objective=o)``, ``xgboost.train(..., obj=o.xgboost)``
    LightGBM    ``LGBMClassifier(objective=o, num_class=C)``
    CatBoost    ``CatBoostClassifier(loss_function=o, classes_count=C)``: a call of Python a sample
    ==========  ==================================================================

    Example:
        >>> import numpy as np
        >>> from parfocal.boosting import MulticlassFocalObjective
        >>> gradient, hessian = MulticlassFocalObjective(gamma=1)(np.array([0]), np.zeros((1, 3)))
        >>> gradient
        array([[-0.68858051,  0.34429025,  0.34429025]])

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the
    softmax for p.
    """

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and diagonal of the second derivative in the raw scores, (N, C) each."""
        label, x = self._arranged(y_true, score)
        index = label.unsqueeze(1)
        loss = HardLoss(margin(x, label).u.unsqueeze(1), self.gamma)
        slope = loss.slope()
        # The shares of the others, s_j.
        others = x.scatter(1, index, -torch.inf)
        s = others.softmax(1)
        is_own = torch.zeros_like(x, dtype=torch.bool).scatter_(1, index, True)
        rest = 1 - s
        gradient = torch.where(is_own, slope, -slope * s)

        def exact() -> Tensor:
            curvature = loss.curvature()
            return torch.where(is_own, curvature, curvature * s * s - slope * s * rest)

        # p_j (1 - p_j) dL/dce, where q dL/dce = -L' and p_j = q s_j.
        positive = -slope * torch.where(is_own, loss.p, s * (loss.p + loss.q * rest))
        second = self._policy(exact, positive)
        if sample_weight is not None:
            weight = _tensor(sample_weight).unsqueeze(1)
            gradient, second = gradient * weight, second * weight
        return gradient.numpy(), second.numpy()

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        label, x = self._arranged(y_true, score)
        return HardLoss(margin(x, label).u, self.gamma).value().numpy()

    def probabilities(self, score: ArrayLike) -> Floats:
        """(N, C), as ``predict_proba`` gives them."""
        return _tensor(score).softmax(1).numpy()

    def calc_ders_multi(
        self, approxes: ArrayLike, target: float, weight: float | None
    ) -> tuple[list[float], list[list[float]]]:
        """As CatBoost asks for them: of one sample, with a matrix of second derivatives."""
        weights = None if weight is None else np.array([weight])
        scores = np.array(approxes, dtype=np.float64)[None]
        gradient, second = self.derivatives(np.array([target]), scores, weights)
        return (-gradient[0]).tolist(), (-np.diag(second[0])).tolist()

    def _arranged(self, y_true: ArrayLike, score: ArrayLike) -> tuple[Tensor, Tensor]:
        y, x = _tensor(y_true), _tensor(score)
        label = y.nan_to_num(-1.0).long()
        if x.ndim == 1 and len(label) and len(x) % len(label) == 0:  # LightGBM, class by class
            x = x.view(-1, len(label)).T.contiguous()
        if x.ndim != 2 or label.shape != x.shape[:1] or x.shape[1] < 2:
            raise ValueError(
                "MulticlassFocalObjective: expected labels (N,) and scores (N, C), C > 1, got "
                f"{tuple(label.shape)} and {tuple(x.shape)}"
            )
        counts = (label == y) & (label >= 0) & (label < x.shape[1])
        _check_labels("MulticlassFocalObjective", y, f"0 to {x.shape[1] - 1}", counts)
        return label, x


class _CatBoostMetric:
    """The mean loss by CatBoost's protocol."""

    def __init__(self, objective: _Objective) -> None:
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


def _tensor(values: ArrayLike) -> Tensor:
    """In float64, sharing memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _check_labels(name: str, labels: Tensor, expected: str, counts: Tensor) -> None:
    """A label that is none would be taken for another: arrays of NumPy cost nothing to look at."""
    if not bool(counts.all()):
        wrong = float(labels[~counts][0])
        raise ValueError(f"{name}: expected labels {expected}, got {wrong:g}")


def _or_none(weights: Any) -> Any:
    return weights if weights is not None and len(weights) else None
