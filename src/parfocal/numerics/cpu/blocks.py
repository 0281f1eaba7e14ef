"""Blocks of a tensor that stay in the cache of a processor.

On a CPU the time of a closed form goes into the pages of its temporaries: each is fetched from the
operating system, cleared, written once and read once. In blocks the temporaries are small, are
found in the cache, and get the memory of those of the block before. Nothing else changes: an
element is computed by the same operations, whatever block it is in.
"""

import math
from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.cpu.memory import keep_temporaries

Block = tuple[slice, slice]
"""Rows, and columns of them."""

# Elements for each thread: a dozen temporaries of float32 fit a cache of 4 MB, and an operation
# takes ten times as long as its call. A multiple of every vector length, so that no element falls
# to the scalar rest of a vectorised loop, which may round otherwise.
_PER_THREAD = 2**17


def blocks(rows: int, columns: int, width: int = 1) -> list[Block]:
    """Blocks of a map, some whole rows or a part of one; it has `width` elements at each place."""
    size = max(1, _PER_THREAD * torch.get_num_threads() // width)
    if rows * columns > size:
        keep_temporaries()
    some = max(1, size // max(columns, 1))
    return [
        (slice(row, row + some), slice(column, column + size))
        for row in range(0, rows, some)
        for column in range(0, columns, size)
    ]


def runs(count: int) -> list[slice]:
    """Blocks of a single row."""
    return [columns for _, columns in blocks(1, count)]


def flat(tensor: Any) -> Any:
    """A tensor in one dimension, without a copy where its strides allow; anything else as it is."""
    if not isinstance(tensor, Tensor) or tensor.ndim == 1:
        return tensor
    if tensor.numel() > 1 and not any(tensor.stride()):  # one number, expanded
        return tensor[(0,) * tensor.ndim].expand(tensor.numel())
    return tensor.reshape(-1)


def part(tensor: Any, block: slice) -> Any:
    """The block of a flat tensor; anything else as it is."""
    return tensor[block] if isinstance(tensor, Tensor) else tensor


def scale_of(divisor: float | Tensor, incoming: Tensor | None) -> float | None:
    """The factor of a sum over its divisor, and of the incoming gradient; None for 0."""
    whole = float(divisor)
    if whole == 0:
        return None
    return 1 / whole if incoming is None else 1 / whole * incoming.item()


def is_finite(total: float) -> bool:
    """Whether it is a number, neither infinite nor NaN."""
    return abs(total) < math.inf
