"""The worst error of a candidate over a set of logits."""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error


class Worst(NamedTuple):
    """Where a candidate is farthest from the truth.

    ulp: largest error in ULP, over the points whose true result is a normal number.
    logit: the logit that has it.
    points: how many such points there are.
    below: largest error in smallest subnormals, beyond what `relative` allows, over the points
        whose true result is below every normal number; a result of 0 is right there, as
        platforms may flush.
    """

    ulp: float
    logit: float
    points: int
    below: float


def worst_error(
    logits: Tensor,
    computed: Tensor,
    truth: Truth,
    *,
    of_scale: bool = False,
    relative: float = 0.0,
    headroom: float = 1.0,
) -> Worst:
    """Compare results with the truth at each logit.

    Args:
        logits, computed, truth: one of each a point.
        of_scale: as in `ulp_error`.
        relative: error in ULP that is allowed at the smallest normal number, `tiny`. Below it
            the spacing stays what it was, and the same relative error is
            ``relative * truth / tiny`` smallest subnormals.
        headroom: how many times `tiny` a result has to be to count as normal: more than 1 where a
            platform takes subnormal numbers for 0, those of intermediate results too.
    """
    tiny = torch.finfo(computed.dtype).tiny
    magnitude = truth.scale if of_scale else truth.hi.abs()
    normal = magnitude >= headroom * tiny
    error = ulp_error(computed, truth, of_scale=of_scale)
    flushed = (computed == 0) | normal
    below = torch.where(flushed, 0.0, error - relative * magnitude / tiny)
    at_normal = torch.where(normal, error, -1.0)
    index = int(at_normal.argmax())
    return Worst(
        ulp=max(float(at_normal[index]), 0.0),
        logit=float(logits[index]),
        points=int(normal.sum()),
        below=float(below.max()),
    )
