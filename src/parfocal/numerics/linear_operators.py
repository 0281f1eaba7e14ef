"""The loss of a linear map as operators of torch, for code that torch.compile compiles.

A compiler would unroll the chunks. It is told shapes, dtypes and the derivative instead: the sum
gives its gradients beside itself, as it makes them, and the losses of rows have theirs made by the
sum, with what comes in as weights of the rows.
"""

from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.forms import ClassFocal
from parfocal.numerics.linear import (
    LinearMap,
    WeightedRows,
    evaluate,
    evaluate_rows,
    needed,
)

_MAP = "Tensor input, Tensor weight, Tensor? bias"
_ROWS = "Tensor labels, Tensor? row_weight"
_LOSS = "float gamma, float smoothing, Tensor? class_weight"
_CALL = f"{_MAP}, {_ROWS}, {_LOSS}, ScalarType dtype"


def linear_class_sum(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
) -> Tensor:
    """The sum over rows of weight L, over the divisor; differentiable in the map once."""
    # Divided outside: as an argument a count would be another graph for each size of a batch.
    arguments = (*linear, rows.labels, rows.weight, *loss, dtype)
    total: Tensor = torch.ops.parfocal.linear_class_sum(*arguments, needed(linear))[0]
    return total / rows.divisor


def linear_class_values(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
) -> Tensor:
    """weight L of each row, differentiable in the map once."""
    arguments = (*linear, rows.labels, rows.weight, *loss, dtype)
    losses: Tensor = torch.ops.parfocal.linear_class_values(*arguments)
    return losses


Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""The sum, and what it has for input, weight and bias."""


def _call(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    row_weight: Tensor | None,
    gamma: float,
    smoothing: float,
    class_weight: Tensor | None,
    dtype: torch.dtype,
) -> tuple[ClassFocal, LinearMap, WeightedRows, torch.dtype]:
    """What an operator's arguments mean."""
    loss, rows = ClassFocal(gamma, smoothing, class_weight), WeightedRows(labels, row_weight, 1.0)
    return loss, LinearMap(input, weight, bias), rows, dtype


def _sum(*arguments: Any) -> Gradients:
    """The sum, and the gradients in input, weight and bias; those that aren't needed are empty."""
    *call, needs = arguments
    total, gradients = evaluate(*_call(*call), needs)
    return total, *(total.new_empty(0) if g is None else g for g in gradients)  # type: ignore[return-value]


def _like_sum(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Gradients:
    *_, dtype, needs = rest
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    gradients = []
    for tensor, need in zip((input, weight, bias), needs, strict=True):
        if tensor is None or not need:
            gradients.append(input.new_empty(0, dtype=wide))
            continue
        is_wide = tensor.dtype == torch.float16 or tensor is bias
        gradients.append(tensor.new_empty(tensor.shape, dtype=wide if is_wide else tensor.dtype))
    return input.new_empty((), dtype=wide), *gradients  # type: ignore[return-value]


def _values(*arguments: Any) -> Tensor:
    """weight L of each row."""
    return evaluate_rows(*_call(*arguments))


def _like_values(input: Tensor, *rest: Any) -> Tensor:
    dtype = rest[-1]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return input.new_empty(input.shape[:1], dtype=wide)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.dtypes, ctx.needs = [None if t is None else t.dtype for t in inputs[:3]], inputs[-1]
    ctx.others = len(inputs) - 3


def _scale_gradients(ctx: Any, incoming: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    gradients = [
        (gradient * incoming).to(dtype) if need else None
        for gradient, dtype, need in zip(ctx.saved_tensors, ctx.dtypes, ctx.needs, strict=True)
    ]
    return *gradients, *(None,) * ctx.others


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(i if isinstance(i, Tensor) else None for i in inputs))
    ctx.others = tuple(None if isinstance(i, Tensor) else i for i in inputs)


def _make_gradients(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
    pairs = zip(ctx.saved_tensors, ctx.others, strict=True)
    inputs = [other if tensor is None else tensor for tensor, other in pairs]
    row_weight = inputs[4]
    if row_weight is not None:
        incoming = torch.where(row_weight == 0, 0.0, row_weight * incoming)
    needs = list(ctx.needs_input_grad[:3])
    _, *gradients = torch.ops.parfocal.linear_class_sum(*inputs[:4], incoming, *inputs[5:], needs)
    of_map = [
        gradient.to(tensor.dtype) if need else None
        for gradient, tensor, need in zip(gradients, inputs, needs, strict=False)
    ]
    return *of_map, *(None,) * (len(inputs) - 3)


_sums = "(Tensor, Tensor, Tensor, Tensor)"
torch.library.define("parfocal::linear_class_sum", f"({_CALL}, bool[] needs) -> {_sums}")
torch.library.impl("parfocal::linear_class_sum", "CompositeExplicitAutograd", _sum)
torch.library.register_fake("parfocal::linear_class_sum", _like_sum)
torch.library.register_autograd(
    "parfocal::linear_class_sum", _scale_gradients, setup_context=_save_gradients
)
torch.library.define("parfocal::linear_class_values", f"({_CALL}) -> Tensor")
torch.library.impl("parfocal::linear_class_values", "CompositeExplicitAutograd", _values)
torch.library.register_fake("parfocal::linear_class_values", _like_values)
torch.library.register_autograd(
    "parfocal::linear_class_values", _make_gradients, setup_context=_save_inputs
)
