"""The focal loss with MONAI's constructor and labels."""

import warnings
from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul

import torch
from torch import Tensor, nn

from parfocal.losses import checks, values
from parfocal.losses.reduction import to_input_dtype, widen
from parfocal.losses.sigmoid import sigmoid_focal_loss
from parfocal.losses.softmax import softmax_focal_loss
from parfocal.numerics import computation, margins

_CALL = "FocalLoss"


class FocalLoss(nn.Module):
    """The exact focal loss as `monai.losses.FocalLoss` is called.

    ::

        sigmoid:    L = the mean over images, classes and voxels of w_c FL_c
        softmax:    L = the mean over images, classes and voxels of -a_c w_c y_c (1 - p_c)^g log p_c

    where FL is `parfocal.sigmoid_focal_loss`. A mean with a softmax is therefore the mean of
    `parfocal.softmax_focal_loss`, divided by C.

    Args:
        include_background: Whether class 0 counts. If not, its channel is removed first; a softmax
            is then over the other classes.
        to_onehot_y: Whether the target has class indices (N, 1, ...).
        gamma: Focusing exponent, >= 0.
        alpha: With a sigmoid, the share of the positive class, in [0, 1]; with one number per
            class, each multiplies only the positives of its class. With a softmax, the factor of
            all classes but 0, which gets 1 - alpha; or one number per class.
        weight: One factor per class that counts, or one for all; >= 0.
        reduction: ``"mean"``; ``"sum"``, over images and classes of the mean over voxels; or
            ``"none"``, of the shape of the classes that count.
        use_softmax: Whether the classes are mutually exclusive.
        ignore_index: Label of voxels that don't count. With a one-hot target, these are the voxels
            of that class or, if the label is no class, those without a class.

    Shape:
        input (N, C, ...), logits; target (N, 1, ...) with `to_onehot_y`, else (N, C, ...).

    Raises:
        ValueError: shapes that don't fit, numbers out of range, an unknown reduction.

    If no voxel counts, the loss is 0. With an `ignore_index`, a mean divides by the voxels but not
    by the classes, as in MONAI.

    What differs: a soft target of a sigmoid gives one loss at a mixed probability; the loss has the
    dtype of the logits, even float64; a sum of logits (N, C) is a sum.

    Accuracy: that of `sigmoid_focal_loss` and `softmax_focal_loss`.

    Example:
        >>> import torch
        >>> from parfocal.integrations.monai import FocalLoss
        >>> loss = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.5)
        >>> logits = torch.tensor([[[20.0], [0.0], [1.0]]], requires_grad=True)
        >>> loss(logits, torch.tensor([[[0]]])).backward()
        >>> logits.grad
        tensor([[[-3.3547e-13],
                 [ 9.0221e-14],
                 [ 2.4525e-13]]])

    Source: ``monai/losses/focal_loss.py`` of 1.6.1.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        weight: float | Sequence[float] | Tensor | None = None,
        reduction: str = "mean",
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        checks.reduction(_CALL, reduction)
        self.reduction = str(getattr(reduction, "value", reduction))  # MONAI has an Enum of them
        self.include_background, self.to_onehot_y = include_background, to_onehot_y
        self.use_softmax, self.ignore_index = use_softmax, ignore_index
        self.gamma = checks.gamma(_CALL, gamma)
        self.alpha: float | Tensor | None
        if alpha is None or isinstance(alpha, (int, float)):
            self.alpha = checks.alpha(_CALL, alpha)
        else:
            self.alpha = _not_negative("alpha", alpha)
        weight = None if weight is None else _not_negative("weight", weight)
        self.register_buffer("class_weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        has_labels = _applies("to_onehot_y", self.to_onehot_y, input)
        is_cut = _applies("include_background", not self.include_background, input)
        shape = (len(input), 1, *input.shape[2:]) if has_labels else tuple(input.shape)
        if target.shape != shape:
            raise ValueError(
                f"{_CALL}: expected `target` of shape {shape}, got {tuple(target.shape)}"
            )
        counts = None if self.ignore_index is None else _counts(target, self.ignore_index)
        if has_labels:
            target = _labels(target, counts, input.shape[1], is_cut=is_cut)
        elif is_cut:
            target = target[:, 1:]
        loss = self._softmax if self.use_softmax else self._sigmoid
        return loss(input[:, 1:] if is_cut else input, target, counts, has_labels=has_labels)

    def _sigmoid(
        self, x: Tensor, target: Tensor, counts: Tensor | None, *, has_labels: bool
    ) -> Tensor:
        """Each class on its own; labels are hard targets of all classes, and C is none of them."""
        alpha, of_positive = self.alpha, None
        is_balanced = isinstance(alpha, Tensor) and alpha.ndim > 0
        if has_labels:
            takes_labels = x.shape[1] > 1 and not is_balanced
            target = target.squeeze(1) if takes_labels else _one_hot(x, target)
        if isinstance(alpha, Tensor) and is_balanced:
            of_positive = torch.where(target == 1, _over_maps("alpha", alpha, x), 1.0)
            alpha = None
        divisor, of_image = self._divisors(x, counts)
        return sigmoid_focal_loss(
            x,
            target,
            alpha,
            self.gamma,
            "none" if self.reduction == "none" else "sum",
            weight=_product(self._class_weight(x), of_positive, of_image),
            mask=counts,
            normalizer=divisor,
        )

    def _softmax(
        self, x: Tensor, target: Tensor, counts: Tensor | None, *, has_labels: bool
    ) -> Tensor:
        """One class of all."""
        weight = _product(self._class_weight(x), self._class_alpha(x))
        if self.reduction == "none":
            y = _one_hot(x, target) if has_labels else target
            # -(1 - p) ** gamma log p of a class is the binary loss of a positive at its margin.
            u = margins(widen(x)).u
            loss = sigmoid_focal_loss(
                u, torch.ones_like(u), None, self.gamma, weight=_product(weight, y), mask=counts
            )
            return to_input_dtype(loss, x)
        divisor, of_image = self._divisors(x, counts)
        return softmax_focal_loss(
            x,
            target.squeeze(1) if has_labels else target.to(x.dtype),
            None if weight is None else weight.flatten().expand(x.shape[1]),
            self.gamma,
            ignore_index=x.shape[1] if has_labels else -100,
            reduction="sum",
            mask=None if counts is None else counts.squeeze(1),
            position_weight=None if of_image is None else of_image.squeeze(1),
            normalizer=divisor,
        )

    def _divisors(
        self, x: Tensor, counts: Tensor | None
    ) -> tuple[float | Tensor | None, Tensor | None]:
        """What the sum is divided by, and what the losses of each image are multiplied by."""
        if self.reduction == "mean":
            return (max(1, x.numel()) if counts is None else counts.sum().clamp(min=1)), None
        if self.reduction == "none":
            return None, None
        if counts is None:
            return max(1, prod(x.shape[2:])), None
        voxels = counts.flatten(1).sum(1).clamp(min=1).to(computation(x))
        return None, voxels.reciprocal().view(-1, *(1,) * (x.ndim - 1))

    def _class_weight(self, x: Tensor) -> Tensor | None:
        """The weights over the maps of their classes."""
        return None if self.class_weight is None else _over_maps("weight", self.class_weight, x)

    def _class_alpha(self, x: Tensor) -> Tensor | None:
        """Under a softmax: 1 - alpha for the background, alpha for the others."""
        alpha = self.alpha
        if alpha is None or (isinstance(alpha, Tensor) and alpha.ndim):
            return None if alpha is None else _over_maps("alpha", alpha, x)
        if not self.include_background:
            warnings.warn(
                f"{_CALL}: `alpha` is ignored: one number balances the background, which isn't "
                "included",
                stacklevel=4,
            )
            return None
        factors = torch.full((x.shape[1],), float(alpha))
        factors[0] = 1 - alpha
        return _over_maps("alpha", factors, x)

    def extra_repr(self) -> str:
        """The options, as they are given to the constructor."""
        names = "include_background to_onehot_y gamma alpha reduction use_softmax ignore_index"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names.split())


def _applies(name: str, value: bool, input: Tensor) -> bool:
    """Whether an option is on; beside a single channel it says nothing, as there."""
    if value and input.shape[1] == 1:
        warnings.warn(f"{_CALL}: logits have a single channel, `{name}` is ignored", stacklevel=3)
    return value and input.shape[1] > 1


def _counts(target: Tensor, ignore_index: int) -> Tensor:
    """The voxels that count, (N, 1, ...)."""
    if target.shape[1] == 1:
        return target != ignore_index
    if 0 <= ignore_index < target.shape[1]:
        return target[:, ignore_index : ignore_index + 1] != 1
    return target.sum(1, keepdim=True) > 0


def _labels(target: Tensor, counts: Tensor | None, classes: int, *, is_cut: bool) -> Tensor:
    """Class indices, 0 where a voxel doesn't count.

    Where the background is cut off the C others are counted from 0, and C stands for it.
    """
    labels = (target if counts is None else torch.where(counts, target, 0)).long()
    values.class_indices(_CALL, labels, classes, name="target")
    return torch.where(labels == 0, classes, labels) - 1 if is_cut else labels


def _one_hot(x: Tensor, labels: Tensor) -> Tensor:
    """1 at the class of a label (N, 1, ...), 0 at the others; all 0 for none of the classes."""
    classes = torch.arange(x.shape[1], device=x.device).view(-1, *(1,) * (x.ndim - 2))
    return (labels == classes).to(x.dtype)


def _not_negative(name: str, factors: float | Sequence[float] | Tensor) -> Tensor:
    """Factors of classes, or one of all."""
    factors = torch.as_tensor(factors)
    if not (factors >= 0).all():
        raise ValueError(f"{_CALL}: expected `{name}` >= 0, got {factors.min().item():g}")
    return factors


def _over_maps(name: str, factors: Tensor, x: Tensor) -> Tensor:
    """One number a class, or one for all, in the shape (C, 1, ...) or (1, 1, ...)."""
    if factors.numel() not in (1, x.shape[1]) or factors.ndim > 1:
        raise ValueError(
            f"{_CALL}: expected `{name}` to have one number for each of the {x.shape[1]} classes "
            f"that count, got {tuple(factors.shape)}"
        )
    return factors.to(x.device, computation(x)).view(-1, *(1,) * (x.ndim - 2))


def _product(*factors: Tensor | None) -> Tensor | None:
    """The product of those that are there."""
    present = [factor for factor in factors if factor is not None]
    return reduce(mul, present) if present else None
