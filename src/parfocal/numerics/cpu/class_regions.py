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

from parfocal.numerics.cpu.memory import fresh, keep_temporaries
from parfocal.numerics.region import Power, Regions

# Logits so near to each other have probabilities, and products of two of them, that are normal
# numbers.
_NEAR = 40.0


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
    low, high = x.aminmax()
    if not high.item() - low.item() <= _NEAR:
        return None
    keep_temporaries()
    maps = x.flatten(2)
    other_classes = torch.softmax(maps, 1, out=fresh(maps.shape, x.dtype))
    labels = index.flatten(1).unsqueeze(1)
    true_class = other_classes.gather(1, labels)
    other_classes.scatter_(1, labels, 0.0)
    if counts is not None:
        mask = counts.flatten(1).unsqueeze(1).to(x.dtype)
        true_class.mul_(mask)
        other_classes.mul_(mask)
    missed = other_classes.sum(1, keepdim=True)
    sums = [
        _by_class(missed, labels, x.shape[1]),
        other_classes.sum(2).double(),
        _by_class(true_class, labels, x.shape[1]),
    ]
    if not per_image:
        sums = [total.sum(0) for total in sums]
    regions = power.regions(sums)
    return regions.power().to(x.dtype), _Kept(other_classes, true_class, missed, regions)


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
    # Under autocast a product of matrices would be one of 16 bits.
    with torch.autocast("cpu", enabled=False):
        flat = torch.bmm(differences, other_classes, out=out.view(other_classes.shape))
        flat.addcmul_(b.unsqueeze(2), true_class).sub_(true_class * a_true).mul_(other_classes)
        slope_true = a_true.mul_(missed).sub_(torch.bmm(b.unsqueeze(1), other_classes))
    flat.scatter_(1, labels.unsqueeze(1), slope_true.mul_(true_class))
    return out


def _by_class(term: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The sums (N, C) over the pixels of each class, in float64; both are (N, 1, S)."""
    sums = torch.zeros(len(term), classes, dtype=torch.float64, device="cpu")
    return sums.scatter_add_(1, labels.squeeze(1), term.squeeze(1).double())
