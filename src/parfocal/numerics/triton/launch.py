"""Where kernels can be launched, on which device, and what becomes of their partial sums.

A kernel's programs write a partial sum each; one more program adds them up, always in the same
order. There are no atomics, and no number is brought to the host.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOGGER = logging.getLogger("parfocal")

# Partial sums that the last program adds at a time.
_WIDTH = 8192


class Scale:
    """What a sum is divided by: a number, known on the host, or a tensor of one on the device."""

    def __init__(self, divisor: float | Tensor, device: torch.device) -> None:
        if isinstance(divisor, Tensor) and divisor.is_cpu and device.type != "cpu":
            divisor = divisor.item()  # it is on the host already
        is_tensor = isinstance(divisor, Tensor)
        self.divisor = divisor if is_tensor else None
        self.factor = 1.0 if is_tensor else _inverse(float(divisor))


def _inverse(divisor: float) -> float:
    """1 / divisor as a kernel computes it: infinite for 0."""
    return 1.0 / divisor if divisor else float("inf")


@triton.jit
def scale_of(factor, divisor_ptr, incoming_ptr):
    """The factor of all slopes: that of the host, over the divisor, times what comes in."""
    scale = factor
    if divisor_ptr is not None:
        scale = scale / tl.load(divisor_ptr).to(tl.float32)
    if incoming_ptr is not None:
        scale = scale * tl.load(incoming_ptr).to(tl.float32)
    return scale


@triton.jit
def _add_up(partial_ptr, total_ptr, count, factor, divisor_ptr, WIDTH: tl.constexpr):
    """The sum of all partial sums, in float64, over the divisor."""
    lane = tl.arange(0, WIDTH)
    sums = tl.zeros((WIDTH,), tl.float64)
    for start in range(0, count, WIDTH):
        at = start + lane
        sums += tl.load(partial_ptr + at, mask=at < count, other=0.0).to(tl.float64)
    total = tl.sum(sums) * factor
    if divisor_ptr is not None:
        total = total / tl.load(divisor_ptr).to(tl.float64)
    tl.store(total_ptr, total.to(tl.float32))


def add_up(partials: Tensor, scale: Scale) -> Tensor:
    """The total of the partial sums, over the divisor: a scalar in float32."""
    total = partials.new_empty((), dtype=torch.float32)
    _add_up[(1,)](
        partials, total, partials.numel(), scale.factor, scale.divisor, WIDTH=_WIDTH, num_warps=8
    )
    return total


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Where a launch goes to: Triton takes the current device, which may be another one."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


# What was found of each device.
_works: dict[torch.device, bool] = {}


def works_on(device: torch.device) -> bool:
    """Whether a kernel can be compiled and run there; tried once, and logged if not.

    That memory is short, or that a graph is being captured, will pass: then it is tried again.
    """
    if device not in _works:
        try:
            with torch.cuda.device(device):
                if torch.cuda.is_current_stream_capturing():
                    return False
                add_up(torch.ones(1, device=device), Scale(1.0, device))
        except torch.OutOfMemoryError:
            return False
        except Exception as error:  # a compiler, a driver or the card is missing something
            _LOGGER.warning("no Triton kernels on %s: %s: %s", device, type(error).__name__, error)
            _works[device] = False
        else:
            _works[device] = True
    return _works[device]
