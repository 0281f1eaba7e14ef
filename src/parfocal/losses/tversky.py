"""Tversky losses of segmentations, plain and focal, from logits.

The four functions differ in the margin of a pixel, the logit itself or that of its class against
the others, and in an exponent; everything else is here once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.reduction import reduce, to_input_dtype
from parfocal.losses.rows import Pixels, Rows, class_pixels, class_rows, sigmoid_pixels
from parfocal.numerics import Power, class_region_power, composed_power, region_power


class TverskyWeights(NamedTuple):
    """How the errors of a region are weighed; the options of the same names."""

    alpha: float
    beta: float
    smooth: float
    per_image: bool

    def check(self, call: str) -> "TverskyWeights":
        """The same with Python's numbers; refuses what is out of range, in the name of the call."""
        return TverskyWeights(
            alpha=numbers.non_negative(call, "alpha", self.alpha),
            beta=numbers.non_negative(call, "beta", self.beta),
            smooth=numbers.non_negative(call, "smooth", self.smooth),
            per_image=self.per_image,
        )

    def power(self, pixels: Pixels, exponent: float | Tensor) -> Tensor:
        """(1 - T) ** exponent of each class (..., C), or of each image as well (N, ..., C)."""
        u, y, mask, _ = pixels
        power = Power(self.alpha, self.beta, self.smooth, exponent)
        return region_power(u, y, mask, pixels.region(self.per_image), power)

    def class_power(self, r: Rows, exponent: float | Tensor) -> Tensor:
        """The same, of classes (C) or of those of each image (N, C)."""
        power = Power(self.alpha, self.beta, self.smooth, exponent)
        if r.labels is not None:
            result = class_region_power(r.x, r.labels, r.mask, self.per_image, power)
            if result is not None:
                return result
        pixels = class_pixels(r)
        u, y, mask, _ = pixels
        return composed_power(u, y, mask, pixels.region(self.per_image), power)


def sigmoid_tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.7,
    beta: float = 0.3,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Tversky loss of logits, each class on its own; `sigmoid_focal_tversky_loss` at gamma 1.

    With ``p = sigmoid(inputs)`` and ``y = targets``, over the pixels of each region::

        TP = sum of y p      FN = sum of y (1 - p)      FP = sum of (1 - y) p
        L  = (alpha FN + beta FP) / (TP + alpha FN + beta FP + smooth)

    ``alpha = beta = 0.5`` is the Dice loss, ``alpha = beta = 1`` the Jaccard loss.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`, values in [0, 1], any real dtype. Data: no gradient flows to
            them.
        alpha, beta: Weights of false negatives and of false positives, >= 0. Several libraries, and
            Salehi et al., swap the two.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` over classes and images.
        smooth: Number of pixels, >= 0, that is added to the true positives. The larger it is, the
            less a small region counts.
        per_image: Whether a region is a class of one image, or of the whole batch.
        weight: One factor per class, (C). It doesn't change what a mean divides by.
        mask: Boolean, or integers with 0 for False; broadcasts against `inputs`; True where a pixel
            counts. Elsewhere its gradient is exactly 0, whatever `inputs` and `targets` hold there.

    Returns:
        (N, C), or (C) for ``per_image=False``, for ``reduction="none"``; else a scalar. In the
        dtype of `inputs`, under autocast in float32 at least.

        A class that is absent from the targets of a region has the loss
        ``beta FP / (beta FP + smooth)``: 0 if nothing was found, and otherwise up to 1, even for
        ``smooth = 0``. A region in which no pixel counts has loss 0, and counts in a mean.

    Raises:
        TypeError, ValueError: arguments of the wrong type, shapes that don't fit, numbers out of
            their range.

    Accuracy: see `sigmoid_focal_tversky_loss`.

    Example:
        >>> import torch
        >>> from parfocal import sigmoid_tversky_loss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> sigmoid_tversky_loss(logits, targets)
        tensor(0.1941)

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", MLMI 2017, equation 3.
    """
    call = "sigmoid_tversky_loss"
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    weights = TverskyWeights(alpha, beta, smooth, per_image)
    return _of_regions(call, inputs, pixels, weights, 1.0, weight, reduction)


def sigmoid_focal_tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 4 / 3,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Focal Tversky loss of logits, each class on its own; finite gradients at a perfect match.

    With T the Tversky index of `sigmoid_tversky_loss`::

        L = (1 - T) ** (1 / gamma)

    Its slope in T is infinite at T = 1 for gamma > 1. In the logits it is finite everywhere.

    Args:
        inputs, targets, alpha, beta, reduction, smooth, per_image, weight, mask: as in
            `sigmoid_tversky_loss`.
        gamma: Inverse of the exponent, > 0, as the paper has it. Several libraries call the
            exponent itself gamma.

    Returns:
        As `sigmoid_tversky_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_tversky_loss`.

    Accuracy: with k = 1 / gamma, value and gradient within 8 + 6 k ULP in float64 and float32 for
    regions of few pixels, and more for sums over many; 1 ULP in 16 bits. Derivatives of every order
    are finite. Measured errors are in ``ledger/records``.

    Example:
        >>> import torch
        >>> from parfocal import sigmoid_focal_tversky_loss
        >>> logits = torch.full((1, 1, 2, 2), 60.0, requires_grad=True)
        >>> loss = sigmoid_focal_tversky_loss(logits, torch.ones(1, 1, 2, 2), smooth=0.0)
        >>> loss.backward()
        >>> loss, logits.grad[0, 0, 0]
        (tensor(2.1906e-20, grad_fn=<MeanBackward0>), tensor([-4.1075e-21, -4.1075e-21]))

    Source: Abraham and Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net
    for Lesion Segmentation", ISBI 2019, equation 4.
    """
    call = "sigmoid_focal_tversky_loss"
    gamma = numbers.positive(call, "gamma", gamma)
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    weights = TverskyWeights(alpha, beta, smooth, per_image)
    return _of_regions(call, inputs, pixels, weights, 1 / gamma, weight, reduction)


