"""The pixels of a segmentation, as margins and targets."""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks
from parfocal.losses.classes import Rows, rows
from parfocal.losses.precision import widened
from parfocal.losses.reduction import select
from parfocal.numerics import margins


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

    def region(self, per_image: bool) -> tuple[int, ...]:
        """The dimensions that a region extends over."""
        spatial = tuple(range(self.class_dim + 1, self.u.ndim))
        return spatial if per_image else (0, *spatial)

    def over_maps(self, of_classes: Tensor) -> Tensor:
        """One number a class (C), at each of its pixels."""
        return of_classes.view(-1, *(1,) * len(self.region(per_image=True))).expand_as(self.u)

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
    checks.mask(call, mask, inputs)
    u = widened(inputs)
    y = targets.detach().to(u.dtype)
    if mask is None:
        return Pixels(u, y, None)
    return Pixels(select(mask, u), select(mask, y), mask.expand_as(u))


def class_rows(
    call: str, inputs: Tensor, targets: Tensor, ignore_index: int, mask: Tensor | None
) -> Rows:
    """One class a pixel, or a distribution over them."""
    checks.class_logits_and_targets(call, inputs, targets)
    checks.maps(call, inputs)
    ignore_index = checks.ignore_index(call, ignore_index, targets)
    checks.position_mask(call, mask, inputs)
    return rows(inputs, targets.detach(), ignore_index, mask)


def class_pixels(r: Rows) -> Pixels:
    """Each class against all others; the margin is that of the class."""
    counts = None if r.mask is None else r.mask.unsqueeze(1).expand_as(r.x)
    return Pixels(margins(r.x).u, r.distribution(), counts)
