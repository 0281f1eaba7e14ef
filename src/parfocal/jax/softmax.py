"""The focal loss of classes of JAX arrays."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax.arrays import widen
from parfocal.jax.closed_form import focal

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def softmax_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
    axis: int = -1,
) -> Any:
    r"""Multiclass focal loss of logits and class indices, exact at every gamma >= 0.

    With ``p = softmax(logits)`` and class ``t``::

        L = -alpha_t (1 - p_t) ** gamma log p_t

    Args:
        logits: Classes along `axis`; dtypes as in `sigmoid_focal_loss`.
        labels: Class indices, of the shape of `logits` without `axis`. One out of range gives a
            loss and a gradient of 0.
        alpha: Weight of each class, an array of as many as there are; None for none.
        gamma: Focusing exponent, >= 0, of a shape that broadcasts to that of `labels`.
        axis: Where the classes are.

    Returns:
        The losses, of the shape of `labels`, in the dtype of the logits. Nothing is reduced.

    The loss is that of the margin ``u = x_t - logsumexp(x_j, j != t)`` at label 1, so that
    ``1 - p_t`` is no subtraction. With a single class it is 0.

    Accuracy: within (1 + gamma)(4 + |u|) ULP, of the rounding of the margin, on a CPU.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_focal_loss
        >>> softmax_focal_loss(jnp.array([[20.0, 0.0, 1.0]]), jnp.array([0]), gamma=0.5)
        Array([6.7093206e-13], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the
    softmax for p.
    """
    given, x = widen(logits)
    x = jnp.moveaxis(x, axis, -1)
    index = jnp.asarray(labels)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"softmax_focal_loss: expected integer labels, got {index.dtype}")
    if index.dtype.itemsize < 4:  # where the number of classes would wrap around
        index = index.astype(jnp.int32)
    if index.shape != x.shape[:-1]:
        raise ValueError(
            f"softmax_focal_loss: expected labels of shape {x.shape[:-1]}, got {index.shape}"
        )
    count = x.shape[-1]
    counts = (index >= 0) & (index < count)
    own_index = jnp.where(counts, index, 0)[..., None]
    if count == 1:
        return jnp.zeros(index.shape, given)
    is_own = jax.lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1) == own_index
    own = jnp.take_along_axis(x, own_index, -1)[..., 0]
    others = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, x), axis=-1)
    u = own - others
    exponent = jnp.broadcast_to(jnp.asarray(gamma, x.dtype), u.shape)
    loss = focal(u, jnp.ones_like(u), exponent)
    if alpha is not None:
        loss = jnp.take(jnp.asarray(alpha, x.dtype), own_index[..., 0]) * loss
    return jnp.where(counts, loss, 0).astype(given)
