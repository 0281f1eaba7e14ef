"""The gradient study finds what was measured elsewhere, by itself."""

import math

import pytest
import torch

from parfocal.experiments.gradient_study import gradient_study, smallest_nonfinite

# 1 - p_t is 0 in rounded numbers from here on: exp(-x) below half the distance from 1 down
# (target 1), or p below half the distance from 1 up, when it is subtracted from 1 (target 0).
CLIFFS = {torch.float64: (36.74, 37.43), torch.float32: (16.64, 17.33)}


@pytest.mark.parametrize("dtype", CLIFFS)
def test_cliffs_of_the_original(dtype):
    """At both targets, and none for the other two losses."""
    study = gradient_study(dtype=dtype)
    for curve in study.curves:
        if curve.loss == "original":
            assert round(curve.cliff, 2) == CLIFFS[dtype][1 - curve.target]
        else:
            assert curve.cliff is None
            assert curve.nonfinite == 0


@pytest.mark.parametrize(("dtype", "cliff"), [(torch.float16, 8.32), (torch.bfloat16, 6.25)])
@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_cliffs_in_sixteen_bits(dtype, cliff, gamma):
    """The same at both targets and at both gammas."""
    study = gradient_study(gamma, dtype=dtype)
    found = [curve.cliff for curve in study.curves if curve.loss == "original"]
    assert [round(x, 2) for x in found] == [cliff, cliff]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_exact_gradient_is_the_true_one(dtype):
    """To the last digits of the dtype; the smoothed one is another function."""
    for curve in gradient_study(dtype=dtype).curves:
        if curve.loss == "exact":
            assert curve.largest_relative_error <= 5 * torch.finfo(dtype).eps
        if curve.loss == "smoothed":
            assert curve.largest_relative_error > 0.05


def test_truth_holds_alpha():
    """At target 0 the share is 1 - alpha: 0.75 / 0.5 times the gradient at alpha = 0.5."""
    curves = {c.target: c for c in gradient_study(alpha=0.25).curves if c.loss == "exact"}
    halves = {c.target: c for c in gradient_study(alpha=0.5).curves if c.loss == "exact"}
    torch.testing.assert_close(curves[0].truth, 1.5 * halves[0].truth, rtol=1e-14, atol=0)
    torch.testing.assert_close(curves[1].truth, 0.5 * halves[1].truth, rtol=1e-14, atol=0)
    assert max(c.largest_relative_error for c in curves.values()) < 1e-14


def test_paper_points_and_settings_are_the_defaults():
    """100 float64 logits from -38 to 38, gamma and alpha one half."""
    study = gradient_study()
    assert (study.gamma, study.alpha, study.dtype) == (0.5, 0.5, "float64")
    logits = study.curves[0].logits
    assert (logits.numel(), logits.min().item(), logits.max().item()) == (100, -38.0, 38.0)


@pytest.mark.parametrize("cliff", [0.0, 3.7, 119.0])
@pytest.mark.parametrize("target", [1, 0])
def test_the_search_is_exact(cliff, target):
    """A gradient that stops at a known number is found to stop there, to the last bit."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return torch.where(x.abs() >= cliff, math.nan, grad)

    found = smallest_nonfinite(lambda x, _: Step.apply(x), torch.float64, target)
    assert found == cliff
