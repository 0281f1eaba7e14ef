"""The unified focal losses of segmentations: a focal cross-entropy and a focal Tversky loss.

One pair of functions treats all classes alike; the asymmetric pair modulates the cross-entropy of
the background alone, and raises the regions of the foreground alone to a power. Sigmoid versions
treat each class as a binary problem: the class against the rest.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.reduction import reduce, select, to_input_dtype
from parfocal.losses.rows import Pixels, Rows, class_pixels, class_rows, sigmoid_pixels
from parfocal.losses.tversky import TverskyWeights
from parfocal.numerics import class_sum, focal, replicate_beside, varies
from parfocal.numerics.forms import ClassFocal


class UnifiedOptions(NamedTuple):
    """How the parts are weighed and reduced; the options of the same names."""

    delta: float
    gamma: float
    balance: float
    reduction: str
    smooth: float
    per_image: bool
    asymmetric: bool

    def regions(self) -> TverskyWeights:
        """How the errors of a region are weighed."""
        return TverskyWeights(self.delta, 1 - self.delta, self.smooth, self.per_image)

    def stored(self) -> dict[str, Any]:
        """What a module has of them, whose name says whether it is asymmetric."""
        return {name: value for name, value in self._asdict().items() if name != "asymmetric"}

    def check(self, call: str) -> "UnifiedOptions":
        """The same with Python's numbers; refuses what is out of range, in the name of the call."""
        gamma = numbers.fraction(call, "gamma", self.gamma)
        if gamma == 1:
            raise ValueError(f"{call}: expected `gamma` in [0, 1), got 1: no region would count")
        checks.reduction(call, self.reduction)
        return UnifiedOptions(
            delta=numbers.fraction(call, "delta", self.delta),
            gamma=gamma,
            balance=numbers.fraction(call, "balance", self.balance),
            reduction=self.reduction,
            smooth=numbers.non_negative(call, "smooth", self.smooth),
            per_image=self.per_image,
            asymmetric=self.asymmetric,
        )


