"""Focal losses that are wrong, one mistake each, and losses that are no focal loss."""

import torch
import torch.nn.functional as F
from torch import nn

from parfocal import sigmoid_focal_loss


def _margin(logits, targets):
    return torch.where(targets > 0.5, logits, -logits)


def _bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _wrong(logits, targets):
    """1 - p_t, by a sigmoid."""
    return torch.sigmoid(-_margin(logits, targets))


# Reduced before the modulator


def mean_first(logits, targets, gamma=2.0, reduction="mean"):
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction=reduction)
    return (1 - torch.exp(-bce)) ** gamma * bce


def always_mean_first(logits, targets, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    return (1 - torch.exp(-bce)) ** gamma * bce


class MeanFirstWithAlpha(nn.Module):
    """Its call takes gamma and alpha."""

    def forward(self, inputs, targets, alpha=0.8, gamma=2.0):
        """One number."""
        bce = F.binary_cross_entropy_with_logits(inputs.reshape(-1), targets.reshape(-1))
        return alpha * (1 - torch.exp(-bce)) ** gamma * bce


def sum_first(logits, targets, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return (1 - torch.exp(-bce)) ** gamma * bce


def classes_mean_first(logits, targets, gamma=2.0):
    ce = F.cross_entropy(logits, targets)
    return (1 - torch.exp(-ce)) ** gamma * ce


# Another function of the same parts


def swapped(logits, targets, gamma=2.0):
    """p_t in place of 1 - p_t."""
    return torch.sigmoid(_margin(logits, targets)) ** gamma * F.softplus(-_margin(logits, targets))


def swapped_targets(logits, targets, gamma=2.0):
    """p_t of the other class."""
    p = logits.sigmoid()
    p_t = p * (1 - targets) + (1 - p) * targets
    return (1 - p_t) ** gamma * _bce(logits, targets)


def detached(logits, targets, gamma=2.0):
    return _wrong(logits, targets).detach() ** gamma * _bce(logits, targets)


def without_grad(logits, targets, gamma=2.0):
    with torch.no_grad():
        factor = _wrong(logits, targets) ** gamma
    return factor * _bce(logits, targets)


def without_logarithm(logits, targets, gamma=2.0):
    return _wrong(logits, targets) ** gamma


def gamma_never_read(logits, targets, gamma=2.0):
    return _wrong(logits, targets) ** 2.0 * _bce(logits, targets)


def cross_entropy(logits, targets, gamma=2.0):
    """No modulator at all."""
    return _bce(logits, targets)


def one_modulated(logits, targets, gamma=2.0):
    """The modulator of the negatives alone."""
    factor = torch.where(targets > 0.5, torch.ones_like(logits), _wrong(logits, targets) ** gamma)
    return factor * _bce(logits, targets)


def exponent_and_one(logits, targets, gamma=2.0):
    return _wrong(logits, targets) ** (gamma + 1) * _bce(logits, targets)


def half_exponent(logits, targets, gamma=2.0):
    return _wrong(logits, targets) ** (gamma / 2) * _bce(logits, targets)


def alpha_the_other_way(logits, targets, gamma=2.0):
    """alpha 0.25 of the negatives."""
    return torch.where(targets > 0.5, 0.75, 0.25).to(logits.dtype) * (
        _wrong(logits, targets) ** gamma * _bce(logits, targets)
    )


def with_cross_entropy(logits, targets, gamma=2.0):
    return _wrong(logits, targets) ** gamma * _bce(logits, targets) + 0.5 * _bce(logits, targets)


# Of the wrong sign


def sign(logits, targets, gamma=2.0):
    return -(_wrong(logits, targets) ** gamma) * _bce(logits, targets)


def sign_of_positives(logits, targets, gamma=2.0):
    return (
        torch.where(targets > 0.5, -1, 1) * _wrong(logits, targets) ** gamma * _bce(logits, targets)
    )


def sign_of_negatives(logits, targets, gamma=2.0):
    return (
        torch.where(targets > 0.5, 1, -1) * _wrong(logits, targets) ** gamma * _bce(logits, targets)
    )


# Clamps


def _clamped(logits, targets, gamma, low, high):
    p = logits.sigmoid().clamp(low, high)
    p_t = torch.where(targets > 0.5, p, 1 - p)
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def clamp_1e2(logits, targets, gamma=2.0):
    return _clamped(logits, targets, gamma, 1e-2, 1 - 1e-2)


def clamp_1e4(logits, targets, gamma=2.0):
    return _clamped(logits, targets, gamma, 1e-4, 1 - 1e-4)


def clamp_1e7(logits, targets, gamma=2.0):
    """1 - 1e-7 is the last float32 before 1."""
    return _clamped(logits, targets, gamma, 1e-7, 1 - 1e-7)


def clamp_below(logits, targets, gamma=2.0):
    """Inside the logarithm alone."""
    p = logits.sigmoid()
    p_t = torch.where(targets > 0.5, p, 1 - p)
    return -((1 - p_t) ** gamma) * torch.log(p_t.clamp(min=1e-6))


def clamp_of_logits(logits, targets, gamma=2.0):
    u = _margin(logits, targets).clamp(-10, 10)
    return torch.sigmoid(-u) ** gamma * F.softplus(-u)


# Constants


def base_1e3(logits, targets, gamma=2.0):
    return (_wrong(logits, targets) + 1e-3) ** gamma * _bce(logits, targets)


def base_5e3(logits, targets, gamma=2.0):
    return (_wrong(logits, targets) + 5e-3) ** gamma * _bce(logits, targets)


def base_1e6(logits, targets, gamma=2.0):
    return (_wrong(logits, targets) + 1e-6) ** gamma * _bce(logits, targets)


def log_1e3(logits, targets, gamma=2.0):
    p_t = torch.sigmoid(_margin(logits, targets))
    return -(_wrong(logits, targets) ** gamma) * torch.log(p_t + 1e-3)


def log_1e6(logits, targets, gamma=2.0):
    p = logits.sigmoid()
    p_t = torch.where(targets > 0.5, p, 1 - p)
    return -((1 - p_t) ** gamma) * torch.log(p_t + 1e-6)


def log_1e8(logits, targets, gamma=2.0):
    """No number of float16."""
    p_t = torch.sigmoid(_margin(logits, targets))
    return -(_wrong(logits, targets) ** gamma) * torch.log(p_t + 1e-8)


def both_1e5(logits, targets, gamma=2.0):
    p_t = torch.sigmoid(_margin(logits, targets))
    return -((_wrong(logits, targets) + 1e-5) ** gamma) * torch.log(p_t + 1e-5)


def two_constants(logits, targets, gamma=2.0):
    """One of 1e-2 and one of 1e-4."""
    p_t = torch.sigmoid(_margin(logits, targets))
    return -((_wrong(logits, targets) + 1e-2) ** gamma) * torch.log(p_t + 1e-4)


def half_constant(logits, targets, gamma=2.0):
    """Clamped to [1e-8, 1 - 1e-8], which is [0, 1] in 16 bits."""
    return _clamped(logits, targets, gamma, 1e-8, 1 - 1e-8)


# Logarithms of what has been rounded


def log_of_sigmoid(logits, targets, gamma=2.0):
    p_t = torch.sigmoid(_margin(logits, targets))
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def log_of_softmax(logits, targets, gamma=2.0):
    p = logits.softmax(1).gather(1, targets[:, None])[:, 0]
    return -((1 - p) ** gamma) * torch.log(p)


def in_bfloat16(logits, targets, gamma=2.0):
    """Computed in bfloat16, whatever it is given."""
    loss = _wrong(logits.bfloat16(), targets) ** gamma * _bce(logits.bfloat16(), targets.bfloat16())
    return loss.to(logits.dtype)


def by_mode(logits, targets, gamma=2.0):
    """Half as large under autocast."""
    loss = _wrong(logits, targets) ** gamma * _bce(logits, targets)
    return loss / 2 if torch.is_autocast_enabled("cpu") else loss


# Losses of other names


def _one_vs_rest(logits, targets, gamma):
    y = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    return _wrong(logits, y) ** gamma * _bce(logits, y)


def one_vs_rest_sum(logits, targets, gamma=2.0):
    return _one_vs_rest(logits, targets, gamma).sum(1)


def one_vs_rest_mean(logits, targets, gamma=2.0):
    return _one_vs_rest(logits, targets, gamma).mean(1)


def asymmetric_focusing(logits, targets, gamma_neg=4.0, gamma_pos=1.0):
    exponent = torch.where(targets > 0.5, gamma_pos, gamma_neg)
    return _wrong(logits, targets) ** exponent * _bce(logits, targets)


def asymmetric(logits, targets, gamma=2.0, margin=0.05):
    """The probability of a negative is shifted by a margin."""
    p = torch.where(targets > 0.5, 1 - logits.sigmoid(), (logits.sigmoid() - margin).clamp(min=0))
    return -(p**gamma) * torch.log((1 - p).clamp(min=1e-30))


def varifocal(logits, targets, gamma=2.0, alpha=0.75):
    """Of a quality as target; alpha p ** gamma on the negatives."""
    weight = torch.where(targets > 0, targets, alpha * logits.sigmoid() ** gamma)
    return weight * _bce(logits, targets)


def equalized(logits, targets, gamma=2.0, more=0.5):
    """Of a category with a larger exponent, and the factor that goes with it."""
    share = 0.25 * targets + 0.75 * (1 - targets)
    return (gamma + more) / gamma * share * sigmoid_focal_loss(logits, targets, None, gamma + more)


def normalized(logits, targets, gamma=2.0):
    """Of the integral 1."""
    return (gamma + 1) * sigmoid_focal_loss(logits, targets, None, gamma)


def penalty_by_gamma(logits, targets, gamma=4.0, alpha=2.0):
    """gamma is the exponent of 1 - y, and alpha that of the modulator."""
    hot = (targets == 1).to(logits.dtype)
    near = (1 - targets) ** gamma * sigmoid_focal_loss(logits, torch.zeros_like(targets), None, 2.0)
    return hot * sigmoid_focal_loss(logits, torch.ones_like(targets), None, 2.0) + (1 - hot) * near


def nan_of_a_margin(logits, targets, gamma=2.0, margin=0.05):
    """A power of 0 for easy negatives, whose gradient is NaN below 1."""
    p = torch.where(targets > 0.5, logits.sigmoid(), (1 - logits.sigmoid() + margin).clamp(max=1))
    return -((1 - p) ** gamma) * torch.log(p.clamp(min=1e-30))


def quality(logits, targets, gamma=2.0):
    return (targets - logits.sigmoid()).abs() ** gamma * _bce(logits, targets)


def poly(logits, targets, gamma=2.0, epsilon=0.5):
    q = _wrong(logits, targets)
    return q**gamma * _bce(logits, targets) + epsilon * q ** (gamma + 1)


def gaussian(logits, targets, gamma=2.0):
    """Of a heat map: targets next to 1 are nearly positive."""
    hot = (targets == 1).to(logits.dtype)
    near = (1 - targets) ** 4 * torch.sigmoid(logits) ** gamma * F.softplus(logits)
    return hot * torch.sigmoid(-logits) ** gamma * F.softplus(-logits) + (1 - hot) * near


def smoothed_labels(logits, targets, gamma=2.0):
    y = 0.9 * targets + 0.05
    one = torch.sigmoid(-logits) ** gamma * F.softplus(-logits)
    zero = torch.sigmoid(logits) ** gamma * F.softplus(logits)
    return y * one + (1 - y) * zero


def dice(logits, targets, gamma=2.0):
    """Overlap, to a power."""
    p = logits.sigmoid()
    overlap = (2 * p * targets + 1) / (p + targets + 1)
    return (1 - overlap) ** (1 / gamma) if gamma else 1 - overlap


def squares(logits, targets, gamma=2.0):
    return (logits.sigmoid() - targets) ** 2


def hinge(logits, targets, gamma=2.0):
    return torch.relu(1 - _margin(logits, targets)) ** gamma
