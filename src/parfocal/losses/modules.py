"""The losses as modules: each is its function, with the hyper-parameters stored.

A module has the function's options in the function's order and with its defaults, but that it
reduces by the mean; what belongs to one batch, such as a mask, is given with it.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from parfocal.losses import checks
from parfocal.losses.asymmetric import asymmetric, asymmetric_loss
from parfocal.losses.gaussian import gaussian, gaussian_focal_loss
from parfocal.losses.matching import focal_matching_cost, matching
from parfocal.losses.poly import poly, poly_focal_loss
from parfocal.losses.quality import quality, quality_focal_loss
from parfocal.losses.sigmoid import focal, sigmoid_focal_loss
from parfocal.losses.softmax import softmax_focal_loss
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
from parfocal.losses.varifocal import varifocal, varifocal_loss


class _Stored(nn.Module):
    """The hyper-parameters of a function.

    A tensor becomes a buffer, so that it moves with the module; an ``nn.Parameter`` is learned.
    """

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self._function = function
        self._names = tuple(n for n in inspect.signature(function).parameters if n in options)
        for name, option in options.items():
            if isinstance(option, Tensor) and not isinstance(option, nn.Parameter):
                self.register_buffer(name, option)
            else:
                setattr(self, name, option)

    def _apply_function(self, *batch: Tensor | None, **options: Any) -> Tensor:
        """The function of a batch, with the stored options and those of the batch."""
        stored = {name: getattr(self, name) for name in self._names}
        return self._function(*batch, **stored, **options)

    def extra_repr(self) -> str:
        """The hyper-parameters, as they are given to the constructor."""
        return ", ".join(f"{name}={_shown(getattr(self, name))}" for name in self._names)


def _shown(option: object) -> str:
    """A number as itself, a tensor by its shape alone: printing must not read a device."""
    if not isinstance(option, Tensor):
        return repr(option)
    kind = "Parameter" if isinstance(option, nn.Parameter) else "Tensor"
    return f"{kind}(shape={tuple(option.shape)})"


class _ElementwiseLoss(_Stored):
    """A loss of one logit and one target."""

    def __init__(self, function: Callable[..., Tensor], reduction: str, **options: Any) -> None:
        checks.reduction(type(self).__name__, reduction)
        super().__init__(function, reduction=reduction, **options)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; see the function."""
        return self._apply_function(
            inputs, targets, weight=weight, mask=mask, normalizer=normalizer
        )


