"""Which backend computes a call; asked once, here, by what its tensors are.

A backend is a module of functions that may compute as they like: `pointwise`, `elementwise_values`,
`elementwise_sum`, `class_values`, `class_sum`, `asymmetric_values`, `region_power`,
`class_region_power`, `opposed`, each of which gives None for what it can't do; and
`elementwise_slopes`, `elementwise_rescale`, `class_slopes`, `class_rescale`, `region_slope`,
`class_region_slope`, which end what these have begun. What has no backend, or gets None, is left to
the composition of torch's operations, which is right for any device and any order of derivative,
and which all backends are compared with.
"""

import functools
import importlib
import logging
from types import ModuleType

import torch
from torch import Tensor

from parfocal.numerics import cpu
from parfocal.numerics.closed_form import is_exporting
from parfocal.numerics.tracing import gpu_of, is_readable, is_watched, varies


def backend_of(*tensors: object) -> ModuleType | None:
    """The backend for all these tensors; what else is among them is not asked."""
    if is_readable(*tensors):
        return cpu
    device = gpu_of(*tensors)
    return kernels() if device is not None and has_kernels(device) else None


def has_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels run on this device."""
    backend = kernels()
    return backend is not None and backend.works_on(device)


# A compiler calls it and takes the answer for granted. torch.compiler.assume_constant_result sets
# the same, but imports the compiler for that.
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_compiled_for_kernels(x: Tensor, *tensors: object) -> bool:
    """Whether torch.compile traces a call, in which x alone is differentiated, for such a device.

    An export is left to the composition, which whoever loads it can run without this package.
    """
    return (
        torch.compiler.is_compiling()
        and not is_exporting()
        and _is_for_kernels(x)
        and not varies(*tensors)
        and not is_watched(x, *tensors)
    )


def _is_for_kernels(x: Tensor) -> bool:
    return x.is_cuda and has_kernels(x.device)


@functools.cache
def kernels() -> ModuleType | None:
    """The backend of GPUs, where Triton is installed; imported when it is asked for."""
    try:
        return importlib.import_module("parfocal.numerics.triton")
    except ImportError as error:
        logging.getLogger("parfocal").info("no Triton kernels: %s", error)
        return None
