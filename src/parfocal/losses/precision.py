"""In which precision a loss is computed, and in which it is given back."""

import torch
from torch import Tensor

from parfocal.numerics import computation


def widened(inputs: Tensor) -> Tensor:
    """The logits in the dtype of the computation."""
    return inputs.to(computation(inputs))


def rounded(loss: Tensor, inputs: Tensor) -> Tensor:
    """The loss in the dtype of the logits, rounded once; under autocast as it was computed."""
    if loss.dtype == inputs.dtype or torch.is_autocast_enabled(inputs.device.type):
        return loss
    return loss.to(inputs.dtype)
