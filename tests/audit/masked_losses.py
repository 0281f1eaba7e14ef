"""Focal losses with masks of their own: right ones, and ones with a mistake each."""

import torch
from torch import nn
from torch.nn import functional as F


def _reduced(loss, reduction, count=None):
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / (loss.numel() if count is None else count)


def _rows(logits, index, gamma):
    """Smooth at every gamma: the other classes' probabilities are summed, and none is 0."""
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, index[:, None])[:, 0]
    others = log_p.masked_fill(F.one_hot(index, logits.shape[1]).bool(), -torch.inf)
    return -torch.exp(gamma * others.logsumexp(1)) * own


def _naive_rows(logits, index, gamma):
    p = logits.softmax(1).gather(1, index[:, None])[:, 0]
    return -((1 - p) ** gamma) * p.log()


def _binary(logits, targets, gamma):
    z = torch.where(targets > 0.5, logits, -logits)
    return -torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)


# Ignored targets, of classes.


def selects(logits, target, gamma=2.0, ignore_index=-100, reduction="mean"):
    """Right: positions are taken out of the logits before anything is computed."""
    valid = target != ignore_index
    safe = torch.where(valid[:, None], logits, 0.0)
    loss = torch.where(valid, _rows(safe, torch.where(valid, target, 0), gamma), 0.0)
    return _reduced(loss, reduction, valid.sum())


def over_all(logits, target, gamma=2.0, ignore_index=255, reduction="mean"):
    """Right, and a mean divides by all."""
    return _reduced(selects(logits, target, gamma, ignore_index, "none"), reduction)


def at_least_one(logits, target, gamma=2.0, ignore_index=-100, reduction="mean"):
    """Right, and of nothing a mean is 0."""
    loss = selects(logits, target, gamma, ignore_index, "none")
    return _reduced(loss, reduction, (target != ignore_index).sum().clamp(min=1))


