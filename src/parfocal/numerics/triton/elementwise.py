"""Elementwise losses on a GPU: a sum with its gradient, or each loss and its slope, in one pass.

A program takes a block of positions. What the host doesn't know, since it would have to wait for
the device, is decided there: whether a block has soft targets, and whether an incoming gradient is
1, with which nothing is left to be done.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, slope, value
from parfocal.numerics.data import Data, Kernel, Loss, over_classes
from parfocal.numerics.triton.arithmetic import exponent
from parfocal.numerics.triton.launch import Scale, add_up, on_device, scale_of
from parfocal.numerics.triton.losses import evaluate

# Positions of a program and its warps: eight of a thread, two loads of 128 bits in float32 and one
# in 16 bits. Unmeasured.
_BLOCK = 1024
_WARPS = 4

# Positions between two classes in memory, from which on 32 bits don't tell places in a block.
_FAR = 2**31

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _load(pointer, at, stride, is_there):
    """A column of a block in float32, 0 where there is none; of one number if its stride is 0."""
    return tl.load(pointer + at * stride, mask=is_there, other=0).to(tl.float32)


@triton.jit
def _of_classes(
    index_ptr, inner, is_there, CLASSES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Targets of a block by the class indices of its positions, and which indices are in [0, C].

    In memory `inner` positions lie side by side, of one class; then those of the next class, and
    after C classes other positions. Where that stands at the start of a block is found once a
    program, in 64 bits if the logits are so many (WIDE).
    """
    start = tl.program_id(0).to(tl.uint64 if WIDE else tl.uint32) * BLOCK
    run = start // tl.cast(inner, start.dtype)
    image = run // CLASSES
    place = (start - run * tl.cast(inner, start.dtype)).to(tl.uint32)
    place += tl.arange(0, BLOCK).to(tl.uint32)
    positions = index_ptr + image.to(tl.int64) * inner
    inner = tl.cast(inner, tl.uint32)
    runs = place // inner
    classes = (run - image * CLASSES).to(tl.uint32) + runs
    images = classes // CLASSES
    index = tl.load(positions + (images * inner + place - runs * inner), mask=is_there, other=0)
    if index.dtype.primitive_bitwidth < 32:
        index = index.to(tl.int32)
    is_own = index.to(tl.int32) == (classes - images * CLASSES).to(tl.int32)
    return tl.where(is_own, 1.0, 0.0), (index >= 0) & (index <= CLASSES)


@triton.jit
def _block(
    x_ptr, y_ptr, weight_ptr, mask_ptr, n, y_stride, weight_stride, mask_stride, inner,
    CLASSES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Where a block is, what of it is there, and counts, and its logits, targets and weights.

    What doesn't count has a logit, a target and a weight of 0, whatever stands there. What counts
    and has an index that is no class and not C has a weight of NaN.

    CLASSES: how many classes there are, if y is the index of one; 0 if it is a target.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_there = at < n
    counts = is_there
    x = _load(x_ptr, at, 1, is_there)
    weight = tl.where(is_there, 1.0, 0.0)
    if weight_ptr is not None:
        weight = _load(weight_ptr, at, weight_stride, is_there)
    if CLASSES == 0:
        y = _load(y_ptr, at, y_stride, is_there)
    else:
        y, is_known = _of_classes(y_ptr, inner, is_there, CLASSES, WIDE, BLOCK)
        weight = tl.where(is_known, weight, float("nan"))
    if mask_ptr is not None:
        counts = is_there & (_load(mask_ptr, at, mask_stride, is_there) != 0.0)
        x, y = tl.where(counts, x, 0.0), tl.where(counts, y, 0.0)
        weight = tl.where(counts, weight, 0.0)
    return at, is_there, counts, x, y, weight


@triton.jit
def sum_kernel(
    x_ptr, y_ptr, weight_ptr, mask_ptr, divisor_ptr, incoming_ptr, partial_ptr, gradient_ptr,
    n, y_stride, weight_stride, mask_stride, inner, factor,
    gamma, c, c_rest, alpha, number, second, c_2, c_2_rest,
    LOSS: tl.constexpr, SOFT: tl.constexpr, GRADE: tl.constexpr,
    CLASSES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, IS_MADE: tl.constexpr,
):  # fmt: skip
    """A block's part of the sum, and its gradient, each if there is a place for it.

    IS_MADE: whether the gradient is there, as it is for an incoming gradient of 1.
    """
    if IS_MADE:  # noqa: SIM102 - the compiler decides the one, the device the other
        if tl.load(incoming_ptr) == 1.0:
            return
    at, is_there, counts, x, y, weight = _block(
        x_ptr, y_ptr, weight_ptr, mask_ptr, n, y_stride, weight_stride, mask_stride, inner,
        CLASSES, WIDE, BLOCK,
    )  # fmt: skip
    value, slope = evaluate(
        x, y, gamma, c, c_rest, alpha, number, second, c_2, c_2_rest, LOSS, SOFT, GRADE
    )
    if partial_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0), tl.sum(weight * value, axis=0))
    if gradient_ptr is not None:
        scale = scale_of(factor, divisor_ptr, incoming_ptr)
        slope = slope * weight * scale
        if mask_ptr is not None:  # a mean of nothing has an infinite scale
            slope = tl.where(counts, slope, 0.0)
        tl.store(gradient_ptr + at, slope.to(gradient_ptr.dtype.element_ty), mask=is_there)


