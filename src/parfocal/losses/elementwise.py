"""What all losses of one logit and one target share: masks, weights, reduction, precision."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from parfocal.losses import checks
from parfocal.losses.precision import rounded, widened
from parfocal.losses.reduction import normalized, reduce, select
from parfocal.numerics import Arranged, Arrangement, focal, focal_sum, is_readable, shares


class Positions(NamedTuple):
    """How the positions of an elementwise loss are counted; the options of the same names."""

    weight: Tensor | None
    mask: Tensor | None
    reduction: str
    normalizer: float | Tensor | None

    def checked(self, call: str, inputs: Tensor, targets: Tensor) -> "Positions":
        """The same with Python's numbers; refuses what doesn't fit, in the name of the call."""
        checks.logits_and_targets(call, inputs, targets)
        checks.weight(call, self.weight, inputs)
        checks.mask(call, self.mask, inputs)
        checks.reduction(call, self.reduction)
        normalizer = checks.normalizer(call, self.normalizer, self.reduction)
        return Positions(self.weight, self.mask, self.reduction, normalizer)

    def counted(self, inputs: Tensor) -> dict[str, Any] | None:
        """Weight, mask and scale with which the positions are summed; None if they aren't."""
        if self.reduction == "none" or not is_readable(inputs) or not inputs.numel():
            return None
        mask = None if self.mask is None else self.mask.expand_as(inputs)
        weight = None if self.weight is None else self.weight.expand_as(inputs)
        count = 1
        if self.reduction == "mean":
            count = inputs.numel() if mask is None else int(mask.sum())
        return {"weight": weight, "mask": mask, "scale": 1 / count} if count else None

    def focal(
        self,
        inputs: Tensor,
        arrangement: Arrangement,
        targets: Tensor,
        *parameters: float | Tensor,
        epsilon: float = 0.0,
    ) -> Tensor:
        """The focal loss of what is arranged from targets and parameters, reduced.

        A parameter is a number, or a tensor that broadcasts against `inputs`.
        """
        counted = self.counted(inputs)
        if counted is not None:
            varying = [p.expand_as(inputs) for p in parameters if isinstance(p, Tensor)]

            def of_block(y: Tensor, *parts: Tensor) -> Arranged:
                rest = iter(parts)
                return arrangement(
                    y, *(next(rest) if isinstance(p, Tensor) else p for p in parameters)
                )

            total = focal_sum(inputs, of_block, targets, *varying, epsilon=epsilon, **counted)
            if total is not None:
                return self.given(total, inputs)
        x, y = self.taken(inputs, targets)
        y, gamma, share = arrangement(y, *(self.parameter(p, x) for p in parameters))
        loss = focal(x, y, gamma, epsilon)
        return self.reduced(loss if share is None else shares(y, share) * loss, inputs)

    def in_one_pass(
        self, total: Callable[..., Tensor | None], inputs: Tensor, targets: Tensor, *parameters: Any
    ) -> Tensor | None:
        """The sum that is asked for, if it is one and no parameter is a tensor."""
        counted = self.counted(inputs)
        if counted is None or any(isinstance(given, Tensor) for given in parameters):
            return None
        result = total(inputs, targets, *parameters, **counted)
        return None if result is None else self.given(result, inputs)

    def given(self, total: Tensor, inputs: Tensor) -> Tensor:
        """What the caller asked for, of a sum that is scaled already."""
        return rounded(normalized(total, self.normalizer), inputs)

    def taken(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets in the dtype of the computation, 0 where the mask is False."""
        x = select(self.mask, widened(inputs))
        return x, select(self.mask, targets.to(x.dtype))

    def parameter(self, given: float | Tensor, x: Tensor) -> float | Tensor:
        """A number, or a tensor of the shape and dtype of x, 0 where the mask is False."""
        if not isinstance(given, Tensor):
            return given
        return select(self.mask, given.to(x).expand_as(x))

    def reduced(self, loss: Tensor, inputs: Tensor) -> Tensor:
        """What the caller asked for, of a loss per position."""
        if self.weight is not None:
            loss = self.weight.to(loss.dtype) * loss
        loss = reduce(select(self.mask, loss), self.reduction, self.mask, self.normalizer)
        return rounded(loss, inputs)
