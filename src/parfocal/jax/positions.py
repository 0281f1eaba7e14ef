"""What all losses of one logit and one label share: shapes, dtypes, weights, what is left out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.arrays import widen

# Losses beyond are those of an infinite logit: no finite limit of one, times a weight, is so large.
_INFINITE = 2.0**64


def over_positions(
    call: str,
    loss: Callable[..., Any],
    logits: Any,
    labels: Any,
    numbers: Sequence[Any] = (),
    *,
    weight: Any = None,
    where: Any = None,
) -> Any:
    """weight loss(x, y, *numbers) at each position that counts, in the dtype of the logits.

    loss: of arrays of one shape and dtype, float32 or float64; x is finite.
    """
    checks.real(call, "logits", logits)
    checks.real(call, "labels", labels)
    arrays = [logits, labels, *numbers]
    if weight is not None:
        checks.real(call, "weight", weight)
        arrays.append(weight)
    if where is not None:
        checks.boolean(call, "where", where)
    shape = _common_shape(call, [*arrays, *([] if where is None else [where])])
    arrays = [_of_shape(array, shape, where) for array in arrays]
    given, x = widen(arrays[0])
    y, *others = (array.astype(x.dtype) for array in arrays[1:])
    factors = [others.pop()] if weight is not None else []
    value = loss(x, y, *others)
    for factor in factors:
        value = factor * value
    value = at_infinity(jnp.isinf(arrays[0]), value)
    if where is not None:
        value = jnp.where(_of_shape(where, shape), value, 0)
    return value.astype(given)


def at_infinity(is_infinite: Any, value: Any) -> Any:
    """The limit of a loss that was evaluated at the largest number, where a logit is infinite."""
    is_large = is_infinite & (jnp.abs(value) > _INFINITE)
    # What is added is a constant: the gradient in what is finite stays.
    return value + jax.lax.stop_gradient(jnp.where(is_large, jnp.copysign(jnp.inf, value), 0.0))


def _of_shape(values: Any, shape: tuple[int, ...], where: Any = None) -> Any:
    """An array of the shape, with 0 where a position is left out."""
    if where is None or jnp.ndim(values) == 0:
        return jnp.broadcast_to(jnp.asarray(values), shape)
    return selected(where, values, shape)


@partial(jax.jit, static_argnums=2)
def selected(where: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """Compiled as one: no operation inside passes a NaN on, for which `jax.debug_nans` looks."""
    array = jnp.broadcast_to(jnp.asarray(values), shape)
    return jnp.where(jnp.broadcast_to(where, shape), array, jnp.zeros((), array.dtype))


def _common_shape(call: str, arrays: Sequence[Any]) -> tuple[int, ...]:
    """That to which all of them broadcast."""
    shapes = [jnp.shape(array) for array in arrays]
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{call}: expected arrays that broadcast together, got the shapes "
            f"{', '.join(map(str, shapes))}"
        ) from None