@triton.jit
def each_kernel(
    x_ptr, y_ptr, weight_ptr, mask_ptr, incoming_ptr, out_ptr,
    n, y_stride, weight_stride, mask_stride, inner, incoming_stride,
    gamma, c, c_rest, alpha, number, second, c_2, c_2_rest,
    LOSS: tl.constexpr, SOFT: tl.constexpr, GRADE: tl.constexpr,
    CLASSES: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each loss; where something comes in, the slope of each times that."""
    at, is_there, _, x, y, weight = _block(
        x_ptr, y_ptr, weight_ptr, mask_ptr, n, y_stride, weight_stride, mask_stride, inner,
        CLASSES, WIDE, BLOCK,
    )  # fmt: skip
    value, slope = evaluate(
        x, y, gamma, c, c_rest, alpha, number, second, c_2, c_2_rest, LOSS, SOFT, GRADE
    )
    result = value * weight
    if incoming_ptr is not None:
        result = slope * weight * _load(incoming_ptr, at, incoming_stride, is_there)
    tl.store(out_ptr + at, result.to(out_ptr.dtype.element_ty), mask=is_there)


def elementwise_sum(
    loss: Loss, x: Tensor, data: Data, divisor: float | Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The sum of weight L over the divisor, and its gradient in x."""
    call = _Call.of(loss, x, data)
    if call is None:
        return None
    gradient = torch.empty_like(call.x) if needs_gradient else None
    partials = call.x.new_empty(call.programs, dtype=torch.float32)
    scale = Scale(divisor, x.device)
    with on_device(x):
        call.launch_sum(scale, None, partials, gradient)
        return add_up(partials, scale), gradient


def elementwise_rescale(
    loss: Loss, x: Tensor, data: Data, divisor: float | Tensor, kept: Tensor, incoming: Tensor
) -> Tensor:
    """The finished gradient times the incoming one; where that isn't 1 it is made anew.

    So a gradient of 16 bits is rounded once, and no number is brought to the host.
    """
    call = _Call.of(loss, x, data)
    assert call is not None
    with on_device(x):
        call.launch_sum(Scale(divisor, x.device), incoming, None, kept, is_made=True)
    return kept


def elementwise_sum_slopes(loss: Loss, x: Tensor, data: Data, incoming: Tensor) -> Tensor:
    """The gradient of the sum in x, times the incoming one."""
    call = _Call.of(loss, x, data)
    assert call is not None
    gradient = torch.empty_like(call.x)
    with on_device(x):
        call.launch_sum(Scale(1.0, x.device), incoming, None, gradient)
    return gradient


def elementwise_values(loss: Loss, x: Tensor, data: Data, dtype: torch.dtype) -> Tensor | None:
    """weight L of each position in this dtype, 0 where the mask is False."""
    call = _Call.of(loss, x, data, dtype)
    if call is None:
        return None
    out = torch.empty_like(call.x, dtype=dtype)
    with on_device(x):
        call.launch_each(None, out)
    return out


def elementwise_slopes(loss: Loss, x: Tensor, data: Data, incoming: Tensor) -> Tensor:
    """The slope of each of these, in the dtype of x, times what comes in for it."""
    call = _Call.of(loss, x, data)
    assert call is not None
    out = torch.empty_like(call.x)
    with on_device(x):
        call.launch_each(incoming, out)
    return out


def pointwise(
    form: Callable[..., Tensor],
    x: Tensor,
    y: Tensor,
    gamma: Gamma,
    epsilon: float,
    t: Tensor | None,
    incoming: Tensor | None,
) -> Tensor | None:
    """A closed form of the focal loss at each position, times the incoming gradient if any."""
    if form not in (value, slope) or t is not None or isinstance(gamma, Tensor):
        return None
    if x.dtype not in _DTYPES:
        return None
    if form is slope and incoming is None:
        incoming = x.new_ones(()).expand_as(x)
    call = _Call(Kernel("focal", gamma, None, epsilon, is_general=epsilon > 0), x, Data(y), x.dtype)
    out = torch.empty_like(call.x)
    with on_device(x):
        call.launch_each(incoming, out)
    return out


class _Call:
    """What all launches of a call share: columns of one layout in memory, and the numbers."""

    def __init__(self, kernel: Kernel, x: Tensor, data: Data, dtype: torch.dtype) -> None:
        self.x = x if _is_dense(x) else torch.empty_like(x).copy_(x)
        if data.y.ndim < x.ndim and _inner(self.x) >= _FAR:
            data = over_classes(x, data)
        self.count = x.numel()
        self.programs = triton.cdiv(self.count, _BLOCK)
        has_indices = data.y.ndim < x.ndim
        inner = _inner(self.x) if has_indices else 1
        weight, mask = _column(data.weight, self.x), _column(data.mask, self.x)
        y = (_index(data.y, self.x), 1) if has_indices else _column(data.y, self.x)
        self.columns = (self.x, y[0], weight[0], mask[0])
        self.strides = (y[1], weight[1], mask[1], inner)
        self.numbers = (
            *exponent(kernel.gamma),
            kernel.alpha,
            kernel.number,
            *exponent(kernel.second),
        )
        is_hard = not data.y.is_floating_point()
        self.options = {
            "LOSS": kernel.name,
            "SOFT": "always" if kernel.is_general else "never" if is_hard else "maybe",
            "GRADE": 32 if dtype == torch.float32 else 16,
            "CLASSES": x.shape[1] if has_indices else 0,
            "WIDE": has_indices and self.count >= 2**31,
            "BLOCK": _BLOCK,
            "num_warps": _WARPS,
        }

    @staticmethod
    def of(loss: Loss, x: Tensor, data: Data, dtype: torch.dtype | None = None) -> "_Call | None":
        """The call, if there is a kernel for it; `dtype` is that of what each position gets."""
        kernel = loss.kernel() if x.dtype in _DTYPES else None
        return None if kernel is None else _Call(kernel, x, data, dtype or x.dtype)

    def launch_sum(
        self,
        scale: Scale,
        incoming: Tensor | None,
        partials: Tensor | None,
        gradient: Tensor | None,
        *,
        is_made: bool = False,
    ) -> None:
        """The parts of the sum, and the gradient, which may be made for an incoming 1."""
        if self.count == 0:
            return
        sum_kernel[(self.programs,)](
            *self.columns,
            scale.divisor,
            incoming,
            partials,
            gradient,
            self.count,
            *self.strides,
            scale.factor,
            *self.numbers,
            IS_MADE=is_made,
            **self.options,
        )

    def launch_each(self, incoming: Tensor | None, out: Tensor) -> None:
        """Each loss, or the slope of each."""
        if self.count == 0:
            return
        incoming, stride = _column(incoming, self.x)
        each_kernel[(self.programs,)](
            *self.columns,
            incoming,
            out,
            self.count,
            *self.strides,
            stride,
            *self.numbers,
            **self.options,
        )


def _is_dense(x: Tensor) -> bool:
    """Whether its elements fill a piece of memory, in whatever order."""
    return x.is_contiguous() or torch.empty_like(x, device="meta").stride() == x.stride()


def _inner(x: Tensor) -> int:
    """How many positions of dense logits (N, C, ...) lie side by side in memory, of one class."""
    return x.stride(1) if x.shape[1] > 1 else 1


def _index(index: Tensor, x: Tensor) -> Tensor:
    """Class indices (N, ...) in the order in which the positions of x lie in memory."""
    if x.numel() == 0 or (index.is_contiguous() and x.is_contiguous()):
        return index
    like = torch.empty_like(x.select(1, 0), dtype=index.dtype)
    return index if index.stride() == like.stride() else like.copy_(index)


def _column(column: Tensor | None, x: Tensor) -> tuple[Tensor | None, int]:
    """A tensor in the layout of x, and the step from one element to the next: 0 if all are one."""
    if column is None:
        return None, 0
    if column.stride() == x.stride() or (column.is_contiguous() and x.is_contiguous()):
        return column, 1
    if not any(column.stride()):
        return column, 0
    return torch.empty_like(x, dtype=column.dtype).copy_(column), 1
