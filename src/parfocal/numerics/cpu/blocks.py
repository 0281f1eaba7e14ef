"""Blocks of a tensor that stay in the cache of a processor.

On a CPU the time of a closed form goes into the pages of its temporaries: each is fetched from the
operating system, cleared, written once and read once. In blocks the temporaries are small, are
found in the cache, and get the memory of those of the block before. Nothing else changes: an
element is computed by the same operations, whatever block it is in.
"""

import math
from typing import Any

from torch import Tensor

from parfocal.numerics.cpu.memory import prepare_memory
from parfocal.numerics.cpu.threads import runs

# Elements of a block for each thread: a dozen temporaries of float32 fit a cache of 4 MB, and an
# operation takes ten times as long as its call.
_BLOCK = 2**17

Block = tuple[slice, slice]
"""Rows, and columns of them."""


def blocks(rows: int, columns: int, *, width: int = 1, most: int) -> list[Block]:
    """Blocks of a map, some whole rows or a part of one; it has `width` elements at each place."""
    result, elements = [], rows * columns * width
    for some in runs(rows, columns * width, most):
        is_single = some.stop - some.start == 1
        of_row = runs(columns, width, most, elements) if is_single else [slice(0, columns)]
        result += [(some, part) for part in of_row]
    prepare_memory(elements)
    return result


def row_blocks(count: int) -> list[slice] | list[None]:
    """Blocks of a single row; None stands for all of it."""
    if count <= _BLOCK:
        prepare_memory(count)
        return [None]
    return [columns for _, columns in blocks(1, count, most=_BLOCK)]


def flat(tensor: Any) -> Any:
    """A tensor in one dimension, without a copy where its strides allow; anything else as it is."""
    if not isinstance(tensor, Tensor) or tensor.ndim == 1:
        return tensor
    if tensor.numel() > 1 and not any(tensor.stride()):  # one number, expanded
        return tensor[(0,) * tensor.ndim].expand(tensor.numel())
    return tensor.reshape(-1)


def parts(columns: list[Any], block: slice | None) -> list[Any]:
    """The block of each flat tensor, or all of it; anything else as it is."""
    if block is None:
        return columns
    return [column[block] if isinstance(column, Tensor) else column for column in columns]


def scale_of(divisor: float | Tensor, incoming: Tensor | None) -> float | None:
    """The factor of a sum over its divisor, and of the incoming gradient; None for 0."""
    whole = float(divisor)
    if whole == 0:
        return None
    return 1 / whole if incoming is None else 1 / whole * incoming.item()


def multiply(gradient: Tensor, incoming: Tensor) -> Tensor | None:
    """A finished gradient times the incoming one; None where that would not be rounded once.

    In 16 bits it is rounded already, and a factor above 1 would enlarge the rounding of numbers
    that have underflown.
    """
    factor = incoming.item()
    if factor == 1:
        return gradient
    may_scale = gradient.dtype.itemsize > 2 and abs(factor) <= 1
    return gradient.mul_(factor) if may_scale else None


def is_finite(total: float) -> bool:
    """Whether it is a number, neither infinite nor NaN."""
    return abs(total) < math.inf
