"""What the losses of one logit and one target must give, by their docstrings."""

from typing import Any

import torch
from torch import Tensor

from fuzzing import stable
from fuzzing.arithmetic import (
    Arithmetic,
    Expected,
    Incoming,
    finite_logits,
    reduced,
    truth_ulps,
    where_counted,
)
from fuzzing.stable import HUGE, Terms


def _elementwise(
    x: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    terms: Terms,
    exponents: Tensor,
    counts: Tensor,
    *,
    balance: Tensor | float = 1.0,
    reduction: str = "none",
    weight: Tensor | None = None,
    normalizer: Any = None,
) -> Expected:
    """`terms` at each position, with the options that all of these losses have."""
    ulps = 10 + 4 * exponents
    ulps = ulps + truth_ulps(a, (2 + exponents) * x.abs())
    floor = a.least * (1 + x.abs().clamp(max=1e5))
    value_off = a.ulp * ulps * terms.value_scale + floor
    slope_off = a.ulp * ulps * terms.slope_scale + floor
    factor = torch.where(counts, torch.as_tensor(balance, dtype=torch.float64), 0.0)
    if weight is not None:
        factor = torch.where(counts, factor * a.operand(weight), 0.0)
    value = torch.where(counts, factor * terms.value, 0.0)
    # 0 times an infinity is no number in floating point, and nothing better is promised; no more
    # where the factor of an infinity is positive, but too small for the dtype.
    is_lost = (terms.value > 0) & (terms.value < HUGE * a.least)
    is_open = counts & ((factor == 0) & x.isnan() | ((factor == 0) | is_lost) & (x.abs() >= HUGE))
    value_off = torch.where(is_open, torch.inf, torch.where(counts, factor.abs() * value_off, 0.0))
    divisor = float(counts.sum()) if reduction == "mean" else normalizer
    result, tolerance, share = reduced(value, value_off, a, incoming, reduction, divisor)
    share = torch.where(counts, share * factor, 0.0)
    gradient = torch.where(counts, share * terms.slope, 0.0)
    off = a.finish(gradient, share.abs() * slope_off, a.inputs)
    off = torch.where(x.isnan() | is_open, torch.inf, torch.where(counts, off, 0.0))
    return Expected(result, tolerance, gradient, off)


def positions(
    inputs: Tensor, a: Arithmetic, targets: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets, 0 where they don't count, and where they do."""
    counts = where_counted(mask, inputs.shape)
    x = torch.where(counts, finite_logits(a.operand(inputs)), 0.0)
    if targets.ndim < inputs.ndim:  # class indices
        each = [targets == k for k in range(inputs.shape[1])]
        targets = torch.stack(each, 1) if each else torch.zeros(inputs.shape)
    return x, torch.where(counts, a.operand(targets), 0.0), counts


def _balance(alpha: Any, y: Tensor, a: Arithmetic, counts: Tensor) -> Tensor:
    """alpha_t; 1 where it is off."""
    if not isinstance(alpha, Tensor):
        if alpha is None or float(alpha) < 0:
            return torch.ones_like(y)
        alpha = torch.tensor(float(alpha), dtype=torch.float64)
    alpha = torch.where(counts, a.operand(alpha), 0.0)
    return y * alpha + (1 - y) * (1 - alpha)


def sigmoid_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    alpha: Any = 0.25,
    gamma: Any = 2,
    *,
    epsilon: Any = 0.0,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.focal(x, y, exponent, float(epsilon))
    balance = _balance(alpha, y, a, counts)
    return _elementwise(x, a, incoming, terms, exponent, counts, balance=balance, **options)


def varifocal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    alpha: Any = 0.75,
    gamma: Any = 2,
    *,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.varifocal(x, y, exponent)
    balance = torch.where(y > 0, y, float(alpha))
    return _elementwise(x, a, incoming, terms, exponent, counts, balance=balance, **options)


def gaussian_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    gamma: Any = 2,
    beta: Any = 4,
    *,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.gaussian(x, y, exponent, a.exponent(beta).item())
    return _elementwise(x, a, incoming, terms, exponent + float(beta), counts, **options)


def quality_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    beta: Any = 2,
    *,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    exponent = a.exponent(beta).expand_as(x)
    terms = stable.quality(x, y, exponent)
    return _elementwise(x, a, incoming, terms, exponent, counts, **options)


def asymmetric_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    gamma_neg: Any = 4,
    gamma_pos: Any = 1,
    margin: Any = 0.05,
    *,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    negative, positive = (a.exponent(g).expand_as(x) for g in (gamma_neg, gamma_pos))
    # The margin too is rounded: p at which a loss begins depends on it.
    terms = stable.asymmetric(x, y, negative, positive, float(margin))
    return _elementwise(x, a, incoming, terms, negative + positive, counts, **options)


def poly_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    alpha: Any = None,
    gamma: Any = 2,
    *,
    epsilon_1: Any = 1.0,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.poly(x, y, exponent, float(epsilon_1))
    balance = _balance(alpha, y, a, counts)
    return _elementwise(x, a, incoming, terms, exponent + 1, counts, balance=balance, **options)


def focal_matching_cost(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    labels: Tensor,
    alpha: Any = 0.25,
    gamma: Any = 2,
) -> Expected:
    x = finite_logits(a.operand(inputs))
    exponent = a.exponent(gamma)
    terms = stable.matching(x, float(alpha), exponent)
    ulps = 12 + 4 * exponent + truth_ulps(a, (2 + exponent) * x.abs())
    off = a.ulp * ulps * terms.value_scale + a.least * (1 + x.abs())
    value, off = (t.index_select(-1, labels.long()) for t in (terms.value, off))
    nothing = torch.zeros_like(x)
    return Expected(value, a.finish(value, off, a.result), nothing, nothing)
