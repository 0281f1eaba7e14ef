"""Tversky losses for JAX, plain and focal.

The four functions differ in the margin of a position, which is the logit itself or that of its
class against the others, and in an exponent.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from parfocal.jax import checks, maps
from parfocal.jax.arrays import from_list
from parfocal.jax.maps import Maps
from parfocal.jax.regions import Power, region_power

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def sigmoid_tversky_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike" = 0.7,
    beta: "ArrayLike" = 0.3,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Tversky loss of logits, each class on its own; `sigmoid_focal_tversky_loss` at gamma 1.

    With ``p = sigmoid(logits)`` and ``y = labels``, over the positions of each region::

        TP = sum of y p      FN = sum of y (1 - p)      FP = sum of (1 - y) p
        L  = (alpha FN + beta FP) / (TP + alpha FN + beta FP + smooth)

    ``alpha = beta = 0.5`` is the Dice loss, ``alpha = beta = 1`` the Jaccard loss.

    Args:
        logits: (N, d1, ..., C), or (d1, ..., C) with ``per_image=False``; float64, float32, float16
            or bfloat16.
        labels: Of the shape of `logits`, 0, 1 or between, any real dtype. Data: no gradient flows
            to them.
        alpha, beta: Weights of false negatives and false positives, >= 0; a number, or one per
            class. ``optax.losses.dice_loss`` has them the other way round.
        smooth: Number of positions, >= 0, added to the true positives; a number, or one per class.
        per_image: Whether a region is a class in one image (the first axis), or in all images.
        weight: One factor per class, (C).
        where: Boolean, broadcasts to the shape of `logits`; True where a position counts.
            Elsewhere its gradient is exactly 0, whatever `logits` and `labels` hold there.
        axis: The axis of the classes.

    Returns:
        The loss of each region, (N, C) or with ``per_image=False`` (C), in the dtype of the logits.
        Nothing is reduced.

        A class that is absent from the labels of a region has the loss
        ``beta FP / (beta FP + smooth)``: 0 if nothing was found, and up to 1, also for
        ``smooth = 0``, if anything was. A region with no position that counts has 0.

    Raises:
        TypeError, ValueError: shapes that don't fit, a `where` that isn't boolean, numbers out of
            range where their values are known; inside `jit` they aren't.

    Accuracy: see `sigmoid_focal_tversky_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_tversky_loss
        >>> logits = jnp.array([[[4.0], [-4.0], [4.0], [-4.0]]])
        >>> labels = jnp.array([[[1.0], [0.0], [1.0], [1.0]]])
        >>> print(f"{sigmoid_tversky_loss(logits, labels)[0, 0]:.4f}")
        0.1941

    Source: Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", MLMI 2017, equation 3.
    """
    call = "sigmoid_tversky_loss"
    data = maps.sigmoid_maps(call, logits, labels, where, axis, per_image)
    return _of_regions(call, data, alpha, beta, smooth, 1.0, weight)