def multiplied(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Times 0, after an infinite gradient at gamma < 1."""
    valid = target != ignore_index
    loss = _naive_rows(logits, torch.where(valid, target, 0), gamma)
    return _reduced(loss * valid, reduction)


def where_after(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """A where after it hides the value, and not the gradient."""
    valid = target != ignore_index
    loss = _naive_rows(logits, torch.where(valid, target, 0), gamma)
    return _reduced(torch.where(valid, loss, 0.0), reduction)


def through_nan(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Right of numbers: log_softmax hands NaN to its own gradient."""
    valid = target != ignore_index
    loss = _rows(logits.clamp(-50, 50), torch.where(valid, target, 0), gamma)
    return _reduced(torch.where(valid, loss, 0.0), reduction)


def never_read(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """What isn't a class is an error; what is one counts."""
    return _reduced(_rows(logits, target, gamma), reduction)


def negative_alone(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Negative targets are ignored, whatever is asked for."""
    return selects(logits, torch.where(target < 0, -1, target), gamma, -1, reduction)


def one_hot_first(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """An error for what isn't a class, before it is taken out."""
    y = F.one_hot(target, logits.shape[1])
    valid = target != ignore_index
    safe = torch.where(valid[:, None], logits, 0.0)
    return _reduced(torch.where(valid, _rows(safe, y.argmax(1), gamma), 0.0), reduction)


def smoothed_still(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """A term of all positions stays."""
    kept = selects(logits, target, gamma, ignore_index, "none")
    return _reduced(kept + 1e-4 * (logits.logsumexp(1) - logits.mean(1)), reduction)


def value_stays(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """The gradient is cut off, and the value isn't."""
    valid = target != ignore_index
    loss = _rows(torch.where(valid[:, None], logits, logits.detach().clamp(-9, 9)),
                 torch.where(valid, target, 0), gamma)  # fmt: skip
    return _reduced(loss, reduction)


def shared(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Divided by a norm of all logits, those that are ignored too."""
    loss = selects(logits, target, gamma, ignore_index, "none")
    return _reduced(loss / (1 + logits.detach().abs().mean()) * 2, reduction)


def not_a_class(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Right, and a class can't be ignored."""
    if ignore_index >= 0:
        raise ValueError("expected ignore_index < 0")
    return selects(logits, target, gamma, ignore_index, reduction)


def of_maps(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Right, of maps."""
    if logits.ndim != 4:
        raise ValueError("expected logits (N, C, H, W)")
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    loss = selects(rows, target.reshape(-1), gamma, ignore_index, "none")
    return _reduced(loss.reshape(target.shape), reduction)


def of_log_probabilities(log_p, target, gamma=2.0, ignore_index=-100):
    """A gradient that is infinite where p is 1, behind PyTorch's own ignored targets."""
    entropy = F.nll_loss(log_p, target, reduction="none", ignore_index=ignore_index)
    return (-torch.expm1(-entropy)) ** gamma * entropy


class InForward(nn.Module):
    """Right, of an argument of the call."""

    def __init__(self, gamma=2.0, reduction="mean"):
        super().__init__()
        self.gamma, self.reduction = gamma, reduction

    def forward(self, logits, target, ignore_index=-100):
        """Of logits (N, C)."""
        return selects(logits, target, self.gamma, ignore_index, self.reduction)


def by_default(logits, target, gamma=2.0):
    """Ignores -100, and has no argument for it."""
    return selects(logits, target, gamma, -100, "none")


def by_cross_entropy(logits, target, gamma=2.0):
    """The same by PyTorch's cross-entropy, whose gradient of NaN is NaN, whatever the target is."""
    entropy = F.cross_entropy(logits, target, reduction="none")
    return (-torch.expm1(-entropy)) ** gamma * entropy


# Ignored targets, of two classes.


def drops(logits, target, gamma=2.0, ignore_index=None, reduction="mean"):
    """Right: what comes back has fewer elements."""
    if ignore_index is not None:
        valid = target != ignore_index
        logits, target = logits[valid], target[valid]
    return _reduced(_binary(logits, target, gamma), reduction)


def binary_never_read(logits, target, gamma=2.0, ignore_index=None, reduction="mean"):
    return _reduced(_binary(logits, target, gamma), reduction)


def of_probabilities(p, target, gamma=2.0, ignore_index=255):
    """Times 0, after a logarithm of 0."""
    valid = target != ignore_index
    p_t = torch.where(target > 0.5, p, 1 - p)
    return torch.where(valid, -((1 - p_t) ** gamma) * p_t.log(), 0.0)


# Arguments with an entry a position.


def masked(logits, target, gamma=2.0, mask=None, reduction="mean"):
    """Right: True counts."""
    if mask is None:
        mask = torch.ones_like(logits, dtype=torch.bool)
    loss = torch.where(mask, _binary(torch.where(mask, logits, 0.0), target, gamma), 0.0)
    return _reduced(loss, reduction, mask.sum())


def masked_late(logits, target, gamma=2.0, valid_mask=None, reduction="none"):
    """Times 0, after an infinite gradient."""
    p = torch.sigmoid(logits)
    p_t = p * target + (1 - p) * (1 - target)
    loss = -((1 - p_t) ** gamma) * p_t.clamp(min=1e-30).log()
    return _reduced(loss if valid_mask is None else loss * valid_mask, reduction)


def padded(logits, target, gamma=2.0, padding_mask=None, reduction="none"):
    """Right: True is left out."""
    if padding_mask is None:
        return _reduced(_rows(logits, target, gamma), reduction)
    safe = torch.where(padding_mask[:, None], 0.0, logits)
    return _reduced(_rows(safe, target, gamma).masked_fill(padding_mask, 0.0), reduction)


def padded_maps(logits, target, gamma=2.0, padding_mask=None, reduction="none"):
    """Right, of maps."""
    if logits.ndim != 4:
        raise ValueError("expected logits (N, C, H, W)")
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    mask = None if padding_mask is None else padding_mask.expand(target.shape).reshape(-1)
    loss = padded(rows, target.reshape(-1), gamma, mask, "none")
    return _reduced(loss.reshape(target.shape), reduction)


def of_column(logits, target, gamma=2.0, mask=None):
    """Times 0, of a column and a mask of its shape."""
    if logits.ndim != 2 or (mask is not None and mask.shape != logits.shape):
        raise ValueError("expected logits and a mask (N, 1)")
    p = torch.sigmoid(logits)
    p_t = p * target + (1 - p) * (1 - target)
    loss = -((1 - p_t) ** gamma) * p_t.log()
    return loss if mask is None else loss * mask


def masked_logits(logits, target, gamma=2.0, mask=None):
    """The logits are masked, and the loss of 0 is left."""
    return _binary(logits if mask is None else torch.where(mask.bool(), logits, 0.0), target, gamma)


def unread_mask(logits, target, gamma=2.0, mask=None):
    return _binary(logits, target, gamma)


def weighed(logits, target, gamma=2.0, sample_weight=None, reduction="none"):
    """Right: a factor of each position."""
    loss = _binary(logits, target, gamma)
    return _reduced(loss if sample_weight is None else loss * sample_weight, reduction)


def class_weighed(logits, target, weight=None, gamma=2.0):
    """A factor of each class is no mask."""
    loss = _rows(logits, target, gamma)
    return loss if weight is None else loss * weight[target]


class MaskedCall(nn.Module):
    """Right, of a mask of the call."""

    def __init__(self, gamma=2.0, reduction="mean"):
        super().__init__()
        self.gamma, self.reduction = gamma, reduction

    def forward(self, logits, target, mask=None):
        """Of logits (N)."""
        return masked(logits, target, self.gamma, mask, self.reduction)


def over_weights(logits, target, gamma=2.0, weight=None, reduction="none"):
    """Right: a mean divides by the sum of the weights."""
    loss = _binary(logits, target, gamma)
    if weight is None:
        return _reduced(loss, reduction)
    return _reduced(loss * weight, reduction, weight.sum())


def no_mean(logits, target, gamma=2.0, ignore_index=-100, reduction="none"):
    """Right, and what it calls a mean is none."""
    return selects(logits, target, gamma, ignore_index, "none")


def of_size_average(logits, target, gamma=2.0, ignore_index=255, size_average=True):
    """Right, with another name of a mean."""
    return selects(logits, target, gamma, ignore_index, "mean" if size_average else "sum")


def over_positives(logits, target, gamma=2.0, ignore_index=255):
    """Right, and of a batch without a positive no number, whether or not something is ignored."""
    valid = target != ignore_index
    y = torch.where(valid, target, 0.0)
    loss = torch.where(valid, _binary(torch.where(valid, logits, 0.0), y, gamma), 0.0)
    return loss.sum() / y.sum()


def picky(logits, target, gamma=2.0, ignore_index=-100):
    """An error for a batch of three, whatever is in it."""
    if len(logits) == 3:
        raise ValueError("expected another batch")
    return selects(logits, target, gamma, ignore_index, "none")
