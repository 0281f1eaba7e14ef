"""The formulas of JAX's losses as one writes them, to be compiled beside ours."""

from functools import partial

import jax.numpy as jnp
import optax
from jax.nn import log_sigmoid, sigmoid

import parfocal.jax as ours

GAMMA = 0.5


def varifocal(x, y):
    """Quality, and 0 for a negative."""
    ce = optax.losses.sigmoid_binary_cross_entropy(x, y)
    return jnp.where(y > 0, y * ce, 0.75 * sigmoid(x) ** GAMMA * ce)


def quality(x, y):
    """At beta 2."""
    return jnp.abs(y - sigmoid(x)) ** 2 * optax.losses.sigmoid_binary_cross_entropy(x, y)


def gaussian(x, y):
    """At beta 4."""
    p = sigmoid(x)
    centre = (1 - p) ** GAMMA * -log_sigmoid(x)
    return jnp.where(y == 1, centre, (1 - y) ** 4 * p**GAMMA * -log_sigmoid(-x))


def poly(x, y):
    """With epsilon_1 1, from optax's focal loss."""
    p = sigmoid(x)
    wrong = y * (1 - p) + (1 - y) * p
    return optax.losses.sigmoid_focal_loss(x, y, gamma=GAMMA) + wrong ** (GAMMA + 1)


def asymmetric(x, y):
    """Exponents 4 and 1, margin 0.05."""
    p = sigmoid(x)
    p_m = jnp.maximum(p - 0.05, 0)
    return y * (1 - p) * -log_sigmoid(x) + (1 - y) * p_m**4 * -jnp.log1p(-p_m)


def focal_tversky(x, y):
    """One class of four images."""
    p, y = sigmoid(x).reshape(4, -1), y.reshape(4, -1)
    right, missed, false = (y * p).sum(1), (y * (1 - p)).sum(1), ((1 - y) * p).sum(1)
    return (1 - (right + 1) / (right + 0.7 * missed + 0.3 * false + 1)) ** 0.75


def _of_four_images(x, y):
    """Ours of the same."""
    return ours.sigmoid_focal_tversky_loss(x.reshape(4, -1, 1), y.reshape(4, -1, 1))


# By the name of ours.
PAIRS = (
    ("varifocal_loss", partial(ours.varifocal_loss, gamma=GAMMA), varifocal),
    ("quality_focal_loss", ours.quality_focal_loss, quality),
    ("gaussian_focal_loss", partial(ours.gaussian_focal_loss, gamma=GAMMA), gaussian),
    ("poly_focal_loss", partial(ours.poly_focal_loss, gamma=GAMMA), poly),
    ("asymmetric_loss", ours.asymmetric_loss, asymmetric),
    ("sigmoid_focal_tversky_loss", _of_four_images, focal_tversky),
)
