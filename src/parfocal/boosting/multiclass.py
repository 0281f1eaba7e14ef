"""The multiclass objective."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from parfocal.boosting import rows, start
from parfocal.boosting.arrays import Floats, as_tensor, as_weights, check_labels, class_factors
from parfocal.boosting.objective import Hessian, Objective
from parfocal.numerics import HardLoss, margin


class MulticlassFocalObjective(Objective):
    r"""Multiclass focal loss for gradient boosting, for scores (N, C) and labels 0 to C - 1.

    With ``p = softmax(scores)`` and class ``t``::

        L = -alpha_t (1 - p_t) ** gamma log p_t

    Args:
        gamma, hessian: as in `FocalObjective`. XGBoost and LightGBM get the diagonal of the second
            derivatives; with ``"gauss_newton"`` it is that of the softmax's cross-entropy,
            p_j (1 - p_j), with the weight dL/dce. XGBoost's own softmax takes twice that,
            LightGBM's C / (C - 1) times: use half their learning rate for the same steps, or keep
            your rate. CatBoost gets the whole matrix, as with its own loss.
        alpha: Factor of each class, a sequence of C numbers >= 0; None turns it off.

    Labels are whole numbers from 0 to C - 1; anything else is a ValueError.

    ==========  ==================================================================
    XGBoost     ``XGBClassifier(objective=o)``,
                ``xgboost.train({"num_class": C}, ..., obj=o)``
    LightGBM    ``LGBMClassifier(objective=o, num_class=C)``,
                ``lightgbm.train({"objective": o, "num_class": C}, ...)``
    CatBoost    ``CatBoostClassifier(loss_function=o, eval_metric=o.catboost_metric)``,
                with ``class_names`` if there is a ``classes_count``
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

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: Sequence[float] | Floats | None = None,
        hessian: Hessian = "gauss_newton",
    ) -> None:
        super().__init__(gamma, hessian)
        self.alpha = class_factors("MulticlassFocalObjective", alpha)

    def derivatives(
        self, y_true: ArrayLike, score: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Gradient and diagonal of the second derivative in the raw scores, (N, C) each."""
        samples = self._samples(y_true, score)
        gradient, second = samples.gradient(), self._policy(samples.exact, samples.gauss_newton())
        factor = self._factor(samples.label, sample_weight)
        if factor is not None:
            gradient, second = gradient * factor.unsqueeze(1), second * factor.unsqueeze(1)
        return gradient.numpy(), second.numpy()

    def loss(self, y_true: ArrayLike, score: ArrayLike) -> Floats:
        """The loss of each sample."""
        samples = self._samples(y_true, score)
        loss, factor = samples.loss.value.squeeze(1), self._factor(samples.label, None)
        return (loss if factor is None else loss * factor).numpy()

    def initial_score(self, y_true: ArrayLike, sample_weight: ArrayLike | None = None) -> Floats:
        """The constant scores (C,) with the smallest loss, with a sum of 0, to begin from.

        C is the number of alphas, or the largest label plus one. At gamma 0 without alpha they are
        the logarithms of the shares of the classes.
        """
        y = as_tensor(y_true)
        if not len(y):
            raise ValueError("MulticlassFocalObjective.initial_score: expected samples, got none")
        count = int(y.nan_to_num(0.0).max()) + 1 if self.alpha is None else len(self.alpha)
        label = _classes(y, max(count, 2))
        weight = as_weights("MulticlassFocalObjective", sample_weight, y)
        weight = torch.ones_like(y) if weight is None else weight
        totals = torch.zeros(max(count, 2), dtype=y.dtype).index_add_(0, label, weight)
        if not bool((totals > 0).all()):
            missing = int(totals.argmin())
            raise ValueError(
                "MulticlassFocalObjective.initial_score: expected samples of each class, "
                f"got none of {missing}"
            )
        if self.alpha is not None:
            totals = totals * as_tensor(self.alpha)
        return start.best_constants(totals, self.gamma).numpy()

    def probabilities(self, score: ArrayLike) -> Floats:
        """Probabilities (N, C), as ``predict_proba`` returns them."""
        return as_tensor(score).softmax(1).numpy()

    @property
    def catboost_metric(self) -> str:
        """CatBoost's own log loss, as its ``eval_metric``, from which it learns the labels."""
        return "MultiClass"

    def calc_ders_multi(
        self, approxes: Floats, target: float, weight: float | None
    ) -> tuple[Floats, Floats]:
        """As CatBoost asks for them: of one sample, with a matrix of second derivatives."""
        factor = 1.0 if weight is None else weight
        if self.alpha is not None:
            factor *= self.alpha[int(target)]
        return rows.classes(approxes, target, factor, self.gamma, self.hessian)

    def _samples(self, y_true: ArrayLike, score: ArrayLike) -> "_Samples":
        y, x = as_tensor(y_true), as_tensor(score)
        if x.ndim == 1 and len(y) and len(x) % len(y) == 0:  # LightGBM, class by class
            x = x.view(-1, len(y)).T.contiguous()
        if x.ndim != 2 or y.shape != x.shape[:1] or x.shape[1] < 2:
            raise ValueError(
                "MulticlassFocalObjective: expected labels (N,) and scores (N, C), C > 1, got "
                f"{tuple(y.shape)} and {tuple(x.shape)}; native training needs `num_class`"
            )
        if self.alpha is not None and len(self.alpha) != x.shape[1]:
            raise ValueError(
                f"MulticlassFocalObjective: expected `alpha` for {x.shape[1]} classes, "
                f"got {len(self.alpha)}"
            )
        return _Samples.of(_classes(y, x.shape[1]), x, self.gamma)

    def _factor(self, label: Tensor, sample_weight: ArrayLike | None) -> Tensor | None:
        """alpha_t times the weight, or None if both are 1."""
        weight = as_weights("MulticlassFocalObjective", sample_weight, label)
        if self.alpha is None:
            return weight
        alpha_t = as_tensor(self.alpha)[label]
        return alpha_t if weight is None else alpha_t * weight


class _Samples(NamedTuple):
    """The loss of the margin of each sample, (N, 1); which class is its own; s_j of the others."""

    label: Tensor
    loss: HardLoss
    is_own: Tensor
    s: Tensor

    @classmethod
    def of(cls, label: Tensor, x: Tensor, gamma: float) -> "_Samples":
        index = label.unsqueeze(1)
        loss = HardLoss(margin(x, label).u.unsqueeze(1), gamma)
        s = x.scatter(1, index, -torch.inf).softmax(1)
        return cls(label, loss, torch.zeros_like(x, dtype=torch.bool).scatter_(1, index, True), s)

    def gradient(self) -> Tensor:
        """L' of the own class, -L' s_j of another."""
        return torch.where(self.is_own, self.loss.slope, -self.loss.slope * self.s)

    def gauss_newton(self) -> Tensor:
        """p_j (1 - p_j) dL/dce, where q dL/dce = -L' and p_j = q s_j."""
        p, q, s = self.loss.p, self.loss.q, self.s
        return -self.loss.slope * torch.where(self.is_own, p, s * (p + q * (1 - s)))

    def exact(self) -> Tensor:
        """L'' of the own class, L'' s_j ** 2 - L' s_j (1 - s_j) of another."""
        slope, curvature, s = self.loss.slope, self.loss.curvature, self.s
        return torch.where(self.is_own, curvature, curvature * s * s - slope * s * (1 - s))


def _classes(y: Tensor, count: int) -> Tensor:
    """The labels as integers."""
    label = y.nan_to_num(-1.0).long()
    counts = (label == y) & (label >= 0) & (label < count)
    check_labels("MulticlassFocalObjective", y, f"0 to {count - 1}", counts)
    return label
