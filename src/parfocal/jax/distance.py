"""Powers of the distance of a probability from a number, with derivatives of every order by rules.

With d = s(x) - m, which is evaluated from the side to which x points, as p - y of `closed_form`,

    (|d| ** k)'         = k sign(d) |d| ** (k - 1) d'
    (sign(d) |d| ** k)' = k |d| ** (k - 1) d'
    d'                  = s(x) s(-x)

so that no derivative divides by d. At d = 0 a negative power is given as 0: the factor before it is
0 too, or there is no derivative.
"""

from typing import Any

import jax
import jax.numpy as jnp

from parfocal.jax.closed_form import along, bounded, complement, over_n, sigmoid


@jax.custom_jvp
def distance(x: Any, m: Any) -> Any:
    """s(x) - m = (1 - m) s(x) - m s(-x)."""
    t = jnp.exp(-jnp.abs(x))
    points_down = x < 0
    ahead = jnp.where(points_down, (1 - m) * t - m, (1 - m) - m * t)
    return over_n(ahead, t)


def _distance_jvp(primals: Any, tangents: Any) -> Any:
    (x, m), (dx, dm) = primals, tangents
    d = distance(x, m)
    return d, along(d, (dx, lambda: sigmoid(x) * complement(x)), (dm, lambda: jnp.full_like(d, -1)))


distance.defjvp(_distance_jvp, symbolic_zeros=True)


@jax.custom_jvp
def even_power(d: Any, k: Any) -> Any:
    """|d| ** k."""
    is_zero = (d == 0) & (k < 0)
    power = bounded(jnp.where(is_zero, 1.0, jnp.abs(d)) ** k)
    return jnp.where(is_zero, 0.0, power)


def _even_power_jvp(primals: Any, tangents: Any) -> Any:
    (d, k), (dd, dk) = primals, tangents
    power = even_power(d, k)
    return power, along(
        power, (dd, lambda: k * odd_power(d, k - 1)), (dk, lambda: power * log_distance(d))
    )


even_power.defjvp(_even_power_jvp, symbolic_zeros=True)


@jax.custom_jvp
def odd_power(d: Any, k: Any) -> Any:
    """sign(d) |d| ** k."""
    return jnp.sign(d) * even_power(d, k)


def _odd_power_jvp(primals: Any, tangents: Any) -> Any:
    (d, k), (dd, dk) = primals, tangents
    power = odd_power(d, k)
    return power, along(
        power, (dd, lambda: k * even_power(d, k - 1)), (dk, lambda: power * log_distance(d))
    )


odd_power.defjvp(_odd_power_jvp, symbolic_zeros=True)


def log_distance(d: Any) -> Any:
    """log |d|; 0 at 0, where it meets a power that is 0."""
    return jnp.log(jnp.where(d == 0, 1.0, jnp.abs(d)))
