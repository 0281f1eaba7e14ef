"""The sum of a softmax focal loss over rows of class logits, and its gradient, by Triton's kernels.

Of a row, with t its true class, and the sums over the others, j != t:

    top = max x_j        s = sum of exp(x_j - top), between 1 and C        ahead = x_t - top
    e = s exp(-ahead), the odds against t      q = e / (1 + e)      p = 1 / (1 + e)
    ce = log1p(e)                              dL/du = -q ** gamma (gamma p ce + q)
    dL/dx_t = dL/du                            dL/dx_j = -(dL/du) exp(x_j - top) / s

A class takes one exponential, all else is done once a row. Of e and 1 / e the smaller is formed, so
that it is right in both tails. A term feels the rounding of its difference, up to 2 ** -24 d of a
spread d, and what comes of it is within (1 + gamma)(8 + d + log2(C) / 2) ULP.

Infinite logits count as the largest numbers, and no gradient reaches them; the loss of a class that
one of them rules out is infinite. NaN makes its row NaN. A row that doesn't count isn't read.

A row that fits on the chip is read once, its exponentials waiting in registers for the gradient.
Longer ones are read twice. A tile has classes by positions, in whichever order they are in memory.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from parfocal.numerics.closed_form import round_exponent
from parfocal.numerics.data import ClassKernel
from parfocal.numerics.triton import smoothed
from parfocal.numerics.triton.arithmetic import LARGEST
from parfocal.numerics.triton.launch import Scale, add_up, on_device, scale_of
from parfocal.numerics.triton.rows import (
    ALL,
    SHIFT,
    SHIFTED_BACK,
    exp_of_fall,
    finite,
    others,
    reached,
    row_terms,
    rows_of_program,
    term_factors,
    true_class,
    weight_of,
)
from parfocal.numerics.triton.tiles import OUTER, divided, in_rows


@triton.jit
def sum_of_all(
    logit,
    column,
    own,
    classes,
    class_stride,
    counts,
    GRADE: tl.constexpr,
    CLASSES: tl.constexpr,
    DIM: tl.constexpr,
):
    """The largest of the others and their sum relative to it, from tiles; in lanes, then of these.

    A lane takes one exponential a class: either its sum or the new term is the smaller.
    """
    s = tl.zeros_like(column + own).to(tl.float32)
    highest = s + float("-inf")
    for first in range(0, classes, CLASSES):
        x = others(logit, column + first, own, classes, class_stride, counts)
        rise = tl.minimum(x, LARGEST, propagate_nan=ALL) - finite(highest)
        fall = exp_of_fall(tl.abs(rise), 0.0, 0.0, GRADE)
        s = tl.where(rise > 0.0, tl.fma(s, fall, 1.0), s + fall)
        highest = tl.maximum(highest, x)
    top = tl.max(highest, DIM)
    height = tl.expand_dims(finite(top), DIM)
    return top, tl.sum(s * exp_of_fall(height, finite(highest), 0.0, GRADE), DIM)


def _class_kernel(
    x_ptr,
    index_ptr,
    weight_ptr,
    divisor_ptr,
    incoming_ptr,
    partial_ptr,
    loss_ptr,
    gradient_ptr,
    positions,
    classes,
    image_stride,
    position_stride,
    class_stride,
    gamma,
    factor,
    GRADE: tl.constexpr,
    CLASSES: tl.constexpr,
    POSITIONS: tl.constexpr,
    LOOPS: tl.constexpr,
    ALL_CLASSES: tl.constexpr,
    IN_ROWS: tl.constexpr,
    IS_MADE: tl.constexpr,
    DIM: tl.constexpr,
):
    """weight L of some positions of an image, their sum, and their gradient times the scale.

    CLASSES, POSITIONS: the tile. LOOPS: whether there may be more classes than it holds.
    ALL_CLASSES: their number where it is compiled in, else 0. IN_ROWS: whether the gradient is
    stored along the classes, though it is made along the positions. IS_MADE: whether it is there,
    as it is for an incoming gradient of 1. DIM: that of the classes.
    """
    if IS_MADE:  # noqa: SIM102 - the compiler decides the one, the device the other
        if tl.load(incoming_ptr).to(tl.float32) == 1.0:
            return
    if ALL_CLASSES > 0:
        classes = ALL_CLASSES
    row, start, is_row = rows_of_program(positions, image_stride, position_stride, POSITIONS)
    weight = weight_of(weight_ptr, row, is_row)
    counts = weight != 0.0
    index, own = true_class(x_ptr + start, index_ptr, row, counts, classes, class_stride)

    # From here on a tile of classes and positions; what is one a row is spread over the classes.
    column = tl.expand_dims(tl.arange(0, CLASSES), 1 - DIM)
    place, in_tile = tl.expand_dims(index, DIM), tl.expand_dims(counts, DIM)
    logit = tl.expand_dims(x_ptr + start, DIM)
    if LOOPS:
        top, s = sum_of_all(
            logit, column, place, classes, class_stride, in_tile, GRADE, CLASSES, DIM
        )
    else:
        x = others(logit, column, place, classes, class_stride, in_tile)
        top = tl.max(x, DIM)
        terms = exp_of_fall(tl.expand_dims(finite(top), DIM), x, SHIFT, GRADE)
        s = tl.sum(terms, DIM) * SHIFTED_BACK

    loss, slope, over_s = row_terms(own, top, s, classes, gamma)
    if partial_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0), tl.sum(tl.where(counts, loss * weight, 0.0)))
    if loss_ptr is not None:
        loss = tl.where(counts, loss * weight, 0.0)
        tl.store(loss_ptr + row, loss.to(loss_ptr.dtype.element_ty), mask=is_row)
    if gradient_ptr is not None:
        slope = slope * weight * scale_of(factor, divisor_ptr, incoming_ptr)
        slope = tl.where(counts, slope, 0.0)
        before, after = term_factors(slope * over_s, top)
        of_own, before = tl.expand_dims(reached(-slope, own), DIM), tl.expand_dims(before, DIM)
        after, height = tl.expand_dims(after, DIM), tl.expand_dims(finite(top), DIM)
        target = tl.expand_dims(gradient_ptr + start, DIM)
        for first in range(0, classes if LOOPS else 1, CLASSES):
            if LOOPS:
                x = others(logit, column + first, place, classes, class_stride, in_tile)
                terms = exp_of_fall(height, x, SHIFT, GRADE)
            g = tl.where(column + first == place, of_own, terms * before * after)
            at = target + (column + first).to(tl.int64) * (1 if IN_ROWS else class_stride)
            mask = (column + first < classes) & tl.expand_dims(is_row, DIM)
            tl.store(at, g.to(gradient_ptr.dtype.element_ty), mask=mask)


# Threads go along what is adjacent in memory, as the compiler sees it by the strides.
_whole_rows = triton.jit(_class_kernel)

# Here it doesn't see that classes are, and gives a thread one position and a share of its classes.
_a_position_a_thread = triton.jit(_class_kernel, do_not_specialize=("class_stride",))


def class_sum(
    loss: ClassKernel,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    divisor: float | Tensor,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None] | None:
    """The sum of weight L over rows, over the divisor, and its gradient in x.

    None for a gamma of each row and for float64; arguments as in `sums.class_sum`. The gradient is
    laid out in memory as x is, if that has no gaps.
    """
    if not _is_for_kernels(loss, x):
        return None
    x = in_rows(x)
    gradient = torch.empty_like(x) if needs_gradient else None
    scale = Scale(divisor, x.device)
    partials = torch.empty(
        divided(x, loss.smoothing > 0).programs(), dtype=torch.float32, device=x.device
    )
    with on_device(x):
        _launch(loss, x, index, weight, scale, None, partials, gradient)
        return add_up(partials, scale), gradient


def class_rescale(
    loss: ClassKernel,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    divisor: float | Tensor,
    kept: Tensor,
    incoming: Tensor,
) -> Tensor:
    """A finished gradient times the incoming one, and rounded once, in its own memory.

    One launch, which does nothing where 1 comes in; else the gradient is made again.
    """
    with on_device(x):
        scale = Scale(divisor, x.device)
        _launch(loss, in_rows(x), index, weight, scale, incoming, None, kept, is_made=True)
    return kept


def class_values(
    loss: ClassKernel, x: Tensor, index: Tensor, weight: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """weight L of each row in this dtype; None where `class_sum` is."""
    if not _is_for_kernels(loss, x):
        return None
    losses = torch.empty(index.shape, dtype=dtype, device=x.device)
    scale = Scale(1.0, x.device)
    with on_device(x):
        _launch(loss, in_rows(x), index, weight, scale, None, None, None, losses=losses)
    return losses


def class_slopes(
    loss: ClassKernel, x: Tensor, index: Tensor, weight: Tensor | None, incoming: Tensor | None
) -> Tensor:
    """The gradient of the sum in x, times the incoming one if any."""
    if x.numel() == 0:
        return torch.empty_like(x)
    rows = in_rows(x)
    gradient = torch.empty_like(rows)
    with on_device(x):
        _launch(loss, rows, index, weight, Scale(1.0, x.device), incoming, None, gradient)
    like = torch.empty_like(x, device="meta")
    return gradient if gradient.stride() == like.stride() else torch.empty_like(x).copy_(gradient)


def _is_for_kernels(loss: ClassKernel, x: Tensor) -> bool:
    return not (
        isinstance(loss.gamma, Tensor)
        or x.dtype == torch.float64
        or x.numel() == 0
        or x.shape[1] < 2
    )


def _launch(
    loss: ClassKernel,
    x: Tensor,
    index: Tensor,
    weight: Tensor | None,
    scale: Scale,
    incoming: Tensor | None,
    partials: Tensor | None,
    gradient: Tensor | None,
    *,
    losses: Tensor | None = None,
    is_made: bool = False,
) -> None:
    """One pass over the rows of x: partial sums, losses, the gradient, or some of these."""
    division, classes = divided(x, loss.smoothing > 0), x.shape[1]
    rows, tile = division
    kernels, options = (_whole_rows, _a_position_a_thread), {}
    if loss.smoothing:
        kernels, options = smoothed.KERNELS, smoothed.options(loss, classes)
    kernel: Any = kernels[tile.one_a_thread]
    kernel[(division.programs(),)](
        x,
        index.contiguous(),
        None if weight is None else weight.contiguous(),
        scale.divisor,
        incoming,
        partials,
        losses,
        gradient,
        rows.positions,
        classes,
        rows.image_stride,
        rows.position_stride,
        rows.class_stride,
        round_exponent(loss.gamma, torch.float32),
        scale.factor,
        **options,
        GRADE=16
        if torch.float32 not in (x.dtype, None if losses is None else losses.dtype)
        else 32,
        CLASSES=tile.classes,
        POSITIONS=tile.positions,
        LOOPS=tile.loops,
        ALL_CLASSES=classes if tile.classes <= 64 else 0,
        IN_ROWS=tile.one_a_thread and rows.class_stride == 1,
        IS_MADE=is_made,
        DIM=OUTER,
        num_warps=tile.warps,
    )
