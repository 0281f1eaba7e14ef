"""The binary focal loss of logits, for single-label and multi-label problems."""

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Focal


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor | None = 0.25,
    gamma: float | Tensor = 2,
    reduction: str = "none",
    *,
    epsilon: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Binary focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = sigmoid(inputs)`` and ``y = targets``, elementwise::

        p_t     = y p + (1 - y) (1 - p)
        ce      = -y log p - (1 - y) log(1 - p)
        alpha_t = y alpha + (1 - y) (1 - alpha)
        L       = alpha_t (1 - p_t + epsilon) ** gamma ce

    The first five parameters, their order and defaults are those of
    ``torchvision.ops.sigmoid_focal_loss``. At ``gamma=0, alpha=None`` the loss is
    ``F.binary_cross_entropy_with_logits``.

    Args:
        inputs: Logits of any shape; float64, float32, float16 or bfloat16. NaN gives NaN, an
            infinity gives the limit.
        targets: Shape of `inputs`, values in [0, 1], any real dtype. A soft target follows the
            formula: one loss at a mixed probability, not a mixture of two losses. For `inputs` of
            shape (N, C, ...) also class indices (N, ...) of an integer dtype: y is 1 at the class
            of the index and 0 elsewhere; the index C, the background of detectors, is no class. All
            other arguments and the mean apply to the C targets of each index.
        alpha: Share of the positive class, in [0, 1]; the negative class gets ``1 - alpha``.
            ``None`` or a negative number turns it off. May be a tensor that broadcasts against
            `inputs`.
        gamma: Focusing exponent, in [0, 2 ** 20]. May be a tensor that broadcasts against `inputs`;
            its values are checked where that is free, on a CPU.
        reduction: ``"none"``, ``"mean"`` (over the unmasked positions) or ``"sum"``.
        epsilon: Smoothing constant of van Leeuwen et al., >= 0. The default 0 is the exact
            loss. A positive constant gives another function, with other gradients.
        weight: Factor per position; broadcasts against `inputs`. It doesn't change what a mean
            divides by.
        mask: Boolean, or integers with 0 for False; broadcasts against `inputs`; True where a
            position counts. Elsewhere the loss and all its gradients are exactly 0, whatever
            `inputs`, `targets` and `weight` hold there, NaN included.
        normalizer: Positive number, or tensor of one element, that the sum is divided by; with
            ``reduction="sum"`` only.

    Returns:
        The loss, of the shape of `inputs` for ``reduction="none"``, else a scalar; in the dtype
        of `inputs`, under autocast in float32 at least, like PyTorch's own losses.

    Raises:
        TypeError: integer or complex logits, complex targets, a mask of floating-point numbers.
        ValueError: shapes or devices that don't fit, a negative or NaN gamma, alpha above 1, a
            negative epsilon, an unknown reduction, a normalizer without ``reduction="sum"``; where
            checking is free, targets outside [0, 1].
        IndexError: where checking is free, class indices outside [0, C] that aren't masked;
            elsewhere, such as on a GPU, the losses of such a row are NaN.

    The mean over no positions (empty, or all masked) is NaN, as in PyTorch. For 0 instead, use
    ``reduction="sum", normalizer=mask.sum().clamp(min=1)``.

    `inputs`, soft `targets`, `alpha`, `gamma` and `weight` may require gradients. Derivatives of
    every order in `inputs` and `gamma` are finite; in `targets` they are exact up to the second
    order. Reverse and forward mode, ``torch.func`` and ``torch.compile(fullgraph=True)`` work.

    Accuracy: value, gradient and gamma-gradient at hard targets are within 4 + 2 gamma ULP in
    float64 and float32, and within 1 ULP in float16 and bfloat16, which are computed in float32
    and rounded once. Measured errors are in ``ledger/records``.

    Example:
        >>> import torch
        >>> from parfocal import sigmoid_focal_loss
        >>> logits = torch.tensor([20.0, -1.0], requires_grad=True)
        >>> loss = sigmoid_focal_loss(logits, torch.tensor([1.0, 0.0]), gamma=0.5)
        >>> loss.sum().backward()
        >>> logits.grad
        tensor([-3.5091e-14,  1.4914e-01])

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5; epsilon:
    van Leeuwen et al., "A Note On The Stability Of The Focal Loss", TMLR 2025.
    """
    call = "sigmoid_focal_loss"
    positions = Positions(weight, mask, reduction, normalizer)
    positions = positions.check(call, inputs, targets, takes_indices=True)
    return positions.apply(call, focal(call, alpha, gamma, epsilon, inputs), inputs, targets)


def focal(
    call: str,
    alpha: float | Tensor | None,
    gamma: float | Tensor,
    epsilon: float,
    inputs: Tensor | None = None,
) -> Focal:
    """The loss with its numbers checked."""
    gamma = checks.gamma(call, gamma, inputs)
    alpha = checks.alpha(call, alpha, inputs)
    return Focal(gamma, alpha, numbers.smoothing(call, epsilon, gamma))
