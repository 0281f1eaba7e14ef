"""Poly-1: the focal loss with one more term of its expansion in 1 - p_t."""

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Poly


def poly_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor | None = None,
    gamma: float | Tensor = 2,
    reduction: str = "none",
    *,
    epsilon_1: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Poly-1 focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(inputs)``, ``y = targets`` and ``p_t = y p + (1 - y) (1 - p)``, elementwise::

        L = alpha_t ((1 - p_t) ** gamma ce + epsilon_1 (1 - p_t) ** (gamma + 1))

    with ce and alpha_t as in `sigmoid_focal_loss`. Some implementations omit alpha_t from the
    second term.

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16.
        targets: Shape of `inputs`, values in [0, 1], or class indices, as in `sigmoid_focal_loss`.
            Data: no gradient flows to them.
        alpha, gamma: as in `sigmoid_focal_loss`; alpha is off by default.
        epsilon_1: Factor of the added term, a finite number >= -1, at which the leading term
            vanishes. Not a smoothing constant.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError, ValueError, IndexError: as `sigmoid_focal_loss`; `epsilon_1` below -1.

    Accuracy: value and gradient at hard targets and ``epsilon_1 >= 0`` within 4 + 2 (gamma + 1) + 1
    ULP in float64 and float32, 1 ULP in 16 bits. Below 0 the two terms cancel, and the error is
    that of their absolute values. Derivatives of every order are finite.

    Example:
        >>> import torch
        >>> from parfocal import poly_focal_loss
        >>> poly_focal_loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]), gamma=0.5)
        tensor([0.0850, 2.8228])

    Source: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions", ICLR 2022, section 4.
    """
    call = "poly_focal_loss"
    positions = Positions(weight, mask, reduction, normalizer)
    positions = positions.check(call, inputs, targets, takes_indices=True)
    loss = poly(call, alpha, gamma, epsilon_1, inputs)
    return positions.apply(call, loss, inputs, targets.detach())


def poly(
    call: str,
    alpha: float | Tensor | None,
    gamma: float | Tensor,
    epsilon_1: float,
    inputs: Tensor | None = None,
) -> Poly:
    """The loss with its numbers checked."""
    epsilon_1 = numbers.number(call, "epsilon_1", epsilon_1)
    numbers.non_negative(call, "epsilon_1 + 1", epsilon_1 + 1)
    return Poly(checks.gamma(call, gamma, inputs), epsilon_1, checks.alpha(call, alpha, inputs))
