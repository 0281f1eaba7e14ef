"""The focal loss of a logit and a label, with derivatives of every order by rules.

Notation, for a logit x and a label y: s(x) = 1 / (1 + exp(-x)), and

    q = y s(-x) + (1 - y) s(x)      ce = y softplus(-x) + (1 - y) softplus(x)      L = q ** gamma ce

The derivatives are rules among four functions, each of which is evaluated without cancellation and
whose rules name these functions alone. So every order is a sum of products of accurate terms:

    s' = s(x) s(-x)                     ce' = (1 - y) s(x) - y s(-x)
    (q ** gamma)' = gamma q ** gamma r  r = (log q)' = (1 - 2 y) s(x) s(-x) / q
    r' = r (s(-x) - s(x) - r)

in which |r| <= 1: nothing is divided by a power of q, the singularity of gamma q ** (gamma - 1).
At a hard label r is -s(x) or s(-x), and r' is -s(x) s(-x) without a subtraction that cancels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# The exp(-|x|) below which a / n is taken as a - a t / n, whose rounding a power feels less.
_SMALL = 0.4

# The share of the floating-point range kept free for products with gamma.
_HEADROOM = 2.0**-20


def along(value: Any, *parts: tuple[Any, Callable[[], Any]]) -> Any:
    """The tangent of a value: of each (tangent, slope) of its arguments the product, summed.

    A slope is evaluated only where its argument varies. Beside one that is constant its product
    with a tangent of 0 would be a waste, and NaN where it is no number.
    """
    terms = [slope() * given for given, slope in parts if not isinstance(given, SymbolicZero)]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)


@jax.custom_jvp
def focal(x: Any, y: Any, gamma: Any) -> Any:
    """L = q ** gamma ce."""
    return power(x, y, gamma) * cross_entropy(x, y)


def _focal_jvp(primals: Any, tangents: Any) -> Any:
    """Each derivative is q ** gamma times a sum: no term of it underflows by itself."""
    (x, y, gamma), (dx, dy, dgamma) = primals, tangents
    factor, ce = power(x, y, gamma), cross_entropy(x, y)

    def in_x() -> Any:
        focusing = gamma * relative_slope(x, y) * bounded(ce)
        return factor * (focusing + cross_entropy_slope(x, y))

    def in_y() -> Any:
        slope = gamma * bounded(ce) * log_base_in_y(x, y)
        largest = jnp.finfo(x.dtype).max
        return factor * jnp.clip(slope - x, -largest, largest)

    def in_gamma() -> Any:
        return factor * (ce * log_base(x, y))

    value = factor * ce
    return value, along(value, (dx, in_x), (dy, in_y), (dgamma, in_gamma))


focal.defjvp(_focal_jvp, symbolic_zeros=True)


@jax.custom_jvp
def cross_entropy(x: Any, y: Any) -> Any:
    """-y log s(x) - (1 - y) log s(-x): log n, and |x| as far as the label differs."""
    a = jnp.abs(x)
    return jnp.log1p(jnp.exp(-a)) + jnp.where(x < 0, y, 1 - y) * a


def _cross_entropy_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    ce = cross_entropy(x, y)
    return ce, along(ce, (dx, lambda: cross_entropy_slope(x, y)), (dy, lambda: -x))


cross_entropy.defjvp(_cross_entropy_jvp, symbolic_zeros=True)


def cross_entropy_slope(x: Any, y: Any) -> Any:
    """ce' = (1 - y) s(x) - y s(-x)."""
    return (1 - y) * sigmoid(x) - y * complement(x)


@jax.custom_jvp
def sigmoid(x: Any) -> Any:
    """s, from the side to which x points: t / n or 1 / n, with t = exp(-|x|) and n = 1 + t."""
    t = jnp.exp(-jnp.abs(x))
    return over_n(jnp.where(x < 0, t, 1.0), t)


@sigmoid.defjvp
def _sigmoid_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    s = sigmoid(x)
    return s, s * complement(x) * dx


@jax.custom_jvp
def complement(x: Any) -> Any:
    """1 - s(x) = s(-x), of the same exponential."""
    t = jnp.exp(-jnp.abs(x))
    return over_n(jnp.where(x < 0, 1.0, t), t)


@complement.defjvp
def _complement_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    other = complement(x)
    return other, -(sigmoid(x) * other) * dx


@jax.custom_jvp
def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return softplus(x), sigmoid(x) * dx


@jax.custom_jvp
def negative(x: Any, gamma: Any) -> Any:
    """p ** gamma (-log p), the term of a wrong class; its slope is p ** gamma q (gamma ce - 1)."""
    return power(x, jnp.zeros_like(x), gamma) * cross_entropy(x, jnp.ones_like(x))


