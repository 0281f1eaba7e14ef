"""The varifocal loss, for scores that rank detections by their quality."""

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Varifocal


def varifocal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.75,
    gamma: float | Tensor = 2,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Varifocal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(inputs)`` and ``q = targets``, elementwise::

        L = q (-q log p - (1 - q) log(1 - p))         where q > 0
        L = alpha p ** gamma (-log(1 - p))            where q = 0

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`: the quality of a positive, such as its overlap with the true
            box, in (0, 1]; 0 for a negative. Data: no gradient flows to them.
        alpha: Factor of the negatives, in [0, 1].
        gamma: Focusing exponent of the negatives, >= 0; may be a tensor that broadcasts.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError, ValueError: as `sigmoid_focal_loss`.

    Accuracy: value and gradient of negatives within 4 + 2 gamma + 1 ULP in float64 and float32, of
    positives within 5 ULP of their terms; 1 ULP in 16 bits. Derivatives of every order are finite.

    Example:
        >>> import torch
        >>> from parfocal import varifocal_loss
        >>> varifocal_loss(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]), gamma=0.5)
        tensor([0.4215, 1.4971])

    Source: Zhang et al., "VarifocalNet: An IoU-aware Dense Object Detector", CVPR 2021, equation 2.
    """
    call = "varifocal_loss"
    positions = Positions(weight, mask, reduction, normalizer).check(call, inputs, targets)
    loss = varifocal(call, alpha, gamma, inputs)
    return positions.apply(call, loss, inputs, targets.detach())


def varifocal(
    call: str, alpha: float, gamma: float | Tensor, inputs: Tensor | None = None
) -> Varifocal:
    """The loss with its numbers checked."""
    return Varifocal(numbers.fraction(call, "alpha", alpha), checks.gamma(call, gamma, inputs))
