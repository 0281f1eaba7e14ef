"""Both focal losses of a logit, one against the other: that it is positive, that it is negative.

With the odds e = exp(-x) against the positive class, and those 1 / e against the negative one,

    C = alpha q ** gamma log1p(e) - (1 - alpha) p ** gamma log1p(1 / e)

in the notation of `hard`, whose precision it has.
"""

import torch
from torch import Tensor

from parfocal.numerics.autograd import focal
from parfocal.numerics.backends import backend_of


def opposed(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """C of each element, not itself differentiated; alpha in [0, 1], gamma as in `focal`."""
    backend = backend_of(x)
    result: Tensor | None = None if backend is None else backend.opposed(x, alpha, gamma)
    if result is not None:
        return result
    one = torch.ones_like(x)
    return alpha * focal(x, one, gamma) - (1 - alpha) * focal(x, 1 - one, gamma)
