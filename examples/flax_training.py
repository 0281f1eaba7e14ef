"""flax and optax in bfloat16
==========================

One picture in fifty is an eight: flax and optax in bfloat16, an epoch as one compiled program.

    python examples/flax_training.py [EPOCHS]

The layers compute in bfloat16 and keep their parameters in float32; an epoch is a `lax.scan` over
its batches under `jit`. Two trainings are the same but for the loss, at gamma 0.5. The formula as
it is printed, from probabilities, has a gradient of NaN as soon as a logit passes -6.25, where
bfloat16 rounds the probability of the background to 1; with parfocal's the training goes on. (The
loss of optax was the printed one before its release 0.2.5, and has the logarithm of 1 - p_t since.)
Needs `pip install '.[jax]' flax scikit-learn`.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from parfocal.jax import sigmoid_focal_loss

Array = jax.Array
Loss = Callable[[Array, Array], Array]
BATCH = 64


class Epoch(NamedTuple):
    """What an epoch shows: its mean loss, and the average precision on pictures kept aside."""

    loss: float
    average_precision: float


class Classifier(nnx.Module):
    """Two layers; the second begins by predicting how rare an eight is."""

    def __init__(self, prior: float, rngs: nnx.Rngs) -> None:
        bias = nnx.initializers.constant(math.log(prior / (1 - prior)))
        self.hidden = nnx.Linear(64, 128, dtype=jnp.bfloat16, rngs=rngs)
        self.head = nnx.Linear(128, 1, dtype=jnp.bfloat16, bias_init=bias, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """A logit a picture, in bfloat16."""
        return self.head(nnx.relu(self.hidden(images)))[..., 0]


def exact(logits: Array, labels: Array) -> Array:
    """The focal loss of parfocal."""
    return sigmoid_focal_loss(logits, labels, gamma=0.5)


def printed(logits: Array, labels: Array) -> Array:
    """The focal loss as it is printed, from probabilities."""
    p = jax.nn.sigmoid(logits)
    labels = labels.astype(p.dtype)
    p_t = p * labels + (1 - p) * (1 - labels)
    return (1 - p_t) ** 0.5 * optax.losses.sigmoid_binary_cross_entropy(logits, labels)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Digits (N, 64) in [0, 1], and whether they are an eight; five of six eights are left out."""
    images, digits = load_digits(return_X_y=True)
    is_eight = digits == 8
    kept = ~is_eight | (np.cumsum(is_eight) % 6 == 0)
    order = np.random.default_rng(0).permutation(kept.sum())
    return images[kept][order].astype(np.float32) / 16, is_eight[kept][order].astype(np.float32)


def train(loss: Loss, epochs: int) -> Iterator[Epoch]:
    """Each epoch, up to the first with a loss that isn't finite."""
    images, labels = pictures()
    seen = len(images) * 2 // 3 // BATCH * BATCH
    model = Classifier(float(labels[:seen].mean()), nnx.Rngs(0))
    structure, parameters = nnx.split(model)
    optimizer = optax.adam(1e-2)

    def step(state: Any, batch: tuple[Array, Array]) -> tuple[Any, Array]:
        parameters, moments = state

        def mean_loss(parameters: Any) -> Array:
            logits = nnx.merge(structure, parameters)(batch[0])
            return loss(logits, batch[1]).mean(dtype=jnp.float32)

        value, slope = jax.value_and_grad(mean_loss)(parameters)
        updates, moments = optimizer.update(slope, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    @jax.jit
    def epoch(state: Any, key: Array) -> tuple[Any, Array]:
        order = jax.random.permutation(key, seen).reshape(-1, BATCH)
        return jax.lax.scan(step, state, (jnp.asarray(images)[order], jnp.asarray(labels)[order]))

    state = parameters, optimizer.init(parameters)
    for key in jax.random.split(jax.random.key(0), epochs):
        state, values = epoch(state, key)
        mean = float(values.mean())
        if not math.isfinite(mean):
            yield Epoch(mean, math.nan)
            return
        scores = nnx.merge(structure, state[0])(images[seen:]).astype(jnp.float32)
        yield Epoch(mean, float(average_precision_score(labels[seen:], scores)))


def main(epochs: int = 12) -> None:
    """Both trainings, a line an epoch."""
    for name, loss in (("printed", printed), ("parfocal", exact)):
        for number, epoch in enumerate(train(loss, epochs)):
            print(
                f"{name:8} epoch {number:2}   loss {epoch.loss:.6f}   "
                f"average precision {epoch.average_precision:.3f}"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
