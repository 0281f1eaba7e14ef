"""Memory on a CPU: what a block's temporaries leave is kept, and large results get huge pages.

glibc gives freed memory back to the operating system beyond a threshold that it learns from the
sizes that the process has freed; at first a block's temporaries are above it, and each of them
would be fetched and cleared again. One freed tensor of the largest size that is learned from
teaches it for good. Other allocators keep such memory by themselves.

A large tensor comes from the operating system in pages of 4 kB, each of which is fetched and
cleared at its first touch; for a gradient of 64 MB that takes longer than all its exponentials.
Where Linux has transparent huge pages on request, one request makes the pages 512 times as large.
"""

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

import torch
from torch import Tensor

_HUGE = 2**21

# The largest size that glibc learns from is 32 MB, with its own header.
_LESSON = 2**25 - 2**16

# Less is found again in the memory of the process, already mapped.
_LARGE = 8 * _HUGE


def fresh(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """An empty tensor on the CPU."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    if tensor.nbytes >= _LARGE:
        advise = _madvise()
        if advise is not None:
            start = -(-tensor.data_ptr() // _HUGE) * _HUGE
            end = (tensor.data_ptr() + tensor.nbytes) // _HUGE * _HUGE
            advise(start, end - start, mmap.MADV_HUGEPAGE)  # an advice: its refusal changes nothing
    return tensor


# From here on a temporary of float64 is mapped and cleared anew each time, 128 kB, if not kept.
_MAPPED = 2**14


def prepare_memory(elements: int) -> None:
    """Have what blocks of so many elements read and leave at hand; most of it is done once."""
    load_constants()
    if elements >= _MAPPED:
        keep_temporaries()


@functools.cache
def keep_temporaries() -> None:
    """Have freed temporaries kept for the next block. Touches no memory."""
    torch.empty(_LESSON, dtype=torch.uint8, device="cpu")


@functools.cache
def load_constants() -> None:
    """Have the page of constants in memory that torch's vectorised log1p reads with an empty mask.

    Until something else reads that page, float32 log1p takes 9.5 ns an element instead of 0.5
    (torch 2.14, AVX-512 of an AMD EPYC): a load that is masked out doesn't bring a missing page,
    and is emulated each time. A negative zero reads it.
    """
    torch.full((64,), -0.0, dtype=torch.float32, device="cpu").log1p_()


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """madvise(2) of the C library, on Linux."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = getattr(ctypes.CDLL(None), "madvise", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
