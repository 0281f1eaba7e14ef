"""The focal loss of a negative log-likelihood that something else has computed."""

from torch import Tensor

from parfocal.losses import checks, values
from parfocal.losses.positions import Positions
from parfocal.numerics.forms import Likelihood


def likelihood_focal_loss(
    nll: Tensor,
    gamma: float | Tensor = 2,
    reduction: str = "none",
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal loss of negative log-likelihoods, exact at every gamma >= 0 and in every precision.

    With ``nll = -log p`` of any probability p, elementwise::

        L = (1 - p) ** gamma (-log p) = (1 - exp(-nll)) ** gamma nll

    It is for models with a likelihood and no logits: the sequences of a CTC loss, a CRF, a decoder
    or a discrete mixture. At ``gamma=0`` it is `nll`. For one sample it is the loss of all its
    parts together, not the sum of a focal loss for each.

    Args:
        nll: Negative log-likelihoods of any shape; float64, float32, float16 or bfloat16. NaN gives
            NaN. An infinity, such as ``ctc_loss`` has for a target longer than its input, gives an
            infinity, and no gradient flows to it. Numbers down to ``-2 ** -7`` are treated as a
            rounded 0: at ``gamma > 0`` loss and gradient are 0 there.
        gamma: Focusing exponent, in [0, 2 ** 20]. May be a tensor that broadcasts against `nll`.
        reduction, weight, mask, normalizer: as in `sigmoid_focal_loss`.

    Returns:
        The loss, of the shape of `nll` for ``reduction="none"``, else a scalar; in the dtype of
        `nll`, under autocast in float32 at least.

    Raises:
        TypeError: integer or complex `nll`; else as `sigmoid_focal_loss`.
        ValueError: where checking is free, an `nll` below ``-2 ** -7`` that isn't masked, since p
            is then no probability; elsewhere, such as on a GPU, its loss is NaN. Else as
            `sigmoid_focal_loss`.

    The loss is for probabilities. A density may exceed 1, where ``1 - p`` makes no sense as a
    factor. Turn a density into the probability of a small cell, ``nll - log(cell)``.

    `nll`, `gamma` and `weight` may require gradients. The loss is ``nll ** (1 + gamma)`` near 0,
    and its gradient 0 at 0. Derivatives of every order are finite: above the first they are those
    at ``tiny ** (1 / 4)`` below it, 3e-10 in float32, and 0 at ``nll = 0`` for ``gamma < 1``, where
    the true second derivative is infinite. Reverse and forward mode, ``torch.func`` and
    ``torch.compile(fullgraph=True)`` work.

    Accuracy: value, gradient and gamma-gradient within 4 + 2 gamma ULP in float64 and float32, 1
    ULP in 16 bits, for the given `nll`: its own error counts 1 + gamma times near 0.

    Example:
        >>> import torch
        >>> from parfocal import likelihood_focal_loss
        >>> nll = torch.tensor([0.0, 1e-9, 2.0], requires_grad=True)
        >>> likelihood_focal_loss(nll, gamma=0.5).sum().backward()
        >>> nll.grad
        tensor([0.0000e+00, 4.7434e-05, 1.0754e+00])

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4; of a
    sequence: Feng et al., "Focal CTC Loss for Chinese Optical Character Recognition on Unbalanced
    Datasets", Complexity 2019.
    """
    call = "likelihood_focal_loss"
    checks.likelihoods(call, nll)
    positions = Positions(weight, mask, reduction, normalizer)
    no_targets = nll.detach().new_zeros(()).expand_as(nll)
    positions = positions.check(call, nll, no_targets)
    values.likelihoods(call, nll, positions.mask)
    return positions.apply(call, likelihood(call, gamma, nll), nll, no_targets)


def likelihood(call: str, gamma: float | Tensor, inputs: Tensor | None = None) -> Likelihood:
    """The loss with its number checked."""
    return Likelihood(checks.gamma(call, gamma, inputs))
