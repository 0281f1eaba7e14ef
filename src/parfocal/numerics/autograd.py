"""The binding of the closed forms to autograd, forward mode, torch.func and torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from parfocal.numerics import closed_form
from parfocal.numerics.blocks import blockwise
from parfocal.numerics.closed_form import Gamma


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
    if watched or torch.compiler.is_compiling():
        if not isinstance(gamma, Tensor):  # as a tensor it may change without a new compilation
            gamma = torch.full((), gamma, dtype=x.dtype, device=x.device)
        return closed_form.differentiable_value(
            x, y, gamma, epsilon, t, target_varies=watched or y.requires_grad
        )
    return _Focal.apply(x, y, rounded(gamma, x.dtype), epsilon, t)  # type: ignore[no-any-return]


def is_watched(*arguments: object) -> bool:
    """Whether something other than plain reverse mode, or the compiler, looks at this call.

    There a custom Function is the wrong binding, and silently so: torch.compile differentiates
    its forward formula when torch.func.grad is inside, and nested forward mode takes its second
    derivative for zero (pytorch#197867).
    """
    return torch._C._are_functorch_transforms_active() or any(
        isinstance(given, Tensor) and forward_ad.unpack_dual(given).tangent is not None
        for given in arguments
    )


def is_batched(grad: Tensor) -> bool:
    """Whether an incoming gradient stands for many, which then multiply a slope as a whole."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(grad) or functorch.is_legacy_batchedtensor(grad)


def rounded(gamma: Gamma, dtype: torch.dtype) -> Gamma:
    """gamma rounded to dtype, so that every lane of a vectorised power sees one exponent.

    Veltkamp's splitting: c = (2 ** 29 + 1) gamma; c - (c - gamma) has 53 - 29 = 24 bits.
    """
    if isinstance(gamma, Tensor):
        return gamma
    if dtype == torch.float64:
        return float(gamma)
    c = gamma * (2.0**29 + 1)
    return c - (c - gamma)


class _Focal(torch.autograd.Function):
    """L with its closed first derivatives; the further ones are those of the composition."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, gamma: Gamma, epsilon: float, t: Tensor | None
    ) -> Tensor:
        is_tensor = isinstance(gamma, Tensor)
        ctx.save_for_backward(x, y, gamma if is_tensor else None, t)
        ctx.gamma = None if is_tensor else gamma
        ctx.epsilon = epsilon
        return blockwise(closed_form.value, x, y, gamma, epsilon, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma, t = ctx.saved_tensors
        arguments = (x, y, ctx.gamma if gamma is None else gamma)
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            output = closed_form.differentiable_value(
                *arguments, ctx.epsilon, t, target_varies=needed[1]
            )
            varied = [a for a, need in zip(arguments, needed, strict=True) if need]
            slopes = iter(torch.autograd.grad(output.sum(), varied, create_graph=True))
            return *(grad * next(slopes) if need else None for need in needed), None, None
        forms = (closed_form.slope, closed_form.target_slope, closed_form.gamma_slope)
        is_batch = is_batched(grad)
        grads = [] if is_batch else [grad]
        gradients = (
            blockwise(_chained(form), *arguments, ctx.epsilon, t, *grads) if need else None
            for form, need in zip(forms, needed, strict=True)
        )
        if is_batch:
            gradients = (None if g is None else grad * g for g in gradients)
        return *gradients, None, None


def _chained(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The form times the incoming gradient, where one is given."""

    def chained(
        x: Tensor,
        y: Tensor,
        gamma: Gamma,
        epsilon: float,
        t: Tensor | None,
        grad: Tensor | None = None,
        **options: bool,
    ) -> Tensor:
        slope = form(x, y, gamma, epsilon, t, **options)
        return slope if grad is None else slope.mul_(grad)

    return chained
