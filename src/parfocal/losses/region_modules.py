"""The losses of regions as modules."""

from collections.abc import Sequence

from torch import Tensor

from parfocal.losses import numbers
from parfocal.losses.modules import StoredLoss
from parfocal.losses.tversky import (
    TverskyWeights,
    sigmoid_focal_tversky_loss,
    sigmoid_tversky_loss,
    softmax_focal_tversky_loss,
    softmax_tversky_loss,
)
from parfocal.losses.unified import (
    UnifiedOptions,
    sigmoid_asymmetric_unified_focal_loss,
    sigmoid_unified_focal_loss,
    softmax_asymmetric_unified_focal_loss,
    softmax_unified_focal_loss,
)


class _RegionLoss(StoredLoss):
    """A loss of the regions of segmentations."""

    def forward(self, inputs: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch; see the function."""
        return self.evaluate(inputs, targets, mask=mask)


class SigmoidTverskyLoss(_RegionLoss):
    """`sigmoid_tversky_loss` as a module.

    Args:
        alpha, beta, reduction, smooth, per_image, weight: as in
            `sigmoid_tversky_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidTverskyLoss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> SigmoidTverskyLoss()(logits, targets)
        tensor(0.1941)
    """

    _function = staticmethod(sigmoid_tversky_loss)

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
    ) -> None:
        call = type(self).__name__
        weights = TverskyWeights(alpha, beta, smooth, per_image).check(call)
        super().__init__(
            **weights._asdict(),
            reduction=reduction,
            weight=weight,
        )


class SigmoidFocalTverskyLoss(_RegionLoss):
    """`sigmoid_focal_tversky_loss` as a module.

    Args:
        alpha, beta, gamma, reduction, smooth, per_image, weight: as in
            `sigmoid_focal_tversky_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidFocalTverskyLoss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> SigmoidFocalTverskyLoss()(logits, targets)
        tensor(0.2924)
    """

    _function = staticmethod(sigmoid_focal_tversky_loss)

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        gamma: float = 4 / 3,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
    ) -> None:
        call = type(self).__name__
        weights = TverskyWeights(alpha, beta, smooth, per_image).check(call)
        super().__init__(
            **weights._asdict(),
            gamma=numbers.positive(call, "gamma", gamma),
            reduction=reduction,
            weight=weight,
        )


class SoftmaxTverskyLoss(_RegionLoss):
    """`softmax_tversky_loss` as a module.

    Args:
        alpha, beta, reduction, smooth, per_image, weight, ignore_index: as in
            `softmax_tversky_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxTverskyLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxTverskyLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0135)
    """

    _function = staticmethod(softmax_tversky_loss)

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
        ignore_index: int | Sequence[int] = -100,
    ) -> None:
        call = type(self).__name__
        weights = TverskyWeights(alpha, beta, smooth, per_image).check(call)
        super().__init__(
            **weights._asdict(),
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
        )


class SoftmaxFocalTverskyLoss(_RegionLoss):
    """`softmax_focal_tversky_loss` as a module.

    Args:
        alpha, beta, gamma, reduction, smooth, per_image, weight, ignore_index: as in
            `softmax_focal_tversky_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxFocalTverskyLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxFocalTverskyLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0396)
    """

    _function = staticmethod(softmax_focal_tversky_loss)

    def __init__(
        self,
        alpha: float = 0.7,
        beta: float = 0.3,
        gamma: float = 4 / 3,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
        ignore_index: int | Sequence[int] = -100,
    ) -> None:
        call = type(self).__name__
        weights = TverskyWeights(alpha, beta, smooth, per_image).check(call)
        super().__init__(
            **weights._asdict(),
            gamma=numbers.positive(call, "gamma", gamma),
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
        )


class _SigmoidUnifiedLoss(_RegionLoss):
    """A unified focal loss in which each class is on its own; the function is a subclass's."""

    def __init__(
        self,
        delta: float = 0.6,
        gamma: float = 0.5,
        balance: float = 0.5,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
    ) -> None:
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=False
        ).check(type(self).__name__)
        super().__init__(**options.stored(), weight=weight)


class SigmoidUnifiedFocalLoss(_SigmoidUnifiedLoss):
    """`sigmoid_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight: as in
            `sigmoid_unified_focal_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidUnifiedFocalLoss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> SigmoidUnifiedFocalLoss()(logits, targets)
        tensor(0.5070)
    """

    _function = staticmethod(sigmoid_unified_focal_loss)


class SigmoidAsymmetricUnifiedFocalLoss(_SigmoidUnifiedLoss):
    """`sigmoid_asymmetric_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight: as in
            `sigmoid_asymmetric_unified_focal_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidAsymmetricUnifiedFocalLoss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> SigmoidAsymmetricUnifiedFocalLoss()(logits, targets)
        tensor(0.4513)
    """

    _function = staticmethod(sigmoid_asymmetric_unified_focal_loss)


class _SoftmaxUnifiedLoss(_RegionLoss):
    """A unified focal loss of class logits; the function is a subclass's."""

    def __init__(
        self,
        delta: float = 0.6,
        gamma: float = 0.5,
        balance: float = 0.5,
        reduction: str = "mean",
        *,
        smooth: float = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
        background: int = 0,
        ignore_index: int | Sequence[int] = -100,
    ) -> None:
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=False
        ).check(type(self).__name__)
        super().__init__(
            **options.stored(),
            weight=weight,
            background=numbers.integer(type(self).__name__, "background", background),
            ignore_index=ignore_index,
        )


class SoftmaxUnifiedFocalLoss(_SoftmaxUnifiedLoss):
    """`softmax_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight, background, ignore_index: as in
            `softmax_unified_focal_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxUnifiedFocalLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxUnifiedFocalLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0611)
    """

    _function = staticmethod(softmax_unified_focal_loss)


class SoftmaxAsymmetricUnifiedFocalLoss(_SoftmaxUnifiedLoss):
    """`softmax_asymmetric_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight, background, ignore_index: as in
            `softmax_asymmetric_unified_focal_loss`, checked in the constructor.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxAsymmetricUnifiedFocalLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxAsymmetricUnifiedFocalLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0480)
    """

    _function = staticmethod(softmax_asymmetric_unified_focal_loss)
