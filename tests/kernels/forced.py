"""The public functions on the kernels, where there is no GPU: tensors of the CPU count as one's."""

import numpy as np
import torch

from kernels.device import DEVICE
from parfocal.numerics import backends, operators
from parfocal.numerics.tracing import is_readable

if DEVICE == "cpu":  # where no call of a user's gets to them
    for name, function in operators.FUNCTIONS.items():
        torch.library.impl(f"parfocal::{name}", "CPU", function)


def use_kernels(patch):
    """Until a test ends, calls that the CPU's backend would take go to the interpreter."""
    np.seterr(all="ignore")  # in the thread of a backward pass too, which has no `errstate`
    if DEVICE == "cpu":
        patch.setattr(backends, "is_readable", lambda *tensors: False)
        patch.setattr(backends, "gpu_of", _gpu_of)
        patch.setattr(backends, "has_kernels", lambda device: True)
        patch.setattr(backends, "_is_for_kernels", lambda x: True)


def _gpu_of(*tensors):
    return torch.device("cpu") if is_readable(*tensors) else None


def to_device(*tensors):
    """Copies where kernels run, each of which requires gradients if it did."""
    return [t.detach().to(DEVICE).requires_grad_(t.requires_grad) for t in tensors]
