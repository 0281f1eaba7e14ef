"""The margins of a pass, counted in bins, as JSON takes them: a training as a histogram."""

from typing import Any

import torch
from torch import Tensor

from parfocal.guard.form import Form
from parfocal.guard.loss_call import LossCall

FORMAT = "parfocal margins 1"

# Of the bins, half a unit wide; what is beyond is counted in a first and a last one.
FARTHEST = 60.0
_EDGES = torch.arange(-FARTHEST, FARTHEST + 0.5, 0.5, device="cpu")


def margins_of(call: LossCall, form: Form, step: int) -> dict[str, Any]:
    """The histogram of one pass.

    Keys: `format`; `step`; `loss`, its name; `dtype` of the logits; `edges` of the bins, ascending;
    `zeros` and `ones`, the counts of the margins at targets 0 and 1, one more than there are
    edges: the first is of all below the first edge, the last of those from the last edge on. A
    softmax has its margins in `ones`: p_t is the sigmoid of its margin too. NaN isn't counted.
    """
    with torch.no_grad():
        u = form.margins(call).float()
        counts = ~u.isnan()
        counted = form.counts(call)
        if counted is not None:
            counts &= counted
        is_one = form.is_one(call) if form.is_binary else torch.ones_like(counts)
        zeros, ones = (_histogram(u[counts & side]) for side in (~is_one, is_one))
    return {
        "format": FORMAT,
        "step": step,
        "loss": getattr(call.loss, "__name__", type(call.loss).__name__),
        "dtype": str(call.logits.dtype).removeprefix("torch."),
        "edges": _EDGES.tolist(),
        "zeros": zeros,
        "ones": ones,
    }


def _histogram(u: Tensor) -> list[int]:
    bins = torch.bucketize(u.cpu(), _EDGES, right=True)
    return torch.bincount(bins, minlength=len(_EDGES) + 1).tolist()
