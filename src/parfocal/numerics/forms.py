"""The losses as records: what each is as a composition, and its closed forms for a sum.

A record holds numbers, or tensors of the shape of the logits. Its composition is right everywhere
and at every order of derivative. Its forms give value and slope of a block at once, from terms that
both share; they are tried in turn. Those from odds are for hard targets in float32, those from the
sides of `closed_form` for the rest. The loss of class indices has its forms in the backends.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import hard, likelihood, negative
from parfocal.numerics.autograd import ClosedForm, bind, focal
from parfocal.numerics.closed_form import (
    Gamma,
    alpha_t,
    difference,
    differentiable_value,
    is_between,
    is_ordinary,
    modulator,
    over_n,
    round_exponent,
    sides,
    value_and_slope,
)
from parfocal.numerics.data import AsymmetricKernel, ClassKernel, Evaluation, Form, Kernel, Number
from parfocal.numerics.margin import is_class, margin, margins


class Focal(NamedTuple):
    """alpha_t (1 - p_t + epsilon) ** gamma ce; without alpha_t where alpha is None."""

    gamma: Number
    alpha: Number | None = None
    epsilon: float = 0.0

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        epsilon = self.epsilon
        return kernel("focal", self.gamma, self.alpha, epsilon, is_general=epsilon > 0)

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        loss = focal(x, y, self.gamma, self.epsilon)
        return loss if self.alpha is None else alpha_t(y, self.alpha) * loss

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """From odds, and in general."""
        if dtype == torch.float64 or self.epsilon:
            return (self.evaluate,)
        gamma = round_exponent(self.gamma, dtype)
        return partial(hard.evaluate, gamma=gamma, alpha=self.alpha), self.evaluate

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """From the side to which the logit points."""
        if not is_probability(y):
            return None
        gamma = round_exponent(self.gamma, x.dtype)
        factor = weight
        if self.alpha is not None:
            factor = alpha_t(y, self.alpha)
            factor = factor if weight is None else factor.mul_(weight)
        ordinary = is_ordinary(x)
        return Evaluation(
            *value_and_slope(
                x, y, gamma, self.epsilon, factor, needs_slope=needs_slope, ordinary=ordinary
            )
        )


class Gaussian(NamedTuple):
    """The focal loss at y = 1, that of a negative times (1 - y) ** beta elsewhere."""

    gamma: Number
    beta: float

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        return kernel("gaussian", self.gamma, second=self.beta)

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        centre, penalty = self.penalize(y)
        return penalty * focal(x, centre, self.gamma)

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """Those of the focal loss at a hard target, with a factor of each position."""
        return tuple(partial(self._penalized, form) for form in Focal(self.gamma).forms(dtype))

    def _penalized(
        self, form: Form, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        if not is_probability(y):
            return None
        centre, penalty = self.penalize(y)
        factor = penalty if weight is None else penalty.mul_(weight)
        return form(x, centre, weight=factor, needs_slope=needs_slope)

    def penalize(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """1 at the centre of an object and 0 elsewhere; how much each position counts."""
        centre = (y == 1).to(y.dtype)
        return centre, torch.maximum(centre, (1 - y) ** self.beta)


class Poly(NamedTuple):
    """alpha_t q ** gamma (ce + epsilon_1 q), with q = 1 - p_t; Poly-1.

    dL/du = -q ** gamma (q + p (gamma ce + epsilon_1 (gamma + 1) q)) alpha_t
    """

    gamma: Number
    epsilon_1: float
    alpha: Number | None = None

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        return kernel("poly", self.gamma, self.alpha, self.epsilon_1)

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        # The rounding of gamma + 1 would be felt in the power as often as log q is large.
        added = modulator(x, y, self.gamma) * modulator(x, y, 1.0)
        loss = focal(x, y, self.gamma) + self.epsilon_1 * added
        return loss if self.alpha is None else alpha_t(y, self.alpha) * loss

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """The form from odds."""
        return (self.evaluate,) if dtype == torch.float32 and of_numbers(self) else ()

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """The form from odds."""
        target = hard.hard_target(y)
        if target is None:
            return None
        gamma: Any = round_exponent(self.gamma, x.dtype)
        terms = hard.terms_from_odds(target.odds(x))
        q, cross_entropy = terms.q, terms.cross_entropy
        factor = torch.pow(q, gamma)
        if self.alpha is not None:
            factor.mul_(target.alpha_t(self.alpha))
        value = torch.add(cross_entropy, q, alpha=self.epsilon_1).mul_(factor)
        slope = None
        if needs_slope:
            added = self.epsilon_1 * (self.gamma + 1)
            inner = cross_entropy.mul_(gamma).add_(q, alpha=added)  # type: ignore[arg-type]
            slope = q.addcmul_(terms.take_p(), inner).mul_(factor).mul_(target.direction)
        return weighted(value, slope, weight)


class Varifocal(NamedTuple):
    """(y + alpha m q ** gamma) ce with m = 1 at a negative, y = 0, and 0 elsewhere.

    In the notation of `closed_form`, and q = p, which is the 1 - p_t of a negative,

        dL/da = (y + alpha m q ** gamma) ce' + alpha m q ** gamma gamma (log q)' ce
    """

    alpha: float
    gamma: Number

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        return kernel("varifocal", self.gamma, number=self.alpha)

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        negative = (y <= 0).to(y.dtype)
        return torch.add(y, negative, alpha=self.alpha) * focal(x, y, negative * self.gamma)

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """The form from sides."""
        return (self.evaluate,) if of_numbers(self) else ()

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """From the side to which the logit points."""
        if not (is_ordinary(x) and is_probability(y)):
            return None
        gamma: Any = round_exponent(self.gamma, x.dtype)
        s = sides(x, y, ordinary=True)
        z = torch.addcmul(s.v, s.w, s.t)
        power = over_n(s, z).pow_(gamma).mul_(y.ceil().sub_(1).mul_(-self.alpha))
        factor = power + y
        cross_entropy = s.l.addcmul_(s.v, s.a)
        slope = None
        if needs_slope:
            # ce' n = v - w t and (log q)' n = (v - w) t / z, of which z is 0 for no ordinary logit.
            inner = torch.addcmul(s.v, s.w, s.t, value=-1).mul_(factor)
            focusing = s.t.div_(z).mul_(s.v.sub_(s.w)).mul_(cross_entropy).mul_(power)
            slope = over_n(s, inner.add_(focusing, alpha=gamma)).mul_(s.sign())
        return weighted(factor.mul_(cross_entropy), slope, weight)


class Quality(NamedTuple):
    """|p - y| ** beta ce, which at a hard label is the focal loss.

    From the side to which the logit points, in the notation of `closed_form`,

        |p - y| = |v - w t| / n      d|p - y|/da = t / n ** 2 (v - w t) / |v - w t|
        dL/da   = |p - y| ** beta (beta t ce / (n (v - w t)) + (v - w t) / n)

    At p = y all of it is 0, for beta > 1 in truth.
    """

    beta: float

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        return kernel("quality", self.beta)

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        hard_loss = focal(x, torch.where((y == 0) | (y == 1), y, 0.0), self.beta)
        # At an infinite logit the distance is constant: its slope, 0, would meet an infinite ce.
        is_far = x.isinf()
        distance = difference(torch.where(is_far, 0.0, x), y)
        distance = torch.where(is_far, (x > 0).to(y.dtype) - y, distance)
        # |.| ** beta is differentiated where it isn't 0 alone, and where the label is soft.
        is_soft = (y > 0) & (y < 1)
        counts = is_soft & (distance != 0)
        base = torch.where(counts, distance.abs(), 1.0)
        soft_loss = torch.where(counts, base**self.beta * focal(x, y, 0.0), 0.0)
        return torch.where(is_soft, soft_loss, hard_loss)

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """The form from sides."""
        return (self.evaluate,)

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """From the side to which the logit points."""
        if not (is_ordinary(x) and is_probability(y)):
            return None
        beta: Any = round_exponent(self.beta, x.dtype)
        s = sides(x, y, ordinary=True)
        signed = torch.addcmul(s.v, s.w, s.t, value=-1)
        distance = over_n(s, signed)
        factor = distance.abs().pow_(beta)
        cross_entropy = s.l.addcmul_(s.v, s.a)
        slope = None
        if needs_slope:
            # At p = y the quotient is one of zeros; any number will do, but at beta = 1 only 0.
            inner = s.r.div_(signed).nan_to_num_(0.0, 0.0, 0.0)
            slope = inner.mul_(cross_entropy).mul_(beta).add_(distance).mul_(factor).mul_(s.sign())
        return weighted(factor.mul_(cross_entropy), slope, weight)


class Asymmetric(NamedTuple):
    """A focal loss of each class, with the margin m at the negatives.

    With e the odds against a hard target, and m = 0 at a positive,

        q_m = max(e / (1 + e) - m, 0)      e_m = q_m / (1 - q_m)      ce = log1p(e_m)
        L = q_m ** gamma ce
        dL/du = -q_m ** gamma (q / (1 + e)) (gamma ce / q_m + 1 / (1 - q_m))      where q_m > 0

    In float64 all of this is textbook, as in `hard`; 1 - q_m = 1 / (1 + e) + m is no difference.
    """

    gamma_neg: Number
    gamma_pos: Number
    margin: float

    def kernel(self) -> Kernel | None:
        """One for numbers."""
        return kernel(
            "asymmetric", self.gamma_neg, number=self.margin or None, second=self.gamma_pos
        )

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position."""
        one = torch.ones_like(x)
        positive = focal(x, one, self.gamma_pos)
        if self.margin == 0:
            negative = focal(x, 1 - one, self.gamma_neg)
        else:
            negative = _shifted_negative(x, self.gamma_neg, self.margin)
        # An infinite loss of weight 0 adds nothing.
        return torch.where(y > 0, y * positive, 0.0) + torch.where(y < 1, (1 - y) * negative, 0.0)

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """From odds, unless a power has a cusp at the margin."""
        if dtype == torch.float64 or not of_numbers(self):
            return ()
        return (self.evaluate,) if self.margin == 0 or self.gamma_neg >= 1 else ()

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """The form from odds."""
        target = hard.hard_target(y)
        if target is None or not is_ordinary(x):
            return None
        gamma_neg: Any = self.gamma_neg
        gamma_pos: Any = self.gamma_pos
        e = target.odds(x)
        p = (e + 1).reciprocal_()
        q = e.mul_(p)
        pq = torch.mul(p, q).float()
        if self.margin:
            shift = target.other.double().mul_(self.margin)
            q.sub_(shift).clamp_(min=0.0)
            p.add_(shift)
        cross_entropy = torch.div(q, p).float().log1p_()
        gamma = gamma_neg
        factor = _power(q, gamma_neg)
        if gamma_pos != gamma_neg:
            gamma = torch.lerp(x.new_tensor(gamma_neg), x.new_tensor(gamma_pos), y)
            factor = torch.lerp(factor, _power(q, gamma_pos), y)
        slope = None
        if needs_slope:
            # Where q_m = 0 so is ce, and any finite quotient will do.
            inner = cross_entropy / q.float().clamp_(min=torch.finfo(torch.float32).tiny)
            inner.mul_(gamma).add_(p.reciprocal_())
            slope = inner.mul_(pq).mul_(factor).mul_(target.direction)
        return weighted(factor.mul_(cross_entropy), slope, weight)


