"""Focal losses for JAX, exact at every gamma, in every precision, with derivatives of every order.

Needs JAX, the extra `jax`. The losses are called like optax's:

    from parfocal.jax import sigmoid_focal_loss  # instead of optax.losses.sigmoid_focal_loss
"""

from parfocal import extras

with extras.needs("jax", "parfocal.jax"):
    import jax as _jax  # noqa: F401 - asked for before the losses are, to name the extra

from parfocal.jax.asymmetric import asymmetric_loss
from parfocal.jax.gaussian import gaussian_focal_loss
from parfocal.jax.likelihood import likelihood_focal_loss
from parfocal.jax.poly import poly_focal_loss
from parfocal.jax.quality import quality_focal_loss
from parfocal.jax.sigmoid import sigmoid_focal_loss
from parfocal.jax.softmax import softmax_focal_loss
from parfocal.jax.softmax_asymmetric import softmax_asymmetric_loss
from parfocal.jax.tversky import (
    sigmoid_focal_tversky_loss,
    sigmoid_tversky_loss,
    softmax_focal_tversky_loss,
    softmax_tversky_loss,
)
from parfocal.jax.unified import (
    sigmoid_asymmetric_unified_focal_loss,
    sigmoid_unified_focal_loss,
    softmax_asymmetric_unified_focal_loss,
    softmax_unified_focal_loss,
)
from parfocal.jax.varifocal import varifocal_loss

__all__ = [
    "asymmetric_loss",
    "gaussian_focal_loss",
    "likelihood_focal_loss",
    "poly_focal_loss",
    "quality_focal_loss",
    "sigmoid_asymmetric_unified_focal_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_tversky_loss",
    "sigmoid_tversky_loss",
    "sigmoid_unified_focal_loss",
    "softmax_asymmetric_loss",
    "softmax_asymmetric_unified_focal_loss",
    "softmax_focal_loss",
    "softmax_focal_tversky_loss",
    "softmax_tversky_loss",
    "softmax_unified_focal_loss",
    "varifocal_loss",
]
