"""Rows of class logits with their targets: which of them count, and as which probabilities."""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks
from parfocal.losses.precision import widened
from parfocal.losses.reduction import select
from parfocal.numerics import is_readable


class Rows(NamedTuple):
    """Logits x (N, C, ...) in the dtype of the computation, 0 where a position doesn't count.

    mask: (N, ...), or None where all count.
    labels: class indices (N, ...), 0 where a position doesn't count; None for probabilities.
    probabilities: (N, C, ...), 0 where a position doesn't count; None for indices.
    """

    x: Tensor
    mask: Tensor | None
    labels: Tensor | None
    probabilities: Tensor | None

    def classes(self) -> int:
        """How many classes there are."""
        return self.x.shape[1]

    def distribution(self) -> Tensor:
        """The probabilities; of an index, 1 at its class."""
        if self.labels is None:
            assert self.probabilities is not None
            return self.probabilities
        return self.over_classes(torch.zeros_like(self.x).scatter(1, self.labels.unsqueeze(1), 1.0))

    def over_classes(self, given: Tensor) -> Tensor:
        """`given`, of the shape of x, with 0 where a position doesn't count."""
        return given if self.mask is None else select(self.mask.unsqueeze(1), given)


def rows(inputs: Tensor, targets: Tensor, ignore_index: int, mask: Tensor | None) -> Rows:
    """Logits (C), (N, C) or (N, C, ...) with indices or probabilities; (C) becomes (1, C)."""
    x = widened(inputs)
    if x.ndim == 1:
        x, targets = x.unsqueeze(0), targets.unsqueeze(0)
    labels = probabilities = None
    if not targets.is_floating_point():
        # In int64: a narrower dtype would wrap `ignore_index` around, onto one of its classes.
        labels = targets.long()
        counts = labels != ignore_index
        mask = counts if mask is None else counts & mask
        if is_readable(mask) and mask.all():
            mask = None
        else:
            labels = torch.where(mask, labels, 0)
    if mask is not None:
        mask = mask.expand(checks.positions_of(x))
        x = select(mask.unsqueeze(1), x)
    if labels is None:
        probabilities = targets.to(x.dtype)
        if mask is not None:
            probabilities = select(mask.unsqueeze(1), probabilities)
    return Rows(x, mask, labels, probabilities)