def sigmoid_focal_tversky_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike" = 0.7,
    beta: "ArrayLike" = 0.3,
    gamma: "ArrayLike" = 4 / 3,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Focal Tversky loss of logits, each class on its own; finite gradients at a perfect match.

    With T the Tversky index of `sigmoid_tversky_loss`::

        L = (1 - T) ** (1 / gamma)

    Its slope in T is infinite at T = 1 for gamma > 1. In the logits it is finite everywhere.

    Args:
        logits, labels, alpha, beta, smooth, per_image, weight, where, axis: as in
            `sigmoid_tversky_loss`.
        gamma: Inverse of the exponent, > 0, as in the paper; a number, or one per class.

    Returns:
        As `sigmoid_tversky_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_tversky_loss`.

    `jit`, `vmap`, `grad`, `jvp`, `hessian` and further orders work, in the options too. Only at an
    `alpha`, `beta` or `smooth` of exactly 0, the second derivative in it is 0. The first is the
    limit from above, and at most 1.8e19 in float32.

    Accuracy: with k = 1 / gamma, on a CPU, value and gradient within 8 + 6 k ULP for regions of few
    positions, more for large ones, as in any sum. k is rounded to the dtype of the computation; 16
    bits are computed in float32 and rounded once. XLA flushes subnormal numbers to 0.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_focal_tversky_loss
        >>> logits, labels = jnp.full((1, 4, 1), 60.0), jnp.ones((1, 4, 1))
        >>> loss = lambda x: sigmoid_focal_tversky_loss(x, labels, smooth=0.0).mean()
        >>> value, slope = jax.value_and_grad(loss)(logits)
        >>> print(f"{value:.4e} {slope[0, 0, 0]:.4e}")
        2.1906e-20 -4.1075e-21

    Source: Abraham and Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net
    for Lesion Segmentation", ISBI 2019, equation 4.
    """
    call = "sigmoid_focal_tversky_loss"
    checks.positive(call, "gamma", gamma)
    data = maps.sigmoid_maps(call, logits, labels, where, axis, per_image)
    return _of_regions(call, data, alpha, beta, smooth, gamma, weight)


def softmax_tversky_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike" = 0.7,
    beta: "ArrayLike" = 0.3,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    ignore_index: int | Sequence[int] = -100,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Tversky loss of class logits; `softmax_focal_tversky_loss` at gamma 1.

    The formula of `sigmoid_tversky_loss` with ``p = softmax(logits)`` over the classes, and y the
    class probabilities of a position, 1 at its index.

    Args:
        logits: (N, d1, ..., C), or (d1, ..., C) with ``per_image=False``; dtypes as in
            `sigmoid_tversky_loss`.
        labels: Class indices of an integer dtype and of the shape of `logits` without `axis`; one
            out of range makes its region NaN. Or probabilities, also one-hot, of the shape of
            `logits`. Data: no gradient flows to them.
        ignore_index: A class whose positions don't count, or several; for indices only.
        where: Boolean, broadcasts to the shape of `logits` without `axis`; True where a position
            counts.
        alpha, beta, smooth, per_image, weight, axis: as in `sigmoid_tversky_loss`. A weight of 0
            leaves out a class, such as a background, but a mean still counts it.

    Returns:
        As `sigmoid_tversky_loss`, which also says how absent classes are treated.

    Raises:
        TypeError, ValueError: as `sigmoid_tversky_loss`.

    Accuracy: see `softmax_focal_tversky_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_tversky_loss
        >>> logits = jnp.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> losses = softmax_tversky_loss(logits, jnp.array([[0, 1]]))[0]
        >>> print(*(f"{loss:.4f}" for loss in losses))
        0.0151 0.0151 0.0105

    Source: as `sigmoid_tversky_loss`.
    """
    call = "softmax_tversky_loss"
    data = maps.softmax_maps(call, logits, labels, where, ignore_index, axis, per_image)
    return _of_regions(call, data, alpha, beta, smooth, 1.0, weight)


def softmax_focal_tversky_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike" = 0.7,
    beta: "ArrayLike" = 0.3,
    gamma: "ArrayLike" = 4 / 3,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    ignore_index: int | Sequence[int] = -100,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Focal Tversky loss of class logits, with finite gradients at a perfect match.

    With T the Tversky index of `softmax_tversky_loss`::

        L = (1 - T) ** (1 / gamma)

    Args:
        logits, labels, alpha, beta, smooth, per_image, weight, ignore_index, where, axis: as in
            `softmax_tversky_loss`.
        gamma: Inverse of the exponent, > 0, as in `sigmoid_focal_tversky_loss`.

    Returns:
        As `softmax_tversky_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_tversky_loss`.

    Accuracy: as `sigmoid_focal_tversky_loss`, plus (1 + k) d ULP with d the largest spread of
    a position's logits. A gradient is a sum over the classes: this holds relative to its largest
    term.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_focal_tversky_loss
        >>> logits = jnp.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> losses = softmax_focal_tversky_loss(logits, jnp.array([[0, 1]]))[0]
        >>> print(*(f"{loss:.4f}" for loss in losses))
        0.0430 0.0430 0.0328

    Source: as `sigmoid_focal_tversky_loss`.
    """
    call = "softmax_focal_tversky_loss"
    checks.positive(call, "gamma", gamma)
    data = maps.softmax_maps(call, logits, labels, where, ignore_index, axis, per_image)
    return _of_regions(call, data, alpha, beta, smooth, gamma, weight)


def _of_regions(
    call: str, data: Maps, alpha: Any, beta: Any, smooth: Any, gamma: Any, weight: Any
) -> Any:
    """(1 - T) ** (1 / gamma) of the regions, weighed."""
    for name, number in (("alpha", alpha), ("beta", beta), ("smooth", smooth)):
        checks.non_negative(call, name, number)
    power = Power(
        alpha=data.per_class(call, "alpha", alpha),
        beta=data.per_class(call, "beta", beta),
        smooth=data.per_class(call, "smooth", smooth),
        exponent=data.per_class(call, "gamma", 1 / from_list(gamma)),
        is_smoothed=checks.is_known_to_be_positive(smooth),
        varies=checks.varies(alpha, beta, smooth),
    )
    return data.result(call, region_power(data.u, data.y, data.counts, data.axes, power), weight)
