"""What the losses of the family are compared with: public implementations, called alike.

Where no package that installs has the loss, it is written here as it usually is: probabilities,
logarithms of clamped ones, and autograd for the rest.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def varifocal(x: Tensor, q: Tensor) -> Tensor:
    """The usual form: a weight of each position times the binary cross-entropy."""
    p = x.sigmoid()
    weight = torch.where(q > 0, q, 0.75 * (p - q).abs() ** 2)
    return (weight * F.binary_cross_entropy_with_logits(x, q, reduction="none")).mean()


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """The usual form: logarithms of clamped probabilities."""
    p = x.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = -((1 - p) ** 2) * p.log() * (y == 1)
    negative = -((1 - y) ** 4) * p**2 * (1 - p).log() * (y < 1)
    return (positive + negative).mean()


def quality(x: Tensor, y: Tensor) -> Tensor:
    """The usual form."""
    weight = (x.sigmoid() - y).abs() ** 2
    return (weight * F.binary_cross_entropy_with_logits(x, y, reduction="none")).mean()


def poly(x: Tensor, y: Tensor) -> Tensor:
    """The usual form: torchvision's focal loss, and a power of 1 - p_t."""
    from torchvision.ops import sigmoid_focal_loss

    p = x.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)
    return (sigmoid_focal_loss(x, y, -1, 2) + (1 - p_t) ** 3).mean()


def asymmetric(x: Tensor, y: Tensor) -> Tensor:
    """timm's."""
    from timm.loss import AsymmetricLossMultiLabel

    return AsymmetricLossMultiLabel(reduction="mean")(x, y)


def single_label(x: Tensor, y: Tensor) -> Tensor:
    """timm's, gamma_pos 0 as that of the authors."""
    from timm.loss import AsymmetricLossSingleLabel

    return AsymmetricLossSingleLabel(gamma_pos=0)(x, y)


def likelihood(nll: Tensor) -> Tensor:
    """The usual form, gamma 2."""
    return ((1 - torch.exp(-nll)) ** 2 * nll).mean()


def matching_cost(x: Tensor, labels: Tensor) -> Tensor:
    """The usual form."""
    p = x.sigmoid()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    return positive[:, labels] - negative[:, labels]


def tversky(x: Tensor, y: Tensor) -> Tensor:
    """MONAI's."""
    from monai.losses import TverskyLoss

    return TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)(x, y)


def softmax_tversky(x: Tensor, y: Tensor) -> Tensor:
    """MONAI's."""
    from monai.losses import TverskyLoss

    return TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)(x, y.unsqueeze(1))


def focal_tversky(x: Tensor, y: Tensor) -> Tensor:
    """MONAI's Tversky loss, of each region, to a power."""
    from monai.losses import TverskyLoss

    loss: Any = TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, reduction="none")
    return (loss(x, y) ** 0.75).mean()


def unified(x: Tensor, y: Tensor) -> Tensor:
    """MONAI's, of two classes, from probabilities."""
    from monai.losses import AsymmetricUnifiedFocalLoss

    hot = F.one_hot(y, 2).movedim(-1, 1).to(x.dtype)
    return AsymmetricUnifiedFocalLoss(delta=0.6)(x.softmax(1), hot)


def monai_softmax_focal(x: Tensor, y: Tensor) -> Tensor:
    """MONAI's."""
    from monai.losses import FocalLoss

    return FocalLoss(use_softmax=True, to_onehot_y=True, gamma=0.5)(x, y.unsqueeze(1))


def kornia_softmax_focal(x: Tensor, y: Tensor) -> Tensor:
    """kornia's."""
    from kornia.losses import focal_loss

    return focal_loss(x, y, alpha=None, gamma=0.5, reduction="mean")
