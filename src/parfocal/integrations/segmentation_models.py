"""The focal loss with segmentation_models_pytorch's constructor and modes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from parfocal.losses import checks, values
from parfocal.losses.reduction import select, widen
from parfocal.losses.rows import Rows
from parfocal.losses.sigmoid import sigmoid_focal_loss
from parfocal.numerics import computation

_CALL = "FocalLoss"

MODES = ("binary", "multiclass", "multilabel")


class FocalLoss(nn.Module):
    """The exact focal loss as `segmentation_models_pytorch.losses.FocalLoss` is called.

    ::

        L = sum over c of w_c L_c / sum of w      L_c = the mean of FL over the pixels of class c

    where FL is `parfocal.sigmoid_focal_loss`, in each mode. With ``"multiclass"`` each class is a
    binary problem, the class against the rest, as in that package; a softmax over the classes is
    `parfocal.SoftmaxFocalLoss`, which takes the same `y_pred` and `y_true`.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        alpha: Share of the positive class, in [0, 1]; None is off.
        gamma: Focusing exponent, >= 0.
        ignore_index: Target of pixels that don't count, whatever `y_pred` holds there.
        reduction: ``"mean"`` or ``"sum"`` over the pixels of a class; the classes are averaged. Or
            ``"none"``, the losses in the shape of `y_pred`, unnormalized and without class weights.
        normalized: Whether the loss of a class is divided by the sum of its factors
            ``(1 - p_t) ** gamma`` too.
        class_weights: One factor per class; not in mode ``"binary"``.

    Shape:
        y_pred (N, C, ...), logits. y_true class indices (N, ...) for ``"multiclass"``, (N, C, ...)
        for ``"multilabel"``, as many as the logits for ``"binary"``.

    Raises:
        ValueError: an unknown mode or reduction, class weights with ``"binary"``, normalized
            without a reduction, shapes that don't fit, targets out of [0, 1] where checking is
            free.
        IndexError: a class index out of [0, C) that isn't ignored, where checking is free.

    If no pixel counts, the loss is 0. There is no `from_logits`, `eps` or `reduced_threshold`: only
    logits can be exact, and a reduced focal loss is a different function.

    Accuracy: that of `sigmoid_focal_loss`.

    Example:
        >>> import torch
        >>> from parfocal.integrations.segmentation_models import FocalLoss
        >>> loss = FocalLoss("multiclass", gamma=0.5, ignore_index=255)
        >>> loss(torch.zeros(1, 3, 1, 2), torch.tensor([[[2, 255]]]))
        tensor(0.4901)

    Source: ``segmentation_models_pytorch/losses/focal.py`` of 0.6.0; normalized: Zheng et al.,
    "1st Place Solutions for OpenImage2019", 2019 (arXiv:1909.07829).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        mode: str,
        alpha: float | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = None,
        *,
        reduction: str = "mean",
        normalized: bool = False,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        checks.word(_CALL, "mode", mode, MODES)
        if class_weights is not None and mode == "binary":
            raise ValueError(f"{_CALL}: expected no `class_weights` in mode 'binary', got some")
        checks.reduction(_CALL, reduction)
        if normalized and reduction == "none":
            raise ValueError(
                f"{_CALL}: expected reduction='mean' or 'sum' with normalized=True, got 'none'"
            )
        self.mode = mode
        self.alpha, self.gamma = checks.alpha(_CALL, alpha), checks.gamma(_CALL, gamma)
        self.ignore_index, self.reduction, self.normalized = ignore_index, reduction, normalized
        weights = None if class_weights is None else torch.as_tensor(class_weights)
        checks.class_weight(_CALL, weights, name="class_weights")
        if weights is not None and not (bool((weights >= 0).all()) and bool(weights.sum() > 0)):
            raise ValueError(
                f"{_CALL}: expected `class_weights` >= 0, with at least one above 0, got {weights}"
            )
        # As there, no part of a checkpoint.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The loss of a batch."""
        x, y, counts = self._pixels(y_pred, y_true)
        if self.reduction == "none":
            loss = sigmoid_focal_loss(x, y, self.alpha, self.gamma, mask=counts)
            return loss.view_as(y_pred)
        return sigmoid_focal_loss(
            x, y, self.alpha, self.gamma, "sum", weight=self._weight(x, y, counts), mask=counts
        )

    def _pixels(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (N, C, ...), their targets, and which pixels count."""
        if self.mode == "binary":
            y_pred, y_true = y_pred.reshape(-1, 1), y_true.reshape(-1, 1)
        counts = None if self.ignore_index is None else y_true != self.ignore_index
        if self.mode != "multiclass":
            return y_pred, y_true, counts
        if counts is not None:
            y_true, counts = torch.where(counts, y_true, 0), counts.unsqueeze(1)
        checks.class_logits_and_targets(_CALL, y_pred, y_true)
        checks.class_indices(_CALL, y_true)
        # Asked here, since an index of C would be taken for the background of a detector.
        values.class_indices(_CALL, y_true, y_pred.shape[1])
        return y_pred, y_true, counts

    def _weight(self, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """What the losses of a class are multiplied by: its weight over what divides it."""
        weight = torch.ones(x.shape[1], dtype=computation(x), device=x.device)
        if self.class_weights is not None:
            weight = self.class_weights.to(weight)
        weight = weight / weight.sum()
        if self.reduction == "mean":
            weight = weight / _pixel_count(x, counts)
        if self.normalized:
            weight = weight / self._factors(x, y, counts).clamp(min=1e-6)
        return weight.view(-1, *(1,) * (x.ndim - 2))

    def _factors(self, x: Tensor, y: Tensor, counts: Tensor | None) -> Tensor:
        """The sum of (1 - p_t) ** gamma over the pixels of each class, differentiable.

        1 - p_t = y sigmoid(-x) + (1 - y) sigmoid(x), whose logarithm has no cliff.
        """
        y = Rows(x, None, y, None).distribution() if y.ndim < x.ndim else y
        x, y = select(counts, widen(x)), select(counts, y.to(computation(x)))
        wrong = torch.logaddexp(y.log() + logsigmoid(-x), (1 - y).log() + logsigmoid(x))
        factors = select(counts, (self.gamma * wrong).exp())
        return factors.transpose(0, 1).flatten(1).sum(1)

    def extra_repr(self) -> str:
        """The numbers, as they are given to the constructor."""
        return (
            f"{self.mode!r}, alpha={self.alpha}, gamma={self.gamma}, "
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"normalized={self.normalized}"
        )


def _pixel_count(x: Tensor, counts: Tensor | None) -> Tensor | float:
    """How many pixels of each class count; at least 1."""
    if counts is None:
        return x.numel() / x.shape[1]
    return counts.expand_as(x).transpose(0, 1).flatten(1).sum(1).clamp(min=1)
