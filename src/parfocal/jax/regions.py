"""The Tversky index of a region, by its complement, from the margins of its positions.

With s the logistic function, u the margin of a position and y its target,

    TP = sum of y s(u)      FN = sum of y s(-u)      FP = sum of (1 - y) s(u)
    E  = alpha FN + beta FP                          what is wrong
    G  = TP + smooth                                 what is right
    1 - T = E / (G + E) = 1 / (1 + G / E)

Nothing is a difference. Far into a perfect prediction E underflows, where a power k < 1 of it is
an ordinary number still; and so may G, where nothing is added to it. Each is summed as exp(c) times
itself, with c of the region such that the largest term is between 1 / e and 1. Then

    (1 - T) ** k = exp(-c) ** k / (exp(-c) + G / E') ** k      E = exp(-c) E'

Derivatives come through the terms, whose rule is exp(c) s(u) s(-u), and through the logarithm of
G / E', of which the power is an exponential: no power of E is ever divided by.

What has the weight 0 is no term of E or G, and says nothing about their scale. The derivative in
such a weight is added, in logarithms: with S = G + E

    d(1 - T) ** k / dE = k (E / S) ** (k - 1) G / S ** 2
    d(1 - T) ** k / dG = -k (E / S) ** k / S
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from parfocal.jax.closed_form import over_n, sigmoid

# Of 1 in the leading digits of an exponent.
_STEPS = 1024


class Power(NamedTuple):
    """Which power: the weights of FN and FP in E, both >= 0, what is added to G, and k > 0.

    Each is a number, or an array of as many dimensions as the margins, which broadcasts to regions.

    is_smoothed: whether what is added is known to be above 0.
    varies: whether a derivative may be taken in alpha, beta or smooth.
    """

    alpha: Any
    beta: Any
    smooth: Any
    exponent: Any
    is_smoothed: bool
    varies: bool


def region_power(u: Any, y: Any, counts: Any, axes: tuple[int, ...], power: Power) -> Any:
    """(1 - T) ** exponent, differentiable any number of times.

    Args:
        u: margins, finite, in float32 or float64.
        y: targets in [0, 1], of the shape and dtype of u.
        counts: True where a position counts, of the shape of u; all count if None.
        axes: those of a region, over which is summed.
        power: which power.

    Returns:
        u without `axes`. A region of which nothing counts has 0; one without TP, where smooth is
        0, has 1.
    """
    k = power.exponent
    alpha, beta = (jnp.where(weight == 0, 0.0, weight) for weight in (power.alpha, power.beta))
    wrong, c_wrong = _scaled_sum(u, beta * (1 - y), alpha * y, counts, axes)
    right, c_right = _right(u, y, counts, axes, power)
    ahead = c_wrong - c_right
    c, missing = jnp.maximum(ahead, 0.0), jnp.maximum(-ahead, 0.0)

    is_regular = ~((wrong <= 0) | (right <= 0))  # NaN stays
    limit = (wrong > 0).astype(u.dtype)  # where nothing is right all is wrong, if anything counts
    e, g = jnp.where(is_regular, wrong, 1.0), jnp.where(is_regular, right, 1.0)
    # Around the point itself: G / E is that of the point times exp(h), and h is 0.
    fixed_e, fixed_g = jax.lax.stop_gradient((e, g))
    h = jnp.log(g / fixed_g) - jnp.log(e / fixed_e)
    ratio = fixed_g / fixed_e * jnp.exp(-missing)
    base = jnp.exp(-c) + ratio
    result = base**-k * jnp.exp(-k * jnp.log1p(ratio / base * jnp.expm1(h)))
    result = jnp.where(is_regular, result * _scale(c, k), limit)
    if power.varies:
        terms = _log(wrong, c_wrong), _log(right, c_right)
        result = result + _of_weights_at_0(u, y, counts, axes, power, *terms)
    return jnp.squeeze(result, axes)


def _of_weights_at_0(
    u: Any, y: Any, counts: Any, axes: tuple[int, ...], power: Power, log_e: Any, log_g: Any
) -> Any:
    """0, with the derivatives of (1 - T) ** k in alpha, beta and smooth where these are 0."""
    k, nothing, lowest = power.exponent, jnp.zeros_like(u), _lowest(u)
    log_s = jnp.logaddexp(log_e, log_g)
    in_e = jnp.log(k) + (k - 1) * (log_e - log_s) + log_g - 2 * log_s
    in_g = jnp.log(k) + k * (log_e - log_s) - log_s

    def term(weight: Any, exists: Any, logarithm: Any) -> Any:
        largest = jnp.log(jnp.finfo(u.dtype).max) / 2
        slope = jnp.exp(jnp.minimum(jnp.where(exists, logarithm, lowest), largest))
        return jnp.where(weight == 0, weight, 0.0) * slope

    log_fn = _log(*_scaled_sum(u, nothing, y, counts, axes))
    log_fp = _log(*_scaled_sum(u, 1 - y, nothing, counts, axes))
    has_right = log_g > lowest
    of_fn = term(power.alpha, has_right & (log_fn > lowest), in_e + log_fn)
    of_fp = term(power.beta, has_right & (log_fp > lowest), in_e + log_fp)
    return of_fn + of_fp - term(power.smooth, log_e > lowest, in_g)


def _log(scaled: Any, c: Any) -> Any:
    """The logarithm of a sum that is given as exp(c) times itself; of 0 the lowest."""
    is_zero = scaled <= 0
    logarithm = jnp.log(jnp.where(is_zero, 1.0, scaled)) - c
    return jnp.where(is_zero, _lowest(scaled), jnp.maximum(logarithm, _lowest(scaled) / 2))


def _lowest(like: Any) -> Any:
    """A logarithm of 0, of which a sum of several is finite."""
    return -jnp.finfo(like.dtype).max / 16


def _right(u: Any, y: Any, counts: Any, axes: tuple[int, ...], power: Power) -> tuple[Any, Any]:
    """exp(c) G, and c of each region, which is 0 where anything is added to it."""
    smooth = power.smooth
    if power.is_smoothed:
        return jnp.sum(y * sigmoid(u), axes, keepdims=True, where=counts) + smooth, 0.0
    right, c = _scaled_sum(u, y, jnp.zeros_like(y), counts, axes)
    right = jnp.where(smooth > 0, right * jnp.exp(-c) + smooth, right)
    return right, jnp.where(smooth > 0, 0.0, c)


def _scaled_sum(
    u: Any, of_u: Any, of_other: Any, counts: Any, axes: tuple[int, ...]
) -> tuple[Any, Any]:
    """exp(c) times the sum of of_u s(u) + of_other s(-u), and c of each region.

    c is a whole number, so that c - |u| is exact where it matters, and 0 where a term is near 1.
    """
    fixed = jax.lax.stop_gradient(u)
    far = jnp.minimum(
        jnp.where(of_u > 0, jnp.maximum(-fixed, 0.0), jnp.inf),
        jnp.where(of_other > 0, jnp.maximum(fixed, 0.0), jnp.inf),
    )
    nearest = jnp.min(far, axes, keepdims=True, initial=jnp.inf, where=counts)
    c = jnp.where(jnp.isinf(nearest), 0.0, jnp.floor(nearest))
    s, other = _scaled_sides(u, c)
    return jnp.sum(of_u * s + of_other * other, axes, keepdims=True, where=counts), c


@jax.custom_jvp
def _scaled_sides(u: Any, c: Any) -> tuple[Any, Any]:
    """exp(c) s(u) and exp(c) s(-u), of a constant c.

    The larger is without exp(c): where that isn't 1, it has no part in the sum. Nor has the smaller
    where it would be above 1.
    """
    t, far = jnp.exp(-jnp.abs(u)), jnp.exp(jnp.minimum(c - jnp.abs(u), 0.0))
    return over_n(jnp.where(u < 0, far, 1.0), t), over_n(jnp.where(u < 0, 1.0, far), t)


@_scaled_sides.defjvp
def _scaled_sides_jvp(primals: Any, tangents: Any) -> Any:
    (u, c), (du, _) = primals, tangents
    s, other = _scaled_sides(u, c)
    return (s, other), (s * sigmoid(-u) * du, -other * sigmoid(u) * du)


def _scale(c: Any, k: Any) -> Any:
    """exp(-k c). The product of c, a whole number, with the leading digits of k is exact."""
    digits = jnp.floor(k * _STEPS) / _STEPS  # at most k: neither factor is above 1
    # Not a product of two exponentials, of which XLA would add the exponents.
    return jnp.exp(-digits * c) * (1 + jnp.expm1((digits - k) * c))
