"""A loss of JAX arrays."""

import jax
import jax.numpy as jnp


def labels_first(labels, scores, gamma=2.0):
    """Of the wrong sign, and 1 - p_t by a subtraction."""
    p_t = jax.nn.sigmoid(jnp.where(labels > 0.5, scores, -scores))
    return (1 - p_t) ** gamma * jnp.log(p_t)
