"""What all losses of one logit and one target share: masks, weights, reduction, precision."""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks
from parfocal.losses.precision import rounded, widened
from parfocal.losses.reduction import reduce, select


class Positions(NamedTuple):
    """How the positions of an elementwise loss are counted; the options of the same names."""

    weight: Tensor | None
    mask: Tensor | None
    reduction: str
    normalizer: float | Tensor | None

    @property
    def is_plain_sum(self) -> bool:
        """Whether all positions count alike, in a sum or a mean."""
        return self.weight is None and self.mask is None and self.reduction != "none"

    def check(self, call: str, inputs: Tensor, targets: Tensor) -> None:
        """Refuse what doesn't fit, in the name of the call."""
        checks.logits_and_targets(call, inputs, targets)
        checks.weight(call, self.weight, inputs)
        checks.mask(call, self.mask, inputs)
        checks.reduction(call, self.reduction, self.normalizer)

    def taken(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets in the dtype of the computation, 0 where the mask is False."""
        x = select(self.mask, widened(inputs))
        return x, select(self.mask, targets.to(x.dtype))

    def parameter(self, given: float | Tensor, x: Tensor) -> float | Tensor:
        """A number, or a tensor of the shape and dtype of x, 0 where the mask is False."""
        if not isinstance(given, Tensor):
            return given
        return self.tensor(given, x)

    def tensor(self, given: float | Tensor, x: Tensor) -> Tensor:
        """The same, always as a tensor."""
        if not isinstance(given, Tensor):
            return torch.full_like(x, given, requires_grad=False)
        return select(self.mask, given.to(x).expand_as(x))

    def reduced(self, loss: Tensor, inputs: Tensor) -> Tensor:
        """What the caller asked for, of a loss per position."""
        if self.weight is not None:
            loss = self.weight.to(loss.dtype) * loss
        loss = reduce(select(self.mask, loss), self.reduction, self.mask, self.normalizer)
        return rounded(loss, inputs)
