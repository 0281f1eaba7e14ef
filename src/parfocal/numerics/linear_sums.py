"""The loss of a linear map as autograd, torch.compile and higher derivatives see it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.closed_form import is_exporting
from parfocal.numerics.forms import ClassFocal
from parfocal.numerics.linear import (
    Gradients,
    LinearMap,
    Needs,
    WeightedRows,
    evaluate,
    evaluate_rows,
    needed,
)
from parfocal.numerics.products import scale_
from parfocal.numerics.sums import composed_rows
from parfocal.numerics.tracing import is_batched, is_plain, is_watched


def linear_class_sum(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
) -> Tensor | None:
    """The sum over rows of weight L, over the divisor; differentiable in the map.

    Args:
        loss: a record, its gamma a number or (N).
        linear: the map, C > 1.
        rows: the classes, and how rows are weighed; what doesn't count may hold anything.
        dtype: of the factors of a product, to which autocast casts.

    Returns:
        A scalar in the dtype of the computation, its gradients made in the forward pass. None
        where something but torch.compile traces the call, or another mode than reverse looks at it.
    """
    tensors = (*linear, *rows, *loss)
    if is_plain(*tensors):
        needs = needed(linear)
        total, gradients = evaluate(loss, linear, rows, dtype, needs)
        if not any(needs):
            return total
        return _Sum.apply(*linear, (total, gradients), _Call(loss, rows, dtype))  # type: ignore[no-any-return]
    if is_compiled(loss, *tensors):
        from parfocal.numerics import linear_operators

        return linear_operators.linear_class_sum(loss, linear, rows, dtype)
    return None


def linear_class_values(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
) -> Tensor | None:
    """weight L of each row, differentiable in the map; arguments as in `linear_class_sum`.

    The gradients are made when those of the rows come in, of logits that are made again.
    """
    tensors = (*linear, *rows, *loss)
    if is_plain(*tensors):
        losses = evaluate_rows(loss, linear, rows, dtype)
        if not any(needed(linear)):
            return losses
        return _Values.apply(*linear, (losses,), _Call(loss, rows, dtype))  # type: ignore[no-any-return]
    if is_compiled(loss, *tensors):
        from parfocal.numerics import linear_operators

        return linear_operators.linear_class_values(loss, linear, rows, dtype)
    return None


def is_compiled(loss: ClassFocal, *tensors: object) -> bool:
    """Whether torch.compile traces the call, of a gamma that is a number; an export is not one."""
    return (
        torch.compiler.is_compiling()
        and not is_exporting()
        and not isinstance(loss.gamma, Tensor)
        and not is_watched(*tensors)
    )


def composed_linear_rows(loss: ClassFocal, linear: LinearMap, rows: WeightedRows) -> Tensor:
    """weight L of each row as a composition, of all logits at once."""
    input, weight, bias = linear
    if rows.weight is not None:  # what doesn't count may hold anything
        input = torch.where((rows.weight != 0).unsqueeze(1), input, 0.0)
    x = torch.nn.functional.linear(input, weight, bias)
    return composed_rows(loss, x, rows.labels, rows.weight)


class _Call(NamedTuple):
    """What a call is, beside its map."""

    loss: ClassFocal
    rows: WeightedRows
    dtype: torch.dtype


class _Sum(torch.autograd.Function):
    """A sum whose gradients are there already, and are given away once."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        evaluation: tuple[Tensor, Gradients],
        call: _Call,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, bias)
        # A result that came as an argument of its own would be a view, not to be changed in place.
        total, ctx.kept = evaluation
        ctx.call = call
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        linear = LinearMap(*ctx.saved_tensors)  # refuses a tensor that has been changed meanwhile
        loss, rows, dtype = ctx.call
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or is_batched(grad):
            with torch.enable_grad():
                total = composed_linear_rows(loss, linear, rows).sum() / rows.divisor
                return *_differentiate(total, linear, needs, grad), None, None
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            _, kept = evaluate(loss, linear, rows, dtype, needs)
        return *(_finished(g, grad, t) for g, t in zip(kept, linear, strict=True)), None, None


class _Values(torch.autograd.Function):
    """Losses of rows, whose gradients are made when those of the rows come in."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        evaluation: tuple[Tensor],
        call: _Call,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, bias)
        ctx.call = call
        return evaluation[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        linear = LinearMap(*ctx.saved_tensors)
        loss, rows, dtype = ctx.call
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or is_batched(grad):
            with torch.enable_grad():
                losses = composed_linear_rows(loss, linear, rows)
                return *_differentiate(losses, linear, needs, grad), None, None
        weight = grad
        if rows.weight is not None:
            weight = torch.where(rows.weight == 0, 0.0, rows.weight * grad)
        _, gradients = evaluate(loss, linear, WeightedRows(rows.labels, weight, 1.0), dtype, needs)
        pairs = zip(gradients, linear, strict=True)
        return *(None if g is None else g.to(t.dtype) for g, t in pairs), None, None  # type: ignore[union-attr]


def _differentiate(
    result: Tensor, linear: LinearMap, needs: Needs, grad: Tensor
) -> Iterator[Tensor | None]:
    """The gradients of a composition in what needs them, which may be differentiated again."""
    varied = [t for t, need in zip(linear, needs, strict=True) if need and t is not None]
    gradients = iter(torch.autograd.grad(result, varied, grad, create_graph=True))
    return iter([next(gradients) if need else None for need in needs])


def _finished(gradient: Tensor | None, grad: Tensor, like: Tensor | None) -> Tensor | None:
    """A gradient times what comes in, in its own memory, in the dtype of its tensor."""
    if gradient is None or like is None:
        return None
    if not (grad.is_cpu and grad.item() == 1):
        scale_(gradient, grad)
    return gradient.to(like.dtype)
