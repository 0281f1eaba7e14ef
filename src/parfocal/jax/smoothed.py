"""The focal loss with a smoothing constant in its base, with derivatives of every order by rules.

With s, q and ce as in `closed_form`, and a constant epsilon > 0,

    b = q + epsilon                                 L = b ** gamma ce
    (b ** gamma)' = gamma b ** gamma r              r = (log b)' = (1 - 2 y) s(x) s(-x) / b
    r' = r (s(-x) - s(x) - r)                       |r| <= 1

r' has no epsilon of its own, since q'' / q' is s(-x) - s(x) whatever q is.
"""

from typing import Any

import jax
import jax.numpy as jnp

from parfocal.jax.closed_form import (
    along,
    base,
    base_as_sum,
    complement,
    cross_entropy,
    cross_entropy_slope,
    sigmoid,
    tiny,
)

# The share of the floating-point range kept free for products of ce, in derivatives in a factor of
# up to 2 ** 64, with that and with gamma.
_HEADROOM = 2.0**-88


@jax.custom_jvp
def smoothed_focal(x: Any, y: Any, gamma: Any, epsilon: Any) -> Any:
    """L = b ** gamma ce."""
    return power(x, y, gamma, epsilon) * cross_entropy(x, y)


def _smoothed_focal_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, gamma, epsilon), (dx, dy, dgamma, depsilon) = primals, tangents
    factor, ce = power(x, y, gamma, epsilon), cross_entropy(x, y)
    limited = jnp.minimum(ce, jnp.finfo(x.dtype).max * _HEADROOM)

    def in_x() -> Any:
        focusing = gamma * relative_slope(x, y, epsilon) * limited
        return factor * (focusing + cross_entropy_slope(x, y))

    def in_y() -> Any:
        slope = gamma * limited * (_slope_in_y(x) * inverse(x, y, epsilon))
        largest = jnp.finfo(x.dtype).max
        return factor * jnp.clip(slope - x, -largest, largest)

    value = factor * ce
    return value, along(
        value,
        (dx, in_x),
        (dy, in_y),
        (dgamma, lambda: factor * (limited * logarithm(x, y, epsilon))),
        (depsilon, lambda: factor * (gamma * (limited * inverse(x, y, epsilon)))),
    )


smoothed_focal.defjvp(_smoothed_focal_jvp, symbolic_zeros=True)


@jax.custom_jvp
def power(x: Any, y: Any, gamma: Any, epsilon: Any) -> Any:
    """b ** gamma."""
    return (base(x, y) + epsilon) ** gamma


def _power_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, gamma, epsilon), (dx, dy, dgamma, depsilon) = primals, tangents
    factor = power(x, y, gamma, epsilon)
    return factor, along(
        factor,
        (dx, lambda: factor * (gamma * relative_slope(x, y, epsilon))),
        (dy, lambda: factor * (gamma * (_slope_in_y(x) * inverse(x, y, epsilon)))),
        (dgamma, lambda: factor * logarithm(x, y, epsilon)),
        (depsilon, lambda: factor * (gamma * inverse(x, y, epsilon))),
    )


power.defjvp(_power_jvp, symbolic_zeros=True)


@jax.custom_jvp
def relative_slope(x: Any, y: Any, epsilon: Any) -> Any:
    """r = (log b)'."""
    b = jnp.maximum(base(x, y) + epsilon, tiny(x))
    return (1 - 2 * y) * sigmoid(x) * complement(x) / b


def _relative_slope_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, epsilon), (dx, dy, depsilon) = primals, tangents
    r, s, other = relative_slope(x, y, epsilon), sigmoid(x), complement(x)
    inverse_b = inverse(x, y, epsilon)
    return r, along(
        r,
        (dx, lambda: r * (other - s - r)),
        (dy, lambda: -2 * s * other * inverse_b - r * (_slope_in_y(x) * inverse_b)),
        (depsilon, lambda: -r * inverse_b),
    )


relative_slope.defjvp(_relative_slope_jvp, symbolic_zeros=True)


@jax.custom_jvp
def inverse(x: Any, y: Any, epsilon: Any) -> Any:
    """1 / b, as far as its square is a number."""
    return 1 / jnp.maximum(base(x, y) + epsilon, jnp.sqrt(tiny(x)))


def _inverse_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, epsilon), (dx, dy, depsilon) = primals, tangents
    result = inverse(x, y, epsilon)
    return result, along(
        result,
        (dx, lambda: -result * relative_slope(x, y, epsilon)),
        (dy, lambda: -result * (_slope_in_y(x) * result)),
        (depsilon, lambda: -result * result),
    )


inverse.defjvp(_inverse_jvp, symbolic_zeros=True)


@jax.custom_jvp
def logarithm(x: Any, y: Any, epsilon: Any) -> Any:
    """log b, as log(1 - (p - epsilon)) where q is near 1."""
    q, p = base_as_sum(x, y), y * sigmoid(x) + (1 - y) * complement(x)
    is_near_1 = q > 0.5
    b = jnp.maximum(q + epsilon, tiny(x))
    near = jnp.log1p(jnp.where(is_near_1, epsilon - p, 0.0))
    return jnp.where(is_near_1, near, jnp.log(b))


def _logarithm_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, epsilon), (dx, dy, depsilon) = primals, tangents
    result = logarithm(x, y, epsilon)
    return result, along(
        result,
        (dx, lambda: relative_slope(x, y, epsilon)),
        (dy, lambda: _slope_in_y(x) * inverse(x, y, epsilon)),
        (depsilon, lambda: inverse(x, y, epsilon)),
    )


logarithm.defjvp(_logarithm_jvp, symbolic_zeros=True)


def _slope_in_y(x: Any) -> Any:
    """dq / dy = s(-x) - s(x)."""
    return complement(x) - sigmoid(x)
