"""Regions in closed form: those of the composition, in whatever way they are used."""

import pytest
import torch

import parfocal
from parfocal.numerics import Power, composed_power, sums
from parfocal.numerics.cpu import binary_regions

OPTIONS = [
    {},
    {"per_image": False},
    {"smooth": 0.0},
    {"mask": True},
    {"weight": True},
    {"alpha": 0.0, "beta": 1.0},
]


def sigmoid(x, **options):
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(x.shape, generator=generator)
    y = torch.where(y < 0.5, 0.0, torch.where(y > 0.7, 1.0, y))
    if options.pop("mask", False):
        options["mask"] = torch.rand(x.shape, generator=generator) < 0.7
    return parfocal.sigmoid_focal_tversky_loss(x, y, **chosen(x, options))


def softmax(x, **options):
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, x.shape[1] - 1, (len(x), *x.shape[2:]), generator=generator)
    if options.pop("mask", False):
        y[torch.rand(y.shape, generator=generator) < 0.3] = -100
    return parfocal.softmax_focal_tversky_loss(x, y, **chosen(x, options))


def unified(x, **options):
    if "alpha" in options:
        options = {"delta": 0.0}
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, x.shape[1] - 1, (len(x), *x.shape[2:]), generator=generator)
    if options.pop("mask", False):
        y[torch.rand(y.shape, generator=generator) < 0.3] = -100
    return parfocal.softmax_asymmetric_unified_focal_loss(x, y, **chosen(x, options))


def chosen(x, options):
    """With class weights of the dtype of the logits."""
    if options.pop("weight", False):
        options["weight"] = torch.arange(1.0, 1 + x.shape[1], dtype=x.dtype)
    return options


every_region = pytest.mark.parametrize("loss", [sigmoid, softmax, unified])


def logits(scale=2.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(3, 4, 6, 5, generator=generator) * scale).requires_grad_()


def wide(loss, x, **options):
    """Value and gradient in float64, which has the composition alone."""
    x = x.detach().double().requires_grad_()
    value = loss(x, **options)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.fixture(autouse=True)
def no_composition(monkeypatch, request):
    """In float32 the closed form is used, unless a test says otherwise."""
    if "composed" in request.node.name:
        return
    original = sums.composed_power

    def guarded(u, *arguments, **options):
        assert u.dtype == torch.float64, "the composition was taken"
        return original(u, *arguments, **options)

    monkeypatch.setattr(sums, "composed_power", guarded)


@every_region
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_value_and_gradient(loss, options):
    x = logits()
    value = loss(x, **options)
    (gradient,) = torch.autograd.grad(value, x)
    expected, slope = wide(loss, x, **options)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-9)


@every_region
def test_confident_pixels_keep_their_digits(loss):
    """Right or wrong: of an element by itself, not of the largest."""
    x = logits(scale=5.0)
    (gradient,) = torch.autograd.grad(loss(x), x)
    _, slope = wide(loss, x)
    torch.testing.assert_close(gradient.double(), slope, rtol=3e-5, atol=0)


@every_region
def test_used_again(loss):
    """Retained graphs, accumulation, an incoming gradient, and many at once."""
    x = logits()
    _, slope = wide(loss, x)
    value = loss(x)
    for factor in (1.0, -3.0, 0.0):
        (gradient,) = torch.autograd.grad(value, x, torch.tensor(factor), retain_graph=True)
        torch.testing.assert_close(gradient.double(), factor * slope, rtol=1e-5, atol=1e-9)
    (loss(x) + 3 * loss(x)).backward()
    torch.testing.assert_close(x.grad.double(), 4 * slope, rtol=1e-5, atol=1e-9)


