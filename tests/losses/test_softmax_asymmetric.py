"""The asymmetric loss of a softmax beside the losses that it is at some of its options."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from parfocal import softmax_asymmetric_loss, softmax_focal_loss
from parfocal.numerics.cpu import asymmetric


def rows(*shape, dtype=torch.float64):
    """Logits as far apart as those of a trained network, and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).mul(8).to(dtype)
    return x, torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)


def with_gradient(loss, x, labels, **options):
    """The loss, and the gradient of its sum."""
    x = x.detach().clone().requires_grad_()
    value = loss(x, labels, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize("shape", [(30, 7), (3, 4, 5, 6)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_at_exponents_of_0_it_is_cross_entropy(shape, reduction):
    """With weights of classes, smoothing, and what is ignored."""
    x, labels = rows(*shape)
    labels.view(-1)[::4] = -100
    options = {
        "weight": torch.linspace(0.5, 2, shape[1], dtype=torch.float64),
        "label_smoothing": 0.3,
        "reduction": reduction,
    }
    ours = partial(softmax_asymmetric_loss, gamma_neg=0, gamma_pos=0)
    results = (with_gradient(loss, x, labels, **options) for loss in (ours, F.cross_entropy))
    for pair in zip(*results, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-14)


def test_without_smoothing_it_is_the_focal_loss():
    """At gamma_pos, whatever gamma_neg."""
    x, labels = rows(30, 7)
    ours = partial(softmax_asymmetric_loss, gamma_neg=3, gamma_pos=0.5, label_smoothing=0)
    theirs = partial(softmax_focal_loss, gamma=0.5)
    for pair in zip(*(with_gradient(f, x, labels) for f in (ours, theirs)), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(40, 7), (3, 5, 7, 4), (6, 300), (4, 2)])
@pytest.mark.parametrize("block", [1, 2**16])
def test_rows_in_blocks_are_those_of_the_composition(shape, dtype, block, monkeypatch):
    """Which exponents that are tensors take; each row with a gradient and a weight of its own."""
    monkeypatch.setattr(asymmetric, "_BLOCK", block)
    x, labels = rows(*shape, dtype=dtype)
    weight = torch.linspace(0, 2, shape[1], dtype=dtype)
    share = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for gamma in (0.5, torch.tensor(0.5, dtype=dtype)):
        options = {"gamma_neg": gamma, "gamma_pos": 3 * gamma, "position_weight": share}
        results.append(
            with_gradient(
                softmax_asymmetric_loss, x, labels, weight=weight, reduction="none", **options
            )
        )
    for pair in zip(*results, strict=True):
        torch.testing.assert_close(*pair, rtol=1e3 * torch.finfo(dtype).eps, atol=1e-12)


def test_derivatives_in_the_exponents():
    """By differences; numbers of each class and of each row."""
    x, labels = rows(5, 3)
    x = (x / 4).requires_grad_()
    of_wrong = torch.tensor([0.3, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    of_true = torch.rand(5, 1, dtype=torch.float64, requires_grad=True)

    def loss(x, of_wrong, of_true):
        return softmax_asymmetric_loss(x, labels, None, of_wrong, of_true, reduction="none")

    assert torch.autograd.gradcheck(loss, (x, of_wrong, of_true), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (x, of_wrong, of_true))


@pytest.mark.parametrize("gamma_neg", [0.1, 4.0])
@pytest.mark.parametrize("gamma_pos", [0.0, 0.1])
def test_far_and_infinite_logits_have_their_limits(gamma_neg, gamma_pos):
    """A wrong class that is ruled out has no loss; beside a true one the loss is infinite."""
    loss = partial(
        softmax_asymmetric_loss, gamma_neg=gamma_neg, gamma_pos=gamma_pos, reduction="none"
    )
    inf = math.inf
    x = torch.tensor([[2.0, -inf, 1.0], [-inf, 0.0, 1.0], [inf, 0.0, 1.0], [300.0, 0.0, -900.0]])
    value, gradient = with_gradient(loss, x, torch.zeros(4, dtype=torch.int64))
    assert value.isinf().tolist() == [False, True, False, False]
    assert gradient.isfinite().all()
    two = loss(torch.tensor([[2.0, 1.0]], dtype=torch.float64), torch.tensor([0]))
    # Of three classes each has a third of the smoothing, of two the half.
    p = torch.tensor([2.0, 1.0], dtype=torch.float64).softmax(0)
    ce = -p.log()
    expected = (0.9 + 0.1 / 3) * (1 - p[0]) ** gamma_pos * ce[0]
    expected += 0.1 / 3 * p[1] ** gamma_neg * ce[1]
    torch.testing.assert_close(value[0].double(), expected, rtol=1e-6, atol=0)
    assert two > value[0]


@pytest.mark.parametrize("gamma_pos", [0.5, torch.tensor(0.5)], ids=["blocks", "composition"])
def test_a_sure_and_right_answer_has_its_own_gradient(gamma_pos):
    """What is left of 1 - p = 4e-9 in float32: the wrong classes add p ** 4, the rest is focal."""
    x, label = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([0])
    ours = partial(softmax_asymmetric_loss, gamma_pos=gamma_pos)
    theirs = partial(softmax_focal_loss, gamma=0.5)
    for found, focal in zip(*(with_gradient(f, x, label) for f in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, (0.9 + 0.1 / 3) * focal, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [0.1, torch.tensor(0.1)], ids=["blocks", "composition"])
def test_a_power_of_what_has_vanished(gamma):
    """p = exp(-400) is no float32, p ** 0.1 is; value and slope of a wrong class."""
    x, weight = torch.tensor([[400.0, 0.0]]), torch.tensor([0.0, 1.0])
    loss = partial(softmax_asymmetric_loss, weight=weight, gamma_neg=gamma, reduction="sum")
    value, gradient = with_gradient(loss, x, torch.tensor([0]))
    exact = 0.05 * math.exp(-40)
    assert value.item() == pytest.approx(400 * exact, rel=2e-5, abs=0)
    assert gradient[0].tolist() == pytest.approx([-39 * exact, 39 * exact], rel=2e-5, abs=0)
