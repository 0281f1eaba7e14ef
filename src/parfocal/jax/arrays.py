"""What a call computes with: arrays, the dtype of its logits, and finite numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def from_list(value: Any) -> Any:
    """A list or tuple of numbers as an array; all else as it is."""
    return np.asarray(value) if isinstance(value, (list, tuple)) else value


def computation_dtype(dtype: Any) -> Any:
    """float64, or float32 for what is narrower."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def widen(logits: Any) -> tuple[Any, Any]:
    """The dtype of the logits, and the logits in that of the computation, with finite numbers."""
    x = jnp.asarray(logits)
    given = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    x = x.astype(computation_dtype(given))
    largest = jnp.finfo(x.dtype).max
    return given, jnp.where(jnp.isinf(x), jnp.sign(x) * largest, x)
