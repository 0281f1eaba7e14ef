"""What a call computes with: the dtype of its logits, and finite numbers."""

from typing import Any

import jax.numpy as jnp


def widen(logits: Any) -> tuple[Any, Any]:
    """The dtype of the logits, and the logits in that of the computation, with finite numbers."""
    x = jnp.asarray(logits)
    given = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    x = x.astype(given if given.itemsize >= 4 else jnp.float32)
    largest = jnp.finfo(x.dtype).max
    return given, jnp.where(jnp.isinf(x), jnp.sign(x) * largest, x)