@every_region
def test_many_gradients_and_composed_further_derivatives(loss):
    x = logits()
    _, slope = wide(loss, x)
    factors = torch.tensor([1.0, -2.0, 0.0])
    (found,) = torch.autograd.grad(loss(x), x, factors, is_grads_batched=True)
    for gradient, factor in zip(found, factors.tolist(), strict=True):
        torch.testing.assert_close(gradient.double(), factor * slope, rtol=1e-5, atol=1e-9)
    direction = torch.linspace(-1, 1, x.numel()).view_as(x)
    curvatures = []
    for point in (x, x.detach().double().requires_grad_()):
        (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
        product = (gradient * direction.to(point)).sum()
        curvatures.append(torch.autograd.grad(product, point)[0])
    torch.testing.assert_close(curvatures[0].double(), curvatures[1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_blocks_change_nothing_but_the_order_of_sums(size, options, monkeypatch):
    """Whole regions in a block, or parts of one."""
    monkeypatch.setattr(binary_regions, "_BLOCK", size)
    test_value_and_gradient(sigmoid, options)


def test_composed_where_logits_are_far():
    """A perfect match at 200 has a gradient that underflows in its sums."""
    x = torch.full((1, 2, 2, 2), 60.0)
    x[:, 1] = -60.0
    x.requires_grad_()
    y = torch.zeros(1, 2, 2, dtype=torch.int64)
    value = parfocal.softmax_focal_tversky_loss(x, y, smooth=0.0, reduction="none")[0, 0]
    (gradient,) = torch.autograd.grad(value, x)
    narrow, slope = value.detach(), gradient
    wider = x.detach().double().requires_grad_()
    value = parfocal.softmax_focal_tversky_loss(wider, y, smooth=0.0, reduction="none")[0, 0]
    (gradient,) = torch.autograd.grad(value, wider)
    assert narrow > 0
    assert (slope[0, 0] < 0).all()
    torch.testing.assert_close(narrow.double(), value.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(slope.double(), gradient, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        parfocal.softmax_focal_tversky_loss,
        parfocal.softmax_unified_focal_loss,
        parfocal.softmax_asymmetric_unified_focal_loss,
    ],
    ids=lambda loss: loss.__name__,
)
def test_ignored_pixels_are_left_out_composed_or_not(loss, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 20, generator=generator).to(dtype)
    y = torch.randint(0, 3, (1, 20), generator=generator)
    left = loss(x[:, :, 8:], y[:, 8:])
    y[:, :8] = -100
    torch.testing.assert_close(loss(x, y), left, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(x, y.clamp(min=0), mask=y >= 0), left, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "loss",
    [
        parfocal.sigmoid_focal_tversky_loss,
        parfocal.sigmoid_unified_focal_loss,
        parfocal.sigmoid_asymmetric_unified_focal_loss,
    ],
    ids=lambda loss: loss.__name__,
)
def test_masked_pixels_are_left_out_composed_or_not(loss):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 20, generator=generator)
    y = (torch.rand(2, 1, 20, generator=generator) < 0.4).float()
    left = loss(x[..., 8:], y[..., 8:])
    for dtype in (torch.float32, torch.float64):
        found = loss(x.to(dtype), y, mask=torch.arange(20) >= 8)
        torch.testing.assert_close(found.float(), left, rtol=1e-6, atol=0)


@pytest.mark.parametrize("exponent", [0.7499, 0.2001, 0.0004])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_composed_of_logits_near_the_largest_number(dtype, exponent):
    """A perfect match, whose error has an exponent beyond any: 0, at every k of many digits."""
    x = torch.full((1, 1, 2, 2), 1e30, dtype=dtype, requires_grad=True)
    power = Power(0.7, 0.3, 0.0, exponent)
    loss = composed_power(x, torch.ones_like(x), None, (1, 2, 3), power)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert loss.item() == 0
    assert (slope == 0).all()


def test_parts_of_masked_regions_have_the_mean_that_the_loss_is():
    """In float64 to its last digits, where the number of pixels that count isn't a power of 2."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (3, 5, 5), generator=generator)
    mask = torch.rand(3, 5, 5, generator=generator) < 0.7
    whole = parfocal.softmax_unified_focal_loss(x, y, mask=mask)
    parts = parfocal.softmax_unified_focal_loss(x, y, mask=mask, reduction="none")
    torch.testing.assert_close(parts.mean(), whole, rtol=1e-14, atol=0)
