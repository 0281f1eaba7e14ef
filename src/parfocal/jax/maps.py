"""What a call of a region loss is given: margins, targets, which positions count, and numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parfocal.jax.arrays import widen


class Maps(NamedTuple):
    """Margins u and targets y (N, d1, ..., C), and which of them count; all if counts is None.

    axes: those of a region. given: the dtype of the logits.
    """

    u: Any
    y: Any
    counts: Any
    axes: tuple[int, ...]
    given: Any

    def per_class(self, number: Any) -> Any:
        """A number, or one a class (C), beside the margins."""
        array = jnp.broadcast_to(jnp.asarray(number, self.u.dtype), self.u.shape[-1:])
        return array.reshape(*(1,) * (self.u.ndim - 1), -1)

    def result(self, call: str, regions: Any, weight: Any) -> Any:
        """What regions have, (..., C), times one factor a class, in the dtype of the logits."""
        if weight is not None:
            factor, classes = jnp.asarray(weight, regions.dtype), regions.shape[-1:]
            if factor.shape != classes:
                raise ValueError(
                    f"{call}: expected `weight` of shape {classes}, got {factor.shape}"
                )
            regions = jnp.broadcast_to(factor, regions.shape) * regions
        return regions.astype(self.given)

    def as_two_classes(self) -> "Maps":
        """Each class as a problem of two: that it isn't there, with margin -u, and that it is."""
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
    given, x = widen(logits)
    y = jnp.asarray(labels)
    if y.shape != x.shape:
        raise ValueError(f"{call}: expected labels of shape {x.shape}, got {y.shape}")
    counts = _counts(call, where, x.shape)
    x, y = (jnp.moveaxis(array, axis, -1) for array in (x, y.astype(x.dtype)))
    if counts is not None:
        counts = jnp.moveaxis(counts, axis, -1)
        x, y = jnp.where(counts, x, 0.0), jnp.where(counts, y, 0.0)
    return Maps(x, jax.lax.stop_gradient(y), counts, _axes(call, x, per_image), given)


def softmax_maps(
    call: str,
    logits: Any,
    labels: Any,
    where: Any,
    ignore_index: int | Sequence[int],
    axis: int,
    per_image: bool,
) -> Maps:
    """Each class against all others; the margin is that of the class."""
    given, x = widen(logits)
    y = jnp.asarray(labels)
    is_distribution = y.shape == x.shape
    is_wrong = None
    x = jnp.moveaxis(x, axis, -1)
    counts = _counts(call, where, x.shape[:-1])
    if is_distribution:
        y = jnp.moveaxis(y, axis, -1).astype(x.dtype)
    else:
        index = _indices(call, y, x.shape)
        is_ignored = jnp.isin(index, jnp.asarray(ignore_index, index.dtype))
        counts = ~is_ignored if counts is None else counts & ~is_ignored
        is_wrong = counts & ((index < 0) | (index >= x.shape[-1]))
        y = _one_hot(index, x)
    if counts is not None:
        counts = jnp.broadcast_to(counts[..., None], x.shape)
        x, y = jnp.where(counts, x, 0.0), jnp.where(counts, y, 0.0)
    if is_wrong is not None:
        x = jnp.where(is_wrong[..., None], jnp.nan, x)
    return Maps(margins(x), jax.lax.stop_gradient(y), counts, _axes(call, x, per_image), given)


def margins(x: Any) -> Any:
    """x_c - log(sum of exp(x_j) over j != c) of each class c, which are last.

    The sum over the others is that over all less a term. That cancels for the largest class alone,
    whose sum is taken over the others themselves.
    """
    largest = jnp.finfo(x.dtype).max
    if x.shape[-1] == 1:  # of probability 1
        return jnp.full_like(x, largest)
    is_top = _one_hot(jnp.argmax(x, -1), x) > 0
    top = jnp.sum(jnp.where(is_top, x, 0.0), -1, keepdims=True)
    fixed = jax.lax.stop_gradient(top)
    terms = jnp.where(is_top, 0.0, jnp.exp(x - fixed))
    # That of the top is 1, and keeps its derivative: (top - fixed) is 0.
    others = jnp.expm1(top - fixed) + (jnp.sum(terms, -1, keepdims=True) - terms)
    of_top = jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, x), axis=-1, keepdims=True)
    u = jnp.where(is_top, x - of_top, x - fixed - jnp.log1p(jnp.where(is_top, 0.0, others)))
    return jnp.clip(u, -largest, largest)


def non_negative(call: str, **numbers: Any) -> None:
    """Refuses what is below 0, where it is known: inside of `jit` it isn't."""
    _refuse(call, numbers, ">= 0", lambda values: values >= 0)


def positive(call: str, **numbers: Any) -> None:
    """Refuses what isn't above 0."""
    _refuse(call, numbers, "> 0", lambda values: values > 0)


def fraction(call: str, **numbers: Any) -> None:
    """Refuses what is outside of [0, 1]."""
    _refuse(call, numbers, "in [0, 1]", lambda values: (values >= 0) & (values <= 1))


def proper_fraction(call: str, **numbers: Any) -> None:
    """Refuses what is outside of [0, 1)."""
    _refuse(call, numbers, "in [0, 1)", lambda values: (values >= 0) & (values < 1))


def is_known(number: Any) -> bool:
    """Whether it has a value, and isn't being traced."""
    return not isinstance(number, jax.core.Tracer)


def is_known_to_be_positive(number: Any) -> bool:
    """Whether all its values are known, and above 0."""
    return is_known(number) and bool(np.all(np.asarray(number) > 0))


def _refuse(call: str, numbers: dict[str, Any], range_: str, holds: Callable[[Any], Any]) -> None:
    for name, number in numbers.items():
        if is_known(number) and not np.all(holds(np.asarray(number))):
            raise ValueError(f"{call}: expected `{name}` {range_}, got {number}")


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
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(f"{call}: expected `where` to be boolean, got {mask.dtype}")
    try:
        return jnp.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(
            f"{call}: expected `where` to broadcast to {shape}, got shape {mask.shape}"
        ) from None


def _indices(call: str, y: Any, shape: tuple[int, ...]) -> Any:
    """Class indices, in a dtype that also holds the number of classes and what is ignored."""
    if y.shape != shape[:-1]:
        raise ValueError(
            f"{call}: expected labels to be class indices of shape {shape[:-1]}, or probabilities "
            f"of the shape of the logits, got shape {y.shape}"
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{call}: expected integer labels, got {y.dtype}")
    is_wide = y.dtype.itemsize >= 4 and jnp.issubdtype(y.dtype, jnp.signedinteger)
    return y if is_wide else y.astype(jnp.int32)


def _one_hot(index: Any, x: Any) -> Any:
    """1 at the class of an index, of the shape and dtype of x."""
    classes = jax.lax.broadcasted_iota(index.dtype, x.shape, x.ndim - 1)
    return (classes == index[..., None]).astype(x.dtype)
