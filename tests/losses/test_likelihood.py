"""The focal loss of a negative log-likelihood, where it is 0, below 0, infinite or no number."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F

import parfocal
from parfocal import likelihood_focal_loss

NLL = [1e-30, 1e-12, 1e-8, 1e-3, 0.3, 0.7, 2.0, 15.0, 40.0]


def true_loss(nll, gamma):
    """By 60 digits."""
    return (-mpmath.expm1(-nll)) ** gamma * nll


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_derivative_in_gamma(gamma):
    """m ** gamma L log m, to 4 + 2 gamma ULP, by a number of each kind of L."""
    nll = torch.tensor(NLL, dtype=torch.float64)
    exponent = torch.tensor(gamma, dtype=torch.float64, requires_grad=True)
    slopes = [
        torch.autograd.grad(likelihood_focal_loss(one, exponent), exponent)[0].item() for one in nll
    ]
    with mpmath.workdps(60):
        for found, one in zip(slopes, NLL, strict=True):
            true = true_loss(mpmath.mpf(one), mpmath.mpf(gamma))
            true *= mpmath.log1p(-mpmath.exp(-mpmath.mpf(one)))
            assert abs(found / true - 1) <= (4 + 2 * gamma) * 2.0**-52, one


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0])
def test_further_derivatives(gamma, order):
    """Of orders that the closed forms leave to the composition."""
    nll = torch.tensor(NLL[1:], dtype=torch.float64, requires_grad=True)
    derivative = likelihood_focal_loss(nll, gamma)
    for _ in range(order):
        (derivative,) = torch.autograd.grad(derivative.sum(), nll, create_graph=True)
    with mpmath.workdps(60):
        true = [
            mpmath.diff(lambda x: true_loss(x, gamma), mpmath.mpf(one), order, h=one * 1e-9)
            for one in NLL[1:]
        ]
    expected = torch.tensor([float(one) for one in true], dtype=torch.float64)
    torch.testing.assert_close(derivative, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_ends(dtype, gamma, reduction, backend):
    """0 has no gradient, a rounded 0 neither; through an infinity none comes, and NaN is seen."""
    loss = likelihood_focal_loss
    if backend:
        loss = torch.compile(loss, fullgraph=True, backend=backend)
    nothing = float(gamma == 0)
    for nll, value, slope in (
        (0.0, 0.0, nothing),
        (-1e-7, nothing * -1e-7, nothing),
        (math.inf, math.inf, 0.0),
        (math.nan, math.nan, math.nan),
    ):
        x = torch.tensor([nll], dtype=dtype, requires_grad=True)
        found = loss(x, gamma, reduction)
        (gradient,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(gradient.item(), slope, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(found.item(), value, equal_nan=True, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("gamma", "order", "limit"), [(0.5, 2, 0.0), (1.0, 2, 2.0), (2.0, 3, 6.0)])
def test_what_derivatives_are_at_0(gamma, order, limit):
    """Those of L ** (1 + gamma), and 0 for one that is infinite."""
    derivative = nll = torch.zeros(1, requires_grad=True)
    derivative = likelihood_focal_loss(nll, gamma)
    for _ in range(order):
        (derivative,) = torch.autograd.grad(derivative.sum(), nll, create_graph=True)
    assert derivative.item() == pytest.approx(limit, rel=1e-6)


def test_no_logarithm_of_a_probability_is_refused_or_nan():
    """A density's, unless it is masked; where nothing is looked at it is NaN, and its slope."""
    nll, mask = torch.tensor([-3.0, 1.0]), torch.tensor([False, True])
    with pytest.raises(ValueError, match=r"^likelihood_focal_loss: expected `nll` >= 0.*got -3"):
        likelihood_focal_loss(nll)
    kept = likelihood_focal_loss(nll, mask=mask, reduction="sum")
    assert kept == likelihood_focal_loss(nll[1:], reduction="sum")
    slopes = torch.vmap(torch.func.grad(likelihood_focal_loss))(nll)
    assert slopes.isnan().tolist() == [True, False]


def test_a_target_longer_than_its_input_is_left_out_by_a_mask():
    """An infinite CTC loss: the mean and the gradient are those of the other sequences."""
    scores = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets, lengths = torch.tensor([[1, 1, 1], [1, 2, 3]]), torch.tensor([3, 3])

    def nll(scores, targets, lengths):
        steps = torch.full_like(lengths, 4)
        return F.ctc_loss(scores.log_softmax(-1), targets, steps, lengths, reduction="none")

    both = nll(scores, targets, lengths)
    assert both.isinf().tolist() == [True, False]
    loss = likelihood_focal_loss(both, 0.5, "mean", mask=both.isfinite())
    (gradient,) = torch.autograd.grad(loss, scores)
    alone = scores.detach()[:, 1:].requires_grad_()
    expected = likelihood_focal_loss(nll(alone, targets[1:], lengths[1:]), 0.5, "mean")
    assert loss == expected
    assert torch.equal(gradient[:, 1:], torch.autograd.grad(expected, alone)[0])
    zeroed = parfocal.LikelihoodFocalLoss(0.5, reduction="sum")(both.masked_fill(both.isinf(), 0))
    assert zeroed == loss
