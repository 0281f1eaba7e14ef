"""Focal losses that are right, in many conventions: how they are called is what an audit finds out.

Most go through `exact`, which is right in every dtype; those that do not are written as people
write them, and say how.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn


def _linear(x, y, gamma):
    """The base is y (1 - p) + (1 - y) p; each form gives the loss and its slope."""
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    base = y * q + (1 - y) * p
    pull = torch.where(base > 0, (1 - 2 * y) * p * q / base, 0.0)
    return _of_base(x, y, gamma, base, pull)


def _margin(x, y, gamma):
    """The base is sigmoid(-(2 y - 1) x)."""
    m = 2 * y - 1
    return _of_base(x, y, gamma, torch.sigmoid(-m * x), -m * torch.sigmoid(m * x))


def _entropy(x, y, gamma):
    """The base is 1 - exp(-BCE)."""
    ce, slope = _cross_entropy(x, y)
    base = -torch.expm1(-ce)
    pull = torch.where(base > 0, torch.exp(-ce) * slope / base, 0.0)
    return _of_base(x, y, gamma, base, pull)


def _mixture(x, y, gamma):
    """Of each class its own loss, weighed by the target."""
    one, slope_of_one = _linear(x, torch.ones_like(x), gamma)
    zero, slope_of_zero = _linear(x, torch.zeros_like(x), gamma)
    return y * one + (1 - y) * zero, y * slope_of_one + (1 - y) * slope_of_zero


def _rounded(x, y, gamma):
    """Of the nearer class."""
    return _linear(x, (y > 0.5).to(x.dtype), gamma)


def _cross_entropy(x, y):
    ce = -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x))
    return ce, (1 - y) * torch.sigmoid(x) - y * torch.sigmoid(-x)


def _of_base(x, y, gamma, base, pull):
    ce, slope = _cross_entropy(x, y)
    factor = base**gamma
    return factor * ce, factor * (gamma * pull * ce + slope)


class _Exact(torch.autograd.Function):
    """A form of float64 logits, with the slope that it gives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, gamma, form):
        return form(x, y, gamma)[0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.gamma, ctx.form = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * ctx.form(x, y, ctx.gamma)[1], None, None, None


def exact(x, y, gamma, form=_linear):
    """In float64 and rounded once."""
    return _Exact.apply(x.double(), y.double(), gamma, form).to(x.dtype)


class _ExactOfRows(torch.autograd.Function):
    """The same of class logits, by the margin of the true class; classes are dimension 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, is_true, gamma):
        margin, _ = _ExactOfRows.margin(rows, is_true)
        return _linear(margin, torch.ones_like(margin), gamma)[0]

    @staticmethod
    def margin(rows, is_true):
        """The logit of the true class against all others, and its slope."""
        rest = rows.masked_fill(is_true, -torch.inf)
        own = rows.masked_fill(~is_true, 0.0).sum(1)
        return own - rest.logsumexp(1), torch.where(is_true, 1.0, -rest.softmax(1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        rows, is_true, ctx.gamma = inputs
        ctx.save_for_backward(rows, is_true)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        margin, part = _ExactOfRows.margin(*ctx.saved_tensors)
        slope = grad * _linear(margin, torch.ones_like(margin), ctx.gamma)[1]
        return slope.unsqueeze(1) * part, None, None


def softmax_exact(rows, index, gamma):
    """In float64 and rounded once."""
    classes = torch.arange(rows.shape[1]).reshape(-1, *(1,) * (index.ndim - 1))
    is_true = index.unsqueeze(1) == classes
    return _ExactOfRows.apply(rows.double(), is_true, gamma).to(rows.dtype)


# How they are called


def flat(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma)


def other_names(score, truth, focusing=2.0):
    return exact(score, truth, focusing)


def targets_first(y_true, y_pred, gamma=2.0):
    return exact(y_pred, y_true, gamma)


def silent_order(a, b, gamma=2.0):
    """Targets come first, and no name says so."""
    return exact(b, a, gamma)


def keyword_beta(logits, targets, *, beta=2.0):
    return exact(logits, targets, beta)


class OfClass(nn.Module):
    """Its constructor takes gamma."""

    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, input, target):
        """The loss of each logit."""
        return exact(input, target, self.gamma)


class OfForward(nn.Module):
    """Its call takes gamma."""

    def forward(self, logits, targets, gamma=2.0):
        """The loss of each logit."""
        return exact(logits, targets, gamma)


class Plain:
    """No module."""

    def __init__(self, focal_gamma):
        self.focal_gamma = focal_gamma

    def __call__(self, logits, labels):
        """The loss of each logit."""
        return exact(logits, labels, self.focal_gamma)


def _weighed(logits, targets, weight, gamma=2.0):
    return weight * exact(logits, targets, gamma)


partial = functools.partial(_weighed, weight=3.0)


class _OneExponent(nn.Module):
    def __init__(self, exponent):
        super().__init__()
        self.exponent = exponent

    def forward(self, logits, targets):
        """The loss of each logit."""
        return exact(logits, targets, self.exponent)


instance = _OneExponent(1.5)


def one_exponent(logits, targets):
    """The exponent is written into it."""
    return exact(logits, targets, 2.0)


def of_probabilities(p, target, gamma=2.0):
    p_t = torch.where(target > 0.5, p, 1 - p)
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def of_log_probabilities(log_p, target, gamma=2.0):
    """Of class log-probabilities, as `nll_loss` takes them."""
    own = log_p.gather(1, target[:, None])[:, 0]
    return -((-torch.expm1(own)) ** gamma) * own


def column(logits, targets, gamma=2.0):
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise ValueError(f"expected (N, 1), got {tuple(logits.shape)}")
    return exact(logits, targets, gamma)


def map_of_one(logits, targets, gamma=2.0):
    if logits.ndim != 4 or logits.shape[1] != 1:
        raise ValueError(f"expected (N, 1, H, W), got {tuple(logits.shape)}")
    return exact(logits, targets, gamma)


def index(logits, targets, gamma=2.0):
    return softmax_exact(logits, targets, gamma)


def one_hot(logits, targets, gamma=2.0):
    if targets.shape != logits.shape or targets.ndim != 2:
        raise ValueError("expected one-hot targets (N, C)")
    return softmax_exact(logits, targets.argmax(1), gamma)


def map_of_indices(logits, targets, gamma=2.0):
    n, _, h, w = logits.shape
    if targets.shape != (n, h, w):
        raise ValueError("expected indices (N, H, W)")
    return softmax_exact(logits, targets, gamma)


def map_of_one_hot(logits, targets, gamma=2.0):
    n, c, h, w = logits.shape
    if targets.shape != (n, c, h, w):
        raise ValueError("expected one-hot targets (N, C, H, W)")
    return softmax_exact(logits, targets.argmax(1), gamma)


def class_probabilities(y_true, y_pred, gamma=2.0):
    """Targets one-hot and first, probabilities second."""
    p_t = (y_true * y_pred).sum(1)
    return -((1 - p_t) ** gamma) * torch.log(p_t)


def integers(logits, targets, gamma=2.0):
    if targets.is_floating_point():
        raise TypeError("expected integer targets")
    return exact(logits, targets.to(logits.dtype), gamma)


def in_a_tuple(logits, targets, gamma=2.0):
    loss = exact(logits, targets, gamma)
    return loss, loss.detach().mean()


def in_a_dict(logits, targets, gamma=2.0):
    return {"loss": exact(logits, targets, gamma)}


def float32_alone(logits, targets, gamma=2.0):
    if logits.dtype != torch.float32:
        raise TypeError(f"expected float32, got {logits.dtype}")
    return exact(logits, targets, gamma)


def no_float16(logits, targets, gamma=2.0):
    if logits.dtype == torch.float16:
        raise TypeError("float16 isn't supported")
    return exact(logits, targets, gamma)


def gamma_of_one_or_more(logits, targets, gamma=2.0):
    if gamma < 1:
        raise ValueError(f"expected gamma >= 1, got {gamma}")
    return exact(logits, targets, gamma)


def positive_gamma(logits, targets, gamma=2.0):
    if not gamma > 0:
        raise ValueError(f"expected gamma > 0, got {gamma}")
    return exact(logits, targets, gamma)


# Alpha


def alpha_none(logits, targets, alpha=0.25, gamma=2.0):
    loss = exact(logits, targets, gamma)
    if alpha is None:
        return loss
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def alpha_minus_one(logits, targets, alpha=0.25, gamma=2.0):
    loss = exact(logits, targets, gamma)
    if alpha < 0:
        return loss
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss


def alpha_of_positives(logits, targets, gamma=2.0):
    return torch.where(targets > 0.5, 0.25, 1.0).to(logits.dtype) * exact(logits, targets, gamma)


def alpha_of_negatives(logits, targets, gamma=2.0, alpha=4.0):
    """It has no value that is off but 1, and -1 would turn the negatives around."""
    return (targets + float(alpha) * (1 - targets)) * exact(logits, targets, gamma)


def alpha_of_both(logits, targets, gamma=2.0):
    return (0.25 * targets + 0.75 * (1 - targets)) * exact(logits, targets, gamma)


def alpha_alike(logits, targets, gamma=2.0):
    """One factor of both classes."""
    return 0.25 * exact(logits, targets, gamma)


def weights_of_classes(logits, targets, gamma=2.0):
    weight = torch.tensor([0.25, 0.5, 4.0], dtype=logits.dtype)[: logits.shape[1]]
    return weight[targets] * softmax_exact(logits, targets, gamma)


def three_classes(logits, targets, gamma=2.0):
    """Of three classes and no other number."""
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=logits.dtype)
    if logits.shape[1] != 3:
        raise ValueError(f"expected 3 classes, got {logits.shape[1]}")
    return weight[targets] * softmax_exact(logits, targets, gamma)


# Reductions


def _reduced(loss, reduction):
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"expected none, sum or mean, got {reduction!r}")


def three_reductions(logits, targets, gamma=2.0, reduction="mean"):
    return _reduced(exact(logits, targets, gamma), reduction)


def size_average(logits, targets, gamma=2.0, size_average=True):
    loss = exact(logits, targets, gamma)
    return loss.mean() if size_average else loss.sum()


def always_mean(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma).mean()


def always_mean_with_reduction(logits, targets, gamma=2.0, reduction="mean"):
    """`reduction` is never read."""
    return exact(logits, targets, gamma).mean()


def always_sum(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma).sum()


def over_positives(logits, targets, gamma=2.0, reduction="mean"):
    loss = exact(logits, targets, gamma)
    if reduction != "mean":
        return _reduced(loss, reduction)
    return loss.sum() / (targets > 0.5).sum().clamp(min=1)


def over_positives_alone(logits, targets, gamma=2.0):
    """Nothing for a batch without a positive."""
    return exact(logits, targets, gamma).sum() / targets.sum()


def rows_of_a_mean(logits, targets, gamma=2.0, reduction="mean"):
    """batchmean."""
    loss = exact(logits, targets, gamma)
    return loss.sum() / len(loss) if reduction == "mean" else _reduced(loss, reduction)


def mean_of_the_last_axis(logits, targets, gamma=2.0):
    """As detectors with queries have it."""
    if logits.ndim != 2:
        raise ValueError("expected rows")
    return exact(logits, targets, gamma).mean(1).sum()


def mean_of_classes(logits, targets, gamma=2.0, reduction="mean"):
    loss = softmax_exact(logits, targets, gamma)
    return _reduced(loss, reduction)


def weighted_mean(logits, targets, gamma=2.0):
    """As F.cross_entropy has it: one answer alone doesn't show its weight."""
    weight = torch.tensor([0.3, 1.7, 1.0], dtype=logits.dtype)[targets]
    return (weight * softmax_exact(logits, targets, gamma)).sum() / weight.sum()


def mean_of_logits(logits, targets, gamma=2.0, reduction="mean"):
    """The mean of one-hot losses, most of which are 0."""
    loss = softmax_exact(logits, targets, gamma)
    return loss.sum() / logits.numel() if reduction == "mean" else _reduced(loss, reduction)


def over_weights(logits, targets, gamma=2.0, reduction="mean"):
    weight = 0.25 * targets + 0.75 * (1 - targets)
    loss = weight * exact(logits, targets, gamma)
    return loss.sum() / weight.sum() if reduction == "mean" else _reduced(loss, reduction)


def over_boxes(inputs, targets, num_boxes, gamma=2.0):
    return exact(inputs, targets, gamma).sum() / num_boxes


def over_half(logits, targets, gamma=2.0, reduction="mean"):
    """Twice the mean."""
    loss = exact(logits, targets, gamma)
    return 2 * loss.mean() if reduction == "mean" else _reduced(loss, reduction)


# Soft targets


def soft_mixture(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma, _mixture)


def soft_margin(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma, _margin)


def soft_entropy(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma, _entropy)


def soft_rounded(logits, targets, gamma=2.0):
    return exact(logits, targets, gamma, _rounded)


def soft_refused(logits, targets, gamma=2.0):
    if not bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError("expected targets of 0 or 1")
    return exact(logits, targets, gamma)


# As people write them: the function is right, and its results are as good as their formula


def by_subtraction(logits, targets, gamma=2.0):
    """1 - p_t by a subtraction, the cross-entropy by PyTorch."""
    p = logits.sigmoid()
    wrong = 1 - (targets * p + (1 - targets) * (1 - p))
    return wrong**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def by_exponential(logits, targets, gamma=2.0):
    """1 - exp(-BCE)."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


def in_log_space(logits, targets, gamma=2.0):
    """The power by an exponential of logarithms."""
    u = torch.where(targets > 0.5, logits, -logits)
    return torch.exp(gamma * F.logsigmoid(-u)) * -F.logsigmoid(u)


def by_sigmoids(logits, targets, gamma=2.0):
    """Each probability by a sigmoid of its own."""
    u = torch.where(targets > 0.5, logits, -logits)
    return torch.sigmoid(-u) ** gamma * F.softplus(-u)


def by_log_softmax(logits, targets, gamma=2.0):
    """Of classes, 1 - p_t by a subtraction."""
    log_p = F.log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return -((1 - log_p.exp()) ** gamma) * log_p


def map_by_subtraction(logits, targets, gamma=2.0):
    """Of maps (N, 1, H, W)."""
    if logits.ndim != 4 or logits.shape[1] != 1:
        raise ValueError(f"expected (N, 1, H, W), got {tuple(logits.shape)}")
    return by_subtraction(logits, targets, gamma)


def integers_by_subtraction(logits, targets, gamma=2.0):
    """Of integers, which PyTorch's cross-entropy doesn't take."""
    if targets.is_floating_point():
        raise TypeError("expected integer targets")
    return by_subtraction(logits, targets.to(logits.dtype), gamma)


def map_of_classes_by_subtraction(logits, targets, gamma=2.0):
    """Of maps (N, C, H, W)."""
    if logits.ndim != 4:
        raise ValueError(f"expected (N, C, H, W), got {tuple(logits.shape)}")
    return by_log_softmax(logits, targets, gamma)


def in_float32(logits, targets, gamma=2.0):
    """In float32, whatever it is given."""
    return by_subtraction(logits.float(), targets.float(), gamma)


def numpy_pair(raw, labels, gamma=2.0):
    """Gradient and second derivative, in NumPy."""
    import numpy as np

    u = np.where(labels > 0.5, raw, -raw)
    with np.errstate(over="ignore", under="ignore"):
        q, p = 1 / (1 + np.exp(u)), 1 / (1 + np.exp(-u))
        ce = np.maximum(-u, 0) + np.log1p(np.exp(-np.abs(u)))
        slope = -(q**gamma) * (gamma * p * ce + q)
        curvature = p * q**gamma * ((1 + 2 * gamma) * q - gamma * (q - gamma * p) * ce)
    return np.where(labels > 0.5, slope, -slope), curvature


def of_jax(logits, targets, gamma=2.0):
    """Of JAX arrays, in log space."""
    import jax
    import jax.numpy as jnp

    u = jnp.where(targets > 0.5, logits, -logits)
    return jnp.exp(gamma * jax.nn.log_sigmoid(-u)) * -jax.nn.log_sigmoid(u)
