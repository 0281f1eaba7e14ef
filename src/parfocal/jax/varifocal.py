"""The varifocal loss for JAX, for scores that rank detections by quality."""

from typing import TYPE_CHECKING, Any

import jax

from parfocal.jax import checks
from parfocal.jax.closed_form import focal
from parfocal.jax.positions import over_positions

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def varifocal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike" = 0.75,
    gamma: "ArrayLike" = 2.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Varifocal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(logits)`` and ``q = labels``, elementwise::

        L = q (-q log p - (1 - q) log(1 - p))         where q > 0
        L = alpha p ** gamma (-log(1 - p))            where q = 0

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16.
        labels: The quality of a positive, such as its overlap with the true box, in (0, 1]; 0 for a
            negative. Data: no gradient flows to them.
        alpha: Factor of the negatives, in [0, 1].
        gamma: Focusing exponent of the negatives, >= 0; a number, or an array that broadcasts.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`.

    Accuracy: value and gradient of negatives within 4 + 2 gamma + 1 ULP on a CPU, of positives
    within 5 ULP of their terms; 16 bits are computed in float32 and rounded once.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import varifocal_loss
        >>> varifocal_loss(jnp.array([2.0, 2.0]), jnp.array([0.8, 0.0]), gamma=0.5)
        Array([0.42154238, 1.4971042 ], dtype=float32)

    Source: Zhang et al., "VarifocalNet: An IoU-aware Dense Object Detector", CVPR 2021, equation 2.
    """
    call = "varifocal_loss"
    checks.fraction(call, "alpha", alpha)
    checks.exponent(call, "gamma", gamma)
    numbers = (alpha, gamma)
    return over_positions(call, _varifocal, logits, labels, numbers, weight=weight, where=where)


def _varifocal(x: Any, labels: Any, alpha: Any, gamma: Any) -> Any:
    """(y + alpha m) focal(x, y, m gamma), with m = 1 at a negative and 0 elsewhere."""
    y = jax.lax.stop_gradient(labels)
    negative = (y <= 0).astype(y.dtype)
    return (y + alpha * negative) * focal(x, y, negative * gamma)
