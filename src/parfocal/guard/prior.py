"""Whether a training began where a head begins that knows how frequent the classes are."""

import math

import torch
from torch import Tensor

from parfocal.guard.form import Form
from parfocal.guard.loss_call import LossCall
from parfocal.guard.trial import value_and_gradient

# How much larger than that of such a head a first loss may be, and of how many targets at least it
# has to be.
_FORGOTTEN = 2.0
_FEW = 20


def forgotten_prior(first: LossCall, form: Form) -> str | None:
    """What to say of the first pass of a training; None if there is nothing."""
    if first.targets.numel() < _FEW or form.kind == "unknown":
        return None
    own, known = (
        float(value_and_gradient(first, x)[0].float().mean())
        for x in (first.logits, prior_logits(first, form))
    )
    if not (math.isfinite(own) and own > _FORGOTTEN * known > 0):
        return None
    head = "sigmoid" if form.is_binary else "softmax"
    return (
        f"the first loss is {own:.3g}; a head whose bias matches the class frequencies of this "
        f"batch would have {known:.3g}, and the first steps only learn those. If the bias of the "
        f'last layer wasn\'t initialised, parfocal.init_prior_bias_(layer, shares, head="{head}") '
        "does that."
    )


def prior_logits(call: LossCall, form: Form) -> Tensor:
    """Logits that say how frequent each class is in a batch, with half a position added to each.

    Of a sigmoid log(share / (1 - share)), of a softmax log(share).
    """
    x = form.over_classes(call.logits)
    y = (form.is_one(call) if form.has_labels else form.targets(call)).float()
    counts = form.counts(call)
    weight = torch.ones_like(y)
    if counts is not None:
        weight = weight * (counts if counts.ndim == y.ndim else counts.unsqueeze(1))
    dims = [d for d in range(y.ndim) if d != 1 or form.kind == "elementwise"]
    positives, total = (y * weight).sum(dims) + 0.5, weight.sum(dims)
    if form.is_binary:
        share = positives / (total + 1)
        logs = (share / (1 - share)).log()
    else:
        logs = (positives / (total + 0.5 * x.shape[1])).log()
    if logs.ndim:
        logs = logs.view(1, -1, *(1,) * (x.ndim - 2))
    prior = logs.to(x.dtype).expand_as(x)
    return (prior.movedim(1, form.dim) if form.dim != 1 else prior).contiguous()
