"""A batch over devices, in JAX
============================

A batch over two devices: its loss is divided by the positives of both, not of each.

    python examples/jax_devices.py

With few positives a device may have none of them, so that the mean of what each divides by its own
is another loss. `jax.lax.psum` counts over all of them, and the gradient is that of one device, as
is printed and asserted. The devices here are two of one CPU. Needs `pip install '.[jax]'`.
"""

import os
from collections.abc import Callable
from functools import partial

# Before JAX looks for devices.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from parfocal.jax import sigmoid_focal_loss

Array = jax.Array


def batch(count: int = 512) -> tuple[Array, Array]:
    """Features (N, 8), and labels of which few are 1, all in the first half."""
    random = np.random.default_rng(0)
    features = random.normal(size=(count, 8)).astype(np.float32)
    is_positive = (features.sum(1) > 4) & (np.arange(count) < count // 2)
    return jnp.asarray(features), jnp.asarray(is_positive, jnp.float32)


def total_and_positives(weights: Array, features: Array, labels: Array) -> tuple[Array, Array]:
    """The sum of the losses, and what it is divided by."""
    losses = sigmoid_focal_loss(features @ weights, labels, alpha=0.25, gamma=0.5)
    return losses.sum(), labels.sum()


def one_device(weights: Array, features: Array, labels: Array) -> Array:
    """The loss of the whole batch at once."""
    total, positives = total_and_positives(weights, features, labels)
    return total / jnp.maximum(positives, 1)


def many_devices(mesh: Mesh) -> Callable[[Array, Array, Array], Array]:
    """The same of a batch of which each device has a part, and all have the weights."""

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("batch"), P("batch")), out_specs=P())
    def loss(weights: Array, features: Array, labels: Array) -> Array:
        parts = total_and_positives(weights, features, labels)
        total, positives = jax.lax.psum(parts, "batch")
        return total / jnp.maximum(positives, 1)

    return loss


def main() -> None:
    """Both losses, and how far their gradients are from one another."""
    weights, (features, labels) = jnp.full(8, 3.0), batch()
    value, slope = jax.jit(jax.value_and_grad(one_device))(weights, features, labels)
    print(f"one device    loss {value:.4f}   norm of the gradient {jnp.linalg.norm(slope):.4f}")

    mesh = jax.make_mesh((2,), ("batch",))
    halves = jax.device_put((features, labels), NamedSharding(mesh, P("batch")))
    both = jax.device_put(weights, NamedSharding(mesh, P()))
    value, found = jax.jit(jax.value_and_grad(many_devices(mesh)))(both, *halves)
    print(f"two devices   loss {value:.4f}   norm of the gradient {jnp.linalg.norm(found):.4f}")

    difference = np.abs(np.asarray(found) - np.asarray(slope)).max()
    print(f"largest difference of the gradients {difference:.1e}")
    assert difference < 1e-5 * np.abs(slope).max()


if __name__ == "__main__":
    main()
