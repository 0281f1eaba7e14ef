"""The probes, launched on tensors: a function's results for an array of numbers."""

import torch
from torch import Tensor

from kernels import probes
from kernels.device import DEVICE
from parfocal.numerics.triton.arithmetic import exponent

# The interpreter takes a block at a time, so they are few there.
BLOCK = 65536 if DEVICE == "cpu" else 1024


def _launch(kernel, inputs: tuple[Tensor, ...], outputs: int, *numbers, **constants):
    """What an elementwise kernel stores, on the CPU; NaN where it stored nothing."""
    given = [x.to(DEVICE).contiguous() for x in inputs]
    results = [torch.full_like(given[0], float("nan")) for _ in range(outputs)]
    n = given[0].numel()
    kernel[(-(-n // BLOCK),)](*given, *results, n, *numbers, **constants, BLOCK=BLOCK)
    return [result.cpu() for result in results]


def function(name: str, x: Tensor) -> Tensor:
    """`exp_of_minus`, `log`, `reciprocal`, or `share`: x / (1 + x)."""
    return _launch(probes.function, (x,), 1, NAME=name)[0]


def log2_parts(x: Tensor) -> list[Tensor]:
    """The whole number, the high and the low part."""
    return _launch(probes.log2_parts, (x,), 3)


def power(x: Tensor, gamma: float) -> Tensor:
    """x ** gamma."""
    return _launch(probes.power, (x,), 1, gamma)[0]


def logistic(u: Tensor, grade: int) -> list[Tensor]:
    """log1p(exp(-|u|)), s(u) and s(-u)."""
    return _launch(probes.logistic, (u,), 3, GRADE=grade)


def modulating_factor(u: Tensor, softplus: Tensor, gamma: float, grade: int) -> Tensor:
    """q ** gamma of a margin u, softplus being log1p(exp(-|u|))."""
    told = exponent(gamma)
    return _launch(probes.modulating_factor, (u, softplus), 1, told.c, told.c_rest, GRADE=grade)[0]


def value_and_slope(x: Tensor, y: Tensor, gamma: float, grade: int) -> list[Tensor]:
    """The focal loss of logits and hard targets, and its derivative."""
    return _launch(probes.value_and_slope, (x, y), 2, *exponent(gamma), GRADE=grade)