def _negative_jvp(primals: Any, tangents: Any) -> Any:
    (x, gamma), (dx, dgamma) = primals, tangents
    factor, ce = power(x, jnp.zeros_like(x), gamma), cross_entropy(x, jnp.ones_like(x))
    return factor * ce, along(
        factor,
        (dx, lambda: factor * (complement(x) * (gamma * bounded(ce) - 1))),
        (dgamma, lambda: factor * (ce * log_base(x, jnp.zeros_like(x)))),
    )


negative.defjvp(_negative_jvp, symbolic_zeros=True)


def base(x: Any, y: Any) -> Any:
    """q, as one quotient: no rounding but its own is felt gamma times."""
    t = jnp.exp(-jnp.abs(x))
    agrees, differs = jnp.where(x < 0, 1 - y, y), jnp.where(x < 0, y, 1 - y)
    return over_n(agrees * t + differs, t)


@jax.custom_jvp
def power(x: Any, y: Any, gamma: Any) -> Any:
    """q ** gamma."""
    return base(x, y) ** gamma


def _power_jvp(primals: Any, tangents: Any) -> Any:
    (x, y, gamma), (dx, dy, dgamma) = primals, tangents
    factor = power(x, y, gamma)
    return factor, along(
        factor,
        (dx, lambda: factor * (gamma * relative_slope(x, y))),
        (dy, lambda: gamma * factor * log_base_in_y(x, y)),
        (dgamma, lambda: factor * log_base(x, y)),
    )


power.defjvp(_power_jvp, symbolic_zeros=True)


@jax.custom_jvp
def relative_slope(x: Any, y: Any) -> Any:
    """(log q)', in [-1, 1]."""
    soft = (1 - 2 * y) * sigmoid(x) * complement(x) / jnp.maximum(base(x, y), tiny(x))
    return jnp.where(y == 1, -sigmoid(x), jnp.where(y == 0, complement(x), soft))


def _relative_slope_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    r, s, other = relative_slope(x, y), sigmoid(x), complement(x)

    def in_x() -> Any:
        # At label 1, s + r is 0; at label 0, other - r is: each first, and nothing cancels.
        return r * jnp.where(y > 0.5, other - (s + r), (other - r) - s)

    def in_y() -> Any:
        q = jnp.maximum(base_as_sum(x, y), tiny(x))
        return -2 * s * other / q - r * (other - s) / q

    return r, along(r, (dx, in_x), (dy, in_y))


relative_slope.defjvp(_relative_slope_jvp, symbolic_zeros=True)


def base_as_sum(x: Any, y: Any) -> Any:
    """q as a sum, which is differentiated by its terms."""
    return y * complement(x) + (1 - y) * sigmoid(x)


@jax.custom_jvp
def log_base(x: Any, y: Any) -> Any:
    """log q; at a hard label without a logarithm of what may have underflowed."""
    is_hard = (y == 0) | (y == 1)
    hard = -softplus(jnp.where(y == 1, x, -x))
    q, p = base_as_sum(x, y), y * sigmoid(x) + (1 - y) * complement(x)
    is_near_1 = is_hard | (q > 0.5)
    soft = jnp.where(q > 0.5, jnp.log1p(-p), jnp.log(jnp.where(is_near_1, 1.0, q)))
    return jnp.where(is_hard, hard, soft)


def _log_base_jvp(primals: Any, tangents: Any) -> Any:
    (x, y), (dx, dy) = primals, tangents
    logarithm = log_base(x, y)
    parts = (dx, lambda: relative_slope(x, y)), (dy, lambda: log_base_in_y(x, y))
    return logarithm, along(logarithm, *parts)


log_base.defjvp(_log_base_jvp, symbolic_zeros=True)


def log_base_in_y(x: Any, y: Any) -> Any:
    """The derivative of log q in y, (s(-x) - s(x)) / q, as far as 1 / q is a number."""
    return (complement(x) - sigmoid(x)) / jnp.maximum(base_as_sum(x, y), tiny(x))


def over_n(numerator: Any, t: Any) -> Any:
    """numerator / (1 + t), as numerator - numerator t / (1 + t) for small t."""
    n = 1 + t
    return jnp.where(t < _SMALL, numerator - numerator * (t / n), numerator / n)


def bounded(number: Any) -> Any:
    """A number >= 0 whose product with an exponent is finite; where ce is larger, r is 0."""
    return jnp.minimum(number, jnp.finfo(number.dtype).max * _HEADROOM)


def tiny(x: Any) -> Any:
    """The smallest normal number of the dtype of x."""
    return jnp.finfo(x.dtype).tiny
