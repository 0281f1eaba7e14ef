"""Grids are complete, ordered, and dense where numbers are."""

import pytest
import torch

from parfocal.floats import every_finite, neighbourhood, representable


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_finite_number_once(dtype):
    """Each is the successor of the one before; both zeros are there."""
    numbers = every_finite(dtype)
    info = torch.finfo(dtype)
    assert numbers[0] == info.min
    assert numbers[-1] == info.max
    up = torch.nextafter(numbers[:-1], torch.full_like(numbers[:-1], torch.inf))
    zeros = numbers[:-1] == 0
    assert torch.equal(up[~zeros], numbers[1:][~zeros])
    assert numbers[numbers == 0].signbit().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binades_get_equal_shares(dtype):
    """Points are uniform over bit patterns, not over the line."""
    numbers = representable(dtype, 1001, smallest=2.0**-10, largest=2.0**10)
    positive = numbers[numbers > 0].double()
    shares = torch.histc(positive.log2(), bins=20, min=-10, max=10)
    assert shares.min() >= 49
    assert shares.max() <= 52
    assert positive[0] == 2.0**-10
    assert positive[-1] == 2.0**10


def test_neighbours_surround_a_bound():
    """The bound itself, both signs, and the numbers next to it."""
    numbers = neighbourhood(torch.float32, [40.0], reach=1).tolist()
    assert numbers[3:] == [40.0 - 2.0**-18, 40.0, 40.0 + 2.0**-18]
    assert numbers[:3] == [-x for x in reversed(numbers[3:])]
