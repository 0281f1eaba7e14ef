"""The margin: how far the logit of a class is above all others together, with rules by rows.

    u_c = x_c - log(sum of exp(x_j) over j != c)        softmax(x)_c = 1 / (1 + exp(-u_c))

so that the binary loss of u_c at label 1 is the multiclass loss of class c. The exponentials are
taken from the largest logit of the row on. Where the class itself is the largest the sum S of the
others is exp(-u), small and not a difference; it vanishes only where the loss does. The derivatives
name the shares of the others alone,

    s_j = exp(x_j - top) / S        du_c/dx_c = 1        du_c/dx_j = -s_j
                                    ds_j/dx_k = s_j ([j = k] - s_k)

Infinite logits count as the largest numbers, and no gradient comes through them. A mask (..., C)
has the logits that count, one (..., 1) the rows; what doesn't count may be NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp

from parfocal.jax.arrays import computation_dtype, widen
from parfocal.jax.closed_form import tiny


@jax.custom_jvp
def margin(x: Any, index: Any, mask: Any) -> Any:
    """u of the class `index` (..., 1) of logits (..., C); in the dtype of the computation."""
    top, _, total = _terms(x, index, mask)
    own = widen(_own(x, index, mask))[1]
    return _relative(own - top, total)[..., 0]


def _margin_jvp(primals: Any, tangents: Any) -> Any:
    (x, index, mask), (dx, *_) = primals, tangents
    u = margin(x, index, mask)
    is_finite = jnp.isfinite(_own(x, index, mask)).astype(u.dtype)
    slope = jnp.where(is_class(x, index), is_finite, -shares(x, index, mask))
    return u, jnp.sum(slope * dx.astype(u.dtype), axis=-1)


margin.defjvp(_margin_jvp, symbolic_zeros=True)


@jax.custom_jvp
def shares(x: Any, index: Any, mask: Any) -> Any:
    """s_j, the softmax of the other classes; 0 for the class itself and for what doesn't count."""
    _, terms, total = _terms(x, index, mask)
    is_limit = (total == 0) | jnp.isinf(_top(x, mask))
    return terms * jnp.where(is_limit, 0.0, 1 / jnp.where(is_limit, 1.0, total))


def _shares_jvp(primals: Any, tangents: Any) -> Any:
    (x, index, mask), (dx, *_) = primals, tangents
    s = shares(x, index, mask)
    change = s * dx.astype(s.dtype)
    return s, change - s * jnp.sum(change, axis=-1, keepdims=True)


shares.defjvp(_shares_jvp, symbolic_zeros=True)


def margins(x: Any, mask: Any) -> Any:
    """u of every class, (..., C).

    The sum over the others of a class is the sum over all less its own term, and 1 at least. That
    is so of all but the largest class, whose margin has rules of its own.
    """
    x = x.astype(computation_dtype(x.dtype))  # so that a gradient of many parts is rounded once
    below = jnp.where(mask, x, -jnp.inf)
    place = jnp.argmax(below, axis=-1, keepdims=True)
    is_top = is_class(x, place)
    logits = widen(jnp.where(mask, x, jnp.zeros((), x.dtype)))[1]
    top = widen(jax.lax.stop_gradient(_top(x, mask)))[1]
    terms = jnp.where(mask, jnp.exp(jnp.where(mask, logits - top, 0.0)), 0.0)
    of_top = jnp.sum(jnp.where(is_top, terms, 0.0), axis=-1, keepdims=True)
    beside = jnp.where(is_top, 0.0, terms)
    total = of_top + (jnp.sum(beside, axis=-1, keepdims=True) - beside)
    others = _relative(logits - top, jnp.where(is_top, 1.0, total))
    return jnp.where(is_top, margin(x, place, mask)[..., None], others)


def is_infinite(x: Any, index: Any, mask: Any) -> Any:
    """Whether the logit of the class, or the largest of its row, is infinite."""
    return (jnp.isinf(_own(x, index, mask)) | jnp.isinf(_top(x, mask)))[..., 0]


def are_infinite(x: Any, mask: Any) -> Any:
    """The same of every class, (..., C); of one that doesn't count, by the largest alone."""
    return jnp.isinf(jnp.where(mask, x, jnp.zeros((), x.dtype))) | jnp.isinf(_top(x, mask))


def _relative(ahead: Any, total: Any) -> Any:
    """ahead - log(total), within the numbers; of a class without others the largest."""
    largest = jnp.finfo(ahead.dtype).max
    is_alone = total < tiny(ahead)
    logarithm = jnp.log(jnp.where(is_alone, 1.0, total))
    u = widen(ahead)[1] - logarithm
    return jnp.where(is_alone, largest, u)


def _terms(x: Any, index: Any, mask: Any) -> tuple[Any, Any, Any]:
    """The largest logit; exp(x_j - top), with 0 for the class itself; the sum of these."""
    top = widen(_top(x, mask))[1]
    others = mask & ~is_class(x, index)
    largest = jnp.finfo(top.dtype).max
    logits = jnp.clip(
        jnp.where(mask, x, jnp.zeros((), x.dtype)).astype(top.dtype), -largest, largest
    )
    terms = jnp.where(others, jnp.exp(logits - top), 0.0)
    return top, terms, jnp.sum(terms, axis=-1, keepdims=True)


def _top(x: Any, mask: Any) -> Any:
    """The largest logit of each row that counts, perhaps infinite; else 0."""
    if mask.shape[-1] != 1:
        x = jnp.where(mask, x, -jnp.inf)
    counts = jnp.any(mask, axis=-1, keepdims=True)
    return jnp.where(counts, jnp.max(x, axis=-1, keepdims=True), jnp.zeros((), x.dtype))


def _own(x: Any, index: Any, mask: Any) -> Any:
    """The logit of the class of each row that counts; else 0."""
    own = jnp.take_along_axis(x, index, -1, mode="promise_in_bounds")
    counts = jnp.any(mask, axis=-1, keepdims=True)
    return jnp.where(counts, own, jnp.zeros((), x.dtype))


def is_class(x: Any, index: Any) -> Any:
    """Of each class, whether the index (..., 1) is it."""
    return jax.lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1) == index
