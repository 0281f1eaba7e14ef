"""Rows of class logits, and pixels of segmentations, with their targets and which of them count."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks, values
from parfocal.losses.reduction import select, widen
from parfocal.numerics import margins


class Rows(NamedTuple):
    """Class logits (N, C, ...) and their targets.

    mask: (N, ...), True where a position counts, or None where all do.
    labels: class indices (N, ...), 0 where a position doesn't count; None for probabilities.
    probabilities: (N, C, ...); None for indices.
    """

    x: Tensor
    mask: Tensor | None
    labels: Tensor | None
    probabilities: Tensor | None

    def classes(self) -> int:
        """How many classes there are."""
        return self.x.shape[1]

    def prepare(self) -> "Rows":
        """The same in the dtype of the computation, and 0 where a position doesn't count."""
        x, probabilities = widen(self.x), self.probabilities
        if probabilities is not None:
            probabilities = self.over_classes(probabilities.to(x.dtype))
        return Rows(self.over_classes(x), self.mask, self.labels, probabilities)

    def distribution(self) -> Tensor:
        """The probabilities; of an index, 1 at its class."""
        if self.labels is None:
            assert self.probabilities is not None
            return self.probabilities
        return self.over_classes(torch.zeros_like(self.x).scatter(1, self.labels.unsqueeze(1), 1.0))

    def exponent(
        self, call: str, name: str, value: float | Tensor, shape: torch.Size
    ) -> float | Tensor:
        """One that is a tensor, and broadcasts to inputs of a shape, at each of the logits."""
        if not isinstance(value, Tensor):
            return value
        value = self.over_classes(value.to(self.x.dtype).expand(shape).view_as(self.x))
        values.bounded(call, name, value)
        return value

    def over_classes(self, tensor: Tensor) -> Tensor:
        """A tensor of the shape of x, with 0 where a position doesn't count."""
        return tensor if self.mask is None else select(self.mask.unsqueeze(1), tensor)


def rows(
    call: str, inputs: Tensor, targets: Tensor, ignore_index: tuple[int, ...], mask: Tensor | None
) -> Rows:
    """Logits (N, C) or (N, C, ...) with indices or probabilities."""
    if mask is not None:
        mask = mask.expand(checks.positions_of(inputs))
    if targets.is_floating_point():
        return Rows(inputs, mask, None, targets)
    # In int64: a narrower dtype would wrap `ignore_index` around, onto one of its classes.
    labels = targets.long()
    classes = inputs.shape[1]
    ignores_a_class = any(0 <= index < classes for index in ignore_index)
    if mask is None and not ignores_a_class and values.known_classes(labels, classes):
        return Rows(inputs, None, labels, None)
    for index in ignore_index:
        counts = labels != index
        mask = counts if mask is None else counts & mask
    if mask is not None:
        labels = torch.where(mask, labels, 0)
    values.class_indices(call, labels, classes, ignore_index)
    return Rows(inputs, mask, labels, None)


class Pixels(NamedTuple):
    """Margins u and targets y (N, ..., C, d1, ...), and which of them count; all if mask is None.

    class_dim: where the classes are; the dimensions after it are those of a map.
    """

    u: Tensor
    y: Tensor
    mask: Tensor | None
    class_dim: int = 1

    def classes(self) -> int:
        """How many classes there are."""
        return self.u.shape[self.class_dim]

    def counts(self) -> Tensor | None:
        """The mask of the pixels themselves, whatever their class."""
        return None if self.mask is None else self.mask.select(self.class_dim, 0)

    def region(self, per_image: bool) -> tuple[int, ...]:
        """The dimensions that a region extends over."""
        spatial = tuple(range(self.class_dim + 1, self.u.ndim))
        return spatial if per_image else (0, *spatial)

    def over_maps(self, numbers: Tensor) -> Tensor:
        """One number a class (C), at each of its pixels."""
        return numbers.view(-1, *(1,) * len(self.region(per_image=True))).expand_as(self.u)

    def as_two_classes(self) -> "Pixels":
        """Each class as a problem of two: that it isn't there, with margin -u, and that it is."""
        dim = self.class_dim + 1
        return Pixels(
            torch.stack([-self.u, self.u], dim),
            torch.stack([select(self.mask, 1 - self.y), self.y], dim),
            None if self.mask is None else torch.stack([self.mask, self.mask], dim),
            class_dim=dim,
        )


def sigmoid_pixels(call: str, inputs: Tensor, targets: Tensor, mask: Tensor | None) -> Pixels:
    """Each class on its own; the margin is the logit."""
    checks.logits_and_targets(call, inputs, targets)
    checks.maps(call, inputs)
    mask = checks.mask(call, mask, inputs)
    u = select(mask, widen(inputs))
    y = select(mask, targets.detach().to(u.dtype))
    values.probabilities(call, y)
    return Pixels(u, y, None if mask is None else mask.expand_as(u))


def class_rows(
    call: str,
    inputs: Tensor,
    targets: Tensor,
    ignore_index: int | Sequence[int],
    mask: Tensor | None,
) -> Rows:
    """One class a pixel, or a distribution over them, in the dtype of the computation."""
    checks.class_logits_and_targets(call, inputs, targets)
    checks.maps(call, inputs)
    ignored = checks.ignore_index(call, ignore_index, targets)
    mask = checks.position_mask(call, mask, inputs)
    r = rows(call, inputs, targets.detach(), ignored, mask).prepare()
    if r.probabilities is not None:
        values.probabilities(call, r.probabilities)
    return r


def class_pixels(r: Rows) -> Pixels:
    """Each class against all others; the margin is that of the class."""
    counts = None if r.mask is None else r.mask.unsqueeze(1).expand_as(r.x)
    return Pixels(margins(r.x).u, r.distribution(), counts)
