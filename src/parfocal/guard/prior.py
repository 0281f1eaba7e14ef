"""Whether a training began where a head begins that knows how frequent the classes are."""

import math

import torch
from torch import Tensor

from parfocal.guard.diagnosis import value_and_gradient
from parfocal.guard.loss_call import Pass

# How much larger than that of such a head a first loss may be, and of how many positions at least
# it has to be.
_FORGOTTEN = 2.0
_FEW = 20


def forgotten_prior(first: Pass) -> str | None:
    """What to say of the first pass of a training; None if there is nothing."""
    if first.targets.numel() < _FEW:
        return None
    loss, _ = value_and_gradient(first, first.logits)
    expected, _ = value_and_gradient(first, prior_logits(first))
    own, told = float(loss.float().mean()), float(expected.float().mean())
    if not (math.isfinite(own) and own > _FORGOTTEN * told > 0):
        return None
    return (
        f"the first loss is {own:.3g}, and a head that predicts how frequent each class of this "
        f"batch is would have {told:.3g}: was the bias initialised? parfocal.init_prior_bias_ does "
        "that."
    )


def prior_logits(seen: Pass) -> Tensor:
    """Logits that say how frequent each class is in a batch, with half a position added to each."""
    x, y = seen.logits, seen.targets
    if seen.kind == "binary":
        share = (float(y.float().sum()) + 0.5) / (y.numel() + 1)
        return torch.full_like(x, math.log(share / (1 - share)))
    counts = torch.bincount(y[(y >= 0) & (y < x.shape[1])].flatten(), minlength=x.shape[1]) + 0.5
    logs = (counts / counts.sum()).log().to(x.dtype)
    return logs.view(1, -1, *(1,) * (x.ndim - 2)).expand_as(x).contiguous()
