"""The penalty-reduced focal loss of heat maps, in which objects are Gaussian bumps."""

from torch import Tensor

from parfocal.losses import checks, numbers, values
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Gaussian


def gaussian_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma: float | Tensor = 2,
    beta: float = 4,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Penalty-reduced focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(inputs)`` and ``y = targets``, elementwise::

        L = (1 - p) ** gamma (-log p)                             where y = 1
        L = (1 - y) ** beta p ** gamma (-log(1 - p))              elsewhere

    CornerNet calls the exponents alpha and beta, mmdetection alpha and gamma; both clamp p.

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`: 1 at the centre of an object, less around it, in [0, 1]. Data:
            no gradient flows to them.
        gamma: Focusing exponent, >= 0; may be a tensor that broadcasts.
        beta: Exponent with which negatives near a centre count less, >= 0.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`. The papers divide the sum
            by the number of centres: ``normalizer=positive_count(targets == 1)``.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`.

    Accuracy: value and gradient within 4 + 2 gamma + 1 ULP in float64 and float32 where
    ``(1 - y) ** beta`` is exact, else one more and beta times that of ``1 - y``; 1 ULP in 16 bits
    at targets 0 and 1. Derivatives of every order are finite.

    Example:
        >>> import torch
        >>> from parfocal import gaussian_focal_loss
        >>> gaussian_focal_loss(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 0.5, 0.0]))
        tensor([0.0018, 0.1031, 1.6501])

    Source: Law and Deng, "CornerNet: Detecting Objects as Paired Keypoints", ECCV 2018, equation 1.
    """
    call = "gaussian_focal_loss"
    positions = Positions(weight, mask, reduction, normalizer).check(call, inputs, targets)
    loss = gaussian(call, gamma, beta, inputs)
    values.heat_map(call, targets)
    return positions.apply(call, loss, inputs, targets.detach())


def gaussian(
    call: str, gamma: float | Tensor, beta: float, inputs: Tensor | None = None
) -> Gaussian:
    """The loss with its numbers checked."""
    return Gaussian(checks.gamma(call, gamma, inputs), numbers.exponent(call, "beta", beta))
