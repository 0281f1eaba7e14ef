"""Sums over a tensor whose gradient is made in the forward pass.

A sum needs no loss of each element, and its incoming gradient is one number: most often 1. So the
slope is made where the value is made, from the same terms, and waits for the backward pass, which
hands it over as it is. A power of a region waits with the terms of its slope: its incoming gradient
is one number a region.
"""

from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from parfocal.numerics.backends import backend_of, is_compiled_for_kernels
from parfocal.numerics.data import Data, Loss, computation, prepare, tensors_of, with_tensors
from parfocal.numerics.forms import ClassAsymmetric, ClassFocal
from parfocal.numerics.margin import margins
from parfocal.numerics.region import Power, composed_power
from parfocal.numerics.tracing import is_batched, is_watched, varies

Tensors = tuple[Tensor | None, ...]


def elementwise_sum(loss: Loss, x: Tensor, data: Data, divisor: float | Tensor) -> Tensor | None:
    """The sum of weight L where the mask is True, over the divisor; differentiable in x.

    Args:
        loss: a record of `forms`, its tensors of the shape of x.
        x: logits of any shape and floating dtype; 16 bits are widened a block at a time.
        data: targets or class indices, weight and mask, as `Data` has them.
        divisor: a number, or a tensor of one.

    Returns:
        A scalar in the dtype of the computation; None where no backend does it: something traces
        the call, something other than x is differentiated, or no form is right.
    """
    tensors = (*data, divisor if isinstance(divisor, Tensor) else None, *tensors_of(loss))
    backend = _backend(x, tensors)
    if backend is not None:
        return _reduce(_ElementwiseSum(backend, loss, divisor), x, tensors)
    if is_compiled_for_kernels(x, *tensors):
        from parfocal.numerics import operators  # takes a second, which nobody else is to wait for

        return operators.elementwise_sum(loss, x, data, divisor)
    return None


def elementwise_values(loss: Loss, x: Tensor, data: Data, dtype: torch.dtype) -> Tensor | None:
    """weight L of each position in this dtype, 0 where the mask is False; differentiable in x.

    None where no backend has value and slope in one pass each; arguments as in `elementwise_sum`.
    """
    tensors = (*data, *tensors_of(loss))
    backend = _backend(x, tensors)
    if backend is not None:
        return _reduce(_Values(backend, loss, dtype), x, tensors)
    if is_compiled_for_kernels(x, *tensors):
        from parfocal.numerics import operators

        return operators.elementwise_values(loss, x, data, dtype)
    return None


def class_sum(
    loss: ClassFocal,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None = None,
    divisor: float | Tensor = 1.0,
) -> Tensor | None:
    """The sum over rows of weight L of class indices, over the divisor; differentiable in x.

    Args:
        loss: a record, its gamma a number or (N, ...) in float32.
        x: logits (N, C, ...), float32 or 16 bits, C > 1.
        index: classes (N, ...) in [0, C), int64.
        weight: (N, ...) in float32, or None for 1; 0 where a row doesn't count.
        divisor: a number, or a tensor of one.

    Returns:
        A scalar in float32. None where no backend does it; on a CPU in float64, with smoothing, and
        where logits are so far apart, or not finite, that a row has no odds in float32.
    """
    tensors = (index, weight, divisor if isinstance(divisor, Tensor) else None, *tensors_of(loss))
    backend = _backend(x, tensors)
    if backend is not None:
        return _reduce(_ClassSum(backend, loss, divisor), x, tensors)
    if is_compiled_for_kernels(x, *tensors):
        from parfocal.numerics import operators

        return operators.class_sum(loss, x, index, weight, divisor)
    return None


