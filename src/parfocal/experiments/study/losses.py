"""An objective as a function of logits and targets."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from parfocal.experiments.losses import Loss, compared_loss
from parfocal.experiments.spec import SMOOTHING
from parfocal.experiments.study.spec import Dataset, Objective
from parfocal.losses.balance import alpha_from_counts
from parfocal.losses.softmax import softmax_focal_loss

Head = Literal["sigmoid", "softmax", "boxes"]
Reduction = Literal["mean", "sum"]


def objective_loss(
    objective: Objective, dataset: Dataset, head: Head, counts: Tensor, reduction: Reduction
) -> Loss:
    """The loss of an objective: logits and targets to a scalar.

    Args:
        objective, dataset: of a training.
        head: softmax for class indices (N,) and logits (N, C), else labels in the shape of logits.
        counts: how often each class occurs in the training split.
        reduction: of the loss; a mean over weighed classes is that of `F.cross_entropy`.
    """
    if head == "softmax":
        weight = class_weights(objective, dataset, counts)
        return _softmax_loss(objective, weight, reduction)
    return compared_loss(
        objective.loss,
        alpha=positive_share(objective, dataset, counts),
        gamma=objective.gamma,
        reduction=reduction,
    )


def class_weights(objective: Objective, dataset: Dataset, counts: Tensor) -> Tensor | None:
    """One factor a class of a softmax, or None for none."""
    match _weights(objective, dataset):
        case "none":
            return None
        case "effective":
            return alpha_from_counts(counts, "effective", beta=dataset.beta)
        case "balanced":
            return alpha_from_counts(counts, "balanced")
        case share:
            raise ValueError(f"Expected `alpha` of classes to be balanced, got {share}")


def positive_share(objective: Objective, dataset: Dataset, counts: Tensor) -> float:
    """The alpha of a sigmoid; -1, which turns it off, for none."""
    match _weights(objective, dataset):
        case "none":
            return -1.0
        case "effective":
            alpha = alpha_from_counts(counts, "effective", beta=dataset.beta, head="sigmoid")
            return alpha.item()
        case "balanced":
            return alpha_from_counts(counts, "balanced", head="sigmoid").item()
        case share:
            return float(share)


def _weights(objective: Objective, dataset: Dataset) -> str | float:
    return dataset.alpha if objective.weights == "usual" else objective.weights


def _softmax_loss(objective: Objective, weight: Tensor | None, reduction: Reduction) -> Loss:
    """The exact loss, or the usual composition from the cross-entropy."""
    gamma = objective.gamma
    if objective.loss == "exact":

        def exact(logits: Tensor, targets: Tensor) -> Tensor:
            return softmax_focal_loss(logits, targets, weight, gamma, reduction=reduction)

        return exact
    epsilon = SMOOTHING if objective.loss == "smoothed" else 0.0

    def composed(logits: Tensor, targets: Tensor) -> Tensor:
        ce = functional.cross_entropy(logits, targets, reduction="none")
        loss = (1 - torch.exp(-ce) + epsilon) ** gamma * ce
        factor = torch.ones_like(loss) if weight is None else weight.to(loss.dtype)[targets]
        total = (factor * loss).sum()
        return total / factor.sum() if reduction == "mean" else total

    return composed
