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

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parfocal.numerics.closed_form import Gamma, round_exponent
from parfocal.numerics.triton.arithmetic import (
    LARGEST,
    LOG2E,
    LOG2E_REST,
    MAGIC,
    exp2_reduced,
    log,
    log1p_reduced,
    power,
    quotient,
    reciprocal,
)
from parfocal.numerics.triton.launch import Scale, add_up, on_device, scale_of

# Terms of a row are kept times 2 ** 96: those of every logit are normal numbers, and so is a sum.
SHIFT = tl.constexpr(96.0)
SHIFTED = tl.constexpr(2.0**96)
SHIFTED_BACK = tl.constexpr(2.0**-96)

LOG_OF_2 = tl.constexpr(math.log(2.0))

_ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def within(x, low, high):
    """x between two bounds, NaN if it is."""
    return tl.minimum(tl.maximum(x, low, propagate_nan=_ALL), high, propagate_nan=_ALL)


@triton.jit
def finite(x):
    """x with the largest numbers for infinities."""
    return within(x, -LARGEST, LARGEST)


@triton.jit
def exp_of_fall(top, x, BY: tl.constexpr, GRADE: tl.constexpr):
    """2 ** BY exp(x - top) for x <= top, and no less than 2 ** -126; 1 for an x above top.

    2 ** j is made of its exponent j + 127, MAGIC's own bits being shifted out, and multiplied with
    exp2(f), in [0.7, 1.5]: a sum of their bits would lose a NaN, all of whose bits may be set.
    """
    if GRADE == 16:
        z = tl.fma(x - top, LOG2E, BY)
        return tl.exp2(tl.minimum(z, BY, propagate_nan=_ALL))
    a = within(top - x, 0.0, (124 + BY) * LOG_OF_2)
    z = tl.fma(a, -LOG2E, MAGIC + BY + 127.0)
    f = tl.fma(a, -LOG2E_REST, tl.fma(a, -LOG2E, -(z - (MAGIC + BY + 127.0))))
    return exp2_reduced(f) * (z.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)


@triton.jit
def row_terms(own, top, s, classes, gamma):
    """L, -dL/du and 1 / s of a row, from its logit, the largest of the others and their sum."""
    ahead = finite(own) - finite(top)
    # Terms of -inf alone are a sum of 0: they count as equals then.
    s = tl.where(s < 0.5, classes - 1.0, s)
    over_s = reciprocal(s)
    fall = exp_of_fall(0.0, -tl.abs(ahead), SHIFT, 32)
    is_ahead = ahead >= 0.0
    ratio = tl.where(is_ahead, s * fall, quotient(fall, s, over_s)) * SHIFTED_BACK
    odds = tl.where(is_ahead, tl.maximum(ratio, 1.0), s)  # and exp(-ahead) where it is behind
    wins = is_ahead & (ratio <= 1.0)
    t = tl.where(ratio > 1.0, reciprocal(odds), ratio)
    l = log1p_reduced(t)
    n = 1.0 + t
    r = reciprocal(n)
    smaller = quotient(t, n, r)
    q = tl.where(wins, smaller, r)
    p = tl.where(wins, r, smaller)
    ce = l + (log(odds) + tl.maximum(-ahead, 0.0))
    is_ruled_out = ((own == float("-inf")) & (top > float("-inf"))) | (
        (own < float("inf")) & (top == float("inf"))
    )
    factor = power(q, gamma)
    slope = factor * (gamma * p * tl.minimum(ce, LARGEST) + q)
    return factor * tl.where(is_ruled_out, ce + float("inf"), ce), slope, over_s


@triton.jit
def reached(g, x):
    """A gradient, 0 where the logit is infinite; NaN stays."""
    return tl.where(tl.abs(x) == float("inf"), g * 0.0, g)


