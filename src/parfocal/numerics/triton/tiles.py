"""How the rows of a tensor of class logits are divided among programs, and where they lie in it."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

# Where strides tell the compiler nothing, as in rows, threads go along the dimension that it takes
# for the inner one.
OUTER = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else 1


class Rows(NamedTuple):
    """Rows of class logits, as a kernel finds them: images of positions, and all strides."""

    images: int
    positions: int
    image_stride: int
    position_stride: int
    class_stride: int


def rows_of(x: Tensor) -> Rows | None:
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
    return Rows(images, positions, image_stride, position_stride, x.stride(1))


class Tile(NamedTuple):
    """What a program takes at a time, classes by positions, and how it goes about it."""

    classes: int
    positions: int
    warps: int
    loops: bool = False
    one_a_thread: bool = False


def tile_of(classes: int, rows: Rows) -> Tile:
    """The tile for so many classes; none of these numbers has been measured on a card.

    A thread does what is done once a row, some 250 instructions, for all rows it has a part of, so
    32 or 64 classes are its part: fewer make that dear, more don't stay in registers. A row of 256
    gives 8 to a thread of its warp, and a gradient that goes out as it comes in. Where a warp has
    32 positions side by side, a class is one access to adjacent memory on a map; to rows it takes
    detours through the cache, which pays for short ones.
    """
    width = triton.next_power_of_2(classes)
    is_in_rows = rows.class_stride == 1
    if width <= 64:
        return Tile(width, min(128, triton.next_power_of_2(rows.positions)), 4, one_a_thread=True)
    if width <= 128 or (width <= 512 and not is_in_rows):
        return Tile(width, 32, width // 32, one_a_thread=True)
    if not is_in_rows:
        return Tile(256, 32, 8, loops=True, one_a_thread=True)
    if width <= 4096:
        return Tile(width, 1, max(1, width // 1024))
    if width <= 32768:  # beyond, a thread would need more than its 64 registers at 32 warps
        return Tile(width, 1, width // 2048)
    return Tile(8192, 1, 16, loops=True)  # with few rows on the chip, the second read is near


def in_rows(x: Tensor) -> Tensor:
    """x, or a copy of it in the order of its dimensions in memory, whose rows a kernel finds."""
    like = torch.empty_like(x, device="meta")
    if rows_of(x) is not None and rows_of(x) == rows_of(like):
        return x
    return torch.empty_like(x).copy_(x) if rows_of(like) is not None else x.contiguous()


def tile_of_smoothed(classes: int, rows: Rows) -> Tile:
    """The tile where two numbers of a class wait in registers: half as many classes a thread.

    16 of maps, whose addresses wait too, and of rows that are read as these; 32 of whole rows.
    """
    width = triton.next_power_of_2(classes)
    if width <= 32:
        return Tile(width, min(128, triton.next_power_of_2(rows.positions)), 4, one_a_thread=True)
    if width <= 128:
        return Tile(width, 32, width // 16, one_a_thread=True)
    if rows.class_stride != 1:
        if width <= 512:
            return Tile(width, 16, width // 32, one_a_thread=True)
        return Tile(256, 32, 8, loops=True, one_a_thread=True)
    if width <= 16384:
        return Tile(width, 1, max(1, width // 1024))
    return Tile(8192, 1, 16, loops=True)


class Division(NamedTuple):
    """Rows, and the tile that each program takes of them."""

    rows: Rows
    tile: Tile

    def programs(self) -> int:
        """How many programs there are."""
        return self.rows.images * -(-self.rows.positions // self.tile.positions)


def divided(x: Tensor, is_smoothed: bool = False) -> Division:
    """How the rows of x, which lie as those of `in_rows` do, are divided."""
    rows = rows_of(x)
    assert rows is not None
    return Division(rows, (tile_of_smoothed if is_smoothed else tile_of)(x.shape[1], rows))
