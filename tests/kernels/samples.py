"""Numbers that a kernel is tried at, the truth of it in float64, and how far off it is."""

import math

import torch
from torch import Tensor

from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error

INF, NAN = math.inf, math.nan
LEAST = 2.0**-149
NORMAL = 2.0**-126
LARGEST = torch.finfo(torch.float32).max
COUNT = 200_000


def spread(low: float, high: float) -> Tensor:
    """Numbers whose logarithms are spread evenly."""
    chance = torch.Generator().manual_seed(0)
    share = torch.rand(COUNT, generator=chance, dtype=torch.float64)
    return (low * (high / low) ** share).to(torch.float32)


def even(low: float, high: float) -> Tensor:
    """Numbers at equal distances."""
    return torch.linspace(low, high, COUNT)


def representable() -> Tensor:
    """Positive numbers of all binades, subnormal ones among them."""
    return torch.linspace(1, 0x7F7FFFFF, COUNT, dtype=torch.float64).int().view(torch.float32)


def margins() -> Tensor:
    """Of both signs, to where exp(-|u|) is 0."""
    sizes = torch.cat([spread(LEAST, 110.0), even(0.0, 110.0)])
    return torch.cat([sizes, -sizes])


def worst(got: Tensor, truth: Tensor) -> tuple[float, float]:
    """The largest error in ULP: of normal results, and of subnormal ones in the least of them."""
    errors = ulp_error(got, Truth(truth, torch.zeros_like(truth), truth.abs()))
    is_normal = truth.abs() >= NORMAL
    return tuple(
        errors[those].max().item() if those.any() else 0.0 for those in (is_normal, ~is_normal)
    )


def softplus_of_minus(size: Tensor) -> Tensor:
    """log1p(exp(-size)), in float64 to 2 ** -52."""
    return torch.log1p(torch.exp(-size))


def closed_form(u: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Value and slope of a hard target by its margin, in float64."""
    softplus, p, q = softplus_of_minus(u.abs()), torch.sigmoid(u), torch.sigmoid(-u)
    ce = softplus + (-u).clamp(min=0)
    factor = torch.exp(-gamma * (softplus + u.clamp(min=0)))
    return factor * ce, -factor * (gamma * p * ce + q)
