"""A head that begins by predicting how rare positives are."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def init_prior_bias_(layer: Layer, prior: float | Tensor = 0.01) -> Layer:
    r"""Set the bias of a sigmoid classification head so that it predicts `prior`; in place.

    ::

        bias = log(prior / (1 - prior))

    Without it the first steps see half of all negatives as positives, and their loss drowns
    everything else.

    Args:
        layer: The last layer, with a `bias`: nn.Linear, nn.Conv2d, and the like.
        prior: Share of positives, in (0, 1): a number, or a tensor of one a class that broadcasts
            to the bias.

    Returns:
        The layer.

    Raises:
        TypeError: a layer without a bias.
        ValueError: a prior out of (0, 1), or of a shape that doesn't fit.

    Example:
        >>> import torch
        >>> from parfocal import init_prior_bias_
        >>> layer = init_prior_bias_(torch.nn.Linear(8, 2), prior=0.01)
        >>> layer.bias.sigmoid()
        tensor([0.0100, 0.0100], grad_fn=<SigmoidBackward0>)

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
    """
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        raise TypeError(f"init_prior_bias_: expected `layer` to have a bias, got {layer}")
    given = torch.as_tensor(prior, dtype=torch.float64)
    if not bool(((given > 0) & (given < 1)).all()):
        raise ValueError(f"init_prior_bias_: expected `prior` in (0, 1), got {prior}")
    if given.ndim > bias.ndim or any(
        n not in (1, m) for n, m in zip(reversed(given.shape), reversed(bias.shape), strict=False)
    ):
        raise ValueError(
            f"init_prior_bias_: expected `prior` to broadcast to the bias, {tuple(bias.shape)}, "
            f"got the shape {tuple(given.shape)}"
        )
    with torch.no_grad():
        bias.copy_(torch.log(given) - torch.log1p(-given))
    return layer