class Likelihood(NamedTuple):
    """(1 - exp(-L)) ** gamma L of a negative log-likelihood L, which has no target."""

    gamma: Number

    def kernel(self) -> Kernel | None:
        """None."""

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position, whatever y."""
        return bind(_LIKELIHOOD, x, self.gamma)

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """One, of numbers and tensors alike."""
        return (self.evaluate,)

    def evaluate(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """Where no L is below 0 or infinite."""
        if not is_between(x, 0.0, torch.finfo(x.dtype).max):
            return None
        gamma = round_exponent(self.gamma, x.dtype)
        return likelihood.evaluate(x, gamma, weight, needs_slope=needs_slope, ordinary=True)


_LIKELIHOOD = ClosedForm(
    partial(likelihood.evaluate, ordinary=False), likelihood.gamma_slope, likelihood.compose
)


class ClassFocal(ClassKernel):
    """FL_t of one class a row; with smoothing the sum over c of w_c y_c FL_c.

    y_c = (1 - s) [c = t] + s / C. Without smoothing the weight of t is left to that of the row.
    """

    def composition(self, x: Tensor, index: Tensor) -> Tensor:
        """The loss of each row."""
        if self.smoothing == 0:
            u, t = margin(x, index)
            one, gamma = torch.ones_like(u), round_exponent(self.gamma, x.dtype)
            return differentiable_value(u, one, gamma, 0.0, t, target_varies=False)
        y = torch.zeros_like(x).scatter(1, index.unsqueeze(1), 1.0)
        gamma = over_one_class(self.gamma)
        return of_distribution(x, smoothed(y, self.smoothing), self.class_weight, gamma)


_NEGATIVE = ClosedForm(negative.evaluate, negative.gamma_slope, negative.compose)


class ClassAsymmetric(AsymmetricKernel):
    """y_t (1 - p_t) ** gamma_pos ce_t + the sum over c != t of y_c p_c ** gamma_neg ce_c.

    ce_c = -log p_c, and y is 1 at t, smoothed, times the weight of the class.
    """

    def composition(self, x: Tensor, index: Tensor) -> Tensor:
        """The loss of each row; without smoothing the wrong classes have no part."""
        own = index.unsqueeze(1)
        of_true, of_wrong = self.shares(x)
        gamma_pos, of_true = (
            number.expand_as(x).gather(1, own).squeeze(1) if isinstance(number, Tensor) else number
            for number in (self.gamma_pos, of_true)
        )
        if self.smoothing == 0:
            u, t = margin(x, index)
            return of_true * focal(u, torch.ones_like(u), gamma_pos, 0.0, t)
        every = margins(x)
        u, t = (part.gather(1, own).squeeze(1) for part in every)
        wrong = of_wrong * bind(_NEGATIVE, every.u, self.gamma_neg, every.t)
        wrong = torch.where(is_class(x, own), 0.0, wrong).sum(dim=1)
        return of_true * focal(u, torch.ones_like(u), gamma_pos, 0.0, t) + wrong


def over_one_class(number: Number) -> Number:
    """One number a row with a dimension of one class; anything else as it is."""
    return number.unsqueeze(1) if isinstance(number, Tensor) else number


def smoothed(y: Tensor, smoothing: float) -> Tensor:
    """(1 - s) y + s / C."""
    return (1 - smoothing) * y + smoothing / y.shape[1]


def of_distribution(
    x: Tensor, y: Tensor, weight: Tensor | None, gamma: Gamma, epsilon: float = 0.0
) -> Tensor:
    """The sum over the classes of w_c y_c FL_c, each from its own margin."""
    u, t = margins(x)
    terms = focal(u, torch.ones_like(u), gamma, epsilon, t)
    if weight is not None:
        y = y * weight.to(y.dtype).view(-1, *(1,) * (y.ndim - 2))
    # A class that was ruled out, by a logit of -inf and a probability of 0, adds nothing.
    return (y * torch.where((y == 0) & terms.isinf(), 0.0, terms)).sum(dim=1)


def kernel(
    name: str,
    gamma: Number,
    alpha: Number | None = None,
    number: float | None = 0.0,
    *,
    second: Number = 0.0,
    is_general: bool = False,
) -> Kernel | None:
    """The loop of this name, its exponents in float32; None where a number is a tensor."""
    if isinstance(alpha, Tensor) or not of_numbers((gamma, second)):
        return None
    gamma, second = (round_exponent(e, torch.float32) for e in (gamma, second))
    return Kernel(name, float(gamma), alpha, number, float(second), is_general)


def of_numbers(loss: tuple[Any, ...]) -> bool:
    """Whether no field of the record is a tensor."""
    return not any(isinstance(field, Tensor) for field in loss)


def is_probability(y: Tensor) -> bool:
    """Whether all of these readable targets are in [0, 1]."""
    return is_between(y, 0.0, 1.0)


def weighted(value: Tensor, slope: Tensor | None, weight: Tensor | None) -> Evaluation:
    """The end of a form: the weight of each position, multiplied in place."""
    if weight is not None:
        value.mul_(weight)
        if slope is not None:
            slope.mul_(weight)
    return Evaluation(value, slope)


def _power(base: Tensor, gamma: float) -> Tensor:
    """base ** gamma in float32; a whole power by products, for which float64 has digits enough."""
    if gamma != int(gamma) or gamma > 8:
        exponent: Any = round_exponent(gamma, torch.float32)
        return base.float().pow_(exponent)
    power = torch.ones_like(base)
    for bit in f"{int(gamma):b}":
        power.mul_(power)
        if bit == "1":
            power.mul_(base)
    return power.float()


def _shifted_negative(x: Tensor, gamma: Gamma, margin: float) -> Tensor:
    """p_m ** gamma (-log(1 - p_m)), with p_m = p - margin > 0 and 1 - p_m = (1 - p) + margin."""
    p_m = difference(x, torch.full_like(x, margin))
    counts = ~(p_m <= 0)  # NaN stays
    p_m = torch.where(counts, p_m, 0.5)
    s = sides(x, torch.ones_like(x))
    q = torch.lerp(torch.ones_like(s.t), s.t, s.h) / s.n
    # The logarithm of what is near 1 goes through log1p.
    near_one = p_m < 0.5
    cross_entropy = torch.where(
        near_one,
        -torch.log1p(-torch.where(near_one, p_m, 0.0)),
        -torch.log(torch.where(near_one, 1.0, q + margin)),
    )
    return torch.where(counts, p_m**gamma * cross_entropy, 0.0)
