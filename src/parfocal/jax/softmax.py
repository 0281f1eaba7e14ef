"""The multiclass focal loss for JAX."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from parfocal.jax import checks
from parfocal.jax.arrays import from_list
from parfocal.jax.closed_form import focal, negative
from parfocal.jax.margin import are_infinite, is_class, is_infinite, margin, margins
from parfocal.jax.positions import at_infinity
from parfocal.jax.smoothed import smoothed_focal

if TYPE_CHECKING:
    from jax.typing import ArrayLike

# A margin below, with an infinite logit in its row, is infinite; among equal infinities it is
# -log(C) at least.
_INFINITE = -(2.0**64)


def softmax_focal_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma: "ArrayLike" = 2.0,
    axis: int = -1,
    label_smoothing: "ArrayLike" = 0.0,
    epsilon: "ArrayLike" = 0.0,
    ignore_index: int | None = -100,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Multiclass focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = softmax(logits)`` over the C classes, and class weights ``alpha``::

        FL_c = -(1 - p_c + epsilon) ** gamma log p_c
        L    = alpha_t FL_t                                     for a class index t
        L    = sum over c of alpha_c y_c FL_c                   for class probabilities y

    Label smoothing s replaces y by ``(1 - s) y + s / C``; for an index, y is 1 at its class.

    Args:
        logits: Classes along `axis`; dtypes as in `sigmoid_focal_loss`. An infinity gives the limit
            of the loss, and no gradient flows to it.
        labels: Class indices of an integer dtype, of the shape of `logits` without `axis`; or class
            probabilities of a floating dtype, of the shape of `logits`. An invalid class index
            gives NaN, in the loss and in its gradient.
        alpha: Weight of each class, (C); None turns it off.
        gamma: Focusing exponent, in [0, 2 ** 20], of a shape that broadcasts to the positions.
        axis: The axis of the classes.
        label_smoothing: In [0, 1], of a shape that broadcasts to the positions.
        epsilon: Smoothing constant of van Leeuwen et al., one number >= 0; 0 gives the exact loss.
        ignore_index: Index of positions that don't count: their loss and gradients are exactly 0,
            whatever `logits` hold there. None turns it off.
        weight: Factor of each position, of a shape that broadcasts to the positions.
        where: Booleans as in ``optax.softmax_cross_entropy``. With one dimension less than the
            logits, they say which positions count. With as many, they say which logits count: the
            softmax, and C in the smoothing, use only those classes. Where no class counts, the loss
            is 0; where the class of an index doesn't count, it is NaN.

    Returns:
        The losses, of the shape of the positions, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError: complex logits, weights or labels, boolean labels, an `ignore_index` that isn't
            an integer, a `where` that isn't boolean.
        ValueError: shapes that don't fit; numbers out of range, unless they are traced or not on a
            CPU; an `ignore_index` >= 0 with probabilities.

    The loss is the binary loss of the margin ``u = x_t - logsumexp(x_j, j != t)`` at label 1, so
    ``1 - p_t`` needs no subtraction. With a single class it is 0.

    Accuracy: for class indices within (1 + gamma)(8 + d + log2(C) / 2) ULP on a CPU, with d the
    spread of a row, whose differences are rounded; 16 bits are computed in float32 and rounded
    once. A result below 16 / eps times the smallest normal number may be 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_focal_loss
        >>> softmax_focal_loss(jnp.array([[20.0, 0.0, 1.0]]), jnp.array([0]), gamma=0.5)
        Array([6.7093206e-13], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the
    softmax for p; epsilon: van Leeuwen et al., "A Note On The Stability Of The Focal Loss", TMLR
    2025.
    """
    call = "softmax_focal_loss"
    axis, ignore_index = check_options(
        call, logits, labels, alpha, axis, label_smoothing, ignore_index, weight, where
    )
    shape = np.shape(logits)
    checks.exponent(call, "gamma", gamma)
    checks.broadcasts(call, "gamma", gamma, shape[:axis] + shape[axis + 1 :])
    checks.smoothing(call, epsilon, gamma)
    smoothing = None if checks.is_zero(label_smoothing) else label_smoothing
    epsilon = None if checks.is_zero(epsilon) else epsilon
    arrays = (logits, labels, alpha, gamma, None, smoothing, epsilon, weight, where)
    return losses(*map(from_list, arrays), axis, ignore_index)


