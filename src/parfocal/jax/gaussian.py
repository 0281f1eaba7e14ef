"""The penalty-reduced focal loss of heat maps, for JAX."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.closed_form import focal
from parfocal.jax.positions import over_positions

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def gaussian_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    gamma: "ArrayLike" = 2.0,
    beta: "ArrayLike" = 4.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Penalty-reduced focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(logits)`` and ``y = labels``, elementwise::

        L = (1 - p) ** gamma (-log p)                             where y = 1
        L = (1 - y) ** beta p ** gamma (-log(1 - p))              elsewhere

    CornerNet calls the exponents alpha and beta, mmdetection alpha and gamma; both clamp p.

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16.
        labels: 1 at the centre of an object, less around it, in [0, 1]. Data: no gradient flows to
            them.
        gamma: Focusing exponent, >= 0; a number, or an array that broadcasts.
        beta: Exponent that makes negatives near a centre count less, >= 0.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced; the
        papers divide the sum by the number of centres.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`.

    Accuracy: value and gradient within 4 + 2 gamma + 1 ULP on a CPU where ``(1 - y) ** beta`` is
    exact, else one more plus beta times the error of ``1 - y``; 16 bits are computed in float32 and
    rounded once.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import gaussian_focal_loss
        >>> gaussian_focal_loss(jnp.array([2.0, 2.0, 2.0]), jnp.array([1.0, 0.5, 0.0]))
        Array([0.00180356, 0.10312989, 1.6500783 ], dtype=float32)

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018, equation 1.
    """
    call = "gaussian_focal_loss"
    checks.exponent(call, "gamma", gamma)
    checks.exponent(call, "beta", beta)
    numbers = (gamma, beta)
    return over_positions(call, _gaussian, logits, labels, numbers, weight=weight, where=where)


def _gaussian(x: Any, labels: Any, gamma: Any, beta: Any) -> Any:
    """The focal loss at y = 1, that of a negative times (1 - y) ** beta elsewhere."""
    y = jax.lax.stop_gradient(labels)
    is_centre = y == 1
    penalty = jnp.where(is_centre, 1.0, 1 - y) ** beta
    return penalty * focal(x, is_centre.astype(y.dtype), gamma)
