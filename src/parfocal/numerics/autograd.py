"""The binding of the closed forms to autograd, forward mode, torch.func and torch.compile."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import closed_form
from parfocal.numerics.backends import backend_of
from parfocal.numerics.closed_form import Gamma, round_exponent
from parfocal.numerics.data import Evaluation
from parfocal.numerics.tracing import is_batched, is_traced, is_watched, varies


def focal(
    x: Tensor, y: Tensor, gamma: Gamma, epsilon: float = 0.0, t: Tensor | None = None
) -> Tensor:
    """The unreduced binary focal loss, differentiable any number of times in every mode.

    Args:
        x: logits, float32 or float64, any shape.
        y: targets in [0, 1], of the shape and dtype of x.
        gamma: focusing exponent >= 0; a number, or a tensor of the shape and dtype of x.
        epsilon: constant added to 1 - p_t; 0 is the exact loss.
        t: exp(-|x|), where the caller knows it better than from the rounded x; a constant to
            autograd, which differentiates in x.
    """
    watched = is_watched(x, y, gamma)
    if watched or is_traced():
        if not isinstance(gamma, Tensor) and (watched or gamma not in _CHEAP_POWERS):
            # As a tensor it may change without a new compilation.
            gamma = torch.full((), gamma, dtype=x.dtype, device=x.device)
        if watched or not torch.compiler.is_compiling() or varies(y, gamma):
            return closed_form.differentiable_value(
                x, y, gamma, epsilon, t, target_varies=watched or y.requires_grad
            )
        return _Compiled.apply(x, y, gamma, epsilon, t)  # type: ignore[no-any-return]
    return _Focal.apply(x, y, round_exponent(gamma, x.dtype), epsilon, t)  # type: ignore[no-any-return]


class _Focal(torch.autograd.Function):
    """L with its closed first derivatives; the further ones are those of the composition."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, gamma: Gamma, epsilon: float, t: Tensor | None
    ) -> Tensor:
        result, slope = _evaluate(closed_form.value, x, y, gamma, epsilon, t), None
        if result is None:
            needs_slope = ctx.needs_input_grad[0]
            result, slope = closed_form.value_and_slope(
                x, y, gamma, epsilon, t=t, needs_slope=needs_slope, ordinary=False
            )
        _save(ctx, x, y, gamma, epsilon, t, slope)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, y, gamma, epsilon, t), slope = _saved(ctx)
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            output = closed_form.differentiable_value(
                x, y, gamma, epsilon, t, target_varies=needed[1]
            )
            arguments: tuple[Any, ...] = (x, y, gamma)
            varied = [a for a, need in zip(arguments, needed, strict=True) if need]
            slopes = iter(torch.autograd.grad(output.sum(), varied, create_graph=True))
            return *(grad * next(slopes) if need else None for need in needed), None, None
        made = (slope, None, None)
        gradients = [
            _times(there, form, grad, (x, y, gamma, epsilon, t)) if need else None
            for need, form, there in zip(needed, _DERIVATIVES, made, strict=True)
        ]
        return *gradients, None, None


# Exponents that a compiler turns into a root or products; all are numbers of every dtype.
_CHEAP_POWERS = (0.5, 1, 2, 3)


# In x, y and gamma.
_DERIVATIVES = (closed_form.slope, closed_form.target_slope, closed_form.gamma_slope)