def check_options(
    call: str,
    logits: Any,
    labels: Any,
    alpha: Any,
    axis: int,
    label_smoothing: Any,
    ignore_index: int | None,
    weight: Any,
    where: Any,
) -> tuple[int, int | None]:
    """The axis of the classes, from the front, and the index to ignore."""
    axis = _check_arrays(call, logits, labels, axis)
    shape = np.shape(logits)
    positions = shape[:axis] + shape[axis + 1 :]
    are_soft = jnp.issubdtype(checks.dtype_of(call, "labels", labels), jnp.floating)
    if alpha is not None:
        checks.real(call, "alpha", alpha)
        if np.shape(alpha) != shape[axis : axis + 1]:
            raise ValueError(
                f"{call}: expected `alpha` to have one number for each of the {shape[axis]} "
                f"classes, got the shape {np.shape(alpha)}"
            )
    checks.fraction(call, "label_smoothing", label_smoothing)
    checks.broadcasts(call, "label_smoothing", label_smoothing, positions)
    if weight is not None:
        checks.real(call, "weight", weight)
        checks.broadcasts(call, "weight", weight, positions)
    if where is not None:
        checks.boolean(call, "where", where)
        of_logits = np.ndim(where) == len(shape)
        checks.broadcasts(call, "where", where, shape if of_logits else positions)
    if ignore_index is not None:
        ignore_index = checks.index(call, "ignore_index", ignore_index)
        if are_soft and ignore_index >= 0:
            raise ValueError(
                f"{call}: expected no `ignore_index` with class probabilities, got "
                f"{ignore_index}; pass the positions that count as `where`"
            )
    return axis, ignore_index


