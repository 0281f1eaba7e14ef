"""The losses as modules: each is its function, with the hyper-parameters stored.

A module has the function's options in the function's order and with its defaults, but that it
reduces by the mean; what belongs to one batch, such as a mask, is given with it.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from parfocal.losses import checks, numbers
from parfocal.losses.asymmetric import asymmetric, asymmetric_loss
from parfocal.losses.gaussian import gaussian, gaussian_focal_loss
from parfocal.losses.likelihood import likelihood, likelihood_focal_loss
from parfocal.losses.linear import linear_softmax_focal_loss
from parfocal.losses.matching import focal_matching_cost, matching
from parfocal.losses.poly import poly, poly_focal_loss
from parfocal.losses.quality import quality, quality_focal_loss
from parfocal.losses.sigmoid import focal, sigmoid_focal_loss
from parfocal.losses.softmax import softmax_focal_loss
from parfocal.losses.softmax_asymmetric import softmax_asymmetric_loss
from parfocal.losses.varifocal import varifocal, varifocal_loss


class StoredLoss(nn.Module):
    """The hyper-parameters of a function.

    A tensor becomes a buffer, so that it moves with the module; an ``nn.Parameter`` is learned.
    """

    _function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        call = type(self).__name__
        for name, check in _CHECKS.items():
            if name in options:
                check(call, options[name])
        self._names = tuple(n for n in inspect.signature(self._function).parameters if n in options)
        for name, option in options.items():
            if isinstance(option, Tensor) and not isinstance(option, nn.Parameter):
                self.register_buffer(name, option)
            else:
                setattr(self, name, option)

    def evaluate(self, *batch: Tensor | None, **options: Any) -> Tensor:
        """The function of a batch, with the options of the batch, and the stored ones beside."""
        stored = {name: getattr(self, name) for name in self._names}
        return self._function(*batch, **(stored | options))

    def extra_repr(self) -> str:
        """The hyper-parameters, as they are given to the constructor."""
        return ", ".join(f"{name}={_shown(getattr(self, name))}" for name in self._names)


# Options that are stored as they come; a loss has its numbers checked where it is made.
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "ignore_index": checks.ignore_index,
    "reduction": checks.reduction,
    "weight": checks.class_weight,
}


def _shown(option: object) -> str:
    """A number as itself, a tensor by its shape alone: printing must not read a device."""
    if not isinstance(option, Tensor):
        return repr(option)
    kind = "Parameter" if isinstance(option, nn.Parameter) else "Tensor"
    return f"{kind}(shape={tuple(option.shape)})"


class _ElementwiseLoss(StoredLoss):
    """A loss of one logit and one target."""

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
        return self.evaluate(inputs, targets, weight=weight, mask=mask, normalizer=normalizer)


class _ClassLoss(StoredLoss):
    """A loss of class logits, called as ``nn.CrossEntropyLoss`` is."""

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
        """The loss of a batch; see the function."""
        return self.evaluate(
            input,
            target,
            mask=mask,
            position_weight=position_weight,
            normalizer=normalizer,
            inputs=inputs,
            targets=targets,
        )


class SigmoidFocalLoss(_ElementwiseLoss):
    """`sigmoid_focal_loss` as a module, which reduces by the mean by default.

    Args:
        alpha, gamma, reduction, epsilon: as in `sigmoid_focal_loss`, checked in the constructor. A
            tensor becomes a buffer, so that it moves with the module; an ``nn.Parameter`` is
            learned.

    Shape:
        inputs and targets of one shape, or (N, C, ...) and class indices (N, ...); the result is
        of the shape of the inputs for ``reduction="none"``, else a scalar.

    Example:
        >>> import torch
        >>> from parfocal import SigmoidFocalLoss
        >>> loss = SigmoidFocalLoss(gamma=0.5)
        >>> loss
        SigmoidFocalLoss(alpha=0.25, gamma=0.5, reduction='mean', epsilon=0.0)
        >>> loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]))
        tensor(1.1770)
    """

    _function = staticmethod(sigmoid_focal_loss)

    def __init__(
        self,
        alpha: float | Tensor | None = 0.25,
        gamma: float | Tensor = 2,
        reduction: str = "mean",
        *,
        epsilon: float = 0.0,
    ) -> None:
        loss = focal(type(self).__name__, alpha, gamma, epsilon)
        super().__init__(reduction=reduction, **loss._asdict())


class SoftmaxFocalLoss(_ClassLoss):
    """`softmax_focal_loss` as a module, called as ``nn.CrossEntropyLoss`` is.

    Args:
        weight, gamma, ignore_index, reduction, label_smoothing, epsilon: as in
            `softmax_focal_loss`, checked in the constructor. A tensor becomes a buffer, so that it
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

    _function = staticmethod(softmax_focal_loss)

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
        super().__init__(
            weight=weight,
            gamma=checks.gamma(call, gamma),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=numbers.fraction(call, "label_smoothing", label_smoothing),
            epsilon=numbers.smoothing(call, epsilon, gamma),
        )


