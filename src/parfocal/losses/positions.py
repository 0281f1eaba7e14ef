"""What all losses of one logit and one target share: masks, weights, reduction, precision."""

from typing import NamedTuple

from torch import Tensor

from parfocal.losses import checks, values
from parfocal.losses.reduction import normalize, reduce, result_dtype, select, to_input_dtype
from parfocal.numerics import (
    Data,
    Loss,
    elementwise_sum,
    elementwise_values,
    prepare,
    tensors_of,
    varies,
    with_tensors,
)


class Positions(NamedTuple):
    """How the positions of an elementwise loss are counted; the options of the same names."""

    weight: Tensor | None
    mask: Tensor | None
    reduction: str
    normalizer: float | Tensor | None

    def check(
        self, call: str, inputs: Tensor, targets: Tensor, *, takes_indices: bool = False
    ) -> "Positions":
        """The same with numbers and tensors as they are computed with; refuses what doesn't fit.

        takes_indices: whether targets may be class indices, as of a loss of hard targets.
        """
        checks.logits_and_targets(call, inputs, targets, takes_indices=takes_indices)
        checks.weight(call, self.weight, inputs)
        checks.reduction(call, self.reduction)
        mask = checks.mask(call, self.mask, inputs)
        if targets.ndim < inputs.ndim:
            values.classes_or_none(call, targets, inputs, mask)
        normalizer = checks.normalizer(call, self.normalizer, self.reduction)
        return Positions(self.weight, mask, self.reduction, normalizer)

    def apply(self, call: str, loss: Loss, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the positions, reduced; the tensors of the record broadcast to `inputs`."""
        weight, mask = _expand(self.weight, inputs), _expand(self.mask, inputs)
        data, fields = Data(targets, weight, mask), tensors_of(loss)
        if fields:
            loss = with_tensors(loss, [_expand(field, inputs) for field in fields])
            values.parameters(call, loss, mask)
        if self.reduction == "none":
            result = elementwise_values(loss, inputs, data, result_dtype(inputs))
            if result is not None:
                return result
        else:
            divisor = self._divisor(inputs)
            total = elementwise_sum(loss, inputs, data, 1.0 if divisor is None else divisor)
            if total is not None:
                total = normalize(total, self.normalizer) if divisor is None else total
                return to_input_dtype(total, inputs)
        loss, x, (y, weight, mask) = prepare(loss, tensors_of(loss), inputs, data)
        values.probabilities(call, y)
        result = loss.composition(x, y)
        if weight is not None:
            result = weight * result
        result = reduce(select(mask, result), self.reduction, mask, self.normalizer)
        return to_input_dtype(result, inputs)

    def _divisor(self, inputs: Tensor) -> float | Tensor | None:
        """What the sum is divided by; None for a normalizer that is differentiated."""
        if self.reduction == "mean":
            if self.mask is None:
                return inputs.numel()
            return self.mask.expand_as(inputs).sum()
        return (
            1.0 if self.normalizer is None else None if varies(self.normalizer) else self.normalizer
        )


def _expand(tensor: Tensor | None, inputs: Tensor) -> Tensor | None:
    """A tensor that broadcasts, in the shape of the inputs; one number may be on the CPU."""
    return None if tensor is None else tensor.to(inputs.device).expand_as(inputs)
