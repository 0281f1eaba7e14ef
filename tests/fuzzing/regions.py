"""What the losses of regions must give, by their docstrings: Tversky and unified."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fuzzing import stable
from fuzzing.arithmetic import Arithmetic, Expected, Incoming, reduced, truth_ulps
from fuzzing.classes import as_rows, class_rows
from fuzzing.elementwise import positions
from fuzzing.stable import Terms


class _Pixels(NamedTuple):
    """Margins and targets (N, C, ...), which of them count, and how a slope reaches the logits."""

    u: Tensor
    y: Tensor
    counts: Tensor
    spread: float
    pull: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _sigmoid_pixels(inputs: Tensor, a: Arithmetic, targets: Tensor, mask: Tensor | None) -> _Pixels:
    x, y, counts = positions(inputs, a, targets, mask)
    return _Pixels(x, y, counts, 0.0, lambda slope, scale: (slope, scale))


def _class_pixels(
    inputs: Tensor,
    a: Arithmetic,
    targets: Tensor,
    mask: Tensor | None,
    ignore_index: int | Sequence[int],
) -> _Pixels:
    r = class_rows(inputs, a, targets, ignore_index, mask)

    def pull(slope: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        pulled = r.margins.pull(as_rows(slope), as_rows(scale))
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
    return bound + truth_ulps(a, (3 + k) * own)


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
    result, tolerance, share = reduced(value, value_off, a, incoming, reduction, divisor)
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
    gradient_off = a.finish(gradient, off * scale + 16 * a.least, a.inputs)
    counts = pixels.counts
    return Expected(result, tolerance, gradient, torch.where(counts, gradient_off, 0.0))


def sigmoid_tversky(exponent_of: Callable[[Any], float]) -> Callable[..., Expected]:
    """Each class on its own; `exponent_of` is that of the power, from gamma."""

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


def softmax_tversky(exponent_of: Callable[[Any], float]) -> Callable[..., Expected]:
    """Each class against all others."""

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
    """One of the problems of a unified loss, in margins that are `sign` times those of the pixels.

    cross_entropy: of each pixel and class, without its weight. regions: (1 - T) ** k of each.
    """

    sign: float
    cross_entropy: Terms
    regions: Terms


class _Unified(NamedTuple):
    """The numbers of a unified loss, and which of its forms it is."""

    delta: float
    gamma: float
    smooth: float
    is_asymmetric: bool

    def part(
        self,
        sign: float,
        pixels: _Pixels,
        dims: tuple[int, ...],
        a: Arithmetic,
        is_background: Tensor,
    ) -> _Part:
        """Cross-entropy and regions where it is; with sign -1, where it isn't."""

        def per_class(of_background: float, of_others: float) -> Tensor:
            both = (torch.tensor(v, dtype=torch.float64) for v in (of_background, of_others))
            return torch.where(is_background, *both)

        delta, gamma, rest = self.delta, self.gamma, 1 - self.gamma
        focus = a.operand(per_class(gamma, 0.0 if self.is_asymmetric else gamma))
        exponent = a.operand(per_class(1.0 if self.is_asymmetric else rest, rest))
        u, counts = sign * pixels.u, pixels.counts
        y = pixels.y if sign > 0 else torch.where(counts, 1 - pixels.y, 0.0)
        terms = stable.focal(u, torch.ones_like(u), focus).times(per_class(1 - delta, delta) * y)
        terms = Terms(*(torch.where((y == 0) | ~counts, 0.0, part) for part in terms))
        regions = stable.tversky(u, y, counts, dims, delta, 1 - delta, self.smooth, exponent)
        return _Part(sign, terms, regions)


def unified(kind: str, *, is_asymmetric: bool) -> Callable[..., Expected]:
    """Both parts of the loss; of sigmoids, each class is a problem of two, background first."""

    def loss(
        inputs: Tensor,
        a: Arithmetic,
        incoming: Incoming,
        targets: Tensor,
        delta: Any = 0.6,
        gamma: Any = 0.5,
        balance: Any = 0.5,
        *,
        smooth: Any = 1.0,
        per_image: bool = True,
        weight: Tensor | None = None,
        background: int = 0,
        ignore_index: int | Sequence[int] = -100,
        mask: Tensor | None = None,
        reduction: str = "mean",
    ) -> Expected:
        if reduction != "mean":
            raise NotImplementedError("of a unified loss only the mean has a formula")
        numbers = _Unified(float(delta), float(gamma), float(smooth), is_asymmetric)
        dims, classes = _dims(inputs, per_image), torch.arange(inputs.shape[1])
        if kind == "sigmoid":
            pixels = _sigmoid_pixels(inputs, a, targets, mask)
            signs = ((1.0, torch.tensor(False)), (-1.0, torch.tensor(True)))
            parts = [numbers.part(sign, pixels, dims, a, which) for sign, which in signs]
            count = pixels.counts.sum()
        else:
            pixels = _class_pixels(inputs, a, targets, mask, ignore_index)
            is_background = _along_classes(classes == background, inputs)
            parts = [numbers.part(1.0, pixels, dims, a, is_background)]
            count = pixels.counts[:, 0].sum()
        factor = torch.ones(len(classes), dtype=torch.float64)
        if weight is not None:
            factor = a.operand(weight)
        regions = sum(p.regions.value.numel() for p in parts)
        shares = (
            (1 - float(balance)) / count.double(),
            float(balance) / torch.tensor(float(regions), dtype=torch.float64),
        )
        return _mixture(inputs, a, incoming, pixels, parts, factor, shares, dims)

    return loss


def _mixture(
    inputs: Tensor,
    a: Arithmetic,
    incoming: Incoming,
    pixels: _Pixels,
    parts: Sequence[_Part],
    factor: Tensor,
    shares: tuple[Tensor, Tensor],
    dims: Sequence[int],
) -> Expected:
    """The sums of cross-entropies and regions, each times its share; factor is that of a class."""
    over_maps = _along_classes(factor, inputs)
    value, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    slope, scale = torch.zeros_like(pixels.u), torch.zeros_like(pixels.u)
    for part in parts:
        for share, terms, weight in (
            (shares[0], part.cross_entropy, over_maps),
            (shares[1], part.regions, factor),
        ):
            value = value + share * (terms.value * weight).sum()
            size = size + share * (terms.value * weight).abs().sum()
            slope = slope + part.sign * share * over_maps * terms.slope
            scale = scale + share * (over_maps * terms.slope_scale).abs()
    off = _region_ulps(a.exponent(1.0), a, pixels, dims) + 4 + math.log2(max(2, inputs.numel()))
    off = a.ulp * off
    tolerance = a.finish(value, off * size + 4 * a.least, a.result)
    came = incoming(()).double()
    return _of_pixels(pixels, a, value, tolerance, came * slope, came.abs() * scale, off)