def class_values(
    loss: ClassFocal, x: Tensor, index: Tensor, weight: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """weight L of each row in this dtype, differentiable in x; arguments as in `class_sum`.

    None where no backend has value and slope in one pass each.
    """
    tensors = (index, weight, *tensors_of(loss))
    backend = _backend(x, tensors)
    return None if backend is None else _reduce(_ClassValues(backend, loss, dtype), x, tensors)


def asymmetric_values(loss: ClassAsymmetric, x: Tensor, index: Tensor) -> Tensor:
    """The loss of each row of logits (N, C, ...), differentiable any number of times in x.

    Args:
        loss: a record, its exponents numbers or of the shape of x, its class weights (C).
        x: logits in the dtype of the computation.
        index: classes (N, ...) in [0, C), int64.
    """
    tensors = (index, *tensors_of(loss))
    backend = _backend(x, tensors)
    result = None
    if backend is not None:
        result = _reduce(_AsymmetricValues(backend, loss), x, (index, loss.class_weight))
    return loss.composition(x, index) if result is None else result


def region_power(
    u: Tensor, y: Tensor, mask: Tensor | None, dims: tuple[int, ...], power: Power
) -> Tensor:
    """(1 - T) ** exponent, differentiable any number of times in u; arguments as in `region`."""
    power = power.round(u.dtype)
    backend = _backend(u, (y, mask, power.exponent))
    result = None
    if backend is not None:
        result = _reduce(_RegionPower(backend, power, dims), u, (y, mask))
    return composed_power(u, y, mask, dims, power) if result is None else result


def class_region_power(
    x: Tensor, index: Tensor, counts: Tensor | None, per_image: bool, power: Power
) -> Tensor | None:
    """(1 - T) ** exponent of each class, differentiable any number of times in x.

    Args:
        x: logits (N, C, d1, ...), finite where a pixel doesn't count.
        index: classes (N, d1, ...) in [0, C), int64.
        counts: True where a pixel counts (N, d1, ...); all count if None.
        per_image: whether a region is a class of one image, or of all.
        power: which power; an exponent of each class is (C).

    Returns:
        (N, C), or (C) for all images together. None where no backend does it; on a CPU in float64,
        and where the logits are far apart.
    """
    power = power.round(x.dtype)
    backend = _backend(x, (index, counts, power.exponent))
    if backend is None:
        return None
    return _reduce(_ClassRegionPower(backend, power, per_image), x, (index, counts))


def composed_values(loss: Loss, x: Tensor, data: Data) -> Tensor:
    """weight L of each position, 0 where the mask is False, as a composition."""
    loss, x, (y, weight, mask) = prepare(loss, tensors_of(loss), x, data)
    value = loss.composition(x, y)
    if weight is not None:
        value = weight * value
    return value if mask is None else torch.where(mask, value, 0.0)


def composed_rows(loss: ClassFocal, x: Tensor, index: Tensor, weight: Tensor | None) -> Tensor:
    """weight L of each row as a composition, in the dtype of the computation."""
    x = x.to(computation(x))
    if weight is not None:  # what doesn't count may hold anything
        x = torch.where((weight != 0).unsqueeze(1), x, 0.0)
    losses = loss.composition(x, index)
    return losses if weight is None else weight.to(losses.dtype) * losses


def _backend(x: Tensor, tensors: tuple[Any, ...]) -> ModuleType | None:
    """The backend of a call in which x alone is differentiated, in plain reverse mode."""
    if varies(*tensors) or is_watched(x, *tensors):
        return None
    return backend_of(x, *tensors)


class Reduction(Protocol):
    """A function of x whose gradient is prepared together with its result.

    The tensors beside x are data. What is kept for the gradient may be used up by it.
    """

    def evaluate(
        self, x: Tensor, tensors: Tensors, needs_gradient: bool
    ) -> tuple[Tensor, Any] | None:
        """The result, and what is kept for its gradient; None where it can't be had in this way."""

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The gradient in x."""

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The result, as autograd may differentiate it any number of times."""


def _reduce(reduction: Reduction, x: Tensor, tensors: Tensors) -> Tensor | None:
    """The result of a reduction, differentiable in x; None where it can't be had in this way."""
    needs_gradient = x.requires_grad and torch.is_grad_enabled()
    evaluation = reduction.evaluate(x.detach(), tensors, needs_gradient)
    if evaluation is None:
        return None
    if not needs_gradient:
        return evaluation[0]
    return _Reduction.apply(x, evaluation, reduction, *tensors)  # type: ignore[no-any-return]


class _Reduction(torch.autograd.Function):
    """A result whose gradient is there already, or nearly, and is given away once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, evaluation: Any, reduction: Reduction, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, *tensors)
        ctx.reduction = reduction
        # A result that came as an argument of its own would be a view, not to be changed in place.
        result, ctx.kept = evaluation
        return result  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors  # refuses an x that has been changed meanwhile
        rest = (None,) * (2 + len(tensors))
        again = torch.is_grad_enabled()  # create_graph: the result will be differentiated itself
        if again or is_batched(grad):
            with torch.enable_grad():
                result = ctx.reduction.compose(x, tensors)
                return torch.autograd.grad(result, x, grad, create_graph=again)[0], *rest
        # Given away, so that autograd may keep it as x.grad without a copy: another backward pass
        # over the same graph makes its own.
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            _, kept = ctx.reduction.evaluate(x, tensors, True)
        return ctx.reduction.gradient(x, tensors, kept, grad), *rest


class _ElementwiseSum(NamedTuple):
    """The sum of an elementwise loss; kept is its gradient."""

    backend: ModuleType
    loss: Loss
    divisor: float | Tensor

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The sum, and its gradient."""
        loss, data, divisor = self._arguments(tensors)
        return self.backend.elementwise_sum(loss, x, data, divisor, needs_gradient)

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The gradient times the incoming one."""
        loss, data, divisor = self._arguments(tensors)
        gradient: Tensor = self.backend.elementwise_rescale(loss, x, data, divisor, kept, incoming)
        return gradient

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The sum of the compositions."""
        loss, data, divisor = self._arguments(tensors)
        return composed_values(loss, x, data).sum() / divisor

    def _arguments(self, tensors: Tensors) -> tuple[Loss, Data, float | Tensor]:
        y, weight, mask, divisor, *fields = tensors
        assert y is not None
        loss = with_tensors(self.loss, fields)
        return loss, Data(y, weight, mask), self.divisor if divisor is None else divisor


class _Values(NamedTuple):
    """An elementwise loss of each position, whose gradient is made when its own comes in."""

    backend: ModuleType
    loss: Loss
    dtype: torch.dtype

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The values; nothing is kept."""
        loss, data = self._arguments(tensors)
        values = self.backend.elementwise_values(loss, x, data, self.dtype)
        return None if values is None else (values, ())

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The slopes times what comes in for each."""
        loss, data = self._arguments(tensors)
        slopes: Tensor = self.backend.elementwise_slopes(loss, x, data, incoming)
        return slopes

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The compositions."""
        loss, data = self._arguments(tensors)
        return composed_values(loss, x, data).to(self.dtype)

    def _arguments(self, tensors: Tensors) -> tuple[Loss, Data]:
        y, weight, mask, *fields = tensors
        assert y is not None
        return with_tensors(self.loss, fields), Data(y, weight, mask)


class _ClassSum(NamedTuple):
    """The sum of a loss of class indices; kept is its gradient."""

    backend: ModuleType
    loss: ClassFocal
    divisor: float | Tensor

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The sum, and its gradient."""
        loss, index, weight, divisor = self._arguments(tensors)
        return self.backend.class_sum(loss, x, index, weight, divisor, needs_gradient)

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The gradient times the incoming one."""
        loss, index, weight, divisor = self._arguments(tensors)
        gradient: Tensor = self.backend.class_rescale(
            loss, x, index, weight, divisor, kept, incoming
        )
        return gradient

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The sum of the compositions."""
        loss, index, weight, divisor = self._arguments(tensors)
        return composed_rows(loss, x, index, weight).sum() / divisor

    def _arguments(
        self, tensors: Tensors
    ) -> tuple[ClassFocal, Tensor, Tensor | None, float | Tensor]:
        index, weight, divisor, *fields = tensors
        assert index is not None
        loss = with_tensors(self.loss, fields)
        return loss, index, weight, self.divisor if divisor is None else divisor


class _ClassValues(NamedTuple):
    """A loss of class indices of each row, whose gradient is made when its own comes in."""

    backend: ModuleType
    loss: ClassFocal
    dtype: torch.dtype

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The losses; nothing is kept."""
        loss, index, weight = self._arguments(tensors)
        losses = self.backend.class_values(loss, x, index, weight, self.dtype)
        return None if losses is None else (losses, ())

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The slopes: what comes in for a row is a weight of it."""
        loss, index, weight = self._arguments(tensors)
        incoming = incoming.float()
        weight = incoming if weight is None else torch.where(weight == 0, 0.0, weight * incoming)
        slopes: Tensor = self.backend.class_slopes(loss, x, index, weight, None)
        return slopes

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The compositions."""
        loss, index, weight = self._arguments(tensors)
        return composed_rows(loss, x, index, weight).to(self.dtype)

    def _arguments(self, tensors: Tensors) -> tuple[ClassFocal, Tensor, Tensor | None]:
        index, weight, *fields = tensors
        assert index is not None
        return with_tensors(self.loss, fields), index, weight


class _AsymmetricValues(NamedTuple):
    """An asymmetric loss of each row of class indices; kept is its gradient."""

    backend: ModuleType
    loss: ClassAsymmetric

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The losses, and the gradient of each in its row."""
        index, weight = tensors
        loss = self.loss._replace(class_weight=weight)
        return self.backend.asymmetric_values(loss, x, index, needs_gradient)

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """That gradient times what comes in for the row."""
        gradient: Tensor = kept.mul_(incoming.unsqueeze(1))
        return gradient

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The compositions."""
        index, weight = tensors
        assert index is not None
        return self.loss._replace(class_weight=weight).composition(x, index)


class _RegionPower(NamedTuple):
    """A power of the regions of margins; kept are the variances of the pixels, and the regions."""

    backend: ModuleType
    power: Power
    dims: tuple[int, ...]

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The powers, and what their slopes are made of."""
        y, mask = tensors
        return self.backend.region_power(self.power, x, y, mask, self.dims, needs_gradient)

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The slopes times what comes in for each region."""
        slopes: Tensor = self.backend.region_slope(
            self.power, tensors[0], self.dims, kept, incoming
        )
        return slopes

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The powers as a composition."""
        y, mask = tensors
        assert y is not None
        return composed_power(x, y, mask, self.dims, self.power)


class _ClassRegionPower(NamedTuple):
    """A power of the regions of classes; kept are the probabilities, and the regions."""

    backend: ModuleType
    power: Power
    per_image: bool

    def evaluate(self, x: Tensor, tensors: Tensors, needs_gradient: bool) -> Any:
        """The powers, and what their slopes are made of."""
        index, counts = tensors
        return self.backend.class_region_power(self.power, x, index, counts, self.per_image)

    def gradient(self, x: Tensor, tensors: Tensors, kept: Any, incoming: Tensor) -> Tensor:
        """The slopes times what comes in for each region."""
        slopes: Tensor = self.backend.class_region_slope(self.power, x, tensors[0], kept, incoming)
        return slopes

    def compose(self, x: Tensor, tensors: Tensors) -> Tensor:
        """The powers as a composition, of the margins."""
        index, counts = tensors
        assert index is not None
        y, mask = torch.zeros_like(x).scatter(1, index.unsqueeze(1), 1.0), None
        if counts is not None:
            mask = counts.unsqueeze(1).expand_as(x)
            y = torch.where(mask, y, 0.0)
        spatial = tuple(range(2, x.ndim))
        dims = spatial if self.per_image else (0, *spatial)
        return composed_power(margins(x).u, y, mask, dims, self.power)
