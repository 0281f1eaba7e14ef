"""Logits to look at, spaced over the representable numbers of a dtype."""

from collections.abc import Iterable

import torch
from torch import Tensor

_INTEGER = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


def every_finite(dtype: torch.dtype) -> Tensor:
    """All finite numbers of a 16-bit dtype in ascending order, with both zeros.

    >>> every_finite(torch.float16).numel(), every_finite(torch.bfloat16).numel()
    (63488, 65280)
    """
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = patterns.view(dtype)
    return _ascending(numbers[numbers.isfinite()])


def representable(
    dtype: torch.dtype, count: int, *, smallest: float = 0.0, largest: float | None = None
) -> Tensor:
    """About 2 `count` numbers +-m, with m equally spaced over the indices of [smallest, largest].

    The index of a positive number is its bit pattern, so every binade gets the same share.

    >>> representable(torch.float32, 3, smallest=1.0, largest=4.0).tolist()
    [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0]
    """
    integer = _INTEGER[dtype]
    top = torch.finfo(dtype).max if largest is None else largest
    first, last = torch.tensor([smallest, top], dtype=dtype).view(integer).tolist()
    # Exact integer arithmetic: the indices of float64 don't fit a float.
    indices = [first + (last - first) * i // (count - 1) for i in range(count)]
    magnitudes = torch.tensor(indices, dtype=integer).view(dtype)
    return _ascending(torch.cat([-magnitudes, magnitudes]))


def neighbourhood(dtype: torch.dtype, centres: Iterable[float], reach: int = 3) -> Tensor:
    """Each centre, its negative, and `reach` representable neighbours on both sides of each.

    >>> neighbourhood(torch.bfloat16, [1.0], reach=1).tolist()
    [-1.0078125, -1.0, -0.99609375, 0.99609375, 1.0, 1.0078125]
    """
    middle = torch.tensor(sorted(centres), dtype=dtype)
    down, up = [middle], [middle]
    for _ in range(reach):
        down.append(torch.nextafter(down[-1], torch.full_like(middle, -torch.inf)))
        up.append(torch.nextafter(up[-1], torch.full_like(middle, torch.inf)))
    numbers = torch.cat([*down, *up[1:]])
    numbers = numbers[numbers.isfinite()]
    return _ascending(torch.cat([-numbers, numbers]))


def between(low: float, high: float, dtype: torch.dtype, count: int) -> Tensor:
    """At most `count` numbers that divide the way from low to high, of one sign, evenly by index.

    >>> between(1.0, 2.0, torch.bfloat16, 3).tolist(), between(1.0, 1.0078125, torch.bfloat16, 3)
    ([1.25, 1.5, 1.75], tensor([], dtype=torch.bfloat16))
    """
    integer = _INTEGER[dtype]
    first, last = torch.tensor([abs(low), abs(high)], dtype=dtype).view(integer).tolist()
    count = min(count, last - first - 1)
    patterns = [first + (last - first) * (i + 1) // (count + 1) for i in range(count)]
    numbers = torch.tensor(patterns, dtype=integer).view(dtype)
    return -numbers if high < 0 else numbers


def _ascending(numbers: Tensor) -> Tensor:
    """Sorted by value without repetition, -0.0 before 0.0."""
    # As signed integers the patterns run from -0.0 down to -inf, then from 0.0 up to inf.
    unique = torch.unique(numbers.view(_INTEGER[numbers.dtype])).view(numbers.dtype)
    below = unique.signbit()
    return torch.cat([unique[below].flip(0), unique[~below]])
