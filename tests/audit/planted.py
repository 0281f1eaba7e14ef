"""Losses with one defect each, and right ones written in other ways, to judge the auditor by."""

import torch
import torch.nn.functional as F


def plain(inputs, targets, gamma=2.0, reduction="none"):
    """torchvision's, without alpha."""
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce * (1 - p_t) ** gamma
    return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]


def flipped(logits, targets, gamma=2.0):
    """Of the wrong sign."""
    return -plain(logits, targets, gamma)


def detached(logits, targets, gamma=2.0):
    """The modulating factor gets no gradient."""
    p_t = torch.sigmoid(torch.where(targets > 0.5, logits, -logits))
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - p_t).detach() ** gamma * ce


def clamped(logits, targets, gamma=2.0):
    """Probabilities are clamped: hard samples learn nothing."""
    p = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    p_t = p * targets + (1 - p) * (1 - targets)
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def smoothed(logits, targets, gamma=2.0):
    """The paper's constant."""
    p_t = torch.sigmoid(torch.where(targets > 0.5, logits, -logits))
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - p_t + 1e-3) ** gamma * ce


def nudged(logits, targets, gamma=2.0):
    """A constant that is too small to be seen at mild logits, and large at easy ones."""
    p_t = torch.sigmoid(torch.where(targets > 0.5, logits, -logits))
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - p_t + 1e-7) ** gamma * ce


def tiny(logits, targets, gamma=2.0):
    """A constant that is no number of float16: log 0 there."""
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    return -((1 - p_t + 1e-8) ** gamma) * torch.log(p_t + 1e-30)


def by_mode(logits, targets, gamma=2.0):
    """Another loss under autocast."""
    loss = plain(logits, targets, gamma)
    return loss * 1.5 if torch.is_autocast_enabled("cpu") else loss


def unknown(logits, targets, gamma=2.0):
    """No focal loss at all."""
    return (torch.sigmoid(logits) - targets) ** 2 * gamma + torch.cos(logits)


class ByHand(torch.autograd.Function):
    """A loss of the margin with a hand-written gradient; `parts` gives q ** gamma, p, q and ce."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u, gamma, parts):
        """The loss, in float64 and rounded once."""
        factor, _, _, ce = parts(u.double(), gamma)
        return (factor * ce).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """What the slope needs."""
        u, ctx.gamma, ctx.parts = inputs
        ctx.save_for_backward(u)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        """Its slope."""
        (u,) = ctx.saved_tensors
        factor, p, q, ce = ctx.parts(u.double(), ctx.gamma)
        slope = -factor * (ctx.gamma * p * ce + q)
        return (grad.double() * slope).to(u.dtype), None, None


def by_sigmoid(u, gamma):
    """A power of a sigmoid."""
    q = torch.sigmoid(-u)
    return q**gamma, torch.sigmoid(u), q, -F.logsigmoid(u)


def by_logarithm(u, gamma):
    """The power as an exponential."""
    log_p, log_q = F.logsigmoid(u), F.logsigmoid(-u)
    return torch.exp(gamma * log_q), log_p.exp(), log_q.exp(), -log_p


def by_odds(u, gamma):
    """From exp(-|u|)."""
    t = torch.exp(-u.abs())
    small, large = t / (1 + t), 1 / (1 + t)
    q, p = torch.where(u > 0, small, large), torch.where(u > 0, large, small)
    return torch.exp(gamma * torch.log(q)), p, q, torch.log1p(t) + torch.relu(-u)


def right_by_hand(logits, targets, gamma=2.0):
    """Right; hard targets."""
    return ByHand.apply(torch.where(targets > 0.5, logits, -logits), gamma, by_sigmoid)


class RightInLogSpace(torch.nn.Module):
    """Right; a module."""

    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, output, target):
        """Elementwise."""
        u = torch.where(target > 0.5, output, -output)
        return ByHand.apply(u, self.gamma, by_logarithm)


def right_with_alpha(labels, logits, focal_gamma=2.0, alpha=0.25):
    """Right; targets first, alpha on the positive class, a sum."""
    u = torch.where(labels > 0.5, logits, -logits)
    factor = torch.where(labels > 0.5, alpha, 1 - alpha)
    return (factor * ByHand.apply(u, focal_gamma, by_odds)).sum()


def multiclass(logits, targets, gamma=2.0):
    """Softmax, by log_softmax and a subtraction."""
    log_p = F.log_softmax(logits, dim=-1)
    log_p_t = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -((1 - log_p_t.exp()) ** gamma) * log_p_t


def of_probabilities(p, target, gamma=2.0):
    """Of what a sigmoid has made."""
    p_t = p * target + (1 - p) * (1 - target)
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def mean_alone(logits, targets, gamma=2.0):
    """A mean alone."""
    return plain(logits, targets, gamma).mean()


def boosting(raw, labels, gamma=2.0):
    """Gradient and second derivative of the focal loss, in NumPy."""
    import numpy as np

    u = np.where(labels > 0.5, raw, -raw)
    q, p = 1 / (1 + np.exp(u)), 1 / (1 + np.exp(-u))
    ce = np.log1p(np.exp(-u))
    slope = -(q**gamma) * (gamma * p * ce + q)
    curvature = p * q**gamma * ((1 + 2 * gamma) * q - gamma * (q - gamma * p) * ce)
    return np.where(labels > 0.5, slope, -slope), curvature


def hangs(logits, targets, gamma=2.0):
    """Never ends."""
    import time

    time.sleep(3600)


def prints(logits, targets, gamma=2.0):
    """Says something dangerous for a page."""
    print("<script>alert(1)</script>")
    return plain(logits, targets, gamma)


def dies(logits, targets, gamma=2.0):
    """Takes its process with it."""
    import os

    os._exit(7)
