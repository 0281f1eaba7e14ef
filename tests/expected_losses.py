"""What a call of a loss must give, by its docstring: value and gradient in float64, and how near.

The formulas are those of `stable_losses`. Here are the options that all losses share: which
positions count, what a mean divides by, weights, and the rounding of what is computed in one dtype
and given back in another. Defaults are written down anew, as the docstrings have them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import stable_losses as stable
from stable_losses import HUGE, Terms

Incoming = Callable[[tuple[int, ...]], Tensor]


class Expected(NamedTuple):
    """A result in float64, and how far a right one may be from it; a gradient likewise.

    NaN stands for itself, and what is beyond 1e200 for an infinity. Where the tolerance is
    infinite nothing is promised.
    """

    value: Tensor
    value_tolerance: Tensor
    gradient: Tensor
    gradient_tolerance: Tensor


class Arithmetic(NamedTuple):
    """The dtype of the logits, that of the computation, and that of the result."""

    inputs: torch.dtype
    computation: torch.dtype
    result: torch.dtype

    @property
    def ulp(self) -> float:
        """The relative distance of numbers of the computation."""
        return torch.finfo(self.computation).eps

    @property
    def least(self) -> float:
        """Below it numbers of the computation lose their digits."""
        return torch.finfo(self.computation).tiny

    def operand(self, given: Tensor) -> Tensor:
        """A tensor as it takes part."""
        return given.detach().to(self.computation).double()

    def exponent(self, given: Any) -> Tensor:
        """A number or a tensor as an exponent, which is rounded like every tensor."""
        if not isinstance(given, Tensor):
            given = torch.tensor(float(given), dtype=torch.float64)
        return self.operand(given)

    def finish(self, value: Tensor, tolerance: Tensor, dtype: torch.dtype) -> Tensor:
        """The tolerance with the last rounding, to dtype."""
        limits = torch.finfo(dtype)
        least = limits.smallest_normal * limits.eps if dtype.itemsize == 2 else limits.tiny
        rounding = limits.eps if dtype.itemsize == 2 else 2 * limits.eps
        return tolerance + rounding * value.abs() + 2 * least


def arithmetic(inputs: Tensor, autocast: bool) -> Arithmetic:
    """16 bits are computed in float32, which they stay under autocast."""
    wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    return Arithmetic(inputs.dtype, wide, wide if autocast else inputs.dtype)


def expected(
    name: str, arguments: dict[str, Any], incoming: Incoming, *, autocast: bool
) -> Expected:
    """Of the call name(**arguments), whose result is given the gradient `incoming` of its shape."""
    arguments = dict(arguments)
    inputs = arguments.pop("inputs")
    return _LOSSES[name](inputs, arithmetic(inputs, autocast), incoming, **arguments)


def _own(a: Arithmetic, logarithm: Tensor) -> Tensor:
    """How far the truth itself may be off, in ULP of the computation: it is exp(logarithm)."""
    return 2 * torch.finfo(torch.float64).eps / a.ulp * logarithm.clamp(max=1e5)


def _finite(x: Tensor) -> Tensor:
    """Infinite logits as the largest numbers."""
    return x.clamp(-HUGE, HUGE)


def _counts(mask: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Where positions count."""
    if mask is None:
        return torch.ones(tuple(shape), dtype=torch.bool)
    return (mask != 0).expand(tuple(shape))