class _RegionLoss(_Stored):
    """A loss of the regions of segmentations."""

    def forward(self, inputs: Tensor, targets: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of a batch; see the function."""
        return self._apply_function(inputs, targets, mask=mask)


class SigmoidFocalLoss(_ElementwiseLoss):
    """`sigmoid_focal_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        alpha, gamma, reduction, epsilon: as in `sigmoid_focal_loss`, checked here already. A
            tensor becomes a buffer, so that it moves with the module; an ``nn.Parameter`` is
            learned.

    Shape:
        inputs and targets of one shape; the result is that shape for ``reduction="none"``, else
        a scalar.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidFocalLoss
        >>> loss = SigmoidFocalLoss(gamma=0.5)
        >>> loss
        SigmoidFocalLoss(alpha=0.25, gamma=0.5, reduction='mean', epsilon=0.0)
        >>> loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]))
        tensor(1.1770)
    """

    def __init__(
        self,
        alpha: float | Tensor | None = 0.25,
        gamma: float | Tensor = 2,
        reduction: str = "mean",
        *,
        epsilon: float = 0.0,
    ) -> None:
        loss = focal(type(self).__name__, alpha, gamma, epsilon)
        super().__init__(sigmoid_focal_loss, reduction, **loss._asdict())


class SoftmaxFocalLoss(_Stored):
    """`softmax_focal_loss` as a module, called as ``nn.CrossEntropyLoss`` is.

    Args:
        weight, gamma, ignore_index, reduction, label_smoothing, epsilon: as in
            `softmax_focal_loss`, checked here already. A tensor becomes a buffer, so that it
            moves with the module; an ``nn.Parameter`` is learned.

    Shape:
        input (C), (N, C) or (N, C, d1, ...); target indices without C or probabilities with it.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxFocalLoss
        >>> loss = SoftmaxFocalLoss(gamma=0.5, label_smoothing=0.1)
        >>> loss
        SoftmaxFocalLoss(weight=None, gamma=0.5, ignore_index=-100, reduction='mean',
            label_smoothing=0.1, epsilon=0.0)
        >>> loss(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]))
        tensor(0.3374)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        gamma: float | Tensor = 2,
        *,
        ignore_index: int | Sequence[int] = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        call = type(self).__name__
        checks.class_weight(call, weight)
        checks.reduction(call, reduction)
        checks.ignore_index(call, ignore_index)
        super().__init__(
            softmax_focal_loss,
            weight=weight,
            gamma=checks.gamma(call, gamma),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=checks.fraction(call, "label_smoothing", label_smoothing),
            epsilon=checks.non_negative(call, "epsilon", epsilon),
        )

    def forward(
        self,
        input: Tensor | None = None,
        target: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        position_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        inputs: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; see `softmax_focal_loss`."""
        return self._apply_function(
            input,
            target,
            mask=mask,
            position_weight=position_weight,
            normalizer=normalizer,
            inputs=inputs,
            targets=targets,
        )


class VarifocalLoss(_ElementwiseLoss):
    """`varifocal_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        alpha, gamma, reduction: as in `varifocal_loss`, checked here already.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import VarifocalLoss
        >>> VarifocalLoss(gamma=0.5)(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]))
        tensor(0.9593)
    """

    def __init__(
        self, alpha: float = 0.75, gamma: float | Tensor = 2, reduction: str = "mean"
    ) -> None:
        loss = varifocal(type(self).__name__, alpha, gamma)
        super().__init__(varifocal_loss, reduction, **loss._asdict())


class GaussianFocalLoss(_ElementwiseLoss):
    """`gaussian_focal_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        gamma, beta, reduction: as in `gaussian_focal_loss`, checked here already.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import GaussianFocalLoss
        >>> loss = GaussianFocalLoss(reduction="sum")
        >>> loss(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 0.5, 0.0]))
        tensor(1.7550)
    """

    def __init__(self, gamma: float | Tensor = 2, beta: float = 4, reduction: str = "mean") -> None:
        loss = gaussian(type(self).__name__, gamma, beta)
        super().__init__(gaussian_focal_loss, reduction, **loss._asdict())


class QualityFocalLoss(_ElementwiseLoss):
    """`quality_focal_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        beta, reduction: as in `quality_focal_loss`, checked here already.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import QualityFocalLoss
        >>> QualityFocalLoss()(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]))
        tensor(0.8268)
    """

    def __init__(self, beta: float = 2, reduction: str = "mean") -> None:
        loss = quality(type(self).__name__, beta)
        super().__init__(quality_focal_loss, reduction, **loss._asdict())


class PolyFocalLoss(_ElementwiseLoss):
    """`poly_focal_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        alpha, gamma, reduction, epsilon_1: as in `poly_focal_loss`, checked here already.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import PolyFocalLoss
        >>> PolyFocalLoss(gamma=0.5)(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.4539)
    """

    def __init__(
        self,
        alpha: float | Tensor | None = None,
        gamma: float | Tensor = 2,
        reduction: str = "mean",
        *,
        epsilon_1: float = 1.0,
    ) -> None:
        loss = poly(type(self).__name__, alpha, gamma, epsilon_1)
        super().__init__(poly_focal_loss, reduction, **loss._asdict())


class AsymmetricLoss(_ElementwiseLoss):
    """`asymmetric_loss` as a module, which reduces by the mean unless it is told otherwise.

    Args:
        gamma_neg, gamma_pos, margin, reduction: as in `asymmetric_loss`, checked here already.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import AsymmetricLoss
        >>> AsymmetricLoss()(torch.tensor([2.0, 2.0, -4.0]), torch.tensor([1.0, 0.0, 0.0]))
        tensor(0.2872)
    """

    def __init__(
        self,
        gamma_neg: float | Tensor = 4,
        gamma_pos: float | Tensor = 1,
        margin: float = 0.05,
        reduction: str = "mean",
    ) -> None:
        loss = asymmetric(type(self).__name__, gamma_neg, gamma_pos, margin)
        super().__init__(asymmetric_loss, reduction, **loss._asdict())


class FocalMatchingCost(_Stored):
    """`focal_matching_cost` as a module.

    Args:
        alpha, gamma: as in `focal_matching_cost`, checked here already.

    Shape:
        inputs (..., N, C) and labels (M); the result is (..., N, M).

    Example:
        >>> import torch
        >>> from parfocal import FocalMatchingCost
        >>> FocalMatchingCost()(torch.tensor([[0.0, 1.0]]), torch.tensor([0, 1, 1]))
        tensor([[-0.0866, -0.5207, -0.5207]])
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2) -> None:
        alpha, gamma = matching(type(self).__name__, alpha, gamma)
        super().__init__(focal_matching_cost, alpha=alpha, gamma=gamma)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The costs of a batch; see `focal_matching_cost`."""
        return self._apply_function(inputs, labels)


class SigmoidTverskyLoss(_RegionLoss):
    """`sigmoid_tversky_loss` as a module.

    Args:
        alpha, beta, reduction, smooth, per_image, weight: as in
            `sigmoid_tversky_loss`, checked here already.

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
        checks.class_weight(call, weight)
        checks.reduction(call, reduction)
        super().__init__(
            sigmoid_tversky_loss,
            **weights._asdict(),
            reduction=reduction,
            weight=weight,
        )


class SigmoidFocalTverskyLoss(_RegionLoss):
    """`sigmoid_focal_tversky_loss` as a module.

    Args:
        alpha, beta, gamma, reduction, smooth, per_image, weight: as in
            `sigmoid_focal_tversky_loss`, checked here already.

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
        checks.class_weight(call, weight)
        checks.reduction(call, reduction)
        super().__init__(
            sigmoid_focal_tversky_loss,
            **weights._asdict(),
            gamma=checks.positive(call, "gamma", gamma),
            reduction=reduction,
            weight=weight,
        )


class SoftmaxTverskyLoss(_RegionLoss):
    """`softmax_tversky_loss` as a module.

    Args:
        alpha, beta, reduction, smooth, per_image, weight, ignore_index: as in
            `softmax_tversky_loss`, checked here already.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxTverskyLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxTverskyLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0135)
    """

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
        checks.class_weight(call, weight)
        checks.reduction(call, reduction)
        checks.ignore_index(call, ignore_index)
        super().__init__(
            softmax_tversky_loss,
            **weights._asdict(),
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
        )


class SoftmaxFocalTverskyLoss(_RegionLoss):
    """`softmax_focal_tversky_loss` as a module.

    Args:
        alpha, beta, gamma, reduction, smooth, per_image, weight, ignore_index: as in
            `softmax_focal_tversky_loss`, checked here already.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxFocalTverskyLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxFocalTverskyLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0396)
    """

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
        checks.class_weight(call, weight)
        checks.reduction(call, reduction)
        checks.ignore_index(call, ignore_index)
        super().__init__(
            softmax_focal_tversky_loss,
            **weights._asdict(),
            gamma=checks.positive(call, "gamma", gamma),
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
        )


class SigmoidUnifiedFocalLoss(_RegionLoss):
    """`sigmoid_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight: as in
            `sigmoid_unified_focal_loss`, checked here already.

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
        call = type(self).__name__
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=False
        ).check(call)
        checks.class_weight(call, weight)
        super().__init__(
            sigmoid_unified_focal_loss,
            **options.stored(),
            weight=weight,
        )


