"""The focal loss of negative log-likelihoods, for JAX."""

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from parfocal.jax import checks
from parfocal.jax.closed_form import along
from parfocal.jax.positions import over_positions

if TYPE_CHECKING:
    from jax.typing import ArrayLike

# The least number that is taken for a rounded 0: at which p is 1 + eps of bfloat16.
_LEAST = -(2.0**-7)

# From there on k is a quotient, and a polynomial below; a power of two that its terms fit.
_NEAR = 0.5

# B_n / n! of the Bernoulli numbers, n = 0, 1, 2, 4, ...: x / expm1(x) to 2e-19 at 1 / 2.
_BERNOULLI = (
    1.0,
    -1 / 2,
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
    -3617 / 10670622842880000,
)


def likelihood_focal_loss(
    nll: "ArrayLike",
    *,
    gamma: "ArrayLike" = 2.0,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Focal loss of negative log-likelihoods, exact at every gamma >= 0 and in every precision.

    With ``nll = -log p`` of any probability p, elementwise::

        L = (1 - p) ** gamma (-log p) = (1 - exp(-nll)) ** gamma nll

    For models with a likelihood but no logits, such as the sequences of ``optax.ctc_loss``.

    Args:
        nll: Negative log-likelihoods of any shape; float64, float32, float16 or bfloat16. Numbers
            down to ``-2 ** -7`` are treated as a rounded 0, whose loss and gradient are 0 at
            ``gamma > 0``; below that the loss is NaN. An infinity gives an infinity, and no
            gradient flows to it.
        gamma: Focusing exponent, in [0, 2 ** 20]; a number, or an array that broadcasts.
        weight, where: as in `sigmoid_focal_loss`.

    Returns:
        The losses, of the broadcast shape, in the dtype of `nll`. Nothing is reduced.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`.

    The gradient is ``m ** gamma (1 + gamma k)`` with ``m = -expm1(-nll)`` and ``k = nll /
    expm1(nll)``. The second derivative is infinite at ``nll = 0`` for ``0 < gamma < 1``; 0 is
    returned there.

    Accuracy: value and gradient within 4 + 2 gamma ULP on a CPU; 16 bits are computed in float32
    and rounded once.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import likelihood_focal_loss
        >>> likelihood_focal_loss(jnp.array([0.0, 1e-9, 2.0]), gamma=0.5)
        Array([0.0000000e+00, 3.1622776e-14, 1.8597471e+00], dtype=float32)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4; of a
    sequence: Feng et al., "Focal CTC Loss for Chinese Optical Character Recognition on Unbalanced
    Datasets", Complexity 2019.
    """
    call = "likelihood_focal_loss"
    checks.exponent(call, "gamma", gamma)
    checks.real(call, "nll", nll)
    return over_positions(call, _loss, nll, 0.0, (gamma,), weight=weight, where=where)


def _loss(x: Any, _: Any, gamma: Any) -> Any:
    """The loss at p of at most 1; NaN where p is no probability."""
    loss = _focal(jnp.where(x < 0, 0.0, x), gamma)
    # 0 ** 0 is 1: at an exponent of 0 the loss is x itself.
    loss = jnp.where((x < 0) & (gamma == 0), x, loss)
    return jnp.where(x < _LEAST, jnp.nan, loss)


@jax.custom_jvp
def _focal(x: Any, gamma: Any) -> Any:
    """F = m ** gamma x, with F' = m ** gamma (1 + gamma k) and dF/dgamma = m ** gamma x log m."""
    return _power(x, gamma) * x


def _focal_jvp(primals: Any, tangents: Any) -> Any:
    (x, gamma), (dx, dgamma) = primals, tangents
    factor = _power(x, gamma)
    return factor * x, along(
        factor,
        (dx, lambda: factor * (1 + gamma * _quotient(x))),
        (dgamma, lambda: factor * _weighted_log(x)),
    )


_focal.defjvp(_focal_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _power(x: Any, exponent: Any) -> Any:
    """m ** exponent, whose slope is exponent m ** (exponent - 1) exp(-x); 0 for an infinity.

    What overflows is the largest number, of which an exponent of 0 makes 0 in a slope.
    """
    m = -jnp.expm1(-x)
    is_infinite = (m == 0) & (exponent < 0)
    power = jnp.where(is_infinite, 1.0, m) ** exponent
    return jnp.where(is_infinite, 0.0, jnp.minimum(power, jnp.finfo(x.dtype).max))


def _power_jvp(primals: Any, tangents: Any) -> Any:
    (x, exponent), (dx, dexponent) = primals, tangents
    factor = _power(x, exponent)
    return factor, along(
        factor,
        (dx, lambda: exponent * jnp.exp(-x) * _power(x, exponent - 1)),
        (dexponent, lambda: factor * _log(x)),
    )


_power.defjvp(_power_jvp, symbolic_zeros=True)


def _quotient(x: Any) -> Any:
    """k = x / expm1(x), the generating function of the Bernoulli numbers."""
    is_near = x < _NEAR
    near, far = jnp.where(is_near, x, 0.0), jnp.where(is_near, _NEAR, x)
    square, series = near * near, _BERNOULLI[-1]
    for coefficient in _BERNOULLI[-2:1:-1]:
        series = series * square + coefficient
    series = series * square + _BERNOULLI[1] * near + _BERNOULLI[0]
    bounded = jnp.minimum(far, -2 * math.log(jnp.finfo(x.dtype).tiny))  # where k is 0
    return jnp.where(is_near, series, bounded * jnp.exp(-bounded) / -jnp.expm1(-bounded))


@jax.custom_jvp
def _log(x: Any) -> Any:
    """log m, 0 at x = 0; its slope is 1 / expm1(x)."""
    is_small, tiny = x < math.log(2), jnp.finfo(x.dtype).tiny
    of_m = jnp.log(-jnp.expm1(-jnp.where(is_small & (x >= tiny), x, 1.0)))
    rest = jnp.log1p(-jnp.exp(-jnp.where(is_small, 1.0, x)))
    return jnp.where(x == 0, 0.0, jnp.where(is_small, of_m, rest))


@_log.defjvp
def _log_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _log(x), _power(x, -jnp.ones_like(x)) * jnp.exp(-x) * dx


@jax.custom_jvp
def _weighted_log(x: Any) -> Any:
    """x log m, whose slope is log m + k."""
    return x * _log(x)


@_weighted_log.defjvp
def _weighted_log_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _weighted_log(x), (_log(x) + _quotient(x)) * dx
