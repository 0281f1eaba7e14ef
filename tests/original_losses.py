"""The public implementations that losses replace, called so that both mean the same."""

from torch import Tensor

from textbook_losses import one_hot


def torchvision_loss(x: Tensor, y: Tensor) -> Tensor:
    """alpha 0.25, gamma 0.5."""
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(x, y, 0.25, 0.5)


def kornia_softmax(x: Tensor, y: Tensor) -> Tensor:
    """Unreduced, a class: summed here."""
    from kornia.losses import focal_loss

    return focal_loss(x, y, alpha=None, gamma=0.5).sum(1)


def monai_softmax(x: Tensor, y: Tensor) -> Tensor:
    """Unreduced, a class, of one-hot targets: summed here. It computes in float32."""
    from monai.losses import FocalLoss

    loss = FocalLoss(gamma=0.5, use_softmax=True, reduction="none")
    return loss(x, one_hot(y)).sum(1)


def timm_single_label(x: Tensor, y: Tensor) -> Tensor:
    """gamma_neg 1.5, gamma_pos 0.5, smoothing 0.1."""
    from timm.loss import AsymmetricLossSingleLabel

    return AsymmetricLossSingleLabel(0.5, 1.5, eps=0.1, reduction="none")(x, y)


def monai_tversky(x: Tensor, y: Tensor) -> Tensor:
    """alpha is that of false positives there."""
    from monai.losses import TverskyLoss

    loss = TverskyLoss(
        sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0, reduction="none"
    )
    return loss(x, y)


def monai_softmax_tversky(x: Tensor, y: Tensor) -> Tensor:
    """The same, of one-hot targets."""
    from monai.losses import TverskyLoss

    loss = TverskyLoss(
        softmax=True,
        to_onehot_y=True,
        alpha=0.3,
        beta=0.7,
        smooth_nr=1.0,
        smooth_dr=1.0,
        reduction="none",
    )
    return loss(x, y.unsqueeze(1))
