"""The metric, on numbers whose errors can be counted by hand."""

import math

import pytest
import torch

from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import spacing, ulp_error
from scan import worst_error

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def _truth(*numbers, lo=None, scale=None):
    hi = torch.tensor(numbers, dtype=torch.float64)
    return Truth(
        hi,
        torch.zeros_like(hi) if lo is None else torch.tensor(lo, dtype=torch.float64),
        hi.abs() if scale is None else torch.tensor(scale, dtype=torch.float64),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_spacing_is_the_distance_to_the_next_number(dtype):
    """Counted with nextafter, in every binade, at both ends of the range and in between."""
    info = torch.finfo(dtype)
    magnitudes = torch.tensor([0.0, info.tiny / 2, info.tiny, 1.0, 1.5, 2.0, 1e3, 6e4], dtype=dtype)
    up = torch.nextafter(magnitudes, torch.full_like(magnitudes, math.inf))
    assert torch.equal(spacing(magnitudes, dtype), up.double() - magnitudes.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_neighbours_are_whole_ulps_away(dtype, steps):
    """n calls of nextafter make n ULP."""
    computed = torch.tensor([1.25], dtype=dtype)
    for _ in range(steps):
        computed = torch.nextafter(computed, torch.full_like(computed, 2.0))
    assert ulp_error(computed, _truth(1.25)).item() == steps


def test_the_low_part_counts():
    """In float64 half an ULP is told from none."""
    computed = torch.tensor([1.0], dtype=torch.float64)
    assert ulp_error(computed, _truth(1.0, lo=[2.0**-53])).item() == 0.5


@pytest.mark.parametrize(
    ("computed", "truth", "error"),
    [
        (math.nan, 1.0, math.inf),
        (math.inf, 1.0, math.inf),
        (math.inf, 1e39, 0.0),
        (-math.inf, 1e39, math.inf),
        (0.0, -0.0, 0.0),
        (2.0**-149, 0.0, 1.0),
        (0.0, 2.0**-140, 512.0),
        (torch.finfo(torch.float32).max, 1e39, 0.0),
    ],
)
def test_metric_is_total(computed, truth, error):
    """NaN, infinities, zeros and subnormals have errors, and none of them is NaN."""
    assert ulp_error(torch.tensor([computed]), _truth(truth)).item() == error


def test_cancelling_results_are_measured_by_their_terms():
    """The same absolute error counts less where the terms are larger."""
    computed = torch.tensor([2.0**-20])
    truth = _truth(0.0, scale=[1.0])
    assert ulp_error(computed, truth, of_scale=True).item() == 8.0


def test_worst_error_names_the_logit_and_separates_subnormals():
    """A wrong subnormal isn't hidden by the normal numbers, nor a flushed one counted."""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0])
    truth = _truth(1.0, 2.0, 2.0**-140, 2.0**-141)
    computed = torch.tensor([1.0 + 2.0**-23, 2.0 + 2.0**-20, 2.0**-140 + 2.0**-147, 0.0])
    assert worst_error(logits, computed, truth) == (4.0, 2.0, 2, 4.0)


def test_worst_error_sees_a_nan():
    """A NaN is the worst of all."""
    worst = worst_error(torch.tensor([5.0, 6.0]), torch.tensor([1.0, math.nan]), _truth(1.0, 1.0))
    assert worst.ulp == math.inf
    assert worst.logit == 6.0
