"""The asymmetric loss of multi-label classification, for JAX."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.closed_form import bounded, complement, cross_entropy, focal, power, sigmoid
from parfocal.jax.distance import distance, even_power
from parfocal.jax.positions import over_positions

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def asymmetric_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    gamma_neg: "ArrayLike" = 4.0,
    gamma_pos: "ArrayLike" = 1.0,
    margin: "ArrayLike" = 0.05,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Asymmetric loss of logits, exact in every precision.

    With ``p = sigmoid(logits)``, ``y = labels`` and ``p_m = max(p - margin, 0)``, elementwise::

        L = y (1 - p) ** gamma_pos (-log p) + (1 - y) p_m ** gamma_neg (-log(1 - p_m))

    A margin above 0 with ``0 < gamma_neg < 1`` has a cusp at ``p = margin``: the slope there is
    infinite, and no implementation can fix that.

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16.
        labels: 0, 1 or between; a soft label mixes the two losses. Data: no gradient flows to them.
        gamma_neg, gamma_pos: Focusing exponents of the negatives and positives, >= 0; numbers, or
            arrays that broadcast. With a margin, `gamma_neg` must be 0 or at least 1.
        margin: Probability below which a negative adds nothing, in [0, 1). The original's ``clip``.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced; the
        original sums.

    Raises:
        TypeError: as `sigmoid_focal_loss`.
        ValueError: ``0 < gamma_neg < 1`` with a margin; else as `sigmoid_focal_loss`.

    Accuracy: positives, and negatives without a margin, as `sigmoid_focal_loss`. With one, the
    error of ``p - margin`` is that of its terms, up to 3 ULP of ``p + margin``, and counts
    ``1 + gamma_neg`` times. At ``p = margin`` derivatives are those from below, 0. At a margin of
    0, the derivative in the margin is the one from above, and at most 1.8e19 in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import asymmetric_loss
        >>> asymmetric_loss(jnp.array([2.0, 2.0, -4.0]), jnp.array([1.0, 0.0, 0.0]))
        Array([0.01513019, 0.8464149 , 0.        ], dtype=float32)

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021,
    equations 4 to 7.
    """
    call = "asymmetric_loss"
    checks.exponent(call, "gamma_neg", gamma_neg)
    checks.exponent(call, "gamma_pos", gamma_pos)
    checks.proper_fraction(call, "margin", margin)  # at 1 no negative is left
    is_positive = checks.is_known_to_be_positive(margin)
    if is_positive:
        checks.without_cusp(
            call,
            "gamma_neg",
            gamma_neg,
            "0 or >= 1 with a margin",
            lambda gamma: (gamma > 0) & (gamma < 1),
        )
    of_negative: Callable[..., Any]
    if is_positive:
        of_negative = _shifted_negative
    elif checks.is_zero(margin):
        of_negative = _plain_negative
    else:
        of_negative = partial(_negative, checks.varies(margin))
    loss = partial(_asymmetric, of_negative)
    numbers = (gamma_neg, gamma_pos, margin)
    options = {"weight": weight, "where": where, "is_bounded": _is_bounded}
    return over_positions(call, loss, logits, labels, numbers, **options)


def _is_bounded(x: Any, gamma_neg: Any, gamma_pos: Any, margin: Any) -> Any:
    """Whether a negative that is far above the margin has a finite loss, at most -log(margin)."""
    return (x > 0) & (margin > 0)


def _asymmetric(
    of_negative: Callable[..., Any],
    x: Any,
    labels: Any,
    gamma_neg: Any,
    gamma_pos: Any,
    margin: Any,
) -> Any:
    """The mixture of the losses of a positive and of a negative."""
    y = jax.lax.stop_gradient(labels)
    positive = focal(x, jnp.ones_like(x), gamma_pos)
    return y * positive + (1 - y) * of_negative(x, gamma_neg, margin)


def _negative(varies: bool, x: Any, gamma: Any, margin: Any) -> Any:
    """The loss of a negative at a margin that may be 0 or not, position by position."""
    is_0 = margin == 0
    plain, shifted = (of(x, gamma, margin) for of in (_plain_negative, _shifted_negative))
    negative = jnp.where(is_0, plain, shifted)
    if varies:
        negative = negative + jnp.where(is_0, margin, 0.0) * _slope_in_margin(x, gamma)
    return negative


def _plain_negative(x: Any, gamma: Any, _: Any) -> Any:
    """p ** gamma (-log(1 - p)), without a margin."""
    return focal(x, jnp.zeros_like(x), gamma)


def _shifted_negative(x: Any, gamma: Any, margin: Any) -> Any:
    """p_m ** gamma (-log(1 - p_m)), with p_m = p - margin > 0 and 1 - p_m = (1 - p) + margin."""
    p_m = distance(x, margin)
    counts = ~(p_m <= 0)  # NaN stays
    p_m = jnp.where(counts, p_m, 0.5)
    # -log(1 - p_m) by a positive argument: of negative ones XLA's log1p is off by 120 ULP.
    rest = jnp.where(margin == 0, 1.0, complement(x) + margin)
    cross_entropy = jnp.log1p(p_m / rest)
    return jnp.where(counts, even_power(p_m, gamma) * cross_entropy, 0.0)


def _slope_in_margin(x: Any, gamma: Any) -> Any:
    """That of a negative at margin 0, from above: -p ** gamma (gamma ce / p + 1 / (1 - p))."""
    p, info = sigmoid(x), jnp.finfo(x.dtype)
    is_far = p < info.eps  # there ce / p is 1
    ratio = jnp.where(is_far, 1.0, cross_entropy(x, jnp.zeros_like(x)) / jnp.where(is_far, 1.0, p))
    inverse = 1 + jnp.exp(jnp.minimum(x, jnp.log(info.max) / 2))
    return -power(x, jnp.zeros_like(x), gamma) * (gamma * bounded(ratio) + inverse)
