"""The quality focal loss: a focal loss of soft labels, that vanishes where p is the label."""

from torch import Tensor

from parfocal.losses import numbers
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Focal, Quality


def quality_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    beta: float = 2,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Quality focal loss of logits, exact in every precision.

    With ``p = sigmoid(inputs)`` and ``y = targets``, elementwise::

        L = |y - p| ** beta (-y log p - (1 - y) log(1 - p))

    At labels 0 and 1 this is `sigmoid_focal_loss` with ``gamma=beta, alpha=None``, at every beta.
    Between them it has a cusp at ``p = y`` for beta < 1: the slope there is infinite, and no
    implementation can fix that.

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`: the quality of a positive, in [0, 1]; 0 for a negative. Data:
            no gradient flows to them.
        beta: Exponent, >= 1; at targets of an integer or boolean dtype, which are hard, >= 0.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError: as `sigmoid_focal_loss`.
        ValueError: beta < 1 with targets of a floating dtype; else as `sigmoid_focal_loss`.

    Accuracy: at labels 0 and 1 as `sigmoid_focal_loss`. Between them the error of ``y - p`` is
    that of its terms, up to 3 ULP of ``y (1 - p) + (1 - y) p``, and counts beta times. At ``p = y``
    the true second derivative is infinite for 1 < beta < 2; 0 is returned.

    Example:
        >>> import torch
        >>> from parfocal import quality_focal_loss
        >>> quality_focal_loss(torch.tensor([2.0, 2.0]), torch.tensor([0.8, 0.0]))
        tensor([0.0034, 1.6501])

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 4.
    """
    call = "quality_focal_loss"
    positions = Positions(weight, mask, reduction, normalizer).check(call, inputs, targets)
    beta = numbers.exponent(call, "beta", beta)
    if beta < 1 and targets.is_floating_point():
        raise ValueError(
            f"{call}: expected `beta` >= 1, got {beta}: for soft labels the slope is infinite "
            "where p is the label; with labels of an integer or boolean dtype any `beta` >= 0 works"
        )
    # Targets of another dtype are hard, at which it is the focal loss.
    loss = quality(call, beta) if targets.is_floating_point() else Focal(beta)
    return positions.apply(call, loss, inputs, targets.detach())


def quality(call: str, beta: float) -> Quality:
    """The loss with its number checked."""
    return Quality(numbers.exponent(call, "beta", beta))
