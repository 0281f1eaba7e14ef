"""The unified focal losses for JAX: a focal cross-entropy and a focal Tversky loss.

One pair of functions treats all classes alike. The asymmetric pair modulates the cross-entropy of
only the background, and raises only the foreground's regions to a power. Sigmoid versions treat
each class as a binary problem: the class against the rest.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from parfocal.jax import checks, maps
from parfocal.jax.closed_form import focal
from parfocal.jax.maps import Maps
from parfocal.jax.regions import Power, region_power

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def sigmoid_unified_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    delta: "ArrayLike" = 0.6,
    gamma: "ArrayLike" = 0.5,
    balance: "ArrayLike" = 0.5,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Symmetric unified focal loss of logits, each class on its own.

    Each class is a binary problem with two classes: present, with probability
    ``p = sigmoid(logits)`` and label y, and absent, with ``1 - p`` and ``1 - y``. The loss is
    `softmax_unified_focal_loss` of these two, averaged over the classes.

    Args:
        logits: (N, d1, ..., C), or (d1, ..., C) with ``per_image=False``; float64, float32, float16
            or bfloat16.
        labels: Of the shape of `logits`, 0, 1 or between, any real dtype. Data: no gradient flows
            to them.
        where: Boolean, broadcasts to the shape of `logits`; True where a position counts.
        delta, gamma, balance, smooth, per_image, weight, axis: as in `softmax_unified_focal_loss`.

    Returns:
        As `softmax_unified_focal_loss`.

    Raises:
        TypeError, ValueError: shapes that don't fit, a `where` that isn't boolean, numbers out of
            range where their values are known; inside `jit` they aren't.

    Accuracy: see `softmax_unified_focal_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_unified_focal_loss
        >>> logits = jnp.array([[[4.0], [-4.0], [4.0], [-4.0]]])
        >>> labels = jnp.array([[[1.0], [0.0], [1.0], [1.0]]])
        >>> print(f"{sigmoid_unified_focal_loss(logits, labels)[0, 0]:.4f}")
        0.5070

    Source: as `softmax_unified_focal_loss`.
    """
    call = "sigmoid_unified_focal_loss"
    options = Options(delta, gamma, balance, smooth, is_asymmetric=False)
    data = maps.sigmoid_maps(call, logits, labels, where, axis, per_image)
    return _of_two(call, data, options, weight)


