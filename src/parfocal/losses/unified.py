"""The unified focal losses of segmentations: a focal cross-entropy and a focal Tversky loss.

One pair of functions treats all classes alike; the asymmetric pair modulates the cross-entropy of
the background alone, and raises the regions of the foreground alone to a power. Sigmoid versions
take each class for a problem of two, itself and what it isn't.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks
from parfocal.losses.classes import Rows
from parfocal.losses.pixels import Pixels, class_pixels, class_rows, sigmoid_pixels
from parfocal.losses.precision import rounded
from parfocal.losses.reduction import reduce, select
from parfocal.losses.tversky import Index
from parfocal.numerics import class_focal_sum, focal, is_readable


class Balance(NamedTuple):
    """How the parts are weighed; the options of the same names."""

    delta: float
    gamma: float
    balance: float
    smooth: float
    per_image: bool
    asymmetric: bool

    def regions(self) -> Index:
        """How the regions are weighed."""
        return Index(self.delta, 1 - self.delta, self.smooth, self.per_image)

    def checked(self, call: str) -> "Balance":
        """The same with Python's numbers; refuses what is out of range, in the name of the call."""
        gamma = checks.share(call, "gamma", self.gamma)
        if gamma == 1:
            raise ValueError(f"{call}: expected `gamma` in [0, 1), got 1: no region would count")
        return Balance(
            delta=checks.share(call, "delta", self.delta),
            gamma=gamma,
            balance=checks.share(call, "balance", self.balance),
            smooth=checks.non_negative(call, "smooth", self.smooth),
            per_image=self.per_image,
            asymmetric=self.asymmetric,
        )