class _Compiled(torch.autograd.Function):
    """L with its closed slope, in plain operations that a compiler makes one loop of each."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, gamma: Gamma, epsilon: float, t: Tensor | None
    ) -> Tensor:
        _save(ctx, x, y, gamma, epsilon, t, None)
        return closed_form.value(x, y, gamma, epsilon, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * closed_form.slope(*_saved(ctx)[0]), None, None, None, None


Arguments = tuple[Tensor, Tensor, Gamma, float, Tensor | None]
"""x, y, gamma, epsilon and t."""


def _save(
    ctx: Any,
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float,
    t: Tensor | None,
    slope: Tensor | None,
) -> None:
    """Keep the arguments of a form; a gamma that is a number isn't autograd's to keep."""
    is_tensor = isinstance(gamma, Tensor)
    ctx.save_for_backward(x, y, gamma if is_tensor else None, t, slope)
    ctx.gamma, ctx.epsilon = None if is_tensor else gamma, epsilon


def _saved(ctx: Any) -> tuple[Arguments, Tensor | None]:
    """The arguments that were kept, and the slope if it was made."""
    x, y, gamma, t, slope = ctx.saved_tensors
    return (x, y, ctx.gamma if gamma is None else gamma, ctx.epsilon, t), slope


def _times(
    slope: Tensor | None, form: Callable[..., Tensor], grad: Tensor, arguments: Arguments
) -> Tensor:
    """A slope, if it is there, or a form at all of x, times what comes in."""
    if slope is not None:
        return grad * slope
    incoming = None if is_batched(grad) else grad
    result = _evaluate(form, *arguments, incoming)
    if result is not None and incoming is not None:
        return result
    return grad * (form(*arguments) if result is None else result)


def _evaluate(
    form: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float,
    t: Tensor | None,
    incoming: Tensor | None = None,
) -> Tensor | None:
    """A closed form at all of x, times the incoming gradient; None where no backend has it."""
    backend = backend_of(x, y, gamma, t, incoming)
    if backend is None:
        return None
    result: Tensor | None = backend.pointwise(form, x, y, gamma, epsilon, t, incoming)
    return result


class ClosedForm(NamedTuple):
    """A function of x and an exponent, beside constants.

    evaluate: value and slope in x of numbers, by `needs_slope`.
    gamma_slope: the slope in the exponent, of numbers.
    compose: the value, as autograd may differentiate it any number of times in every mode.
    """

    evaluate: Callable[..., Evaluation]
    gamma_slope: Callable[..., Tensor]
    compose: Callable[..., Tensor]


def bind(form: ClosedForm, x: Tensor, gamma: Gamma, *constants: Tensor) -> Tensor:
    """The value of a form at each x, differentiable any number of times in every mode."""
    watched = is_watched(x, gamma)
    if watched or is_traced():
        if not isinstance(gamma, Tensor):  # as a tensor it may change without a new compilation
            gamma = torch.full((), gamma, dtype=x.dtype, device=x.device)
        return form.compose(x, gamma, *constants)
    return _Bound.apply(form, x, round_exponent(gamma, x.dtype), *constants)  # type: ignore[no-any-return]


class _Bound(torch.autograd.Function):
    """A form with its slope, made beside the value; further derivatives are the composition's."""

    @staticmethod
    def forward(ctx: Any, form: ClosedForm, x: Tensor, gamma: Gamma, *constants: Tensor) -> Tensor:
        value, slope = form.evaluate(x, gamma, *constants, needs_slope=ctx.needs_input_grad[1])
        is_tensor = isinstance(gamma, Tensor)
        ctx.save_for_backward(x, gamma if is_tensor else None, slope, *constants)
        ctx.form, ctx.gamma = form, None if is_tensor else gamma
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, slope, *constants = ctx.saved_tensors
        needed, rest = ctx.needs_input_grad[1:3], (None,) * len(constants)
        arguments = (x, ctx.gamma if gamma is None else gamma)
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            value = ctx.form.compose(*arguments, *constants)
            varied = [a for a, need in zip(arguments, needed, strict=True) if need]
            slopes = iter(torch.autograd.grad(value.sum(), varied, create_graph=True))
            return None, *(grad * next(slopes) if need else None for need in needed), *rest
        of_x = grad * slope if needed[0] else None
        of_gamma = grad * ctx.form.gamma_slope(*arguments, *constants) if needed[1] else None
        return None, of_x, of_gamma, *rest
