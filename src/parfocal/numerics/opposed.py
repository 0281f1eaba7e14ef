"""Both focal losses of a logit, one against the other: that it is positive, that it is negative.

With the odds e = exp(-x) against the positive class, and those 1 / e against the negative one,

    C = alpha q ** gamma log1p(e) - (1 - alpha) p ** gamma log1p(1 / e)

in the notation of `odds`, whose precision it has.
"""

from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.autograd import focal, rounded
from parfocal.numerics.blocks import blockwise, is_ordinary, is_readable


def opposed(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """C of each element, not itself differentiated; alpha in [0, 1], gamma as in `focal`."""
    if x.dtype == torch.float32 and is_readable(x) and is_ordinary(x):
        result = blockwise(_ordinary, x, alpha, rounded(gamma, x.dtype))
        assert result is not None
        return result
    one = torch.ones_like(x)
    return alpha * focal(x, one, gamma) - (1 - alpha) * focal(x, 1 - one, gamma)


def _ordinary(x: Tensor, alpha: float, gamma: Any) -> Tensor:
    e = x.double().neg_().exp_()
    positive, negative = e.float().log1p_(), e.reciprocal().float().log1p_()
    p = (e + 1).reciprocal_()
    q = e.mul_(p).float()
    positive.mul_(q.pow_(gamma)).mul_(alpha)
    negative.mul_(p.float().pow_(gamma))
    return positive.sub_(negative, alpha=1 - alpha)
