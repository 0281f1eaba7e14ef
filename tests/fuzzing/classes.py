"""What the losses of exclusive classes must give, by their docstrings; and rows of class logits."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from fuzzing.stable import Terms


class _Rows(NamedTuple):
    """Rows of class logits (R, C), 0 where they don't count, and their targets y (R, C).

    shape: of the positions. labels: class indices, or None beside probabilities.
    spread: of the finite logits of each row. is_open: where an infinity or NaN leaves the gradient
    open.
    """

    margins: stable.Margins
    y: Tensor
    counts: Tensor
    labels: Tensor | None
    shape: tuple[int, ...]
    spread: Tensor
    is_open: Tensor

    def from_positions(self, given: Tensor) -> Tensor:
        """One number a position, as one a row."""
        return given.expand(self.shape).reshape(-1)

    def to_inputs(self, given: Tensor, inputs: Tensor) -> Tensor:
        """(R, C), of the shape of the logits."""
        if inputs.ndim == 1:
            return given.reshape(inputs.shape)
        return given.reshape(*self.shape, inputs.shape[1]).movedim(-1, 1)


def as_rows(given: Tensor) -> Tensor:
    """(C), (N, C) or (N, C, ...) to (R, C)."""
    if given.ndim == 1:
        return given.unsqueeze(0)
    moved = given.movedim(1, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), given.shape[1])


def class_rows(
    inputs: Tensor,
    a: Arithmetic,
    targets: Tensor,
    ignore_index: int | Sequence[int],
    mask: Tensor | None,
    smoothing: float = 0.0,
) -> _Rows:
    shape = tuple(inputs.shape[:0] if inputs.ndim == 1 else inputs.shape[:1] + inputs.shape[2:])
    raw = as_rows(a.operand(inputs))
    counts = where_counted(mask, shape).reshape(-1)
    labels = None
    if targets.is_floating_point():
        y = torch.where(counts.unsqueeze(1), as_rows(a.operand(targets)), 0.0)
    else:
        several = [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
        labels = targets.long().reshape(-1)
        for index in several:
            counts = counts & (labels != index)
        labels = torch.where(counts, labels, 0)
        y = torch.zeros_like(raw)
        if raw.numel():
            y.scatter_(1, labels.unsqueeze(1), 1.0)
    if smoothing:
        y = (1 - smoothing) * y + smoothing / raw.shape[1]
    raw = torch.where(counts.unsqueeze(1), raw, 0.0)
    is_finite = raw.isfinite()
    high = torch.where(is_finite, raw, -torch.inf)
    low = torch.where(is_finite, raw, torch.inf)
    spread = (high.amax(1) - low.amin(1)).clamp(min=0, max=1e6) if raw.shape[1] else counts * 0.0
    hit = (raw == -torch.inf) & (y > 0)
    is_open = raw.isnan().any(1) | (raw == torch.inf).any(1) | hit.any(1)
    margins = stable.margins(finite_logits(raw))
    return _Rows(margins, y, counts, labels, shape, spread, is_open)


def softmax_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    weight: Tensor | None = None,
    gamma: Any = 2,
    *,
    ignore_index: int | Sequence[int] = -100,
    reduction: str = "mean",
    label_smoothing: Any = 0.0,
    epsilon: Any = 0.0,
    mask: Tensor | None = None,
    normalizer: Any = None,
    position_weight: Tensor | None = None,
) -> Expected:
    r = class_rows(inputs, a, targets, ignore_index, mask, float(label_smoothing))
    exponent = as_rows(a.exponent(gamma).expand(inputs.shape))
    terms = stable.focal(r.margins.u, torch.ones_like(r.margins.u), exponent, float(epsilon))
    is_simple = not label_smoothing and r.labels is not None
    weights = _Weights(weight, position_weight, reduction, normalizer)
    return _of_rows(inputs, a, incoming, r, terms, exponent, weights, is_simple=is_simple)


def softmax_asymmetric_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    weight: Tensor | None = None,
    gamma_neg: Any = 4,
    gamma_pos: Any = 0,
    *,
    ignore_index: int | Sequence[int] = -100,
    reduction: str = "mean",
    label_smoothing: Any = 0.1,
    mask: Tensor | None = None,
    normalizer: Any = None,
    position_weight: Tensor | None = None,
) -> Expected:
    r = class_rows(inputs, a, targets, ignore_index, mask, float(label_smoothing))
    u = r.margins.u
    of_wrong, of_true = (
        as_rows(a.exponent(gamma).expand(inputs.shape)) for gamma in (gamma_neg, gamma_pos)
    )
    is_true = torch.zeros_like(u, dtype=torch.bool)
    if u.numel():
        assert r.labels is not None
        is_true.scatter_(1, r.labels.unsqueeze(1), True)
    true = stable.focal(u, torch.ones_like(u), of_true)
    terms = true.where(is_true, stable.negative(u, of_wrong))
    steepest = torch.maximum(of_wrong, of_true)
    weights = _Weights(weight, position_weight, reduction, normalizer)
    return _of_rows(inputs, a, incoming, r, terms, steepest, weights, is_simple=False)


class _Weights(NamedTuple):
    """The options of the same names."""

    of_classes: Tensor | None
    of_positions: Tensor | None
    reduction: str
    normalizer: Any


def _of_rows(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    r: _Rows,
    terms: Terms,
    exponent: Tensor,
    weights: _Weights,
    *,
    is_simple: bool,
) -> Expected:
    """The sum over the classes of each row of y_c times its term, weighed and reduced."""
    weight, position_weight, reduction, normalizer = weights
    u = r.margins.u
    classes = u.shape[1]
    class_weight = torch.ones(classes, dtype=torch.float64)
    if weight is not None:
        class_weight = a.operand(weight)
    factor = r.y * class_weight
    terms = Terms(*(torch.where(factor == 0, 0.0, part) for part in terms.times(factor)))
    counts = r.counts.unsqueeze(1)
    steepest = exponent.amax(1) if classes else r.spread
    bound = (1 + steepest) * (10 + r.spread + math.log2(max(1, classes)) / 2)
    if not is_simple:
        bound = bound + 8
    bound = bound + truth_ulps(a, (2 + steepest) * u.abs().amax(1)) if classes else bound
    off = 1.5 * a.ulp * bound
    value = torch.where(r.counts, terms.value.sum(1), 0.0)
    value_off = torch.where(r.counts, off * terms.value_scale.sum(1), 0.0)
    share = torch.ones_like(value)
    if position_weight is not None:
        share = torch.where(r.counts, r.from_positions(a.operand(position_weight)), 0.0)
    divisor: Tensor | float | None = normalizer
    if reduction == "mean":
        of_rows = torch.ones_like(value) if r.labels is None else class_weight[r.labels]
        divisor = (of_rows * r.counts).sum()
    value_off = share.abs() * (value_off + a.least * (1 + u.abs().amax(1).clamp(max=1e5)))
    is_zero = (factor == 0).any(1) | (share == 0)
    value_off = torch.where(r.is_open & r.counts & is_zero, torch.inf, value_off)
    value = (value * share).reshape(r.shape)
    result, tolerance, per_row = reduced(
        value, value_off.reshape(r.shape), a, incoming, reduction, divisor
    )
    per_row = (per_row.reshape(-1) * share).unsqueeze(1)
    slope, scale = r.margins.pull(terms.slope, terms.slope_scale)
    gradient = torch.where(counts, per_row * slope, 0.0)
    floor = a.least * (1 + r.spread + class_weight.abs().sum()).unsqueeze(1)
    gradient_off = per_row.abs() * (off.unsqueeze(1) * scale + floor)
    gradient_off = torch.where(counts, a.finish(gradient, gradient_off, a.inputs), 0.0)
    gradient_off = torch.where(r.is_open.unsqueeze(1), torch.inf, gradient_off)
    return Expected(
        result, tolerance, r.to_inputs(gradient, inputs), r.to_inputs(gradient_off, inputs)
    )
