"""The losses in float64 at any logit, with their slopes and the scale that rounding works on.

Everything is a function of margins u, p = s(u) and q = s(-u) with s the logistic function, written
in log p and log q, which neither overflow nor underflow. Slopes are by the product and chain
rules, applied by hand: nothing here asks autograd, and nothing is shared with `parfocal`.

A `Terms` has, beside value and slope, the sums of the absolute values of their terms. Where terms
cancel, no evaluation from rounded numbers is accurate beyond an ULP of these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Stands for an infinite logit. Its loss is far beyond every dtype, and its sums are still finite.
HUGE = 1e300


class Terms(NamedTuple):
    """A loss and its slope in the margin, and the absolute values of their terms, summed."""

    value: Tensor
    slope: Tensor
    value_scale: Tensor
    slope_scale: Tensor

    def times(self, factor: Tensor | float) -> "Terms":
        """All of it times a factor."""
        factor = torch.as_tensor(factor, dtype=torch.float64)
        size = factor.abs()
        return Terms(
            self.value * factor,
            self.slope * factor,
            self.value_scale * size,
            self.slope_scale * size,
        )

    def plus(self, other: "Terms") -> "Terms":
        """The sum of two losses of the same margins."""
        return Terms(*(a + b for a, b in zip(self, other, strict=True)))

    def where(self, condition: Tensor, other: "Terms") -> "Terms":
        """This loss where the condition holds, elsewhere the other."""
        return Terms(*(torch.where(condition, a, b) for a, b in zip(self, other, strict=True)))


class Logistic(NamedTuple):
    """p, q and their logarithms at a margin."""

    p: Tensor
    q: Tensor
    log_p: Tensor
    log_q: Tensor


def logistic(u: Tensor) -> Logistic:
    """From exp(-|u|), which is at most 1."""
    t = (-u.abs()).exp()
    near, far = 1 / (1 + t), t / (1 + t)
    log_p = u.clamp(max=0) - t.log1p()
    log_q = (-u).clamp(max=0) - t.log1p()
    return Logistic(torch.where(u < 0, far, near), torch.where(u < 0, near, far), log_p, log_q)


def log_sum(*terms: Tensor) -> Tensor:
    """log(exp(a) + exp(b) + ...), where some of them may be -inf."""
    result = terms[0]
    for term in terms[1:]:
        result = torch.logaddexp(result, term)
    return result


def focal(u: Tensor, y: Tensor, gamma: Tensor, epsilon: float = 0.0) -> Terms:
    """(1 - p_t + epsilon) ** gamma (-y log p - (1 - y) log q)."""
    p, q, log_p, log_q = logistic(u)
    n = 1 - y
    constant = torch.tensor(epsilon, dtype=torch.float64).log()
    log_base = log_sum(y.log() + log_q, n.log() + log_p, constant)
    ce = -(y * log_p) - n * log_q
    focus = gamma * (log_p + log_q - log_base).exp() * ce
    # At gamma 0 the power is 1, whatever its base.
    factor = torch.where(gamma == 0, 1.0, (gamma * log_base).exp())
    slope = (n - y) * focus + (n * p - y * q)
    scale = focus + (n * p + y * q)
    value = factor * ce
    return Terms(value, factor * slope, value, factor * scale)


def negative(u: Tensor, gamma: Tensor) -> Terms:
    """p ** gamma (-log p), whose slope has two parts of opposite signs."""
    _, _, log_p, log_q = logistic(u)
    factor = torch.where(gamma == 0, 1.0, (gamma * log_p).exp())
    value = torch.where(factor == 0, 0.0, -factor * log_p)
    ends = torch.where(gamma == 0, log_q, gamma * log_p + log_q).exp()
    focus = torch.where(factor == 0, 0.0, -gamma * log_p * ends)
    return Terms(value, focus - ends, value, focus + ends)


def varifocal(u: Tensor, y: Tensor, gamma: Tensor) -> Terms:
    """A cross-entropy where q > 0, else a focal loss; without their factors, q and alpha."""
    zeros = torch.zeros_like(y)
    return focal(u, y, zeros).where(y > 0, focal(u, zeros, gamma))


def gaussian(u: Tensor, y: Tensor, gamma: Tensor, beta: float) -> Terms:
    """A focal loss at the centres; around them one of a negative that counts less."""
    is_centre = y == 1
    factor = torch.where(is_centre, 1.0, (1 - y) ** beta)
    return focal(u, is_centre.double(), gamma).times(factor)


def poly(u: Tensor, y: Tensor, gamma: Tensor, epsilon_1: float) -> Terms:
    """The focal loss and epsilon_1 (1 - p_t) ** (gamma + 1)."""
    _, _, log_p, log_q = logistic(u)
    n = 1 - y
    log_base = log_sum(y.log() + log_q, n.log() + log_p)
    added = ((gamma + 1) * log_base).exp()
    slope = (gamma + 1) * (gamma * log_base + log_p + log_q).exp()
    return focal(u, y, gamma).plus(Terms(added, (n - y) * slope, added, slope).times(epsilon_1))


def quality(u: Tensor, y: Tensor, beta: Tensor) -> Terms:
    """|y - p| ** beta ce; the difference is off by some units of its terms, y q and n p."""
    p, q, log_p, log_q = logistic(u)
    n = 1 - y
    hard = focal(u, y, beta)
    ce = -(y * log_p) - n * log_q
    base_scale = y * q + n * p
    signed = n * p - y * q
    base = signed.abs()
    factor = torch.where(beta == 0, 1.0, base**beta)
    inner = torch.where((beta == 0) | (base == 0), 0.0, beta * base ** (beta - 1))
    inner = torch.where((beta == 1) & (base == 0), 1.0, inner)
    slope = inner * signed.sign() * p * q * ce + factor * signed
    # Of what differs from the truth where the base is off by its scale, to first order and above.
    wide = torch.maximum(base, base_scale)
    inner_scale = beta * wide ** (beta - 1).clamp(min=0)
    curved = beta * (beta - 1).abs() * base.clamp(min=1e-30) ** (beta - 2).clamp(max=0)
    curved = curved * wide ** (beta - 2).clamp(min=0)
    soft = Terms(
        factor * ce,
        slope,
        (factor + 3 * inner_scale * base_scale) * ce,
        (inner_scale + 3 * curved * base_scale) * p * q * ce
        + (factor + 3 * inner_scale * base_scale) * base_scale,
    )
    return hard.where((y == 0) | (y == 1), soft)


def asymmetric(u: Tensor, y: Tensor, gamma_neg: Tensor, gamma_pos: Tensor, margin: float) -> Terms:
    """A positive's focal loss, and a negative's of p - margin."""
    zeros, ones = torch.zeros_like(u), torch.ones_like(u)
    positive = focal(u, ones, gamma_pos)
    negative = focal(u, zeros, gamma_neg) if margin == 0 else shifted(u, gamma_neg, margin)
    return positive.times(y).plus(negative.times(1 - y))


def shifted(u: Tensor, gamma: Tensor, margin: float) -> Terms:
    """p_m ** gamma (-log(1 - p_m)) at p_m = max(p - margin, 0), gamma 0 or at least 1."""
    p, q, _, _ = logistic(u)
    base = (p - margin).clamp(min=0)
    is_above = (base > 0).double()
    off = is_above * (p + margin)  # by how many units the difference may be off
    rest = q + margin
    ce = torch.where(base < 0.5, -torch.log1p(-base), -rest.log())
    power = torch.where(gamma == 0, 1.0, base**gamma)
    lower = torch.where(gamma == 0, 0.0, gamma * base.clamp(min=1e-100) ** (gamma - 1))
    inner = is_above * (lower * ce + power / rest)
    wide = base.clamp(min=1e-100)
    curved = (
        (gamma * (gamma - 1)).abs() * wide ** (gamma - 2) * ce + 2 * lower / rest + power / rest**2
    )
    return Terms(
        power * ce,
        inner * p * q,
        power * ce + 3 * inner * off,
        (inner + 3 * is_above * curved * off) * p * q,
    )


def matching(u: Tensor, alpha: float, gamma: Tensor) -> Terms:
    """The cost of a positive less that of a negative."""
    ones = torch.ones_like(u)
    return focal(u, ones, gamma).times(alpha).plus(focal(u, 1 - ones, gamma).times(alpha - 1))


class Margins(NamedTuple):
    """u of every class of rows (R, C), and the softmax s (R, C, C) of those beside each.

    du_k / dx_j is 1 for j = k and -s_kj else.
    """

    u: Tensor
    s: Tensor

    def pull(self, slope: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient in the logits, and the absolute values of its terms, from those in u."""
        gradient = slope - torch.einsum("rk,rkj->rj", slope, self.s)
        return gradient, scale + torch.einsum("rk,rkj->rj", scale, self.s)


