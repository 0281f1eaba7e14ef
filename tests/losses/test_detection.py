"""Cusps, the matching cost, the normaliser over processes, the prior of a head."""

import pytest
import torch
from rank_cases import quarter_of_a_batch
from ranks import run_ranks
from torch import nn

import parfocal
from parfocal.audit.oracle import focal_truth

X, Y = torch.zeros(2, 3), torch.rand(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: parfocal.quality_focal_loss(X, Y, 0.5),
            "`beta` >= 1, got 0.5.*integer or bool",
        ),
        (lambda: parfocal.asymmetric_loss(X, Y, 0.5), "`gamma_neg` of 0 or at least 1.*margin=0"),
        (
            lambda: parfocal.asymmetric_loss(X, Y, torch.tensor([0.0, 0.5, 1.0])),
            "`gamma_neg` of 0 or at least 1 with margin=0.05, got 0.5",
        ),
        (lambda: parfocal.asymmetric_loss(X, Y, margin=1.0), "`margin` below 1"),
        (lambda: parfocal.poly_focal_loss(X, Y, epsilon_1=-2.0), "`epsilon_1 . 1` to be finite"),
        (
            lambda: parfocal.sigmoid_focal_loss(X, Y, gamma=1e3, epsilon=2.0**40),
            r"\(1 \+ epsilon\) \*\* gamma to be at most 2 \*\* 64",
        ),
        (
            lambda: parfocal.SoftmaxFocalLoss(gamma=70, epsilon=1),
            r"^SoftmaxFocalLoss: expected \(1 \+ epsilon\)",
        ),
        (lambda: parfocal.varifocal_loss(X, Y, alpha=1.5), r"`alpha` in \[0, 1\], got 1.5"),
        (
            lambda: parfocal.likelihood_focal_loss(torch.tensor([0.5, -1.0])),
            "`nll` >= 0, or down to -0.0078125 by rounding, got -1.*log.cell.",
        ),
        (
            lambda: parfocal.softmax_asymmetric_loss(X, Y),
            "class indices, since one class must be the true one, got .*`softmax_focal_loss` takes",
        ),
        (lambda: parfocal.focal_matching_cost(X, Y), "`labels` to be class indices"),
        (lambda: parfocal.sigmoid_focal_tversky_loss(X[None], Y[None], gamma=0), "`gamma` to be"),
        (lambda: parfocal.sigmoid_tversky_loss(X, Y), r"shape \(N, C, d1, ...\)"),
        (
            lambda: parfocal.softmax_unified_focal_loss(X[None], torch.zeros(1, 3).long(), gamma=1),
            "no region would count",
        ),
        (
            lambda: parfocal.softmax_unified_focal_loss(
                X[None], torch.zeros(1, 3).long(), background=2
            ),
            "index of one of 2 classes, got 2",
        ),
        (
            lambda: parfocal.softmax_focal_loss(X, Y, ignore_index=1),
            "no `ignore_index` with class probabilities, got 1; pass .* `mask`",
        ),
        (
            lambda: parfocal.softmax_focal_loss(X, torch.zeros(2).long(), torch.ones(2)),
            "one number for each of the 3 classes",
        ),
    ],
)
def test_error_names_the_way_out(call, words):
    """At a true cusp no number is returned; wrong options are named."""
    with pytest.raises((ValueError, TypeError), match=words):
        call()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_hard_labels_have_no_cusp(dtype):
    """By their dtype, so that no value has to be read."""
    targets = torch.tensor([1, 0]).to(dtype)
    logits = torch.tensor([40.0, -40.0], requires_grad=True)
    loss = parfocal.quality_focal_loss(logits, targets, 0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    truth = focal_truth([40.0], 1.0, 0.5)
    assert loss[0].item() == pytest.approx(truth.value.hi.item(), rel=1e-6)
    assert gradient[0].item() == pytest.approx(truth.gradient.hi.item(), rel=1e-6)


def test_index_out_of_range_is_seen():
    """On a CPU, like F.cross_entropy does."""
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        parfocal.softmax_focal_loss(X, torch.tensor([0, 3]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matching_cost_is_finite_and_right(dtype):
    """At every pair of query and object; where the usual code overflows or has log(0)."""
    points = [-60.0, -9.0, -1.0, 0.0, 2.0, 9.0, 60.0]
    logits = torch.tensor(points).to(dtype).view(1, 7, 1).expand(2, 7, 3)
    labels = torch.tensor([0, 2, 2, 1])
    cost = parfocal.focal_matching_cost(logits, labels, gamma=0.5)
    assert (cost.shape, cost.dtype, cost.requires_grad) == ((2, 7, 4), dtype, False)
    positive = focal_truth(points, 1.0, 0.5).value.hi
    negative = focal_truth(points, 0.0, 0.5).value.hi
    expected = (0.25 * positive - 0.75 * negative).to(dtype).view(1, 7, 1).expand(2, 7, 4)
    torch.testing.assert_close(cost, expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
    largest = torch.full((1, 1), torch.finfo(dtype).max, dtype=dtype)
    assert parfocal.focal_matching_cost(largest, labels[:1]).isfinite()


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv2d(4, 3, 1)])
def test_prior_is_what_the_head_predicts(layer):
    """As one number, and as one a class."""
    assert parfocal.init_prior_bias_(layer, 0.01) is layer
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full((3,), 0.01))
    parfocal.init_prior_bias_(layer, torch.tensor([0.5, 0.1, 1e-6]))
    torch.testing.assert_close(layer.bias.sigmoid(), torch.tensor([0.5, 0.1, 1e-6]))


def test_prior_needs_a_bias_and_a_share():
    """Errors that say what came."""
    with pytest.raises(TypeError, match="expected `layer` to have a bias, got Linear"):
        parfocal.init_prior_bias_(nn.Linear(4, 3, bias=False))
    for prior in (0.0, 1.0, float("nan"), torch.tensor([0.5, 2.0, 0.1])):
        with pytest.raises(ValueError, match=r"expected `prior` in \(0, 1\)"):
            parfocal.init_prior_bias_(nn.Linear(4, 3), prior)
    with pytest.raises(ValueError, match="expected `prior` to broadcast to the bias"):
        parfocal.init_prior_bias_(nn.Linear(4, 3), torch.full((2,), 0.5))


def test_count_alone():
    """Never 0; what isn't above 0 doesn't count."""
    assert parfocal.positive_count(torch.zeros(3)) == 1
    assert parfocal.positive_count(torch.zeros(0)) == 1
    assert parfocal.positive_count(torch.tensor([0, 1, 5, -1])) == 2
    assert parfocal.positive_count(torch.tensor([True, False])).dtype == torch.float32


def test_four_processes_have_the_gradient_of_one(tmp_path):
    """One of them without positives, one without samples; and none with positives at all."""
    run_ranks(quarter_of_a_batch, 4, tmp_path)
