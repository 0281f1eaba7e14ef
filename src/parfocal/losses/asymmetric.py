"""The asymmetric loss of multi-label classification."""

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Asymmetric


def asymmetric_loss(
    inputs: Tensor,
    targets: Tensor,
    gamma_neg: float | Tensor = 4,
    gamma_pos: float | Tensor = 1,
    margin: float = 0.05,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Asymmetric loss of logits, exact in every precision.

    With ``p = sigmoid(inputs)``, ``y = targets`` and ``p_m = max(p - margin, 0)``, elementwise::

        L = y (1 - p) ** gamma_pos (-log p) + (1 - y) p_m ** gamma_neg (-log(1 - p_m))

    A margin above 0 with ``0 < gamma_neg < 1`` has a cusp at ``p = margin``: the slope there is
    infinite, and no implementation can fix that.

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`, values in [0, 1]; a soft target mixes the two losses. Or class
            indices, as in `sigmoid_focal_loss`. Data: no gradient flows to them.
        gamma_neg, gamma_pos: Focusing exponents of the negatives and positives, >= 0; may be
            tensors that broadcast. With a margin, the values of a tensor `gamma_neg` have to be 0
            or at least 1; they are checked where that is free, on a CPU.
        margin: Probability below which a negative adds nothing, in [0, 1). The original's ``clip``.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`. The original sums.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError, IndexError: as `sigmoid_focal_loss`.
        ValueError: ``0 < gamma_neg < 1`` with a margin; else as `sigmoid_focal_loss`.

    Accuracy: positives, and negatives without a margin, as `sigmoid_focal_loss`. With one, the
    error of ``p - margin`` is that of its terms, up to 3 ULP of ``p + margin``, and counts
    ``1 + gamma_neg`` times. At ``p = margin`` derivatives are those from below, 0. Measured errors
    are in ``ledger/records``.

    Example:
        >>> import torch
        >>> from parfocal import asymmetric_loss
        >>> asymmetric_loss(torch.tensor([2.0, 2.0, -4.0]), torch.tensor([1.0, 0.0, 0.0]))
        tensor([0.0151, 0.8464, 0.0000])

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021,
    equations 4 to 7.
    """
    call = "asymmetric_loss"
    positions = Positions(weight, mask, reduction, normalizer)
    positions = positions.check(call, inputs, targets, takes_indices=True)
    loss = asymmetric(call, gamma_neg, gamma_pos, margin, inputs)
    return positions.apply(call, loss, inputs, targets.detach())


def asymmetric(
    call: str,
    gamma_neg: float | Tensor,
    gamma_pos: float | Tensor,
    margin: float,
    inputs: Tensor | None = None,
) -> Asymmetric:
    """The loss with its numbers checked."""
    gamma_neg = checks.gamma(call, gamma_neg, inputs, name="gamma_neg")
    gamma_pos = checks.gamma(call, gamma_pos, inputs, name="gamma_pos")
    margin = numbers.fraction(call, "margin", margin)
    if margin == 1:
        raise ValueError(f"{call}: expected `margin` below 1, since no negative counts at 1")
    if margin > 0 and not isinstance(gamma_neg, Tensor) and 0 < gamma_neg < 1:
        raise ValueError(
            f"{call}: expected `gamma_neg` of 0 or at least 1 with margin={margin}, got "
            f"{gamma_neg}: the slope would be infinite at p = margin; use margin=0"
        )
    return Asymmetric(gamma_neg, gamma_pos, margin)
