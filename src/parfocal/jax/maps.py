"""The data of a call of a region loss: margins, targets, which positions count, and numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parfocal.jax import checks
from parfocal.jax.arrays import from_list, widen
from parfocal.jax.margin import is_class
from parfocal.jax.positions import selected


class Maps(NamedTuple):
    """Margins u and targets y (N, d1, ..., C), and which of them count; all if counts is None.

    axes: those of a region. given: the dtype of the logits.
    """

    u: Any
    y: Any
    counts: Any
    axes: tuple[int, ...]
    given: Any

    def per_class(self, call: str, name: str, number: Any) -> Any:
        """An option that is a number, or one per class (C), in a shape that fits the margins."""
        checks.broadcasts(call, name, number, self.u.shape[-1:])
        array = jnp.broadcast_to(jnp.asarray(number, self.u.dtype), self.u.shape[-1:])
        return array.reshape(*(1,) * (self.u.ndim - 1), -1)

    def result(self, call: str, regions: Any, weight: Any, is_infinite: Any = False) -> Any:
        """The losses of regions, (..., C), times one factor per class, in the dtype of the logits.

        is_infinite: where it is, unless the factor is 0.
        """
        limit = jnp.where(is_infinite, jnp.inf, jnp.zeros_like(regions))
        if weight is not None:
            checks.real(call, "weight", weight)
            factor, classes = jnp.asarray(weight, regions.dtype), regions.shape[-1:]
            if factor.shape != classes:
                raise ValueError(
                    f"{call}: expected `weight` of shape {classes}, got {factor.shape}"
                )
            factor = jnp.broadcast_to(factor, regions.shape)
            regions = factor * regions
            limit = jnp.where(factor == 0, 0.0, jnp.copysign(limit, factor))
        return (regions + limit).astype(self.given)

    def as_two_classes(self) -> "Maps":
        """Each class as a problem of two: absent, with margin -u, and present."""
        return Maps(
            jnp.stack([-self.u, self.u], -1),
            jnp.stack([1 - self.y, self.y], -1),
            None if self.counts is None else jnp.stack([self.counts, self.counts], -1),
            self.axes,
            self.given,
        )


def sigmoid_maps(
    call: str, logits: Any, labels: Any, where: Any, axis: int, per_image: bool
) -> Maps:
    """Each class on its own; the margin is the logit."""
    checks.real(call, "logits", logits)
    checks.real(call, "labels", labels)
    logits, labels, where = map(from_list, (logits, labels, where))
    shape = np.shape(logits)
    axis = checks.axis_of_classes(call, axis, shape)
    if np.shape(labels) != shape:
        raise ValueError(f"{call}: expected labels of shape {shape}, got {np.shape(labels)}")
    counts = _counts(call, where, shape)
    if counts is not None:
        logits, labels = (selected(counts, array, shape) for array in (logits, labels))
        counts = jnp.moveaxis(counts, axis, -1)
    given, x = widen(logits)
    y = jax.lax.stop_gradient(jnp.asarray(labels).astype(x.dtype))
    x, y = (jnp.moveaxis(array, axis, -1) for array in (x, y))
    return Maps(x, y, counts, _axes(call, x, per_image), given)


def softmax_maps(
    call: str,
    logits: Any,
    labels: Any,
    where: Any,
    ignore_index: int | Sequence[int] | None,
    axis: int,
    per_image: bool,
) -> Maps:
    """Each class against all others; the margin is that of the class."""
    checks.real(call, "logits", logits)
    checks.real(call, "labels", labels)
    logits, labels, where = map(from_list, (logits, labels, where))
    shape = np.shape(logits)
    axis = checks.axis_of_classes(call, axis, shape)
    checks.has_classes(call, shape, axis)
    counts = _counts(call, where, shape[:axis] + shape[axis + 1 :])
    is_distribution = np.shape(labels) == shape
    index = None if is_distribution else _indices(call, labels, shape, axis)
    counts = _without_ignored(call, index, counts, ignore_index)
    if counts is not None:
        logits = selected(jnp.expand_dims(counts, axis), logits, shape)
    x = jnp.moveaxis(jnp.asarray(logits), axis, -1)
    given, x = widen(x)
    u = margins(x)
    if index is None:
        if counts is not None:
            labels = selected(jnp.expand_dims(counts, axis), labels, shape)
        y = jnp.moveaxis(jnp.asarray(labels), axis, -1)
    else:
        y = is_class(x, index[..., None])
        is_wrong = (index < 0) | (index >= x.shape[-1])
        is_wrong = is_wrong if counts is None else is_wrong & counts
        u = jnp.where(is_wrong[..., None], jnp.nan, u)
    if counts is not None:
        counts = jnp.broadcast_to(counts[..., None], x.shape)
        y = jnp.where(counts, y, jnp.zeros((), y.dtype))
    y = jax.lax.stop_gradient(y.astype(u.dtype))
    return Maps(u, y, counts, _axes(call, x, per_image), given)


def margins(x: Any) -> Any:
    """x_c - log(sum of exp(x_j) over j != c) of each class c, which are last.

    The sum over the others is that over all less a term. That cancels for the largest class alone,
    whose sum is taken over the others themselves.

    `margin.margins` has rules of its own and takes infinities. This one is closer for regions,
    whose positions are added up: in float32 a gradient of the asymmetric unified loss is within 20
    ULP, and within 55 by the other.
    """
    largest = jnp.finfo(x.dtype).max
    if x.shape[-1] == 1:  # of probability 1
        return jnp.full_like(x, largest)
    is_top = is_class(x, jnp.argmax(x, -1, keepdims=True))
    top = jnp.sum(jnp.where(is_top, x, 0.0), -1, keepdims=True)
    fixed = jax.lax.stop_gradient(top)
    terms = jnp.where(is_top, 0.0, jnp.exp(x - fixed))
    # That of the top is 1, and keeps its derivative: (top - fixed) is 0.
    others = jnp.expm1(top - fixed) + (jnp.sum(terms, -1, keepdims=True) - terms)
    of_top = jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, x), axis=-1, keepdims=True)
    u = jnp.where(is_top, x - of_top, x - fixed - jnp.log1p(jnp.where(is_top, 0.0, others)))
    return jnp.clip(u, -largest, largest)


def _axes(call: str, x: Any, per_image: bool) -> tuple[int, ...]:
    """The axes of a region, of classes that are last."""
    axes = tuple(range(1 if per_image else 0, x.ndim - 1))
    if not axes:
        shape = "(N, d1, ..., C)" if per_image else "(d1, ..., C)"
        raise ValueError(
            f"{call}: expected logits of shape {shape}, with classes in `axis`, for "
            f"per_image={per_image}, got {x.ndim} axes"
        )
    return axes


def _counts(call: str, where: Any, shape: tuple[int, ...]) -> Any:
    """Which positions count, of the shape; None for all."""
    if where is None:
        return None
    checks.boolean(call, "where", where)
    checks.broadcasts(call, "where", where, shape)
    return jnp.broadcast_to(jnp.asarray(where), shape)


def _without_ignored(
    call: str, index: Any, counts: Any, ignore_index: int | Sequence[int] | None
) -> Any:
    """Which positions still count."""
    several = () if ignore_index is None else np.ravel(np.asarray(ignore_index, object))
    ignored = [checks.index(call, "ignore_index", one) for one in several]
    if index is None:
        if any(one >= 0 for one in ignored):
            raise ValueError(
                f"{call}: expected no `ignore_index` with class probabilities, got "
                f"{ignore_index}; pass the positions that count as `where`"
            )
        return counts
    for one in ignored:
        if abs(one) < 2**31:
            counts = index != one if counts is None else counts & (index != one)
    return counts


def _indices(call: str, labels: Any, shape: tuple[int, ...], axis: int) -> Any:
    """Class indices, in a dtype that also holds the number of classes and what is ignored."""
    y, positions = jnp.asarray(labels), shape[:axis] + shape[axis + 1 :]
    if y.shape != positions:
        raise ValueError(
            f"{call}: expected labels to be class indices of shape {positions}, or probabilities "
            f"of the shape of the logits, got shape {y.shape}"
        )
    if not checks.is_integer(y.dtype):
        raise TypeError(f"{call}: expected integer labels, got {y.dtype}")
    is_wide = y.dtype.itemsize >= 4 and jnp.issubdtype(y.dtype, jnp.signedinteger)
    return y if is_wide else y.astype(jnp.int32)
