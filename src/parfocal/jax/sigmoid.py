"""The binary focal loss for JAX."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from parfocal.jax import checks
from parfocal.jax.closed_form import focal
from parfocal.jax.positions import over_positions
from parfocal.jax.smoothed import smoothed_focal

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def sigmoid_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
    epsilon: "ArrayLike" = 0.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Binary focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(logits)`` and ``p_t = labels p + (1 - labels)(1 - p)``::

        L = alpha_t (1 - p_t + epsilon) ** gamma (-labels log p - (1 - labels) log(1 - p))

    Args:
        logits: Any shape; float64, float32, float16 or bfloat16. An infinity gives the limit of the
            loss, and no gradient flows to it.
        labels: 0, 1 or between; broadcasts.
        alpha: Weight of positives, in [0, 1]; negatives get ``1 - alpha``. None turns it off.
        gamma: Focusing exponent, in [0, 2 ** 20]; a number, or an array that broadcasts.
        epsilon: Smoothing constant of van Leeuwen et al., one number >= 0. The default 0 gives the
            exact loss, which doesn't need it.
        weight: Factor of each position; broadcasts.
        where: Booleans that broadcast, True where a position counts. Elsewhere the loss and all its
            gradients are exactly 0, whatever the other arrays hold there, NaN included.

    Returns:
        The losses, of the broadcast shape, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError: complex logits, labels or weights, or a `where` that isn't boolean.
        ValueError: shapes that don't broadcast; a gamma, alpha or epsilon out of range or NaN.
            Numbers that are traced, or not on a CPU, aren't checked.

    `jit`, `vmap`, `grad`, `jvp`, `hessian` and further orders work, also in `gamma` and `labels`.

    Accuracy: at hard labels on a CPU, value and gradient are within 4 + 2 gamma ULP, the gradient
    in gamma within one more, the second derivative within half as much again; 16 bits are computed
    in float32 and rounded once. XLA flushes subnormal numbers to 0: below 16 / eps times the
    smallest normal number a result may be 0. ``ledger/records`` has the measured errors, and those
    of optax.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import sigmoid_focal_loss
        >>> loss = lambda x: sigmoid_focal_loss(x, jnp.array([1.0, 0.0]), gamma=0.5).sum()
        >>> jax.grad(loss)(jnp.array([20.0, -1.0]))
        Array([-1.4036435e-13,  1.9885434e-01], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5; called like
    ``optax.losses.sigmoid_focal_loss``; epsilon: van Leeuwen et al., "A Note On The
    Stability Of The Focal Loss", TMLR 2025.
    """
    call = "sigmoid_focal_loss"
    checks.exponent(call, "gamma", gamma)
    checks.smoothing(call, epsilon, gamma)
    is_exact, is_weighted = checks.is_zero(epsilon), alpha is not None
    numbers = [gamma] if is_exact else [gamma, epsilon]
    if is_weighted:
        checks.fraction(call, "alpha", alpha)
        numbers.append(alpha)
    loss = focal if is_exact else smoothed_focal
    if is_weighted:
        loss = partial(_weighted, loss)
    return over_positions(call, loss, logits, labels, numbers, weight=weight, where=where)


def _weighted(loss: Callable[..., Any], x: Any, y: Any, *numbers: Any) -> Any:
    """alpha_t L, of the numbers of L, then alpha."""
    *others, alpha = numbers
    return alpha_t(y, alpha) * loss(x, y, *others)


def alpha_t(y: Any, alpha: Any) -> Any:
    """alpha at positives, 1 - alpha at negatives."""
    return alpha * y + (1 - alpha) * (1 - y)