def sigmoid_asymmetric_unified_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    delta: "ArrayLike" = 0.6,
    gamma: "ArrayLike" = 0.5,
    balance: "ArrayLike" = 0.5,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Asymmetric unified focal loss of logits, each class on its own.

    Each class is a binary problem, as in `sigmoid_unified_focal_loss`; its absence is the
    background of `softmax_asymmetric_unified_focal_loss`.

    Args:
        logits, labels, delta, gamma, balance: as in `sigmoid_unified_focal_loss`.
        smooth, per_image, weight, where, axis: as there.

    Returns:
        As `softmax_unified_focal_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_unified_focal_loss`.

    Accuracy: see `softmax_unified_focal_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_asymmetric_unified_focal_loss
        >>> logits = jnp.array([[[4.0], [-4.0], [4.0], [-4.0]]])
        >>> labels = jnp.array([[[1.0], [0.0], [1.0], [1.0]]])
        >>> print(f"{sigmoid_asymmetric_unified_focal_loss(logits, labels)[0, 0]:.4f}")
        0.4513

    Source: as `softmax_unified_focal_loss`.
    """
    call = "sigmoid_asymmetric_unified_focal_loss"
    options = Options(delta, gamma, balance, smooth, is_asymmetric=True)
    data = maps.sigmoid_maps(call, logits, labels, where, axis, per_image)
    return _of_two(call, data, options, weight)


def softmax_unified_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    delta: "ArrayLike" = 0.6,
    gamma: "ArrayLike" = 0.5,
    balance: "ArrayLike" = 0.5,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    background: int = 0,
    ignore_index: int | Sequence[int] = -100,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Symmetric unified focal loss of class logits.

    With ``p = softmax(logits)``, y the class probabilities of a position, T_c the Tversky index of
    class c with ``alpha = delta, beta = 1 - delta``, and ``delta_c = delta`` for every class but
    the background, which has ``1 - delta``::

        CE = mean over positions of the sum over c of delta_c y_c (1 - p_c) ** gamma (-log p_c)
        R  = mean over regions of (1 - T_c) ** (1 - gamma)
        L  = balance R + (1 - balance) CE

    R is often written as ``(1 - T) (1 - T) ** -gamma``, which is 0 times infinity at a perfect
    match. In the logits it is finite everywhere, and so are its derivatives.

    Args:
        logits: (N, d1, ..., C), or (d1, ..., C) with ``per_image=False``; dtypes as in
            `sigmoid_unified_focal_loss`.
        labels: Class indices of an integer dtype and of the shape of `logits` without `axis`; one
            out of range makes its region NaN. Or probabilities, also one-hot, of the shape of
            `logits`. Data: no gradient flows to them.
        delta: Weight of false negatives, and of the foreground, in [0, 1]. `delta`, `gamma`,
            `balance` and `smooth` are each one number for all classes; several are refused.
        gamma: Strength of the focus, in [0, 1).
        balance: Share of the regions, in [0, 1]; the paper's lambda.
        smooth: Number of positions, >= 0, added to the true positives.
        per_image, axis: as in `softmax_tversky_loss`.
        weight: One factor per class, (C), for its cross-entropy and its regions.
        background: Index of the background class.
        ignore_index: A class whose positions don't count, or several; for indices only.
        where: Boolean, broadcasts to the shape of `logits` without `axis`; True where a position
            counts.

    Returns:
        The part of each region, (N, C) or with ``per_image=False`` (C), in the dtype of the logits:
        its power, and the cross-entropy of its class in its image. The mean of the parts is L;
        nothing is reduced. CE is a mean over all positions of the batch that count. If none
        does, it is 0.

    Raises:
        TypeError, ValueError: as `sigmoid_unified_focal_loss`.

    Accuracy: as its parts, `softmax_focal_loss` and `softmax_focal_tversky_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_unified_focal_loss
        >>> logits = jnp.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> parts = softmax_unified_focal_loss(logits, jnp.array([[0, 1]]))
        >>> print(f"{parts.mean():.4f}")
        0.0611

    Source: Yeung et al., "Unified Focal loss: Generalising Dice and cross entropy-based losses to
    handle class imbalanced medical image segmentation", CMIG 2022, section 3.2; the exponents and
    weights are those of the authors' code.
    """
    call = "softmax_unified_focal_loss"
    options = Options(delta, gamma, balance, smooth, is_asymmetric=False)
    data = maps.softmax_maps(call, logits, labels, where, ignore_index, axis, per_image)
    return _of_classes(call, data, options, background, weight)


def softmax_asymmetric_unified_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    delta: "ArrayLike" = 0.6,
    gamma: "ArrayLike" = 0.5,
    balance: "ArrayLike" = 0.5,
    smooth: "ArrayLike" = 1.0,
    per_image: bool = True,
    weight: "ArrayLike | None" = None,
    background: int = 0,
    ignore_index: int | Sequence[int] = -100,
    where: "ArrayLike | None" = None,
    axis: int = -1,
) -> Any:
    r"""Asymmetric unified focal loss of class logits.

    Like `softmax_unified_focal_loss`, but the cross-entropy of the foreground isn't modulated, and
    the regions of the background have the exponent 1::

        CE = mean over positions of the sum over c of delta_c y_c (1 - p_c) ** gamma_c (-log p_c)
        R  = mean over regions of (1 - T_c) ** k_c
        gamma_c = gamma, k_c = 1          for the background
        gamma_c = 0, k_c = 1 - gamma      for every other class

    Args:
        logits, labels, delta, gamma, balance: as in `softmax_unified_focal_loss`.
        smooth, per_image, weight, background, ignore_index, where, axis: as there.

    Returns:
        As `softmax_unified_focal_loss`.

    Raises:
        TypeError, ValueError: as `sigmoid_unified_focal_loss`.

    Accuracy: as its parts, `softmax_focal_loss` and `softmax_focal_tversky_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_asymmetric_unified_focal_loss
        >>> logits = jnp.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> parts = softmax_asymmetric_unified_focal_loss(logits, jnp.array([[0, 1]]))
        >>> print(f"{parts.mean():.4f}")
        0.0480

    Source: as `softmax_unified_focal_loss`.
    """
    call = "softmax_asymmetric_unified_focal_loss"
    options = Options(delta, gamma, balance, smooth, is_asymmetric=True)
    data = maps.softmax_maps(call, logits, labels, where, ignore_index, axis, per_image)
    return _of_classes(call, data, options, background, weight)


class Options(NamedTuple):
    """How the parts are weighed, focused and summed; the options of the same names."""

    delta: Any
    gamma: Any
    balance: Any
    smooth: Any
    is_asymmetric: bool

    def check(self, call: str) -> None:
        """Refuses what is no number, or out of range, in the name of the call."""
        numbers = ("delta", self.delta), ("gamma", self.gamma), ("balance", self.balance)
        for name, number in (*numbers, ("smooth", self.smooth)):
            checks.one_number(call, name, number)
        checks.fraction(call, "delta", self.delta)
        checks.fraction(call, "balance", self.balance)
        checks.proper_fraction(call, "gamma", self.gamma)
        checks.non_negative(call, "smooth", self.smooth)


def _of_two(call: str, data: Maps, options: Options, weight: Any) -> Any:
    """The parts of classes that are each a problem of two."""
    options.check(call)
    regions, cross_entropy, is_infinite = _parts(data.as_two_classes(), options, 0)
    parts = _balanced(options.balance, regions.mean(-1), cross_entropy.sum(-1))
    return data.result(call, parts, weight, is_infinite.any(-1))


def _of_classes(call: str, data: Maps, options: Options, background: int, weight: Any) -> Any:
    """The parts of classes of which one is the background."""
    options.check(call)
    classes, background = data.u.shape[-1], checks.index(call, "background", background)
    if not 0 <= background < classes:
        raise ValueError(
            f"{call}: expected `background` to be the index of one of {classes} classes, "
            f"got {background}"
        )
    regions, cross_entropy, is_infinite = _parts(data, options, background)
    parts = _balanced(options.balance, regions, cross_entropy)
    return data.result(call, parts, weight, is_infinite)


def _balanced(balance: Any, regions: Any, cross_entropy: Any) -> Any:
    """Parts of which the mean is balance R + (1 - balance) CE.

    regions: the powers, of which R is the mean.
    cross_entropy: of each region, of which CE is the sum.
    """
    share = jnp.asarray(balance, regions.dtype)
    return share * regions + (1 - share) * (regions.size * cross_entropy)


def _parts(data: Maps, options: Options, background: int) -> tuple[Any, Any, Any]:
    """The power of each region, its share of the mean cross-entropy, and where that is infinite."""
    u, y, counts, axes, _ = data
    delta, gamma, smooth = (
        jnp.asarray(n, u.dtype) for n in (options.delta, options.gamma, options.smooth)
    )
    is_background = jnp.arange(u.shape[-1]) == background

    def along_classes(of_background: Any, of_foreground: Any) -> Any:
        per_class = jnp.where(is_background, of_background, of_foreground)
        return per_class.astype(u.dtype).reshape(*(1,) * (u.ndim - 1), -1)

    weight = along_classes(1 - delta, delta)
    focus = along_classes(gamma, 0.0 if options.is_asymmetric else gamma)
    exponent = along_classes(1.0 if options.is_asymmetric else 1 - gamma, 1 - gamma)

    is_smoothed = checks.is_known_to_be_positive(options.smooth)
    varies = checks.varies(options.delta, options.smooth)
    power = Power(delta, 1 - delta, smooth, exponent, is_smoothed, varies)
    regions = region_power(u, y, counts, axes, power)
    terms = weight * y * focal(u, jnp.ones_like(y), jnp.broadcast_to(focus, u.shape))
    is_limit = (u <= -jnp.finfo(u.dtype).max) & (terms > 0)  # of an infinite logit
    total = jnp.sum(jnp.where(is_limit, 0.0, terms), axes, where=counts)
    is_infinite = jnp.any(is_limit, axes, where=counts) & (jnp.asarray(options.balance) < 1)
    return regions, total / _number_of_positions(data), is_infinite


def _number_of_positions(data: Maps) -> Any:
    """How many count, whatever their class, and at least 1."""
    first = data.u[..., 0]
    if data.counts is None:
        return max(1, first.size)
    return jnp.maximum(jnp.sum(data.counts[..., 0]), 1).astype(first.dtype)