def _reduced(
    value: Tensor,
    tolerance: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    reduction: str,
    divisor: Tensor | float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and tolerance of the result, and the factor by which each position's slope counts."""
    if reduction == "none":
        factor = incoming(tuple(value.shape)).double()
        return value, a.finish(value, tolerance, a.result), factor
    grow = 4 + math.log2(max(2, value.numel()))
    divisor = torch.as_tensor(1.0 if divisor is None else divisor, dtype=torch.float64).reshape(())
    total = value.sum() / divisor
    slack = (tolerance.sum() + grow * a.ulp * value.abs().sum()) / divisor.abs()
    factor = incoming(()).double() / divisor
    return total, a.finish(total, slack, a.result), factor.expand(value.shape)


# Losses of one logit and one target.


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
    ulps = ulps + _own(a, (2 + exponents) * x.abs())
    floor = a.least * (1 + x.abs().clamp(max=1e5))
    value_off = a.ulp * ulps * terms.value_scale + floor
    slope_off = a.ulp * ulps * terms.slope_scale + floor
    factor = torch.where(counts, torch.as_tensor(balance, dtype=torch.float64), 0.0)
    if weight is not None:
        factor = torch.where(counts, factor * a.operand(weight), 0.0)
    value = torch.where(counts, factor * terms.value, 0.0)
    # 0 times an infinity is no number in floating point, and nothing better is promised.
    is_open = counts & (factor == 0) & (x.isnan() | (x.abs() >= HUGE))
    value_off = torch.where(is_open, torch.inf, torch.where(counts, factor.abs() * value_off, 0.0))
    divisor = float(counts.sum()) if reduction == "mean" else normalizer
    result, tolerance, share = _reduced(value, value_off, a, incoming, reduction, divisor)
    share = torch.where(counts, share * factor, 0.0)
    gradient = torch.where(counts, share * terms.slope, 0.0)
    off = a.finish(gradient, share.abs() * slope_off, a.inputs)
    off = torch.where(x.isnan() | is_open, torch.inf, torch.where(counts, off, 0.0))
    return Expected(result, tolerance, gradient, off)


def _positions(
    inputs: Tensor, a: Arithmetic, targets: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets, 0 where they don't count, and where they do."""
    counts = _counts(mask, inputs.shape)
    x = torch.where(counts, _finite(a.operand(inputs)), 0.0)
    return x, torch.where(counts, a.operand(targets), 0.0), counts


def _balance(alpha: Any, y: Tensor, a: Arithmetic, counts: Tensor) -> Tensor:
    """alpha_t; 1 where it is off."""
    if not isinstance(alpha, Tensor):
        if alpha is None or float(alpha) < 0:
            return torch.ones_like(y)
        alpha = torch.tensor(float(alpha), dtype=torch.float64)
    alpha = torch.where(counts, a.operand(alpha), 0.0)
    return y * alpha + (1 - y) * (1 - alpha)


def _sigmoid_focal_loss(
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
    x, y, counts = _positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.focal(x, y, exponent, float(epsilon))
    balance = _balance(alpha, y, a, counts)
    return _elementwise(x, a, incoming, terms, exponent, counts, balance=balance, **options)


def _varifocal_loss(
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
    x, y, counts = _positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.varifocal(x, y, exponent)
    balance = torch.where(y > 0, y, float(alpha))
    return _elementwise(x, a, incoming, terms, exponent, counts, balance=balance, **options)


def _gaussian_focal_loss(
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
    x, y, counts = _positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.gaussian(x, y, exponent, a.exponent(beta).item())
    return _elementwise(x, a, incoming, terms, exponent + float(beta), counts, **options)


def _quality_focal_loss(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    targets: Tensor,
    beta: Any = 2,
    *,
    mask: Tensor | None = None,
    **options: Any,
) -> Expected:
    x, y, counts = _positions(inputs, a, targets, mask)
    exponent = a.exponent(beta).expand_as(x)
    terms = stable.quality(x, y, exponent)
    return _elementwise(x, a, incoming, terms, exponent, counts, **options)


def _asymmetric_loss(
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
    x, y, counts = _positions(inputs, a, targets, mask)
    negative, positive = (a.exponent(g).expand_as(x) for g in (gamma_neg, gamma_pos))
    # The margin too is rounded: p at which a loss begins depends on it.
    terms = stable.asymmetric(x, y, negative, positive, float(margin))
    return _elementwise(x, a, incoming, terms, negative + positive, counts, **options)


def _poly_focal_loss(
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
    x, y, counts = _positions(inputs, a, targets, mask)
    exponent = a.exponent(gamma).expand_as(x)
    terms = stable.poly(x, y, exponent, float(epsilon_1))
    balance = _balance(alpha, y, a, counts)
    return _elementwise(x, a, incoming, terms, exponent + 1, counts, balance=balance, **options)


def _focal_matching_cost(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    labels: Tensor,
    alpha: Any = 0.25,
    gamma: Any = 2,
) -> Expected:
    x = _finite(a.operand(inputs))
    exponent = a.exponent(gamma)
    terms = stable.matching(x, float(alpha), exponent)
    ulps = 12 + 4 * exponent + _own(a, (2 + exponent) * x.abs())
    off = a.ulp * ulps * terms.value_scale + a.least * (1 + x.abs())
    value, off = (t.index_select(-1, labels.long()) for t in (terms.value, off))
    nothing = torch.zeros_like(x)
    return Expected(value, a.finish(value, off, a.result), nothing, nothing)


# Losses of classes.


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


def _as_rows(given: Tensor) -> Tensor:
    """(C), (N, C) or (N, C, ...) to (R, C)."""
    if given.ndim == 1:
        return given.unsqueeze(0)
    moved = given.movedim(1, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), given.shape[1])


def _rows(
    inputs: Tensor,
    a: Arithmetic,
    targets: Tensor,
    ignore_index: int | Sequence[int],
    mask: Tensor | None,
    smoothing: float = 0.0,
) -> _Rows:
    shape = tuple(inputs.shape[:0] if inputs.ndim == 1 else inputs.shape[:1] + inputs.shape[2:])
    raw = _as_rows(a.operand(inputs))
    counts = _counts(mask, shape).reshape(-1)
    labels = None
    if targets.is_floating_point():
        y = torch.where(counts.unsqueeze(1), _as_rows(a.operand(targets)), 0.0)
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
    margins = stable.margins(_finite(raw))
    return _Rows(margins, y, counts, labels, shape, spread, is_open)


def _softmax_focal_loss(
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
    r = _rows(inputs, a, targets, ignore_index, mask, float(label_smoothing))
    u = r.margins.u
    classes = u.shape[1]
    exponent = _as_rows(a.exponent(gamma).expand(inputs.shape))
    class_weight = torch.ones(classes, dtype=torch.float64)
    if weight is not None:
        class_weight = a.operand(weight)
    terms = stable.focal(u, torch.ones_like(u), exponent, float(epsilon))
    factor = r.y * class_weight
    terms = Terms(*(torch.where(factor == 0, 0.0, part) for part in terms.times(factor)))
    counts = r.counts.unsqueeze(1)
    steepest = exponent.amax(1) if classes else r.spread
    bound = (1 + steepest) * (10 + r.spread + math.log2(max(1, classes)) / 2)
    if label_smoothing or r.labels is None:
        bound = bound + 8
    bound = bound + _own(a, (2 + steepest) * u.abs().amax(1)) if classes else bound
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
    result, tolerance, per_row = _reduced(
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


# Losses of regions.


class _Pixels(NamedTuple):
    """Margins and targets (N, C, ...), which of them count, and how a slope reaches the logits."""

    u: Tensor
    y: Tensor
    counts: Tensor
    spread: float
    pull: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _sigmoid_pixels(inputs: Tensor, a: Arithmetic, targets: Tensor, mask: Tensor | None) -> _Pixels:
    x, y, counts = _positions(inputs, a, targets, mask)
    return _Pixels(x, y, counts, 0.0, lambda slope, scale: (slope, scale))


def _class_pixels(
    inputs: Tensor,
    a: Arithmetic,
    targets: Tensor,
    mask: Tensor | None,
    ignore_index: int | Sequence[int],
) -> _Pixels:
    r = _rows(inputs, a, targets, ignore_index, mask)

    def pull(slope: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        pulled = r.margins.pull(_as_rows(slope), _as_rows(scale))
        return r.to_inputs(pulled[0], inputs), r.to_inputs(pulled[1], inputs)

    counts = r.to_inputs(r.counts.unsqueeze(1).expand_as(r.y), inputs)
    spread = float(r.spread.amax()) if r.spread.numel() else 0.0
    u, y = r.to_inputs(r.margins.u, inputs), r.to_inputs(r.y, inputs)
    return _Pixels(u, torch.where(counts, y, 0.0), counts, spread, pull)


def _dims(inputs: Tensor, per_image: bool) -> tuple[int, ...]:
    """What a region extends over."""
    spatial = tuple(range(2, inputs.ndim))
    return spatial if per_image else (0, *spatial)


def _along_classes(given: Tensor, inputs: Tensor) -> Tensor:
    """One number a class, at its pixels."""
    return given.reshape(-1, *(1,) * (inputs.ndim - 2))


def _region_ulps(k: Tensor, a: Arithmetic, pixels: _Pixels, dims: Sequence[int]) -> Tensor:
    """How far a region may be off, in ULP of the scale."""
    count = math.prod(pixels.u.shape[d] for d in dims)
    own = pixels.u.abs().amax() if pixels.u.numel() else torch.zeros(())
    bound = 2 * (8 + 6 * k + (1 + k) * pixels.spread) + 2 * math.log2(max(2, count))
    return bound + _own(a, (3 + k) * own)


def _tversky(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    pixels: _Pixels,
    exponent: float,
    *,
    alpha: Any = 0.7,
    beta: Any = 0.3,
    reduction: str = "mean",
    smooth: Any = 1.0,
    per_image: bool = True,
    weight: Tensor | None = None,
) -> Expected:
    dims = _dims(inputs, per_image)
    k = a.exponent(exponent)
    terms = stable.tversky(
        pixels.u, pixels.y, pixels.counts, dims, float(alpha), float(beta), float(smooth), k
    )
    off = a.ulp * _region_ulps(k, a, pixels, dims)
    factor = torch.ones(inputs.shape[1], dtype=torch.float64)
    if weight is not None:
        factor = a.operand(weight)
    value = terms.value * factor
    divisor = float(value.numel()) if reduction == "mean" else None
    value_off = off * value.abs() + a.least * factor.abs()
    result, tolerance, share = _reduced(value, value_off, a, incoming, reduction, divisor)
    share = _over_regions(share * factor, dims, inputs)
    return _of_pixels(
        pixels, a, result, tolerance, share * terms.slope, share.abs() * terms.slope_scale, off
    )


def _over_regions(given: Tensor, dims: Sequence[int], inputs: Tensor) -> Tensor:
    """One number a region, with the dimensions of its pixels."""
    shape = [1 if d in dims else n for d, n in enumerate(inputs.shape)]
    return given.reshape(shape)


def _of_pixels(
    pixels: _Pixels,
    a: Arithmetic,
    result: Tensor,
    tolerance: Tensor,
    slope: Tensor,
    scale: Tensor,
    off: Tensor,
) -> Expected:
    slope, scale = (torch.where(pixels.counts, t, 0.0) for t in (slope, scale))
    gradient, scale = pixels.pull(slope, scale)
    gradient_off = a.finish(gradient, off * scale, a.inputs)
    counts = pixels.counts
    return Expected(result, tolerance, gradient, torch.where(counts, gradient_off, 0.0))


def _sigmoid_tversky(exponent_of: Callable[[Any], float]) -> Callable[..., Expected]:
    def loss(
        inputs: Tensor,
        a: Arithmetic,
        incoming: Incoming,
        targets: Tensor,
        *,
        gamma: Any = 4 / 3,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Expected:
        pixels = _sigmoid_pixels(inputs, a, targets, mask)
        return _tversky(inputs, a, incoming, pixels, exponent_of(gamma), **options)

    return loss


def _softmax_tversky(exponent_of: Callable[[Any], float]) -> Callable[..., Expected]:
    def loss(
        inputs: Tensor,
        a: Arithmetic,
        incoming: Incoming,
        targets: Tensor,
        *,
        gamma: Any = 4 / 3,
        ignore_index: int | Sequence[int] = -100,
        mask: Tensor | None = None,
        **options: Any,
    ) -> Expected:
        pixels = _class_pixels(inputs, a, targets, mask, ignore_index)
        return _tversky(inputs, a, incoming, pixels, exponent_of(gamma), **options)

    return loss


class _Part(NamedTuple):
    """One of the classes of a unified loss: terms of its pixels and regions, slopes by margin."""

    pixels: Terms
    regions: Terms


def _unified_part(
    u: Tensor,
    y: Tensor,
    pixels: _Pixels,
    dims: tuple[int, ...],
    a: Arithmetic,
    per_class: Callable[[Any, Any], Tensor],
    options: dict[str, Any],
) -> _Part:
    """Cross-entropy and regions of margins u with targets y."""
    delta, gamma, asymmetric = options["delta"], options["gamma"], options["asymmetric"]
    focus = a.operand(per_class(gamma, 0.0 if asymmetric else gamma))
    exponent = a.operand(per_class(1.0 if asymmetric else 1 - gamma, 1 - gamma))
    of_class = per_class(1 - delta, delta)
    terms = stable.focal(u, torch.ones_like(u), focus).times(of_class * y)
    terms = Terms(*(torch.where((y == 0) | ~pixels.counts, 0.0, part) for part in terms))
    regions = stable.tversky(
        u, y, pixels.counts, dims, delta, 1 - delta, options["smooth"], exponent
    )
    return _Part(terms, regions)


def _unified(kind: str, asymmetric: bool) -> Callable[..., Expected]:
    def loss(
        inputs: Tensor,
        a: Arithmetic,
        incoming: Incoming,
        targets: Tensor,
        delta: Any = 0.6,
        gamma: Any = 0.5,
        balance: Any = 0.5,
        *,
        reduction: str = "mean",
        smooth: Any = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
        background: int = 0,
        ignore_index: int | Sequence[int] = -100,
        mask: Tensor | None = None,
    ) -> Expected:
        options = {
            "delta": float(delta),
            "gamma": float(gamma),
            "smooth": float(smooth),
            "asymmetric": asymmetric,
        }
        dims = _dims(inputs, per_image)
        classes = torch.arange(inputs.shape[1])
        if kind == "sigmoid":
            pixels = _sigmoid_pixels(inputs, a, targets, mask)
            there = _unified_part(pixels.u, pixels.y, pixels, dims, a, _second, options)
            other_y = torch.where(pixels.counts, 1 - pixels.y, 0.0)
            absent = _unified_part(-pixels.u, other_y, pixels, dims, a, _first, options)
            parts = [(1.0, there), (-1.0, absent)]
            count = pixels.counts.sum()
        else:
            pixels = _class_pixels(inputs, a, targets, mask, ignore_index)
            is_background = _along_classes(classes == background, inputs)

            def per_class(of_background: Any, of_others: Any) -> Tensor:
                both = (
                    torch.tensor(float(v), dtype=torch.float64) for v in (of_background, of_others)
                )
                return torch.where(is_background, *both)

            parts = [(1.0, _unified_part(pixels.u, pixels.y, pixels, dims, a, per_class, options))]
            count = pixels.counts[:, 0].sum() if len(classes) else torch.tensor(0)
        factor = torch.ones(inputs.shape[1], dtype=torch.float64)
        if weight is not None:
            factor = a.operand(weight)
        over_maps = _along_classes(factor, inputs)
        regions = torch.cat([(p.regions.value * factor).reshape(-1) for _, p in parts])
        ce = sum((p.pixels.value * over_maps).sum() for _, p in parts)
        of_regions, of_pixels = (
            float(balance) / regions.numel() if regions.numel() else math.nan,
            (1 - float(balance)) / count.double(),
        )
        value = of_regions * regions.sum() + of_pixels * ce
        if reduction == "sum":
            raise NotImplementedError("the sum of a unified loss")
        k = a.exponent(1.0)
        off = a.ulp * (_region_ulps(k, a, pixels, dims) + 4 + math.log2(max(2, inputs.numel())))
        size = of_regions * regions.abs().sum() + of_pixels * abs(ce)
        tolerance = a.finish(value, off * size + 4 * a.least, a.result)
        slope, scale = torch.zeros_like(pixels.u), torch.zeros_like(pixels.u)
        for sign, (ce_terms, region_terms) in parts:
            for share, terms in ((of_pixels, ce_terms), (of_regions, region_terms)):
                slope = slope + sign * share * over_maps * terms.slope
                scale = scale + share * (over_maps * terms.slope_scale).abs()
        came = incoming(()).double()
        return _of_pixels(pixels, a, value, tolerance, came * slope, came.abs() * scale, off)

    return loss


def _first(of_background: Any, of_others: Any) -> Tensor:
    """What holds where a class isn't."""
    return torch.tensor(float(of_background), dtype=torch.float64)


def _second(of_background: Any, of_others: Any) -> Tensor:
    """What holds where a class is."""
    return torch.tensor(float(of_others), dtype=torch.float64)


_LOSSES: dict[str, Callable[..., Expected]] = {
    "asymmetric_loss": _asymmetric_loss,
    "focal_matching_cost": _focal_matching_cost,
    "gaussian_focal_loss": _gaussian_focal_loss,
    "poly_focal_loss": _poly_focal_loss,
    "quality_focal_loss": _quality_focal_loss,
    "sigmoid_asymmetric_unified_focal_loss": _unified("sigmoid", asymmetric=True),
    "sigmoid_focal_loss": _sigmoid_focal_loss,
    "sigmoid_focal_tversky_loss": _sigmoid_tversky(lambda gamma: 1 / float(gamma)),
    "sigmoid_tversky_loss": _sigmoid_tversky(lambda gamma: 1.0),
    "sigmoid_unified_focal_loss": _unified("sigmoid", asymmetric=False),
    "softmax_asymmetric_unified_focal_loss": _unified("softmax", asymmetric=True),
    "softmax_focal_loss": _softmax_focal_loss,
    "softmax_focal_tversky_loss": _softmax_tversky(lambda gamma: 1 / float(gamma)),
    "softmax_tversky_loss": _softmax_tversky(lambda gamma: 1.0),
    "softmax_unified_focal_loss": _unified("softmax", asymmetric=False),
    "varifocal_loss": _varifocal_loss,
}
