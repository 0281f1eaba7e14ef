"""Elementwise forms, evaluated in blocks that stay in the cache of a processor.

On a CPU the time of a closed form goes into the pages of its temporaries: each is fetched from the
operating system, cleared, written once and read once. In blocks the temporaries are small, are
found in the cache, and get the memory of those of the block before. Nothing else changes: an
element is computed by the same operations, whatever block it is in.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.numerics.closed_form import ORDINARY
from parfocal.numerics.memory import fresh, keep_temporaries

# Elements for each thread: a dozen temporaries of float32 fit a cache of 4 MB, and an operation
# takes ten times as long as its call. A multiple of every vector length, so that no element falls
# to the scalar rest of a vectorised loop, which may round otherwise.
_PER_THREAD = 2**17


def blockwise(form: Callable[..., Tensor | None], x: Tensor, *arguments: Any) -> Tensor | None:
    """form(x, *arguments), in blocks where that pays; None if the form returns that for a block.

    Args:
        form: an elementwise function of tensors of the shape of x.
        x: logits, float32 or float64; not itself differentiated.
        arguments: tensors of the shape of x, and whatever else the form takes.
    """
    if not is_readable(x):
        return form(x, *arguments)
    out = fresh(x.shape, x.dtype)
    flat = out.view(-1)
    for block, parts in blocks(x, *arguments):
        result = form(*parts)
        if result is None:
            return None
        flat[block] = result
    return out


def blocks(x: Tensor, *arguments: Any) -> Iterator[tuple[slice, list[Any]]]:
    """Where each block is, and the parts there of all tensors."""
    columns = [_flat(given) for given in (x, *arguments)]
    count, size = x.numel(), _PER_THREAD * torch.get_num_threads()
    if count <= size:
        yield slice(None), columns
        return
    keep_temporaries()
    for start in range(0, count, size):
        block = slice(start, min(start + size, count))
        yield block, [given[block] if isinstance(given, Tensor) else given for given in columns]


def computation(x: Tensor) -> torch.dtype:
    """The dtype in which logits are computed with: float32 for 16 bits."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def is_readable(x: Tensor) -> bool:
    """Whether the values of x are at hand: on a CPU, and in no tracer's stand-in for a tensor."""
    return (
        not torch.compiler.is_compiling()
        and x.is_cpu
        and type(x) in (Tensor, nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
    )


def is_ordinary(x: Tensor) -> bool:
    """Whether all logits are at hand and of ordinary size; NaN is not."""
    if not is_readable(x) or x.numel() == 0:
        return False
    low, high = x.aminmax()
    bound = ORDINARY[x.dtype]
    return -bound <= low.item() and high.item() <= bound


def _flat(given: Any) -> Any:
    """A tensor in one dimension, without a copy where its strides allow; anything else as it is."""
    if not isinstance(given, Tensor) or given.ndim == 1:
        return given
    if given.numel() > 1 and not any(given.stride()):  # one number, expanded
        return given[(0,) * given.ndim].expand(given.numel())
    return given.reshape(-1)
