"""The focal loss with mmdetection's constructor and call, for its registry."""

import torch
from torch import Tensor, nn

from parfocal.losses import checks
from parfocal.losses.sigmoid import sigmoid_focal_loss

_CALL = "FocalLoss"


class FocalLoss(nn.Module):
    """The exact focal loss as `mmdet.models.losses.FocalLoss` is configured and called.

    ::

        L = loss_weight * sum of weight * FL / avg_factor

    where FL is `parfocal.sigmoid_focal_loss`; `avg_factor` is increased by the spacing of float32
    at 1, as there. A configuration names an entry of a registry: register it with
    ``MODELS.register_module("ParfocalFocalLoss", module=FocalLoss)``, and
    ``dict(type="ParfocalFocalLoss", gamma=0.5)`` creates this loss.

    Args:
        use_sigmoid: True, as there.
        gamma: Focusing exponent, >= 0.
        alpha: Share of the positive class, in [0, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"``. A mean divides by `avg_factor`, or, without
            one, by the N C elements.
        loss_weight: Factor of the loss.

    Shape:
        pred (N, C), logits; target class indices (N), C for the background, or (N, C) in [0, 1];
        weight (N), (N, C) or, flattened, (N C).

    Raises:
        ValueError: ``use_sigmoid=False``, `avg_factor` with a sum, shapes that don't fit, numbers
            out of range, an unknown reduction.
        IndexError: a target out of [0, C], where checking is free.

    Accuracy: that of `sigmoid_focal_loss`.

    Example:
        >>> import torch
        >>> from parfocal.integrations.mmdetection import FocalLoss
        >>> loss = FocalLoss(gamma=0.5, loss_weight=2.0)
        >>> loss(torch.zeros(3, 2), torch.tensor([0, 2, 1]), avg_factor=2)
        tensor(1.7155)

    Source: ``mmdet/models/losses/focal_loss.py`` and ``utils.py`` of mmdetection.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ValueError(f"{_CALL}: expected use_sigmoid=True, as in mmdetection, got False")
        checks.reduction(_CALL, reduction)
        self.use_sigmoid, self.reduction, self.loss_weight = use_sigmoid, reduction, loss_weight
        self.alpha, self.gamma = checks.alpha(_CALL, alpha), checks.gamma(_CALL, gamma)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of the anchors of a batch."""
        reduction = self.reduction if reduction_override is None else reduction_override
        if avg_factor is not None and reduction == "sum":
            raise ValueError(f"{_CALL}: expected no `avg_factor` with a sum, got {avg_factor}")
        if weight is not None and weight.ndim < pred.ndim:
            if weight.numel() not in (len(pred), pred.numel()):
                raise ValueError(
                    f"{_CALL}: expected `weight` of {len(pred)} or {pred.numel()} numbers, got "
                    f"{tuple(weight.shape)}"
                )
            weight = weight.view(-1, 1) if len(weight) == len(pred) else weight.view_as(pred)
        if avg_factor is not None:
            avg_factor = avg_factor + torch.finfo(torch.float32).eps  # as there: 0 divides nothing
        is_average = avg_factor is not None and reduction == "mean"
        loss = sigmoid_focal_loss(
            pred,
            target,
            self.alpha,
            self.gamma,
            "sum" if is_average else reduction,
            weight=weight,
            normalizer=avg_factor if is_average else None,
        )
        return self.loss_weight * loss

    def extra_repr(self) -> str:
        """The numbers, as they are given to the constructor."""
        return (
            f"gamma={self.gamma}, alpha={self.alpha}, reduction={self.reduction!r}, "
            f"loss_weight={self.loss_weight}"
        )
