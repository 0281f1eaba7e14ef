"""Powers of Tversky indices of classes, from class logits and indices, with slopes in closed form.

At a pixel of class t, with o = p_t and p_j the probabilities of the others, p_t left out,

    FN_t = sum of p_j      TP_t = o      FP_j = p_j
    A = dP/dG - alpha dP/dE of t      b_j = beta dP/dE of j
    dP/dx_j = p_j (o (b_j - A) + sum over i of p_i (b_j - b_i))
    dP/dx_t = o (A sum of p_j - sum of b_j p_j)

A is negative and b_j is not: but for the sum over i, which is one of differences in truth too,
nothing cancels. That sum is a product of an antisymmetric matrix with the pixels.
"""

from typing import Any

import torch
from torch import Tensor

from parfocal.numerics.autograd import is_batched, is_watched
from parfocal.numerics.blocks import is_readable
from parfocal.numerics.margin import margins
from parfocal.numerics.memory import fresh, keep_temporaries
from parfocal.numerics.region import composed_power
from parfocal.numerics.region_power import Power, Regions

# Logits so near to each other have probabilities, and products of two of them, that are normal
# numbers.
_NEAR = 40.0


def class_tversky_power(
    x: Tensor,
    index: Tensor,
    counts: Tensor | None,
    per_image: bool,
    power: Power,
) -> Tensor | None:
    """(1 - T) ** exponent of each class, differentiable any number of times in x.

    Args:
        x: logits (N, C, d1, ...), finite where a pixel doesn't count.
        index: classes (N, d1, ...) in [0, C), int64.
        counts: True where a pixel counts (N, d1, ...); all count if None.
        per_image: whether a region is a class of one image, or of all.
        power: which power; an exponent of each class is (C).

    Returns:
        (N, C), or (C) for all images together. None where x isn't at hand, not float32, or where
        its numbers are far apart.
    """
    if x.dtype != torch.float32 or not is_readable(x) or is_watched(x) or x.numel() == 0:
        return None
    low, high = x.aminmax()
    if not high.item() - low.item() <= _NEAR:
        return None
    rounded = power.rounded(x.dtype)
    return _ClassTverskyPower.apply(x, index, counts, per_image, rounded)  # type: ignore[no-any-return]


class _ClassTverskyPower(torch.autograd.Function):
    """The powers; what the probabilities are is kept for their slopes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index: Tensor,
        counts: Tensor | None,
        per_image: bool,
        power: Power,
    ) -> Tensor:
        keep_temporaries()
        maps = x.flatten(2)
        others = torch.softmax(maps, 1, out=fresh(maps.shape, x.dtype))
        labels = index.flatten(1).unsqueeze(1)
        own = others.gather(1, labels)
        others.scatter_(1, labels, 0.0)
        if counts is not None:
            mask = counts.flatten(1).unsqueeze(1).to(x.dtype)
            own.mul_(mask)
            others.mul_(mask)
        missed = others.sum(1, keepdim=True)
        sums = [
            _by_class(missed, labels, x.shape[1]),
            others.sum(2).double(),
            _by_class(own, labels, x.shape[1]),
        ]
        if not per_image:
            sums = [total.sum(0) for total in sums]
        regions = power.regions(sums)
        ctx.save_for_backward(x, index, counts, others, own, missed)
        ctx.per_image, ctx.power, ctx.regions = per_image, power, regions
        return regions.power().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, index, counts, *terms = ctx.saved_tensors
        none = (None,) * 4
        again = torch.is_grad_enabled()  # create_graph: the result will be differentiated itself
        if again or is_batched(grad):
            with torch.enable_grad():
                result = _composed(x, index, counts, ctx.per_image, ctx.power)
                return torch.autograd.grad(result, x, grad, create_graph=again)[0], *none
        return _slope(x, index, terms, ctx.power, ctx.regions, grad.double()), *none


def _by_class(term: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The sums (N, C) over the pixels of each class, in float64; both are (N, 1, S)."""
    sums = torch.zeros(len(term), classes, dtype=torch.float64, device="cpu")
    return sums.scatter_add_(1, labels.squeeze(1), term.squeeze(1).double())


def _slope(
    x: Tensor,
    index: Tensor,
    terms: list[Tensor],
    power: Power,
    regions: Regions,
    incoming: Tensor,
) -> Tensor:
    """The slopes in x, times what comes in for each region."""
    others, own, missed = terms
    of_wrong, of_right = regions.slopes()
    shape = x.shape[:2]
    a = ((of_right - power.alpha * of_wrong) * incoming).expand(shape)
    b = (power.beta * of_wrong * incoming).expand(shape)
    differences = (b.unsqueeze(2) - b.unsqueeze(1)).float()
    a, b = a.float(), b.float()
    labels = index.flatten(1)
    of_own = a.gather(1, labels).unsqueeze(1)
    out = fresh(x.shape, x.dtype)
    flat = torch.bmm(differences, others, out=out.view(others.shape))
    flat.addcmul_(b.unsqueeze(2), own).sub_(own * of_own).mul_(others)
    of_true = of_own.mul_(missed).sub_(torch.bmm(b.unsqueeze(1), others)).mul_(own)
    flat.scatter_(1, labels.unsqueeze(1), of_true)
    return out


def _composed(
    x: Tensor,
    index: Tensor,
    counts: Tensor | None,
    per_image: bool,
    power: Power,
) -> Tensor:
    """The powers as a composition."""
    y = torch.zeros_like(x).scatter(1, index.unsqueeze(1), 1.0)
    mask = None
    if counts is not None:
        mask = counts.unsqueeze(1).expand_as(x)
        y = torch.where(mask, y, 0.0)
    spatial = tuple(range(2, x.ndim))
    dims = spatial if per_image else (0, *spatial)
    return composed_power(margins(x).u, y, mask, dims, power)
