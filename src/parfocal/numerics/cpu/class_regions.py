"""Powers of Tversky indices of classes, from class logits and indices, with slopes in closed form.

At a pixel of class t, with o = p_t and p_j the probabilities of the others, p_t left out,

    FN_t = sum of p_j      TP_t = o      FP_j = p_j
    A = dP/dG - alpha dP/dE of t      b_j = beta dP/dE of j
    dP/dx_j = p_j (o (b_j - A) + sum over i of p_i (b_j - b_i))
    dP/dx_t = o (A sum of p_j - sum of b_j p_j)

A is negative and b_j is not: but for the sum over i, which is one of differences in truth too,
nothing cancels. That sum is a product of an antisymmetric matrix with the pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.cpu.memory import fresh, prepare_memory
from parfocal.numerics.cpu.threads import in_parallel, runs
from parfocal.numerics.region import Power, Regions

# Logits so near to each other have probabilities, and products of two of them, that are normal
# numbers.
_NEAR = 40.0

# Logits of a block for each thread: a block makes few operations, in two passes.
_BLOCK = 2**19


class _Kept(NamedTuple):
    """What slopes are made of, at each pixel, 0 where it is masked.

    The probabilities of all classes but its own, that of its own, and the sum of the others.
    """

    other_classes: Tensor
    true_class: Tensor
    missed: Tensor
    regions: Regions


def class_region_power(
    power: Power, x: Tensor, index: Tensor, counts: Tensor | None, per_image: bool
) -> tuple[Tensor, _Kept] | None:
    """The powers, and what their slopes are made of; None unless in float32 and near each other."""
    if x.dtype != torch.float32 or x.numel() == 0:
        return None
    maps, labels = x.flatten(2), index.flatten(1).unsqueeze(1)
    mask = None if counts is None else counts.flatten(1).unsqueeze(1)
    other_classes = fresh(maps.shape, x.dtype)
    true_class, missed = torch.empty(2, *labels.shape, dtype=x.dtype, device="cpu")

    def sums_of(images: slice) -> list[Tensor] | None:
        bounds = torch.stack([maps[images].amin(), maps[images].amax()])
        if not _are_near(bounds):
            return None
        p, own_labels = torch.softmax(maps[images], 1, out=other_classes[images]), labels[images]
        own = torch.gather(p, 1, own_labels, out=true_class[images])
        p.scatter_(1, own_labels, 0.0)
        if mask is not None:
            counted = mask[images].to(x.dtype)
            own.mul_(counted)
            p.mul_(counted)
        others = torch.sum(p, 1, keepdim=True, out=missed[images])
        count = x.shape[1]
        return [
            _by_class(others, own_labels, count),
            p.sum(2).double(),
            _by_class(own, own_labels, count),
            bounds,
        ]

    terms = in_parallel(sums_of, _images(maps), x.numel())
    if terms is None:
        return None
    *sums, bounds = [torch.cat(column) for column in zip(*terms, strict=True)]
    if not _are_near(bounds):  # though each block is near to itself
        return None
    if not per_image:
        sums = [total.sum(0) for total in sums]
    regions = power.regions(sums)
    return regions.power().to(x.dtype), _Kept(other_classes, true_class, missed, regions)


def _are_near(bounds: Tensor) -> bool:
    """Whether least and largest logits are near each other; NaN is near nothing."""
    return bounds.amax().item() - bounds.amin().item() <= _NEAR


def class_region_slope(
    power: Power, x: Tensor, index: Tensor, kept: _Kept, incoming: Tensor
) -> Tensor:
    """The slopes in x, times what comes in for each region."""
    other_classes, true_class, missed, regions = kept
    dP_dE, dP_dG = regions.slopes()  # noqa: N806 - the symbols of the docstring
    incoming, shape = incoming.double(), x.shape[:2]
    a = ((dP_dG - power.alpha * dP_dE) * incoming).expand(shape)
    b = (power.beta * dP_dE * incoming).expand(shape)
    differences = (b.unsqueeze(2) - b.unsqueeze(1)).float()
    a, b = a.float(), b.float()
    labels = index.flatten(1)
    a_true = a.gather(1, labels).unsqueeze(1)
    out = fresh(x.shape, x.dtype)
    flat = out.view(other_classes.shape)

    def write(images: slice) -> bool:
        others, own, own_a = other_classes[images], true_class[images], a_true[images]
        slope = torch.bmm(differences[images], others, out=flat[images])
        slope.addcmul_(b[images].unsqueeze(2), own).sub_(own * own_a).mul_(others)
        slope_true = own_a.mul_(missed[images]).sub_(torch.bmm(b[images].unsqueeze(1), others))
        slope.scatter_(1, labels[images].unsqueeze(1), slope_true.mul_(own))
        return True

    # Under autocast a product of matrices would be one of 16 bits.
    with torch.autocast("cpu", enabled=False):
        in_parallel(write, _images(other_classes), x.numel())
    return out


def _images(maps: Tensor) -> list[slice]:
    """Blocks of whole images."""
    images, classes, pixels = maps.shape
    prepare_memory(maps.numel())
    return runs(images, classes * pixels, _BLOCK)


def _by_class(term: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The sums (N, C) over the pixels of each class, in float64; both are (N, 1, S)."""
    sums = torch.zeros(len(term), classes, dtype=torch.float64, device="cpu")
    return sums.scatter_add_(1, labels.squeeze(1), term.squeeze(1).double())
