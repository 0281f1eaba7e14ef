"""The binding of the closed forms to autograd, forward mode, torch.func and torch.compile."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from parfocal.numerics import closed_form, odds
from parfocal.numerics.blocks import blockwise, is_ordinary, is_readable
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
    watched, compiling = is_watched(x, y, gamma), torch.compiler.is_compiling()
    if watched or compiling:
        exponent_varies = isinstance(gamma, Tensor) and gamma.requires_grad
        if not isinstance(gamma, Tensor) and (watched or gamma not in _CHEAP_POWERS):
            # As a tensor it may change without a new compilation.
            gamma = torch.full((), gamma, dtype=x.dtype, device=x.device)
        if watched or y.requires_grad or exponent_varies:
            return closed_form.differentiable_value(
                x, y, gamma, epsilon, t, target_varies=watched or y.requires_grad
            )
        return _Compiled.apply(x, y, gamma, epsilon, t)  # type: ignore[no-any-return]
    return _Focal.apply(x, y, rounded(gamma, x.dtype), epsilon, t)  # type: ignore[no-any-return]


def is_watched(*arguments: object) -> bool:
    """Whether something other than plain reverse mode looks at this call, inside a compiler or not.

    There a custom Function is the wrong binding, and silently so: torch.compile differentiates
    its forward formula when torch.func.grad is inside, and nested forward mode takes its second
    derivative for zero (pytorch#197867).
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if not torch.compiler.is_compiling() and forward_ad._current_level < 0:  # no forward mode
        return False
    return any(
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
        _save(ctx, x, y, gamma, epsilon, t)
        return _evaluated(odds.value, closed_form.value, x, y, gamma, epsilon, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma, epsilon, t = _saved(ctx)
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph: the result will be differentiated itself
            output = closed_form.differentiable_value(
                x, y, gamma, epsilon, t, target_varies=needed[1]
            )
            arguments: tuple[Any, ...] = (x, y, gamma)
            varied = [a for a, need in zip(arguments, needed, strict=True) if need]
            slopes = iter(torch.autograd.grad(output.sum(), varied, create_graph=True))
            return *(grad * next(slopes) if need else None for need in needed), None, None
        incoming = None if is_batched(grad) else grad
        gradients = [
            _evaluated(quick, careful, x, y, gamma, epsilon, t, incoming) if need else None
            for need, (quick, careful) in zip(needed, _DERIVATIVES, strict=True)
        ]
        if incoming is None:
            gradients = [None if slope is None else grad * slope for slope in gradients]
        return *gradients, None, None


# Exponents that a compiler turns into a root or products; all are numbers of every dtype.
_CHEAP_POWERS = (0.5, 1, 2, 3)


class _Compiled(torch.autograd.Function):
    """L with its closed slope, in plain operations that a compiler makes one loop of each."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, gamma: Gamma, epsilon: float, t: Tensor | None
    ) -> Tensor:
        _save(ctx, x, y, gamma, epsilon, t)
        return closed_form.value(x, y, gamma, epsilon, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * closed_form.slope(*_saved(ctx)), None, None, None, None


def _save(ctx: Any, x: Tensor, y: Tensor, gamma: Gamma, epsilon: float, t: Tensor | None) -> None:
    """Keep the arguments of a form; a gamma that is a number isn't autograd's to keep."""
    is_tensor = isinstance(gamma, Tensor)
    ctx.save_for_backward(x, y, gamma if is_tensor else None, t)
    ctx.gamma, ctx.epsilon = None if is_tensor else gamma, epsilon


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Gamma, float, Tensor | None]:
    """The same arguments."""
    x, y, gamma, t = ctx.saved_tensors
    return x, y, ctx.gamma if gamma is None else gamma, ctx.epsilon, t


Form = Callable[..., Tensor | None]

# In x, y and gamma: the form for hard targets in float32, if there is one, and the general form.
_DERIVATIVES: tuple[tuple[Form | None, Form], ...] = (
    (odds.slope, closed_form.slope),
    (None, closed_form.target_slope),
    (None, closed_form.gamma_slope),
)


def _evaluated(
    quick: Form | None,
    general: Form,
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float,
    t: Tensor | None,
    incoming: Tensor | None = None,
) -> Tensor:
    """One form over all of x, times the incoming gradient: the quick one where it is right."""
    is_quick = quick is not None and epsilon == 0 and t is None
    if is_quick and x.dtype == torch.float32 and is_readable(x):
        result = blockwise(_chained(cast(Form, quick)), x, incoming, y, gamma)
        if result is not None:
            return result
    result = blockwise(_chained(_unguarded(general)), x, incoming, y, gamma, epsilon, t)
    assert result is not None  # a general form is right everywhere
    return result


def _chained(form: Form) -> Form:
    """The form times the incoming gradient, where there is one."""

    def chained(x: Tensor, incoming: Tensor | None, *arguments: Any) -> Tensor | None:
        result = form(x, *arguments)
        return result if result is None or incoming is None else result.mul_(incoming)

    return chained


def _unguarded(form: Form) -> Form:
    """The form without the guards that logits of ordinary size don't need."""

    def unguarded(x: Tensor, *arguments: Any) -> Tensor | None:
        return form(x, *arguments, ordinary=is_ordinary(x))

    return unguarded