class LinearSoftmaxFocalLoss(StoredLoss):
    """`linear_softmax_focal_loss` as a module, which takes the weight with each batch.

    It has no weight of its own, so the weight may be tied, or belong to a layer.

    Args:
        gamma, ignore_index, reduction, label_smoothing, class_weight: as in
            `linear_softmax_focal_loss`, checked in the constructor. A tensor becomes a buffer, so
            that it moves with the module; an ``nn.Parameter`` is learned.

    Shape:
        input (..., D), weight (C, D), targets (...), bias (C); the result is of the shape of the
        targets for ``reduction="none"``, else a scalar.

    Example:
        >>> import torch
        >>> from parfocal import LinearSoftmaxFocalLoss
        >>> loss = LinearSoftmaxFocalLoss(gamma=0.5)
        >>> loss
        LinearSoftmaxFocalLoss(gamma=0.5, ignore_index=-100, reduction='mean',
            label_smoothing=0.0, class_weight=None)
        >>> loss(torch.tensor([[2.0, 1.0]]), torch.eye(2), torch.tensor([0]))
        tensor(0.1625)
    """

    _function = staticmethod(linear_softmax_focal_loss)

    def __init__(
        self,
        gamma: float | Tensor = 2,
        *,
        ignore_index: int | Sequence[int] = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        class_weight: Tensor | None = None,
    ) -> None:
        call = type(self).__name__
        checks.class_weight(call, class_weight, name="class_weight")
        super().__init__(
            gamma=checks.gamma(call, gamma),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=numbers.fraction(call, "label_smoothing", label_smoothing),
            class_weight=class_weight,
        )

    def forward(
        self,
        input: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        position_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; see `linear_softmax_focal_loss`."""
        return self.evaluate(
            input,
            weight,
            targets,
            bias,
            mask=mask,
            position_weight=position_weight,
            normalizer=normalizer,
        )


class VarifocalLoss(_ElementwiseLoss):
    """`varifocal_loss` as a module, which reduces by the mean by default.

    Args:
        alpha, gamma, reduction: as in `varifocal_loss`, checked in the constructor.

    Shape:
        as `SigmoidFocalLoss`, without class indices.

    Example:
        >>> import torch
        >>> from parfocal import VarifocalLoss
        >>> VarifocalLoss(gamma=0.5)(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]))
        tensor(0.9593)
    """

    _function = staticmethod(varifocal_loss)

    def __init__(
        self, alpha: float = 0.75, gamma: float | Tensor = 2, reduction: str = "mean"
    ) -> None:
        loss = varifocal(type(self).__name__, alpha, gamma)
        super().__init__(reduction=reduction, **loss._asdict())


class GaussianFocalLoss(_ElementwiseLoss):
    """`gaussian_focal_loss` as a module, which reduces by the mean by default.

    Args:
        gamma, beta, reduction: as in `gaussian_focal_loss`, checked in the constructor.

    Shape:
        as `SigmoidFocalLoss`, without class indices.

    Example:
        >>> import torch
        >>> from parfocal import GaussianFocalLoss
        >>> loss = GaussianFocalLoss(reduction="sum")
        >>> loss(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 0.5, 0.0]))
        tensor(1.7550)
    """

    _function = staticmethod(gaussian_focal_loss)

    def __init__(self, gamma: float | Tensor = 2, beta: float = 4, reduction: str = "mean") -> None:
        loss = gaussian(type(self).__name__, gamma, beta)
        super().__init__(reduction=reduction, **loss._asdict())


class QualityFocalLoss(_ElementwiseLoss):
    """`quality_focal_loss` as a module, which reduces by the mean by default.

    Args:
        beta, reduction: as in `quality_focal_loss`, checked in the constructor.

    Shape:
        as `SigmoidFocalLoss`, without class indices.

    Example:
        >>> import torch
        >>> from parfocal import QualityFocalLoss
        >>> QualityFocalLoss()(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]))
        tensor(0.8268)
    """

    _function = staticmethod(quality_focal_loss)

    def __init__(self, beta: float = 2, reduction: str = "mean") -> None:
        loss = quality(type(self).__name__, beta)
        super().__init__(reduction=reduction, **loss._asdict())


class PolyFocalLoss(_ElementwiseLoss):
    """`poly_focal_loss` as a module, which reduces by the mean by default.

    Args:
        alpha, gamma, reduction, epsilon_1: as in `poly_focal_loss`, checked in the constructor.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import PolyFocalLoss
        >>> PolyFocalLoss(gamma=0.5)(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor(1.4539)
    """

    _function = staticmethod(poly_focal_loss)

    def __init__(
        self,
        alpha: float | Tensor | None = None,
        gamma: float | Tensor = 2,
        reduction: str = "mean",
        *,
        epsilon_1: float = 1.0,
    ) -> None:
        loss = poly(type(self).__name__, alpha, gamma, epsilon_1)
        super().__init__(reduction=reduction, **loss._asdict())


class AsymmetricLoss(_ElementwiseLoss):
    """`asymmetric_loss` as a module, which reduces by the mean by default.

    Args:
        gamma_neg, gamma_pos, margin, reduction: as in `asymmetric_loss`, checked in the
            constructor.

    Shape:
        as `SigmoidFocalLoss`.

    Example:
        >>> import torch
        >>> from parfocal import AsymmetricLoss
        >>> AsymmetricLoss()(torch.tensor([2.0, 2.0, -4.0]), torch.tensor([1.0, 0.0, 0.0]))
        tensor(0.2872)
    """

    _function = staticmethod(asymmetric_loss)

    def __init__(
        self,
        gamma_neg: float | Tensor = 4,
        gamma_pos: float | Tensor = 1,
        margin: float = 0.05,
        reduction: str = "mean",
    ) -> None:
        loss = asymmetric(type(self).__name__, gamma_neg, gamma_pos, margin)
        super().__init__(reduction=reduction, **loss._asdict())


class LikelihoodFocalLoss(StoredLoss):
    """`likelihood_focal_loss` as a module, which reduces by the mean by default.

    Args:
        gamma, reduction: as in `likelihood_focal_loss`, checked in the constructor.

    Shape:
        nll of any shape; the result is of that shape for ``reduction="none"``, else a scalar.

    Example:
        >>> import torch
        >>> from parfocal import LikelihoodFocalLoss
        >>> LikelihoodFocalLoss(gamma=0.5)(torch.tensor([0.0, 2.0]))
        tensor(0.9299)
    """

    _function = staticmethod(likelihood_focal_loss)

    def __init__(self, gamma: float | Tensor = 2, reduction: str = "mean") -> None:
        loss = likelihood(type(self).__name__, gamma)
        super().__init__(reduction=reduction, **loss._asdict())

    def forward(
        self,
        nll: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch; see `likelihood_focal_loss`."""
        return self.evaluate(nll, weight=weight, mask=mask, normalizer=normalizer)


class SoftmaxAsymmetricLoss(_ClassLoss):
    """`softmax_asymmetric_loss` as a module, called as ``nn.CrossEntropyLoss`` is.

    Args:
        weight, gamma_neg, gamma_pos, ignore_index, reduction, label_smoothing: as in
            `softmax_asymmetric_loss`, checked in the constructor.

    Shape:
        input (C), (N, C) or (N, C, d1, ...); target indices without C.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxAsymmetricLoss
        >>> SoftmaxAsymmetricLoss()(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]))
        tensor(0.3806)
    """

    _function = staticmethod(softmax_asymmetric_loss)

    def __init__(
        self,
        weight: Tensor | None = None,
        gamma_neg: float | Tensor = 4,
        gamma_pos: float | Tensor = 0,
        *,
        ignore_index: int | Sequence[int] = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.1,
    ) -> None:
        call = type(self).__name__
        super().__init__(
            weight=weight,
            gamma_neg=checks.gamma(call, gamma_neg, name="gamma_neg"),
            gamma_pos=checks.gamma(call, gamma_pos, name="gamma_pos"),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=numbers.fraction(call, "label_smoothing", label_smoothing),
        )


class FocalMatchingCost(StoredLoss):
    """`focal_matching_cost` as a module.

    Args:
        alpha, gamma: as in `focal_matching_cost`, checked in the constructor.

    Shape:
        inputs (..., N, C) and labels (M); the result is (..., N, M).

    Example:
        >>> import torch
        >>> from parfocal import FocalMatchingCost
        >>> FocalMatchingCost()(torch.tensor([[0.0, 1.0]]), torch.tensor([0, 1, 1]))
        tensor([[-0.0866, -0.5207, -0.5207]])
    """

    _function = staticmethod(focal_matching_cost)

    def __init__(self, alpha: float = 0.25, gamma: float = 2) -> None:
        alpha, gamma = matching(type(self).__name__, alpha, gamma)
        super().__init__(alpha=alpha, gamma=gamma)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The costs of a batch; see `focal_matching_cost`."""
        return self.evaluate(inputs, labels)