class SigmoidAsymmetricUnifiedFocalLoss(_RegionLoss):
    """`sigmoid_asymmetric_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight: as in
            `sigmoid_asymmetric_unified_focal_loss`, checked here already.

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
        call = type(self).__name__
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=True
        ).check(call)
        checks.class_weight(call, weight)
        super().__init__(
            sigmoid_asymmetric_unified_focal_loss,
            **options.stored(),
            weight=weight,
        )


class SoftmaxUnifiedFocalLoss(_RegionLoss):
    """`softmax_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight, background, ignore_index: as in
            `softmax_unified_focal_loss`, checked here already.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxUnifiedFocalLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxUnifiedFocalLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0611)
    """

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
        call = type(self).__name__
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=False
        ).check(call)
        checks.class_weight(call, weight)
        checks.ignore_index(call, ignore_index)
        super().__init__(
            softmax_unified_focal_loss,
            **options.stored(),
            weight=weight,
            background=checks.integer(call, "background", background),
            ignore_index=ignore_index,
        )


class SoftmaxAsymmetricUnifiedFocalLoss(_RegionLoss):
    """`softmax_asymmetric_unified_focal_loss` as a module.

    Args:
        delta, gamma, balance, reduction, smooth, per_image, weight, background, ignore_index: as in
            `softmax_asymmetric_unified_focal_loss`, checked here already.

    Shape:
        inputs (N, C, d1, ...), targets (N, d1, ...) or of their shape.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxAsymmetricUnifiedFocalLoss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> SoftmaxAsymmetricUnifiedFocalLoss()(logits, torch.tensor([[0, 1]]))
        tensor(0.0480)
    """

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
        call = type(self).__name__
        options = UnifiedOptions(
            delta, gamma, balance, reduction, smooth, per_image, asymmetric=True
        ).check(call)
        checks.class_weight(call, weight)
        checks.ignore_index(call, ignore_index)
        super().__init__(
            softmax_asymmetric_unified_focal_loss,
            **options.stored(),
            weight=weight,
            background=checks.integer(call, "background", background),
            ignore_index=ignore_index,
        )
