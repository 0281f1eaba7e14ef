"""A loss by its name, for timm's training script."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import one_hot

from parfocal.losses import checks, numbers, values
from parfocal.losses.modules import (
    AsymmetricLoss,
    PolyFocalLoss,
    QualityFocalLoss,
    SigmoidFocalLoss,
    SoftmaxAsymmetricLoss,
    SoftmaxFocalLoss,
    StoredLoss,
)
from parfocal.places import did_you_mean

SOFTMAX_LOSSES: dict[str, type[StoredLoss]] = {
    "softmax_asymmetric_loss": SoftmaxAsymmetricLoss,
    "softmax_focal_loss": SoftmaxFocalLoss,
}
SIGMOID_LOSSES: dict[str, type[StoredLoss]] = {
    "asymmetric_loss": AsymmetricLoss,
    "poly_focal_loss": PolyFocalLoss,
    "quality_focal_loss": QualityFocalLoss,
    "sigmoid_focal_loss": SigmoidFocalLoss,
}


def create_loss(
    name: str,
    *,
    smoothing: float = 0.0,
    reduction: str = "mean",
    target_threshold: float | None = None,
    **options: Any,
) -> nn.Module:
    r"""A classifier's criterion, which takes class indices and Mixup's soft targets.

    Args:
        name: A loss of `SOFTMAX_LOSSES` or `SIGMOID_LOSSES`, as `parfocal` names it, or its module,
            ``"SoftmaxFocalLoss"``.
        smoothing: Label smoothing of class indices, in [0, 1]. Soft targets are left as they are,
            since timm's Mixup and CutMix already smooth them.
        reduction: ``"none"``, ``"mean"``, ``"sum"`` or ``"batchmean"``, the sum over the samples. A
            mean of a sigmoid loss is over the classes too.
        target_threshold: For a sigmoid loss: targets above it become 1 and the others 0, as with
            ``--bce-target-thresh``.
        options: Those of the module of the loss, such as ``gamma``, ``alpha`` or ``gamma_neg``.

    Shape:
        logits (B, C); targets class indices (B), or (B, C) in [0, 1]: of one class or of a mixture
        for a softmax loss, of C separate labels for a sigmoid loss. `softmax_asymmetric_loss` takes
        only class indices.

    Returns:
        The module.

    Raises:
        ValueError: an unknown name, with the nearest known one; numbers out of range.
        TypeError: an option that the loss doesn't have.
        IndexError: from a sigmoid loss, an invalid class index.

    Accuracy: that of the loss.

    Example:
        >>> import torch
        >>> from parfocal.integrations.timm import create_loss
        >>> loss = create_loss("softmax_focal_loss", gamma=0.5, smoothing=0.1)
        >>> loss(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]))
        tensor(0.3374)
        >>> loss(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.7, 0.3, 0.0]]))
        tensor(0.8541)
        >>> create_loss("softmax_fokal_loss")
        Traceback (most recent call last):
        ValueError: create_loss: expected one of softmax_asymmetric_loss, softmax_focal_loss,
            asymmetric_loss, poly_focal_loss, quality_focal_loss, sigmoid_focal_loss, got
            'softmax_fokal_loss'; did you mean 'softmax_focal_loss'?

    Source: ``create_classification_loss`` of timm 1.0.31, whose `smoothing` and `target_threshold`
    these are.
    """
    numbers.fraction("create_loss", "smoothing", smoothing)
    if target_threshold is not None:
        numbers.fraction("create_loss", "target_threshold", target_threshold)
    if "label_smoothing" in options:
        raise TypeError("create_loss: expected `smoothing`, as timm calls it, got label_smoothing")
    is_batchmean = reduction == "batchmean"
    if not is_batchmean:
        checks.reduction("create_loss", reduction)
    options["reduction"] = "sum" if is_batchmean else reduction
    function = _function_name(name)
    if function in SIGMOID_LOSSES:
        sigmoid_loss = SIGMOID_LOSSES[function](**options)
        return _SigmoidCriterion(sigmoid_loss, smoothing, target_threshold, is_batchmean)
    if target_threshold is not None:
        raise ValueError(
            f"create_loss: expected no `target_threshold` with {name!r}, whose targets add up "
            f"to 1, got {target_threshold}"
        )
    softmax_loss = SOFTMAX_LOSSES[function](label_smoothing=smoothing, **options)
    return _SoftmaxCriterion(softmax_loss, is_batchmean)


def _function_name(name: str) -> str:
    """The name of a loss as a function; it may be that of its module."""
    losses = SOFTMAX_LOSSES | SIGMOID_LOSSES
    functions = {name: name for name in losses}
    functions |= {module.__name__: name for name, module in losses.items()}
    if name not in functions:
        hint = did_you_mean(str(name), functions)
        raise ValueError(f"create_loss: expected one of {', '.join(losses)}, got {name!r}{hint}")
    return functions[name]


class _Criterion(nn.Module):
    """A loss of logits and targets alone, whose exponent is that of the loss within it."""

    def __init__(self, loss: StoredLoss, is_batchmean: bool) -> None:
        super().__init__()
        self.loss, self.is_batchmean = loss, is_batchmean

    @property
    def gamma(self) -> Any:
        """The focusing exponent, which a `GammaSchedule` sets."""
        return self.loss.gamma

    @gamma.setter
    def gamma(self, gamma: Any) -> None:
        self.loss.gamma = gamma

    def _normalizer(self, x: Tensor) -> int | None:
        """What a sum is divided by."""
        return max(1, len(x)) if self.is_batchmean else None

    def extra_repr(self) -> str:
        """The options that the loss itself doesn't have."""
        return "reduction='batchmean'" if self.is_batchmean else ""


class _SoftmaxCriterion(_Criterion):
    """Class indices are smoothed, mixtures of classes aren't."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        options = {"label_smoothing": 0.0} if target.is_floating_point() else {}
        return self.loss.evaluate(x, target, normalizer=self._normalizer(x), **options)


class _SigmoidCriterion(_Criterion):
    """A problem a class; of a class index those of the others have the target 0."""

    def __init__(
        self,
        loss: StoredLoss,
        smoothing: float,
        target_threshold: float | None,
        is_batchmean: bool,
    ) -> None:
        super().__init__(loss, is_batchmean)
        self.smoothing, self.target_threshold = smoothing, target_threshold

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        y = self._smooth(x, target) if target.ndim < x.ndim else target
        if self.target_threshold is not None:
            y = y > self.target_threshold
        return self.loss.evaluate(x, y, normalizer=self._normalizer(x))

    def _smooth(self, x: Tensor, index: Tensor) -> Tensor:
        """(1 - s) y + s / C for the classes of an index."""
        classes = x.shape[-1]
        if x.ndim != 2:
            raise ValueError(f"create_loss: expected logits (B, C), got {tuple(x.shape)}")
        values.class_indices("create_loss", index, classes)
        y = one_hot(index.long(), classes)
        return y * (1 - self.smoothing) + self.smoothing / classes if self.smoothing else y

    def extra_repr(self) -> str:
        """The options that the loss itself doesn't have."""
        options = [super().extra_repr(), f"smoothing={self.smoothing}"]
        return ", ".join([*filter(None, options), f"target_threshold={self.target_threshold}"])
