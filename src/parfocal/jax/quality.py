"""The quality focal loss for JAX: a loss of soft labels that vanishes where p is the label."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.closed_form import along, bounded, complement, cross_entropy, focal, sigmoid
from parfocal.jax.distance import distance, even_power, log_distance, odd_power
from parfocal.jax.positions import over_positions

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def quality_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    beta: "ArrayLike" = 2.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Quality focal loss of logits, exact in every precision.

    With ``p = sigmoid(logits)`` and ``y = labels``, elementwise::

        L = |y - p| ** beta (-y log p - (1 - y) log(1 - p))

    At labels 0 and 1 this is `sigmoid_focal_loss` with ``gamma=beta``, at every beta. Between them
    it has a cusp at ``p = y`` for beta < 1: the slope there is infinite, and no implementation can
    fix that.

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16.
        labels: The quality of a positive, in [0, 1]; 0 for a negative. Data: no gradient flows to
            them.
        beta: Exponent, >= 1; with labels of an integer or boolean dtype, which are hard, >= 0. A
            number, or an array that broadcasts.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError: as `sigmoid_focal_loss`.
        ValueError: beta < 1 with labels of a floating dtype; else as `sigmoid_focal_loss`.

    Accuracy: at labels 0 and 1 as `sigmoid_focal_loss`. Between them the error of ``y - p`` is
    that of its terms, up to 3 ULP of ``y (1 - p) + (1 - y) p``, and counts beta times. At ``p = y``
    the true second derivative is infinite for 1 < beta < 2, and 0 is returned.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import quality_focal_loss
        >>> quality_focal_loss(jnp.array([2.0, 2.0]), jnp.array([0.8, 0.0]))
        Array([0.00343987, 1.6500783 ], dtype=float32)

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 4.
    """
    call = "quality_focal_loss"
    checks.exponent(call, "beta", beta)
    are_soft = jnp.issubdtype(checks.dtype_of(call, "labels", labels), jnp.floating)
    if are_soft:
        checks.without_cusp(
            call, "beta", beta, ">= 1 at labels of a floating dtype", lambda beta: beta < 1
        )
    loss = _quality if are_soft else focal
    return over_positions(call, loss, logits, labels, (beta,), weight=weight, where=where)


def _quality(x: Any, labels: Any, beta: Any) -> Any:
    """|p - y| ** beta ce; at a hard label the focal loss, whose power of q is no power of a sum."""
    y = jax.lax.stop_gradient(labels)
    is_soft = (y > 0) & (y < 1)
    hard = focal(x, jnp.where(is_soft, 0.0, y), beta)
    soft = _soft(x, y, jnp.maximum(beta, 1.0))
    return jnp.where(is_soft, soft, hard)


@jax.custom_jvp
def _soft(x: Any, y: Any, beta: Any) -> Any:
    """|d| ** beta ce with d = p - y, which is ce' too."""
    return even_power(distance(x, y), beta) * cross_entropy(x, y)


def _soft_jvp(primals: Any, tangents: Any) -> Any:
    """Of constant labels."""
    (x, y, beta), (dx, _, dbeta) = primals, tangents
    d, ce = distance(x, y), cross_entropy(x, y)
    power = even_power(d, beta)

    def in_x() -> Any:
        focusing = beta * bounded(ce) * odd_power(d, beta - 1)
        return focusing * sigmoid(x) * complement(x) + power * d

    return power * ce, along(ce, (dx, in_x), (dbeta, lambda: power * log_distance(d) * ce))


_soft.defjvp(_soft_jvp, symbolic_zeros=True)
