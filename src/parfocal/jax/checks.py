"""Checks of a loss's options. Numbers are read where that is free, tracers never."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The largest exponent: products of it with any logit that a form keeps are finite.
LARGEST_EXPONENT = 2.0**20

# The largest factor of a loss, as a power of two.
_LARGEST_FACTOR = 64


def exponent(call: str, name: str, value: Any) -> None:
    """Numbers >= 0, with which a logit may be multiplied."""
    numbers = _readable(call, name, value)
    if numbers is None:
        return
    _refuse(call, name, numbers, ~(numbers >= 0), ">= 0")  # NaN isn't either
    _refuse(call, name, numbers, numbers > LARGEST_EXPONENT, "at most 2 ** 20")


def one_number(call: str, name: str, value: Any) -> None:
    """A number, or an array without dimensions."""
    _readable(call, name, value)
    if np.ndim(value) != 0:
        raise ValueError(
            f"{call}: expected `{name}` to be one number, got the shape {np.shape(value)}"
        )


def fraction(call: str, name: str, value: Any) -> None:
    """Numbers in [0, 1]."""
    numbers = _readable(call, name, value)
    if numbers is not None:
        _refuse(call, name, numbers, ~((numbers >= 0) & (numbers <= 1)), "in [0, 1]")


def non_negative(call: str, name: str, value: Any) -> None:
    """Finite numbers >= 0."""
    at_least(call, name, value, 0.0)


def positive(call: str, name: str, value: Any) -> None:
    """Finite numbers > 0."""
    numbers = _readable(call, name, value)
    if numbers is not None:
        wrong = ~((numbers > 0) & np.isfinite(numbers))
        _refuse(call, name, numbers, wrong, "finite and > 0")


def proper_fraction(call: str, name: str, value: Any) -> None:
    """Numbers in [0, 1)."""
    numbers = _readable(call, name, value)
    if numbers is not None:
        _refuse(call, name, numbers, ~((numbers >= 0) & (numbers < 1)), "in [0, 1)")


def smoothing(call: str, epsilon: Any, gamma: Any) -> None:
    """One number >= 0 whose factor, (1 + epsilon) ** gamma, leaves room for the loss."""
    one_number(call, "epsilon", epsilon)
    non_negative(call, "epsilon", epsilon)
    numbers, exponents = _known(epsilon), _known(gamma)
    if numbers is None or exponents is None or exponents.size == 0:
        return
    if exponents.max() * np.log2(1 + numbers) > _LARGEST_FACTOR:
        raise ValueError(
            f"{call}: expected (1 + epsilon) ** gamma to be at most 2 ** {_LARGEST_FACTOR}, got "
            f"`epsilon` {float(numbers)} and `gamma` {float(exponents.max())}"
        )


def at_least(call: str, name: str, value: Any, least: float) -> None:
    """Finite numbers that are no smaller."""
    numbers = _readable(call, name, value)
    if numbers is not None:
        wrong = ~((numbers >= least) & np.isfinite(numbers))
        _refuse(call, name, numbers, wrong, f"finite and >= {least:g}")


def without_cusp(
    call: str, name: str, value: Any, expected: str, has_cusp: Callable[[Any], Any]
) -> None:
    """No exponent at which the slope of the loss is infinite somewhere."""
    numbers = _readable(call, name, value)
    if numbers is not None:
        _refuse(call, name, numbers, has_cusp(numbers), f"{expected}, where the slope is finite")


def is_number(value: Any) -> bool:
    """Whether an option is a number that is known while a program is traced."""
    return not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0


def is_zero(value: Any) -> bool:
    """Whether an option is a number that is known to be 0."""
    return is_number(value) and bool(value == 0)


def is_known_to_be_positive(value: Any) -> bool:
    """Whether all numbers are known, and above 0."""
    numbers = _known(value)
    return numbers is not None and bool((numbers > 0).all())


def varies(*values: Any) -> bool:
    """Whether a derivative may be taken in one of them, or a program is traced with it."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def real(call: str, name: str, value: Any) -> None:
    """Real numbers, or booleans."""
    dtype = dtype_of(call, name, value)
    if not (jnp.issubdtype(dtype, jnp.floating) or is_integer(dtype) or dtype == jnp.bool_):
        raise TypeError(f"{call}: expected real `{name}`, got {dtype}")


def boolean(call: str, name: str, value: Any) -> None:
    """Only True and False: numbers would look like weights."""
    dtype = dtype_of(call, name, value)
    if dtype != jnp.bool_:
        raise TypeError(f"{call}: expected boolean `{name}`, got {dtype}")


def broadcasts(call: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """An array that broadcasts to the shape."""
    try:
        fits = jnp.broadcast_shapes(np.shape(value), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{call}: expected `{name}` to broadcast to the shape {shape}, got {np.shape(value)}"
        )


def index(call: str, name: str, value: Any) -> int:
    """One of Python's or NumPy's integers."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{call}: expected `{name}` to be an integer, got {value!r}")
    return int(value)


def axis_of_classes(call: str, axis: Any, shape: tuple[int, ...]) -> int:
    """The axis of logits of a shape, from the front."""
    place = index(call, "axis", axis)
    if not -len(shape) <= place < len(shape):
        raise ValueError(
            f"{call}: expected `axis` to be an axis of logits of shape {shape}, got {place}"
        )
    return place % len(shape)


def has_classes(call: str, shape: tuple[int, ...], axis: int) -> None:
    """Logits of one class at least, over which a softmax can be taken."""
    if shape[axis] == 0:
        raise ValueError(f"{call}: expected logits of at least one class, got the shape {shape}")


def dtype_of(call: str, name: str, value: Any) -> Any:
    """The dtype of an array, a number, or a list of numbers; for None that of objects."""
    if hasattr(value, "dtype"):
        return value.dtype
    try:
        return np.asarray(value).dtype
    except (TypeError, ValueError):  # of lists of several lengths, or of what is traced
        raise TypeError(
            f"{call}: expected `{name}` to be an array, got a {type(value).__name__} that isn't one"
        ) from None


def is_integer(dtype: Any) -> bool:
    """Whether a dtype is of integers; that of booleans isn't."""
    return bool(jnp.issubdtype(dtype, jnp.integer))


def _readable(call: str, name: str, value: Any) -> Any:
    """The numbers as NumPy's, where they are known; what is no number is refused."""
    dtype = dtype_of(call, name, value)
    if not (jnp.issubdtype(dtype, jnp.floating) or is_integer(dtype)):
        raise TypeError(f"{call}: expected `{name}` to be a number or an array, got {dtype}")
    return _known(value)


def _known(value: Any) -> Any:
    """Numbers as NumPy's; None of a tracer, and on a device that had to be waited for."""
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and any(d.platform != "cpu" for d in value.devices()):
        return None
    return np.asarray(value, np.float64)


def _refuse(call: str, name: str, numbers: Any, wrong: Any, expected: str) -> None:
    if wrong.any():
        first = float(numbers[wrong].flat[0])
        exact = int(first) if first.is_integer() and abs(first) < 2**53 else first
        raise ValueError(f"{call}: expected `{name}` {expected}, got {exact}")
