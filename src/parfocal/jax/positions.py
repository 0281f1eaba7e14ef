"""What all losses of one logit and one label share: shapes, dtypes, weights, masks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parfocal.jax import checks
from parfocal.jax.arrays import from_list, widen


def over_positions(
    call: str,
    loss: Callable[..., Any],
    logits: Any,
    labels: Any,
    numbers: Sequence[Any] = (),
    *,
    weight: Any = None,
    where: Any = None,
    is_bounded: Callable[..., Any] | None = None,
) -> Any:
    """weight loss(x, y, *numbers) at each position that counts, in the dtype of the logits.

    loss: of arrays of one shape and dtype, float32 or float64; x is finite.
    is_bounded: of x and the numbers, where the limit of the loss at an infinite logit is finite
        though it isn't 0; nowhere if None.
    """
    checks.real(call, "logits", logits)
    checks.real(call, "labels", labels)
    arrays = [logits, labels, *numbers]
    if weight is not None:
        checks.real(call, "weight", weight)
        arrays.append(weight)
    if where is not None:
        checks.boolean(call, "where", where)
    arrays, where = [from_list(array) for array in arrays], from_list(where)
    shape = _common_shape(call, [*arrays, *([] if where is None else [where])])
    arrays = [_of_shape(array, shape, where) for array in arrays]
    given, x = widen(arrays[0])
    y, *others = (array.astype(x.dtype) for array in arrays[1:])
    factors = [others.pop()] if weight is not None else []
    value = loss(x, y, *others)
    for factor in factors:
        value = factor * value
    is_infinite = jnp.isinf(arrays[0])
    if is_bounded is not None:
        is_infinite = is_infinite & ~is_bounded(x, *others)
    value = at_infinity(is_infinite, value)
    if where is not None:
        value = jnp.where(_of_shape(where, shape), value, 0)
    return value.astype(given)


def at_infinity(is_infinite: Any, value: Any) -> Any:
    """The limit of a loss that was evaluated at the largest number, where it may be infinite.

    It is, unless it is 0: then a label or a weight rules the infinite logit out.
    """
    # What is added is a constant: the gradient in what is finite stays.
    limit = jnp.where(is_infinite & (value != 0), jnp.copysign(jnp.inf, value), 0.0)
    return value + jax.lax.stop_gradient(limit)


def _of_shape(values: Any, shape: tuple[int, ...], where: Any = None) -> Any:
    """An array of the shape, with 0 where a position is left out."""
    if where is None or np.ndim(values) == 0:
        return jnp.broadcast_to(jnp.asarray(values), shape)
    return selected(where, values, shape)


@partial(jax.jit, static_argnums=2)
def selected(where: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """Compiled as one: no operation inside passes a NaN on, for which `jax.debug_nans` looks."""
    array = jnp.broadcast_to(jnp.asarray(values), shape)
    return jnp.where(jnp.broadcast_to(where, shape), array, jnp.zeros((), array.dtype))


def _common_shape(call: str, arrays: Sequence[Any]) -> tuple[int, ...]:
    """That to which all of them broadcast."""
    shapes = [np.shape(array) for array in arrays]
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{call}: expected arrays that broadcast together, got the shapes "
            f"{', '.join(map(str, shapes))}"
        ) from None
