"""Poly-1 for JAX: the focal loss with one more term of its expansion in 1 - p_t."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.closed_form import focal, power
from parfocal.jax.positions import over_positions
from parfocal.jax.sigmoid import alpha_t

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def poly_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
    epsilon_1: "ArrayLike" = 1.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Poly-1 focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(logits)``, ``y = labels`` and ``p_t = y p + (1 - y) (1 - p)``, elementwise::

        L = alpha_t ((1 - p_t) ** gamma ce + epsilon_1 (1 - p_t) ** (gamma + 1))

    with ce and alpha_t as in `sigmoid_focal_loss`. Some implementations omit alpha_t from the
    second term.

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16.
        labels: 0, 1 or between. Data: no gradient flows to them.
        alpha, gamma: as in `sigmoid_focal_loss`; alpha is off by default.
        epsilon_1: Factor of the added term, >= -1, at which the leading term vanishes. Not a
            smoothing constant.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`; `epsilon_1` below -1.

    Accuracy: value and gradient at hard labels and ``epsilon_1 >= 0`` within 4 + 2 (gamma + 1) + 1
    ULP on a CPU; 16 bits are computed in float32 and rounded once. Below 0 the two terms cancel,
    and the error is that of their absolute values.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import poly_focal_loss
        >>> poly_focal_loss(jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0]), gamma=0.5)
        Array([0.08497861, 2.822774  ], dtype=float32)

    Source: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions", ICLR 2022, section 4.
    """
    call = "poly_focal_loss"
    checks.exponent(call, "gamma", gamma)
    checks.at_least(call, "epsilon_1", epsilon_1, -1.0)
    numbers = [gamma, epsilon_1]
    if alpha is not None:
        checks.fraction(call, "alpha", alpha)
        numbers.append(alpha)
    return over_positions(call, _poly, logits, labels, numbers, weight=weight, where=where)


def _poly(x: Any, labels: Any, gamma: Any, epsilon_1: Any, alpha: Any = None) -> Any:
    """alpha_t (L + epsilon_1 q ** gamma q)."""
    y = jax.lax.stop_gradient(labels)
    # The rounding of gamma + 1 would be felt in the power as often as log q is large.
    added = power(x, y, gamma) * power(x, y, jnp.ones_like(x))
    loss = focal(x, y, gamma) + epsilon_1 * added
    return loss if alpha is None else alpha_t(y, alpha) * loss