def sigmoid_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Symmetric unified focal loss of logits, each class on its own.

    Each class is a binary problem: with probability ``p = sigmoid(inputs)`` and target y it is
    there, with ``1 - p`` and ``1 - y`` it isn't. On these the loss is that of
    `softmax_unified_focal_loss`, averaged over the classes.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`, values in [0, 1], any real dtype. Data: no gradient flows to
            them.
        mask: Boolean, or integers with 0 for False; broadcasts against `inputs`; True where a pixel
            counts.
        delta, gamma, balance, reduction, smooth, per_image, weight: as in
            `softmax_unified_focal_loss`.

    Returns:
        A scalar, or (N, C) for ``reduction="none"``, (C) with ``per_image=False``; in the dtype of
        `inputs`, under autocast in float32 at least. NaN if no pixel counts.

    Raises:
        TypeError, ValueError: arguments of the wrong type, shapes that don't fit, numbers out of
            their range.

    Accuracy: see `softmax_unified_focal_loss`.

    Example:
        >>> import torch
        >>> from parfocal import sigmoid_unified_focal_loss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> sigmoid_unified_focal_loss(logits, targets)
        tensor(0.5070)

    Source: as `softmax_unified_focal_loss`.
    """
    call = "sigmoid_unified_focal_loss"
    options = UnifiedOptions(delta, gamma, balance, reduction, smooth, per_image, asymmetric=False)
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    return _unified(call, inputs, pixels.as_two_classes(), 0, options, weight)


def sigmoid_asymmetric_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    reduction: str = "mean",
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Asymmetric unified focal loss of logits, each class on its own.

    Each class is a binary problem, as in `sigmoid_unified_focal_loss`; its absence is the
    background of `softmax_asymmetric_unified_focal_loss`.

    Args:
        inputs, targets, delta, gamma, balance, reduction, smooth, per_image, weight, mask: as in
            `sigmoid_unified_focal_loss`.

    Returns:
        As `sigmoid_unified_focal_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_unified_focal_loss`.

    Accuracy: see `softmax_unified_focal_loss`.

    Example:
        >>> import torch
        >>> from parfocal import sigmoid_asymmetric_unified_focal_loss
        >>> logits = torch.tensor([[[[4.0, -4.0], [4.0, -4.0]]]])
        >>> targets = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
        >>> sigmoid_asymmetric_unified_focal_loss(logits, targets)
        tensor(0.4513)

    Source: as `softmax_unified_focal_loss`.
    """
    call = "sigmoid_asymmetric_unified_focal_loss"
    options = UnifiedOptions(delta, gamma, balance, reduction, smooth, per_image, asymmetric=True)
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    return _unified(call, inputs, pixels.as_two_classes(), 0, options, weight)


def softmax_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
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
    mask: Tensor | None = None,
) -> Tensor:
    r"""Symmetric unified focal loss of class logits.

    With ``p = softmax(inputs)``, y the class probabilities of a pixel, T_c the Tversky index of
    class c with ``alpha = delta, beta = 1 - delta``, and ``delta_c = delta`` for every class but
    the background, which has ``1 - delta``::

        CE = mean over pixels of the sum over c of delta_c y_c (1 - p_c) ** gamma (-log p_c)
        R  = mean over regions of (1 - T_c) ** (1 - gamma)
        L  = balance R + (1 - balance) CE

    R is often written as ``(1 - T) (1 - T) ** -gamma``, which is 0 times infinity at a perfect
    match. In the logits it is finite everywhere, and so are its derivatives.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Class indices (N, d1, ...) of an integer dtype, in [0, C) or `ignore_index`; or
            class probabilities (N, C, d1, ...) of a floating dtype. Data: no gradient flows to
            them.
        delta: Weight of false negatives, and of the foreground, in [0, 1].
        gamma: Strength of the focus, in [0, 1). The exponent ``1 - gamma`` is rounded to the dtype
            of the computation.
        balance: Share of the regions, in [0, 1]; the paper's lambda.
        reduction: ``"mean"`` is L. ``"none"`` gives each region's part, whose mean is L: its power,
            and the cross-entropy of its class in its image. ``"sum"`` is the sum of the parts.
        smooth, per_image: as in `softmax_tversky_loss`.
        weight: One factor per class, (C), of its cross-entropy and of its regions. It doesn't
            change what a mean divides by.
        background: Index of the class that is the background.
        ignore_index: Index of pixels that don't count; for indices only.
        mask: Boolean, or integers with 0 for False; broadcasts against (N, d1, ...); True where a
            pixel counts.

    Returns:
        A scalar, or (N, C) for ``reduction="none"``, (C) with ``per_image=False``; in the dtype of
        `inputs`, under autocast in float32 at least. NaN if no pixel counts. Absent classes are
        treated as in `softmax_tversky_loss`.

    Raises:
        TypeError, ValueError: arguments of the wrong type, shapes that don't fit, numbers out of
            their range.

    Accuracy: that of its parts, `softmax_focal_loss` and `softmax_focal_tversky_loss`.

    Example:
        >>> import torch
        >>> from parfocal import softmax_unified_focal_loss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> softmax_unified_focal_loss(logits, torch.tensor([[0, 1]]))
        tensor(0.0611)

    Source: Yeung et al., "Unified Focal loss: Generalising Dice and cross entropy-based losses to
    handle class imbalanced medical image segmentation", CMIG 2022, section 3.2; the exponents and
    weights are those of the authors' code.
    """
    options = UnifiedOptions(delta, gamma, balance, reduction, smooth, per_image, asymmetric=False)
    call = "softmax_unified_focal_loss"
    r = class_rows(call, inputs, targets, ignore_index, mask)
    background = checks.class_index(call, "background", background, inputs)
    return _unified(call, inputs, r, background, options, weight)


def softmax_asymmetric_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
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
    mask: Tensor | None = None,
) -> Tensor:
    r"""Asymmetric unified focal loss of class logits.

    As `softmax_unified_focal_loss`, but the cross-entropy of the foreground isn't modulated, and
    the regions of the background have the exponent 1::

        CE = mean over pixels of the sum over c of delta_c y_c (1 - p_c) ** gamma_c (-log p_c)
        R  = mean over regions of (1 - T_c) ** k_c
        gamma_c = gamma, k_c = 1          for the background
        gamma_c = 0, k_c = 1 - gamma      for every other class

    Args:
        inputs, targets, delta, gamma, balance: as in `softmax_unified_focal_loss`.
        reduction, smooth, per_image, weight, background, ignore_index, mask: likewise.

    Returns:
        As `softmax_unified_focal_loss`.

    Raises:
        TypeError, ValueError: as `softmax_unified_focal_loss`.

    Accuracy: that of its parts, `softmax_focal_loss` and `softmax_focal_tversky_loss`.

    Example:
        >>> import torch
        >>> from parfocal import softmax_asymmetric_unified_focal_loss
        >>> logits = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]]])
        >>> softmax_asymmetric_unified_focal_loss(logits, torch.tensor([[0, 1]]))
        tensor(0.0480)

    Source: as `softmax_unified_focal_loss`.
    """
    options = UnifiedOptions(delta, gamma, balance, reduction, smooth, per_image, asymmetric=True)
    call = "softmax_asymmetric_unified_focal_loss"
    r = class_rows(call, inputs, targets, ignore_index, mask)
    background = checks.class_index(call, "background", background, inputs)
    return _unified(call, inputs, r, background, options, weight)


class PerClass(NamedTuple):
    """What holds for each class (C): its gamma, the weight of its pixels, the power of its region.

    gamma: a number where all classes have the same.
    weight: a factor of all its losses, or None for 1.
    """

    gamma: float | Tensor
    delta: Tensor
    exponent: Tensor
    weight: Tensor | None

    def mean_of_indices(self, r: Rows) -> Tensor | None:
        """The mean cross-entropy of class indices, in one pass; None where there is none."""
        labels, weight = r.labels, self.weight
        if labels is None or varies(weight):
            return None
        factor = self.delta[labels]
        if weight is not None:
            factor = factor * weight[labels]
        factor = select(r.mask, factor)
        gamma = self.gamma[labels] if isinstance(self.gamma, Tensor) else self.gamma
        count = labels.numel() if r.mask is None else r.mask.sum()
        return class_sum(ClassFocal(gamma), r.x, labels, factor, count)

    def terms(self, pixels: Pixels) -> Tensor:
        """The cross-entropy of margins: of each pixel, and of each class at it."""
        y, gamma = pixels.y, self.gamma
        losses = focal(
            pixels.u,
            torch.ones_like(y),
            pixels.over_maps(gamma) if isinstance(gamma, Tensor) else gamma,
        )
        # An infinite loss of weight 0 adds nothing.
        terms = select(y > 0, pixels.over_maps(self.delta) * y * losses)
        if self.weight is not None:  # of the classes of the inputs, in dim 1 of the pixels
            terms = self.weight.view(-1, *(1,) * (terms.ndim - 2)) * terms
        return terms


def _unified(
    call: str,
    inputs: Tensor,
    pixels: Pixels | Rows,
    background: int,
    options: UnifiedOptions,
    weight: Tensor | None,
) -> Tensor:
    """The loss of pixels of which one class is the background."""
    options = options.check(call)
    checks.class_weight(call, weight, inputs)
    like = pixels.x if isinstance(pixels, Rows) else pixels.u
    per_class = _per_class(options, pixels.classes(), background, weight, like)
    if isinstance(pixels, Rows):
        regions = options.regions().class_power(pixels, per_class.exponent)
    else:
        regions = options.regions().power(pixels, per_class.exponent)
    if weight is not None:  # (..., C), or (..., C, 2) where each class is a problem of two
        is_single = isinstance(pixels, Rows) or pixels.class_dim == 1
        factor = weight.to(regions.dtype)
        regions = (factor if is_single else factor.unsqueeze(1)) * regions
    if options.reduction == "mean":
        cross_entropy = _mean_cross_entropy(pixels, per_class)
        loss = options.balance * regions.mean() + (1 - options.balance) * cross_entropy
    else:
        loss = reduce(_parts(pixels, options, per_class, regions), options.reduction, None, None)
    return to_input_dtype(loss, inputs)


def _mean_cross_entropy(pixels: Pixels | Rows, per_class: PerClass) -> Tensor:
    """The mean over the pixels that count."""
    if isinstance(pixels, Rows):
        mean = per_class.mean_of_indices(pixels)
        if mean is not None:
            return mean
        pixels = class_pixels(pixels)
    terms = per_class.terms(pixels).sum(dim=pixels.class_dim)
    return reduce(terms, "mean", pixels.counts(), None)


def _parts(
    pixels: Pixels | Rows, options: UnifiedOptions, per_class: PerClass, regions: Tensor
) -> Tensor:
    """The part of each region (..., C), whose mean is the loss; 0 where no pixel counts."""
    pixels = class_pixels(pixels) if isinstance(pixels, Rows) else pixels
    terms = per_class.terms(pixels)
    counts = pixels.counts()
    whole: int | Tensor = max(1, terms.numel() // pixels.classes())
    if counts is not None:  # a quotient of integers would be in float32
        whole = counts.sum().clamp(min=1).to(terms.dtype)
    terms = terms.sum(dim=pixels.region(options.per_image))
    if pixels.class_dim > 1:  # each class is a problem of two
        terms, regions = terms.sum(-1), regions.mean(-1)
    cross_entropy = terms * (terms.numel() / whole)
    return options.balance * regions + (1 - options.balance) * cross_entropy


def _per_class(
    options: UnifiedOptions, classes: int, background: int, weight: Tensor | None, like: Tensor
) -> PerClass:
    """What holds for the background and for all other classes."""
    is_background = torch.arange(classes, device=like.device) == background

    def along_classes(of_background: float, of_foreground: float) -> Tensor:
        both = torch.tensor([of_foreground, of_background], dtype=like.dtype, device=like.device)
        return replicate_beside(like, both[is_background.long()])

    gamma = options.gamma
    return PerClass(
        along_classes(gamma, 0.0) if options.asymmetric else gamma,
        along_classes(1 - options.delta, options.delta),
        along_classes(1.0 if options.asymmetric else 1 - gamma, 1 - gamma),
        None if weight is None else weight.to(like.dtype),
    )
