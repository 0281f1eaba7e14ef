"""The classification cost with which matchers of the DETR family assign queries to objects."""

import torch
from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.reduction import to_input_dtype, widen
from parfocal.numerics import opposed


@torch.no_grad()
def focal_matching_cost(
    inputs: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2
) -> Tensor:
    r"""Focal cost of assigning each object's class to each query; finite in 16 bits, no gradient.

    With ``p = sigmoid(inputs)[..., n, labels[m]]``::

        cost[..., n, m] = alpha (1 - p) ** gamma (-log p) - (1 - alpha) p ** gamma (-log(1 - p))

    Args:
        inputs: Logits of N queries and C classes, (..., N, C); float64, float32, float16 or
            bfloat16.
        labels: Classes of M objects, (M), of an integer dtype.
        alpha: Share of the positive class, in [0, 1].
        gamma: Focusing exponent, >= 0.

    Returns:
        (..., N, M), in the dtype of `inputs`, under autocast in float32 at least. Finite for finite
        logits, and never beyond their largest magnitude by more than log 2.

    Raises:
        TypeError: logits or labels of the wrong type.
        ValueError: shapes that don't fit, numbers out of their range.

    Accuracy: the two terms have opposite signs; the error is within 6 + 2 gamma ULP of the sum of
    their absolute values in float64 and float32, 1 ULP in 16 bits where they don't cancel.

    Example:
        >>> import torch
        >>> from parfocal import focal_matching_cost
        >>> logits = torch.tensor([[9.0, -9.0], [0.0, 1.0]], dtype=torch.float16)
        >>> focal_matching_cost(logits, torch.tensor([0, 1, 1]))
        tensor([[-6.7500,  2.2500,  2.2500],
                [-0.0867, -0.5205, -0.5205]], dtype=torch.float16)

    Source: Zhu et al., "Deformable DETR", ICLR 2021, appendix A.4; the cost of the authors' code.
    """
    call = "focal_matching_cost"
    checks.logits(call, inputs)
    checks.labels(call, labels, inputs)
    alpha, gamma = matching(call, alpha, gamma)
    x, labels = widen(inputs), labels.long()
    if labels.numel() < x.shape[-1]:  # few of the classes are asked for
        return to_input_dtype(opposed(x.index_select(-1, labels), alpha, gamma), inputs)
    return to_input_dtype(opposed(x, alpha, gamma).index_select(-1, labels), inputs)


def matching(call: str, alpha: float, gamma: float) -> tuple[float, float]:
    """alpha and gamma, checked."""
    return numbers.fraction(call, "alpha", alpha), numbers.exponent(call, "gamma", gamma)
