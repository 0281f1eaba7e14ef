"""The losses as their papers print them, from probabilities: right in float64 at mild logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(targets: Tensor, classes: int = 3) -> Tensor:
    """Indices (N, ...) as probabilities (N, C, ...)."""
    return F.one_hot(targets, classes).movedim(-1, 1).double()


def p_t_of(x: Tensor, y: Tensor) -> Tensor:
    """The probability of what is true."""
    return y * x.sigmoid() + (1 - y) * (1 - x.sigmoid())


def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    """Of a binary target."""
    return -y * x.sigmoid().log() - (1 - y) * (1 - x.sigmoid()).log()


def focal(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Lin et al., equation 4."""
    return (1 - p_t_of(x, y)) ** gamma * cross_entropy(x, y)


def softmax_focal(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """The sum over the classes of y_c FL_c."""
    p = x.softmax(1)
    return (y * -((1 - p) ** gamma) * p.log()).sum(1)


def varifocal(x: Tensor, q: Tensor) -> Tensor:
    """Zhang et al., equation 2, gamma 0.5."""
    return torch.where(q > 0, q * cross_entropy(x, q), 0.75 * focal(x, q, 0.5))


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """Law and Deng, equation 1, gamma 0.5."""
    p = x.sigmoid()
    away = -((1 - y) ** 4) * p**0.5 * (1 - p).log()
    return torch.where(y == 1, -((1 - p) ** 0.5) * p.log(), away)


def quality(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Li et al., equation 4."""
    return (y - x.sigmoid()).abs() ** beta * cross_entropy(x, y)


def asymmetric(x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, margin: float) -> Tensor:
    """Ben-Baruch et al., equations 4 to 7."""
    p = x.sigmoid()
    p_m = (p - margin).clamp(min=0)
    negative = -(p_m**gamma_neg) * (1 - p_m).log()
    return y * -((1 - p) ** gamma_pos) * p.log() + (1 - y) * negative


def poly(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Leng et al., section 4, gamma 0.5, epsilon_1 1."""
    alpha_t = alpha * y + (1 - alpha) * (1 - y)
    return alpha_t * (focal(x, y, 0.5) + (1 - p_t_of(x, y)) ** 1.5)


def likelihood(nll: Tensor, gamma: float) -> Tensor:
    """Lin et al., equation 4, of any probability."""
    p = (-nll).exp()
    return -((1 - p) ** gamma) * p.log()


def softmax_asymmetric(
    x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, smoothing: float
) -> Tensor:
    """ASLSingleLabel of Ben-Baruch et al.: smoothed targets, a factor of each class."""
    p = x.softmax(1)
    factor = torch.where(y == 1, (1 - p) ** gamma_pos, p**gamma_neg)
    smoothed = (1 - smoothing) * y + smoothing / y.shape[1]
    return -(smoothed * factor * p.log()).sum(1)


def tversky(
    p: Tensor, y: Tensor, exponent: float | Tensor, dims: tuple[int, ...], **options: Any
) -> Tensor:
    """(1 - T) ** exponent."""
    alpha, beta, smooth = (options.get(n, d) for n, d in (("a", 0.7), ("b", 0.3), ("s", 1.0)))
    tp = (p * y).sum(dims)
    index = (tp + smooth) / (
        tp + alpha * ((1 - p) * y).sum(dims) + beta * (p * (1 - y)).sum(dims) + smooth
    )
    return (1 - index) ** exponent


def unified(p: Tensor, y: Tensor, background: int, asymmetric: bool) -> Tensor:
    """Yeung et al., delta 0.6, gamma 0.5, balance 0.5; the part of each region (N, C) of the mean.

    Classes along dim 1, maps after it. The cross-entropy of a class in an image is its mean over
    the pixels there, times the number of classes, over which the loss is summed.
    """

    def along_classes(of_background: float, of_others: float) -> Tensor:
        values = torch.full((p.shape[1],), of_others, dtype=torch.float64)
        values[background] = of_background
        return values

    def over_maps(values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (p.ndim - 2))

    delta = over_maps(along_classes(0.4, 0.6))
    focus = over_maps(along_classes(0.5, 0.0 if asymmetric else 0.5))
    dims = tuple(range(2, p.ndim))
    ce = -(delta * y * (1 - p) ** focus * p.log()).mean(dims) * p.shape[1]
    exponent = along_classes(1.0 if asymmetric else 0.5, 0.5)
    return 0.5 * tversky(p, y, exponent, dims, a=0.6, b=0.4) + 0.5 * ce


def sigmoid_unified(x: Tensor, y: Tensor, asymmetric: bool) -> Tensor:
    """Each class a problem of two, background first; (N, C)."""
    two_p, two_y = (torch.stack([1 - z, z], 2).flatten(0, 1) for z in (x.sigmoid(), y))
    return unified(two_p, two_y, 0, asymmetric).mean(1).view(x.shape[:2])