def sigmoid_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Symmetric unified focal loss of logits, each class on its own.

    Each class is a problem of two: with probability ``p = sigmoid(inputs)`` and target y it is
    there, with ``1 - p`` and ``1 - y`` it isn't. On these the loss is that of
    `softmax_unified_focal_loss`, averaged over the classes.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`, values in [0, 1], any real dtype. Data: no gradient flows to
            them.
        mask: Boolean, broadcasts against `inputs`; True where a pixel counts.
        delta, gamma, balance, smooth, per_image, weight: as in `softmax_unified_focal_loss`.

    Returns:
        A scalar, in the dtype of `inputs`, under autocast in float32 at least. NaN if no pixel
        counts.

    Raises:
        TypeError, ValueError: arguments of another kind, shapes that don't fit, numbers out of
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
    parts = Balance(delta, gamma, balance, smooth, per_image, asymmetric=False)
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    return _unified(call, inputs, pixels.as_two_classes(), 0, parts, weight)


def sigmoid_asymmetric_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Asymmetric unified focal loss of logits, each class on its own.

    Each class is a problem of two, as in `sigmoid_unified_focal_loss`; where it isn't is the
    background of `softmax_asymmetric_unified_focal_loss`.

    Args:
        inputs, targets, delta, gamma, balance, smooth, per_image, weight, mask: as in
            `sigmoid_unified_focal_loss`.

    Returns:
        A scalar, as `sigmoid_unified_focal_loss`.

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
    parts = Balance(delta, gamma, balance, smooth, per_image, asymmetric=True)
    pixels = sigmoid_pixels(call, inputs, targets, mask)
    return _unified(call, inputs, pixels.as_two_classes(), 0, parts, weight)


def softmax_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    background: int = 0,
    ignore_index: int = -100,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Symmetric unified focal loss of class logits.

    With ``p = softmax(inputs)``, y the class probabilities of a pixel, T_c the Tversky index of
    class c with ``alpha = delta, beta = 1 - delta``, and ``delta_c = delta`` for every class but
    the background, which has ``1 - delta``::

        CE = mean over pixels of the sum over c of delta_c y_c (1 - p_c) ** gamma (-log p_c)
        R  = mean over regions of (1 - T_c) ** (1 - gamma)
        L  = balance R + (1 - balance) CE

    Often R is written as ``(1 - T) (1 - T) ** -gamma``, which is 0 times infinity at a perfect
    match. In the logits it is finite everywhere, and so are its derivatives.

    Args:
        inputs: Logits (N, C, d1, ...); float64, float32, float16 or bfloat16.
        targets: Class indices (N, d1, ...) of an integer dtype, in [0, C) or `ignore_index`; or
            class probabilities (N, C, d1, ...) of a floating dtype. Data: no gradient flows to
            them.
        delta: Weight of what was missed, and of the foreground, in [0, 1].
        gamma: Strength of the focus, in [0, 1). The exponent ``1 - gamma`` is rounded to the dtype
            of the computation.
        balance: Share of the regions, in [0, 1]; the paper's lambda.
        smooth, per_image: as in `softmax_tversky_loss`.
        weight: One factor a class, (C), of its cross-entropy and of its regions. It doesn't change
            what a mean divides by.
        background: Index of the class that is the background.
        ignore_index: Index of pixels that don't count; for indices only.
        mask: Boolean, broadcasts against (N, d1, ...); True where a pixel counts.

    Returns:
        A scalar, in the dtype of `inputs`, under autocast in float32 at least. NaN if no pixel
        counts. Classes that are absent have the meaning of `softmax_tversky_loss`.

    Raises:
        TypeError, ValueError: arguments of another kind, shapes that don't fit, numbers out of
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
    parts = Balance(delta, gamma, balance, smooth, per_image, asymmetric=False)
    call = "softmax_unified_focal_loss"
    r = class_rows(call, inputs, targets, ignore_index, mask)
    background = checks.class_index(call, "background", background, inputs)
    return _unified(call, inputs, r, background, parts, weight)


def softmax_asymmetric_unified_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    delta: float = 0.6,
    gamma: float = 0.5,
    balance: float = 0.5,
    *,
    smooth: float = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
    background: int = 0,
    ignore_index: int = -100,
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
        inputs, targets, delta, gamma, balance, smooth, per_image, weight, background, ignore_index,
            mask: as in `softmax_unified_focal_loss`.

    Returns:
        A scalar, as `softmax_unified_focal_loss`.

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
    parts = Balance(delta, gamma, balance, smooth, per_image, asymmetric=True)
    call = "softmax_asymmetric_unified_focal_loss"
    r = class_rows(call, inputs, targets, ignore_index, mask)
    background = checks.class_index(call, "background", background, inputs)
    return _unified(call, inputs, r, background, parts, weight)


class Shares(NamedTuple):
    """What holds for each class (C): its gamma, the weight of its pixels, the power of its region.

    weight: a factor of all its losses, or None for 1.
    """

    focus: Tensor
    share: Tensor
    exponent: Tensor
    weight: Tensor | None

    def of_index(self, r: Rows) -> Tensor | None:
        """The mean cross-entropy of class indices, in one pass; None where there is none."""
        labels, weight = r.labels, self.weight
        if labels is None or not is_readable(r.x) or (weight is not None and weight.requires_grad):
            return None
        factor = self.share[labels]
        if weight is not None:
            factor = factor * weight[labels]
        count = labels.numel()
        if r.mask is not None:
            factor, count = factor * r.mask, int(r.mask.sum())
        if count == 0:
            return None
        focus = self.focus
        alike = bool((focus == focus[0]).all())
        gamma = focus[0].item() if alike else focus[labels]
        return class_focal_sum(r.x, labels, gamma, factor, 1 / count)

    def of_pixels(self, pixels: Pixels) -> Tensor:
        """The mean cross-entropy of margins."""
        y = pixels.y
        losses = focal(pixels.u, torch.ones_like(y), pixels.over_maps(self.focus))
        # An infinite loss of weight 0 adds nothing.
        terms = select(y > 0, pixels.over_maps(self.share) * y * losses)
        if self.weight is not None:  # of the classes of the inputs, in dim 1 of the pixels
            terms = self.weight.view(-1, *(1,) * (terms.ndim - 2)) * terms
        counts = None if pixels.mask is None else pixels.mask.select(pixels.class_dim, 0)
        return reduce(terms.sum(dim=pixels.class_dim), "mean", counts, None)


def _unified(
    call: str,
    inputs: Tensor,
    given: Pixels | Rows,
    background: int,
    parts: Balance,
    weight: Tensor | None,
) -> Tensor:
    """The loss of pixels of which one class is the background."""
    parts = parts.checked(call)
    checks.class_weight(call, weight, inputs)
    like = given.x if isinstance(given, Rows) else given.u
    shares = _shares(parts, given.classes(), background, weight, like)
    if isinstance(given, Rows):
        regions = parts.regions().class_power(given, shares.exponent)
        cross_entropy = shares.of_index(given)
        if cross_entropy is None:
            cross_entropy = shares.of_pixels(class_pixels(given))
    else:
        regions = parts.regions().power(given, shares.exponent)
        cross_entropy = shares.of_pixels(given)
    if shares.weight is not None:  # (..., C), or (..., C, 2) where each class is a problem of two
        of_classes = isinstance(given, Rows) or given.class_dim == 1
        regions = (shares.weight if of_classes else shares.weight.unsqueeze(1)) * regions
    loss = parts.balance * regions.mean() + (1 - parts.balance) * cross_entropy
    return rounded(loss, inputs)


def _shares(
    parts: Balance, classes: int, background: int, weight: Tensor | None, like: Tensor
) -> Shares:
    """Those of the background and of all other classes."""
    is_background = torch.arange(classes, device=like.device) == background

    def along_classes(of_background: float, of_foreground: float) -> Tensor:
        both = torch.tensor([of_foreground, of_background], dtype=like.dtype, device=like.device)
        return both[is_background.long()]

    return Shares(
        along_classes(parts.gamma, 0.0 if parts.asymmetric else parts.gamma),
        along_classes(1 - parts.delta, parts.delta),
        along_classes(1.0 if parts.asymmetric else 1 - parts.gamma, 1 - parts.gamma),
        None if weight is None else weight.to(like.dtype),
    )