def _check_arrays(call: str, logits: Any, labels: Any, axis: int) -> int:
    """The axis of the classes, from the front."""
    checks.real(call, "logits", logits)
    dtype, shape = checks.dtype_of(call, "labels", labels), np.shape(logits)
    axis = checks.axis_of_classes(call, axis, shape)
    checks.has_classes(call, shape, axis)
    positions = shape[:axis] + shape[axis + 1 :]
    if not (checks.is_integer(dtype) or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(
            f"{call}: expected integer labels, or probabilities of a floating dtype, got {dtype}"
        )
    expected = positions if checks.is_integer(dtype) else shape
    if np.shape(labels) != expected:
        what = "indices" if checks.is_integer(dtype) else "probabilities"
        raise ValueError(
            f"{call}: expected class {what}, of the dtype {dtype}, to have the shape {expected}, "
            f"got {np.shape(labels)}"
        )
    return axis


@partial(jax.jit, static_argnums=(9, 10))
def losses(
    logits: Any,
    labels: Any,
    alpha: Any,
    gamma: Any,
    gamma_neg: Any,
    smoothing: Any,
    epsilon: Any,
    weight: Any,
    where: Any,
    axis: int,
    ignore_index: int | None,
) -> Any:
    """The loss of each position. Compiled as one: see `positions.selected`.

    gamma_neg: the exponent of the wrong classes of the asymmetric loss; None for the focal loss.
    """
    x = jnp.moveaxis(jnp.asarray(logits), axis, -1)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(float)
    y, mask = jnp.asarray(labels), _mask(where, x, axis)
    if jnp.issubdtype(y.dtype, jnp.floating):
        rows = jnp.any(mask, axis=-1)
        y = jnp.where(mask, jnp.moveaxis(y, axis, -1), jnp.zeros((), y.dtype))
        is_known = jnp.ones_like(rows)
    else:
        y = y if y.dtype.itemsize >= 4 else y.astype(jnp.int32)  # where C would wrap around
        if ignore_index is not None and _holds(y.dtype, ignore_index):
            mask = mask & (y != ignore_index)[..., None]
        rows, is_index = jnp.any(mask, axis=-1), (y >= 0) & (y < x.shape[-1])
        y = jnp.where(is_index, y, 0)[..., None]
        own_counts = jnp.take_along_axis(jnp.broadcast_to(mask, x.shape), y, -1)[..., 0]
        is_known = is_index & own_counts | ~rows
    of_margins = partial(_of_margins, gamma=_of_rows(gamma, rows), epsilon=epsilon)
    if smoothing is not None or jnp.issubdtype(y.dtype, jnp.floating):
        share = None if smoothing is None else _of_rows(smoothing, rows)
        of_wrong = None
        if gamma_neg is not None:
            of_wrong = partial(_of_wrong_margins, gamma=_of_rows(gamma_neg, rows))
        loss, is_limit = _of_distribution(x, y, mask, alpha, share, of_margins, of_wrong)
    else:
        loss, is_limit = _of_index(x, y, mask, alpha, of_margins)
    if weight is not None:
        loss = _of_rows(weight, rows).astype(loss.dtype) * loss
    loss = jnp.where(is_known, 1.0, jnp.nan) * at_infinity(is_limit, loss)
    return jnp.where(rows, loss, 0.0).astype(x.dtype)


def _of_margins(u: Any, *, gamma: Any, epsilon: Any) -> Any:
    """FL of the margins u of rows, (...), or of their classes, (..., C); gamma of each row."""
    exponent = gamma.astype(u.dtype)
    if u.ndim > gamma.ndim:
        exponent = jnp.broadcast_to(exponent[..., None], u.shape)
    if epsilon is None:
        return focal(u, jnp.ones_like(u), exponent)
    constant = jnp.broadcast_to(jnp.asarray(epsilon).astype(u.dtype), u.shape)
    return smoothed_focal(u, jnp.ones_like(u), exponent, constant)


def _of_wrong_margins(u: Any, *, gamma: Any) -> Any:
    """p ** gamma (-log p) of the margins u of classes, (..., C); gamma of each row."""
    return negative(u, jnp.broadcast_to(gamma.astype(u.dtype)[..., None], u.shape))


def _of_index(
    x: Any, index: Any, mask: Any, alpha: Any, of_margins: Callable[[Any], Any]
) -> tuple[Any, Any]:
    """alpha_t FL_t, from the margin of t, and where FL_t is infinite."""
    u = margin(x, index, mask)
    loss = of_margins(u)
    is_limit = is_infinite(x, index, mask) & (u < _INFINITE)
    if alpha is None:
        return loss, is_limit
    own, weights = index[..., 0], jnp.asarray(alpha).astype(u.dtype)
    # A gather from all classes of what may be on several devices: it stays there.
    factor = weights.at[own].get(mode="clip", out_sharding=jax.typeof(own).sharding)
    return factor * loss, is_limit


def _of_distribution(
    x: Any,
    y: Any,
    mask: Any,
    alpha: Any,
    smoothing: Any,
    of_margins: Callable[[Any], Any],
    of_wrong: Callable[[Any], Any] | None,
) -> tuple[Any, Any]:
    """The sum of alpha_c y_c FL_c over the classes, each from its own margin; where it's infinite.

    smoothing: of each row, or None. of_wrong: the term of a class that isn't that of the index y,
    or None for the same.
    """
    u = margins(x, mask)
    terms = of_margins(u)
    if jnp.issubdtype(y.dtype, jnp.integer):  # 1 at its class
        y = is_class(x, y)
        if of_wrong is not None:
            terms = jnp.where(y, terms, of_wrong(u))
    y = y.astype(u.dtype)
    if smoothing is not None:
        share = smoothing.astype(u.dtype)[..., None]
        classes = jnp.broadcast_to(mask, x.shape)
        count = jnp.maximum(jnp.sum(classes, axis=-1, keepdims=True), 1).astype(u.dtype)
        y = jnp.where(classes, (1 - share) * y + share / count, 0.0)
    if alpha is not None:
        y = jnp.asarray(alpha).astype(u.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) * y
    terms = y * terms
    is_limit = are_infinite(x, mask) & (u < _INFINITE) & (terms != 0)
    return jnp.sum(terms, axis=-1), jnp.any(is_limit, axis=-1)


def _mask(where: Any, x: Any, axis: int) -> Any:
    """Which rows count, (..., 1), or which logits, (..., C)."""
    if where is None:
        return jnp.ones((*x.shape[:-1], 1), bool)
    where = jnp.asarray(where)
    if where.ndim < x.ndim:
        return jnp.broadcast_to(where, x.shape[:-1])[..., None]
    return jnp.broadcast_to(jnp.moveaxis(where, axis, -1), x.shape)


def _of_rows(values: Any, rows: Any) -> Any:
    """Numbers of each row, 0 where one is left out."""
    array = jnp.broadcast_to(jnp.asarray(values), rows.shape)
    return jnp.where(rows, array, jnp.zeros((), array.dtype))


def _holds(dtype: Any, index: int) -> bool:
    """Whether an index is one of an integer dtype; it would wrap around to another."""
    info = jnp.iinfo(dtype)
    return bool(info.min <= index <= info.max)