def margins(x: Tensor) -> Margins:
    """How far each logit of a row is above all others together."""
    classes = x.shape[1]
    own = torch.eye(classes, dtype=torch.bool)
    others = x.unsqueeze(1).expand(-1, classes, -1).masked_fill(own, -torch.inf)
    if classes == 1:  # it is certain
        return Margins(torch.full_like(x, HUGE) + 0 * x, torch.zeros_like(others))
    top = others.amax(2, keepdim=True)
    e = (others - top).exp()
    total = e.sum(2, keepdim=True)
    return Margins(x - top.squeeze(2) - total.log().squeeze(2), e / total)


def tversky(
    u: Tensor,
    y: Tensor,
    counts: Tensor,
    dims: Sequence[int],
    alpha: float,
    beta: float,
    smooth: float,
    exponent: Tensor | float,
) -> Terms:
    """(1 - T) ** exponent of regions that extend over dims; slopes at each pixel.

    With E = alpha FN + beta FP and G = TP + smooth, all by their logarithms:
    1 - T = E / (E + G). `exponent` broadcasts against the regions, dims kept.
    """
    _, _, log_p, log_q = logistic(u)
    minus_inf = torch.tensor(-torch.inf, dtype=torch.float64)
    log_y = torch.where(counts, y, 0.0).log()
    log_n = torch.where(counts, 1 - y, 0.0).log()
    log_alpha, log_beta, log_smooth = (
        torch.tensor(v, dtype=torch.float64).log() for v in (alpha, beta, smooth)
    )
    missed, wrongly = log_alpha + log_y, log_beta + log_n
    log_e = _log_sum_over(log_sum(missed + log_q, wrongly + log_p), dims)
    log_g = log_sum(_log_sum_over(log_y + log_p, dims), log_smooth)
    whole = log_sum(log_e, log_g)
    is_empty = log_e == minus_inf
    log_part = torch.where(is_empty, minus_inf, log_e - whole)
    k = torch.as_tensor(exponent, dtype=torch.float64)
    log_value = k * log_part
    # d log(value) = k G / (E + G) (dE / E - dG / G)
    common = log_value + torch.where(is_empty, minus_inf, log_g - whole)
    pq = log_p + log_q

    def slope_of(log_numerator: Tensor, log_denominator: Tensor) -> Tensor:
        part = (common + log_numerator + pq - log_denominator).exp()
        return k * torch.where(is_empty | (log_numerator == minus_inf), 0.0, part)

    of_missed, of_wrongly = slope_of(missed, log_e), slope_of(wrongly, log_e)
    of_right = slope_of(log_y, log_g)
    value = log_value.exp()
    return Terms(
        value.squeeze(tuple(dims)) if dims else value,
        of_wrongly - of_missed - of_right,
        value.squeeze(tuple(dims)) if dims else value,
        of_wrongly + of_missed + of_right,
    )


def _log_sum_over(x: Tensor, dims: Sequence[int]) -> Tensor:
    """The logarithm of a sum of exponentials, dims kept; of nothing -inf."""
    if any(x.shape[d] == 0 for d in dims):
        shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        return torch.full(shape, -torch.inf, dtype=torch.float64)
    return torch.logsumexp(x, tuple(dims), keepdim=True)