def softmax_tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.7,
    beta: float = 0.3,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    ignore_index: int | Sequence[int] = -100,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Tversky loss of class logits; `softmax_focal_tversky_loss` at gamma 1.

    The formula of `sigmoid_tversky_loss` with ``p = softmax(inputs)`` over the classes, and y the
    class probabilities of a pixel, 1 at its index.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Class indices (N, d1, ...) of an integer dtype, in [0, C) or `ignore_index`; or
            class probabilities (N, C, d1, ...) of a floating dtype. Data: no gradient flows to
            them.
        ignore_index: Index of pixels that don't count; for indices only.
        mask: Boolean, or integers with 0 for False; broadcasts against (N, d1, ...); True where a
            pixel counts.
        alpha, beta, reduction, smooth, per_image, weight: as in `sigmoid_tversky_loss`. A weight of
            0 leaves out a class, such as a background, but a mean still divides by it.

    Returns:
        As `sigmoid_tversky_loss`, which also says how absent classes are treated.

    Raises:
        TypeError, ValueError: as `softmax_focal_loss`.

    Accuracy: see `softmax_focal_tversky_loss`.

    Example:
        >>> import torch
        >>> from parfocal import softmax_tversky_loss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> softmax_tversky_loss(logits, torch.tensor([[0, 1]]), reduction="none")
        tensor([[0.0151, 0.0151, 0.0105]])

    Source: as `sigmoid_tversky_loss`.
    """
    call = "softmax_tversky_loss"
    r = class_rows(call, inputs, targets, ignore_index, mask)
    weights = TverskyWeights(alpha, beta, smooth, per_image)
    return _of_regions(call, inputs, r, weights, 1.0, weight, reduction)


def softmax_focal_tversky_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.7,
    beta: float = 0.3,
    gamma: float = 4 / 3,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    ignore_index: int | Sequence[int] = -100,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Focal Tversky loss of class logits, with finite gradients at a perfect match.

    With T the Tversky index of `softmax_tversky_loss`::

        L = (1 - T) ** (1 / gamma)

    Args:
        inputs, targets, alpha, beta, reduction, smooth, per_image, weight, ignore_index, mask: as
            in `softmax_tversky_loss`.
        gamma: Inverse of the exponent, > 0, as in `sigmoid_focal_tversky_loss`.

    Returns:
        As `softmax_tversky_loss`.

    Raises:
        TypeError, ValueError: as `softmax_focal_loss`.

    Accuracy: as `sigmoid_focal_tversky_loss`, plus (1 + k) d ULP with d the largest spread of
    a pixel's logits.

    Example:
        >>> import torch
        >>> from parfocal import softmax_focal_tversky_loss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> softmax_focal_tversky_loss(logits, torch.tensor([[0, 1]]), reduction="none")
        tensor([[0.0430, 0.0430, 0.0328]])

    Source: as `sigmoid_focal_tversky_loss`.
    """
    call = "softmax_focal_tversky_loss"
    gamma = numbers.positive(call, "gamma", gamma)
    r = class_rows(call, inputs, targets, ignore_index, mask)
    weights = TverskyWeights(alpha, beta, smooth, per_image)
    return _of_regions(call, inputs, r, weights, 1 / gamma, weight, reduction)


def _of_regions(
    call: str,
    inputs: Tensor,
    pixels: Pixels | Rows,
    weights: TverskyWeights,
    exponent: float,
    weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """(1 - T) ** exponent of the regions, weighed and reduced."""
    weights = weights.check(call)
    checks.class_weight(call, weight, inputs)
    checks.reduction(call, reduction)
    if isinstance(pixels, Rows):
        loss = weights.class_power(pixels, exponent)
    else:
        loss = weights.power(pixels, exponent)
    if weight is not None:
        loss = weight.to(loss.dtype) * loss
    return to_input_dtype(reduce(loss, reduction, None, None), inputs)
