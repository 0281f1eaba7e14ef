"""The sum of a binary focal loss over all its elements, in one pass over blocks.

Several losses are this one at a target, an exponent and a factor of their own for each element.
How these come from what the loss is given is its arrangement, which is made a block at a time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import closed_form, odds
from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import computation, is_ordinary
from parfocal.numerics.closed_form import Gamma, Share, shares
from parfocal.numerics.elementwise_sum import Weight, elementwise_sum


class Arranged(NamedTuple):
    """The arguments of a binary focal loss."""

    y: Tensor
    gamma: Gamma
    share: Share = None


Arrangement = Callable[..., Arranged]


def focal_sum(
    x: Tensor,
    arrangement: Arrangement,
    *tensors: Tensor | None,
    epsilon: float = 0.0,
    weight: Weight = None,
    mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor | None:
    """scale times the sum of weight share L where the mask is True, differentiable in x.

    Args:
        x: logits of any shape and floating dtype.
        arrangement: from `tensors`, in the dtype of the computation, the arguments of the loss.
        tensors, weight, mask, scale: as in `elementwise_sum`.
        epsilon: as in `focal`.

    Returns:
        As `elementwise_sum`; there is always a form that is right.
    """

    def quick(
        x: Tensor, *given: Any, weight: Weight, scale: float, out: Tensor | None
    ) -> float | None:
        y, gamma, share = arrangement(*given)
        return odds.total(x, y, rounded(gamma, x.dtype), share, weight, scale, out)

    def general(x: Tensor, *given: Any, weight: Weight, scale: float, out: Tensor | None) -> float:
        y, gamma, share = arrangement(*given)
        ordinary, gamma = is_ordinary(x), rounded(gamma, x.dtype)
        if weight is not None:
            share = weight if share is None else shares(y, share) * weight
        return closed_form.total(x, y, gamma, epsilon, share, scale, out, ordinary=ordinary)

    def composition(x: Tensor, *given: Any) -> Tensor:
        y, gamma, share = arrangement(*given)
        loss = focal(x, y, gamma, epsilon)
        return loss if share is None else shares(y, share) * loss

    is_quick = computation(x) == torch.float32 and not epsilon
    forms = (quick, general) if is_quick else (general,)
    return elementwise_sum(x, forms, composition, *tensors, weight=weight, mask=mask, scale=scale)