@triton.jit
def gradient_factors(slope, over_s, own, top):
    """The gradient of the true class, and two factors of the terms of the others: theirs.

    The 2 ** -96 of the terms goes with the first where that is large, and else comes last, when no
    digit is lost by it.
    """
    g = reached(slope * over_s, top)
    is_large = tl.abs(g) > 1.0
    first = tl.where(is_large, g * SHIFTED_BACK, g)
    return reached(-slope, own), first, tl.where(is_large, 1.0, SHIFTED_BACK)


@triton.jit
def rows_of_program(positions, image_stride, position_stride, POSITIONS: tl.constexpr):
    """Which rows a program has, where each starts, and whether there is one."""
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, POSITIONS)
    image = (program // tiles).to(tl.int64)
    position = (program % tiles).to(tl.int64) * POSITIONS + tl.arange(0, POSITIONS)
    start = image * image_stride + position * position_stride
    return image * positions + position, start, position < positions


@triton.jit
def weight_of(weight_ptr, row, is_row):
    """What a row counts; 0 where it doesn't."""
    if weight_ptr is None:
        return tl.where(is_row, 1.0, 0.0)
    return tl.load(weight_ptr + row, mask=is_row, other=0.0).to(tl.float32)


@triton.jit
def true_class(logit, index_ptr, row, counts, classes, class_stride):
    """The class of a row and its logit; NaN where it is no class."""
    index = tl.load(index_ptr + row, mask=counts, other=0)
    is_class = counts & (index >= 0) & (index < classes)
    own = tl.load(logit + index * class_stride, mask=is_class, other=float("nan"))
    return index.to(tl.int32), own.to(tl.float32)


@triton.jit
def others(logit, column, own, classes, class_stride, counts):
    """A tile of logits in float32; -inf for the true class, and where there is nothing to count."""
    mask = (column < classes) & counts
    at = logit + column.to(tl.int64) * class_stride
    x = tl.load(at, mask=mask, other=float("-inf")).to(tl.float32)
    return tl.where(column == own, float("-inf"), x)


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
        rise = tl.minimum(x, LARGEST, propagate_nan=_ALL) - finite(highest)
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
        of_own, before, after = gradient_factors(tl.where(counts, slope, 0.0), over_s, own, top)
        of_own, before = tl.expand_dims(of_own, DIM), tl.expand_dims(before, DIM)
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

# Where it sees neither, as in rows, threads go along the dimension that it takes for the inner one.
_OUTER = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else 1


class _Tile(NamedTuple):
    """What a program takes at a time, classes by positions, and how it goes about it."""

    classes: int
    positions: int
    warps: int
    loops: bool = False
    one_a_thread: bool = False


def _tile(classes: int, rows: "_Rows") -> _Tile:
    """The tile for so many classes; none of these numbers has been measured on a card.

    A thread does what is done once a row, some 250 instructions, for all rows it has a part of, so
    32 or 64 classes are its part: fewer make that dear, more don't stay in registers. A row of 256
    gives 8 to a thread of its warp, and a gradient that goes out as it comes in. Where a warp has
    32 positions side by side, a class is one access to adjacent memory on a map; to rows it takes
    detours through the cache, which pays for short ones.
    """
    width = triton.next_power_of_2(classes)
    in_rows = rows.class_stride == 1
    if width <= 64:
        return _Tile(width, min(128, triton.next_power_of_2(rows.positions)), 4, one_a_thread=True)
    if width <= 128 or (width <= 512 and not in_rows):
        return _Tile(width, 32, width // 32, one_a_thread=True)
    if not in_rows:
        return _Tile(256, 32, 8, loops=True, one_a_thread=True)
    if width <= 4096:
        return _Tile(width, 1, max(1, width // 1024))
    if width <= 32768:  # beyond, a thread would need more than its 64 registers at 32 warps
        return _Tile(width, 1, width // 2048)
    return _Tile(8192, 1, 16, loops=True)  # with few rows on the chip, the second read is near


class _Rows(NamedTuple):
    """Rows of class logits, as a kernel finds them: images of positions, and all strides."""

    images: int
    positions: int
    image_stride: int
    position_stride: int
    class_stride: int


def _rows(x: Tensor) -> _Rows | None:
    """The rows of (N, C, ...), or None if their positions don't follow each other evenly."""
    merged: list[tuple[int, int]] = []
    for dim in (0, *range(2, x.ndim)):
        size, stride = x.shape[dim], x.stride(dim)
        if merged and merged[-1][1] == size * stride:
            size *= merged.pop()[0]
        if size != 1:
            merged.append((size, stride))
    if len(merged) > 2:
        return None
    (images, image_stride), (positions, position_stride) = [(1, 0)] * (2 - len(merged)) + merged
    return _Rows(images, positions, image_stride, position_stride, x.stride(1))


def class_sum(
    gamma: Gamma,
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
    if isinstance(gamma, Tensor) or x.dtype == torch.float64 or x.numel() == 0 or x.shape[1] < 2:
        return None
    x = _in_rows(x)
    gradient = torch.empty_like(x) if needs_gradient else None
    scale = Scale(divisor, x.device)
    programs = _programs(x)
    partials = torch.empty(programs, dtype=torch.float32, device=x.device)
    with on_device(x):
        _launch(gamma, x, index, weight, scale, None, partials, gradient)
        return add_up(partials, scale), gradient


def class_rescale(
    gamma: float,
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
        _launch(gamma, _in_rows(x), index, weight, scale, incoming, None, kept, is_made=True)
    return kept


def class_values(
    gamma: Gamma, x: Tensor, index: Tensor, weight: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """weight L of each row in this dtype; None where `class_sum` is."""
    if isinstance(gamma, Tensor) or x.dtype == torch.float64 or x.numel() == 0 or x.shape[1] < 2:
        return None
    losses = torch.empty(index.shape, dtype=dtype, device=x.device)
    scale = Scale(1.0, x.device)
    with on_device(x):
        _launch(gamma, _in_rows(x), index, weight, scale, None, None, None, losses=losses)
    return losses


def class_slopes(
    gamma: float, x: Tensor, index: Tensor, weight: Tensor | None, incoming: Tensor | None
) -> Tensor:
    """The gradient of the sum in x, times the incoming one if any."""
    if x.numel() == 0:
        return torch.empty_like(x)
    rows = _in_rows(x)
    gradient = torch.empty_like(rows)
    with on_device(x):
        _launch(gamma, rows, index, weight, Scale(1.0, x.device), incoming, None, gradient)
    like = torch.empty_like(x, device="meta")
    return gradient if gradient.stride() == like.stride() else torch.empty_like(x).copy_(gradient)


def _in_rows(x: Tensor) -> Tensor:
    """x, or a copy of it in the order of its dimensions in memory, whose rows a kernel finds."""
    like = torch.empty_like(x, device="meta")
    if _rows(x) is not None and _rows(x) == _rows(like):
        return x
    return torch.empty_like(x).copy_(x) if _rows(like) is not None else x.contiguous()


def _programs(x: Tensor) -> int:
    """How many programs the rows of x are divided among."""
    rows = _rows(x)
    assert rows is not None
    return rows.images * -(-rows.positions // _tile(x.shape[1], rows).positions)


def _launch(
    gamma: float,
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
    rows, classes = _rows(x), x.shape[1]
    assert rows is not None
    tile = _tile(classes, rows)
    kernel: Any = _a_position_a_thread if tile.one_a_thread else _whole_rows
    kernel[(_programs(x),)](
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
        round_exponent(gamma, torch.float32),
        scale.factor,
        GRADE=16
        if torch.float32 not in (x.dtype, None if losses is None else losses.dtype)
        else 32,
        CLASSES=tile.classes,
        POSITIONS=tile.positions,
        LOOPS=tile.loops,
        ALL_CLASSES=classes if tile.classes <= 64 else 0,
        IN_ROWS=tile.one_a_thread and rows.class_stride == 1,
        IS_MADE=is_made,
        DIM=_OUTER,
        num_warps=tile.warps,
    )
