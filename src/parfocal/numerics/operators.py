"""The kernels of a GPU as operators of torch, for code that torch.compile compiles.

A compiler can't look into a kernel, and needn't: it is told shapes, dtypes and the derivative. An
operator returns nothing that shares memory with an argument, so a gradient isn't kept from the
forward pass but made in the backward pass, with what comes in: as many bytes, and nothing saved but
the inputs.

The arguments of an elementwise operator are x, the columns of `Data`, of values their dtype, and
the fields of a `Kernel`; those of an operator of classes end with the fields of a `ClassKernel`.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.backends import kernels
from parfocal.numerics.data import ClassKernel, Data, Kernel, Loss

_DATA = "Tensor x, Tensor y, Tensor? weight, Tensor? mask"
_LOSS = "str name, float gamma, float? alpha, float? number, float second, bool is_general"
_SUM = f"{_DATA}, {_LOSS}"
_VALUES = f"{_DATA}, ScalarType dtype, {_LOSS}"
_CLASSES = (
    "Tensor x, Tensor index, Tensor? weight, float gamma, float smoothing, Tensor? class_weight"
)


def elementwise_sum(loss: Loss, x: Tensor, data: Data, divisor: float | Tensor) -> Tensor | None:
    """The sum of weight L over the divisor, differentiable in x once; None without a kernel."""
    kernel = _kernel(loss, x)
    if kernel is None:
        return None
    # Divided outside: as an argument a count would be another graph for each size of a batch.
    result: Tensor = torch.ops.parfocal.elementwise_sum(x, *data, *kernel) / divisor
    return result


def elementwise_values(loss: Loss, x: Tensor, data: Data, dtype: torch.dtype) -> Tensor | None:
    """weight L of each position in this dtype, differentiable in x once; None without a kernel."""
    kernel = _kernel(loss, x)
    if kernel is None:
        return None
    result: Tensor = torch.ops.parfocal.elementwise_values(x, *data, dtype, *kernel)
    return result


def class_sum(
    loss: ClassKernel, x: Tensor, index: Tensor, weight: Tensor | None, divisor: float | Tensor
) -> Tensor | None:
    """The sum of weight L over rows, differentiable in x once; None without a kernel."""
    if isinstance(loss.gamma, Tensor) or x.dtype == torch.float64 or x.shape[1] < 2:
        return None
    result: Tensor = torch.ops.parfocal.class_sum(x, index, weight, *loss) / divisor
    return result


def _kernel(loss: Loss, x: Tensor) -> Kernel | None:
    return None if x.dtype == torch.float64 else loss.kernel()


class _Told(Kernel):
    """A loss of which nothing is known but its kernel."""

    def kernel(self) -> Kernel:
        """Itself."""
        return self


def _triton() -> ModuleType:
    backend = kernels()
    assert backend is not None
    return backend


def _sum(x: Tensor, *rest: Any) -> Tensor:
    y, weight, mask, *loss = rest
    total, _ = _triton().elementwise_sum(_Told(*loss), x, Data(y, weight, mask), 1.0, False)
    return total  # type: ignore[no-any-return]


def _sum_slopes(incoming: Tensor, x: Tensor, *rest: Any) -> Tensor:
    y, weight, mask, *loss = rest
    return _triton().elementwise_sum_slopes(_Told(*loss), x, Data(y, weight, mask), incoming)  # type: ignore[no-any-return]


def _values(x: Tensor, *rest: Any) -> Tensor:
    y, weight, mask, dtype, *loss = rest
    return _triton().elementwise_values(_Told(*loss), x, Data(y, weight, mask), dtype)  # type: ignore[no-any-return]


def _slopes(incoming: Tensor, x: Tensor, *rest: Any) -> Tensor:
    y, weight, mask, _, *loss = rest
    return _triton().elementwise_slopes(_Told(*loss), x, Data(y, weight, mask), incoming)  # type: ignore[no-any-return]


def _class_sum(x: Tensor, index: Tensor, weight: Tensor | None, *loss: Any) -> Tensor:
    if x.numel() == 0:
        return x.new_zeros((), dtype=torch.float32)
    total, _ = _triton().class_sum(ClassKernel(*loss), x, index, weight, 1.0, False)
    return total  # type: ignore[no-any-return]


def _class_slopes(
    incoming: Tensor, x: Tensor, index: Tensor, weight: Tensor | None, *loss: Any
) -> Tensor:
    return _triton().class_slopes(ClassKernel(*loss), x, index, weight, incoming)  # type: ignore[no-any-return]


FUNCTIONS: dict[str, Callable[..., Tensor]] = {}
"""What the operators compute, by their names."""


def _register(
    name: str, arguments: str, function: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> None:
    FUNCTIONS[name] = function
    torch.library.define(f"parfocal::{name}", f"({arguments}) -> Tensor")
    torch.library.impl(f"parfocal::{name}", "CUDA", function)
    torch.library.register_fake(f"parfocal::{name}", fake)


def _differentiate(name: str, slopes: str) -> None:
    """Have an operator differentiated in x by another, which is given all its arguments."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(i if isinstance(i, Tensor) else None for i in inputs))
        ctx.others = tuple(None if isinstance(i, Tensor) else i for i in inputs)

    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.saved_tensors, ctx.others, strict=True)
        inputs = [other if tensor is None else tensor for tensor, other in pairs]
        gradient = getattr(torch.ops.parfocal, slopes)(incoming, *inputs)
        return gradient, *(None for _ in inputs[1:])

    torch.library.register_autograd(f"parfocal::{name}", backward, setup_context=save)


def _like_total(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((), dtype=torch.float32)


def _like_values(x: Tensor, y: Any, weight: Any, mask: Any, dtype: torch.dtype, *_: Any) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _like_slopes(incoming: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


_register("elementwise_sum", _SUM, _sum, _like_total)
_register("elementwise_sum_slopes", f"Tensor incoming, {_SUM}", _sum_slopes, _like_slopes)
_register("elementwise_values", _VALUES, _values, _like_values)
_register("elementwise_slopes", f"Tensor incoming, {_VALUES}", _slopes, _like_slopes)
_register("class_sum", _CLASSES, _class_sum, _like_total)
_register("class_slopes", f"Tensor incoming, {_CLASSES}", _class_slopes, _like_slopes)
_differentiate("elementwise_sum", "elementwise_sum_slopes")
_differentiate("class_sum", "class_slopes")
_differentiate("elementwise_values", "elementwise_slopes")
