"""sigmoid_focal_loss differentiated: every order, in every argument, in every mode."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from parfocal import SigmoidFocalLoss, sigmoid_focal_loss
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import ulp_error


class TestDerivatives:
    """Every order, in every argument, at every logit."""

    @pytest.mark.parametrize("epsilon", [0.0, 1e-3])
    def test_every_mode_of_differentiation(self, epsilon):
        """A smoke test over reverse, forward and batched mode, at soft targets."""
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(6, generator=generator).double().mul(3).requires_grad_()
        targets = torch.rand(6, generator=generator).double().requires_grad_()
        gamma = torch.rand(6, generator=generator).double().mul(2).requires_grad_()
        alpha = torch.rand(6, generator=generator).double().requires_grad_()

        def loss(*arguments):
            return sigmoid_focal_loss(*arguments, epsilon=epsilon)

        arguments = (logits, targets, alpha, gamma)
        assert gradcheck(
            loss,
            arguments,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )
        assert gradgradcheck(loss, arguments, check_fwd_over_rev=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("targets", [(0.0, 1.0), (0.3, 1e-30)], ids=["hard", "soft"])
    def test_no_derivative_is_ever_nan_or_infinite(self, dtype, targets):
        """Six orders in the logit, two mixed with gamma, from 0 to the largest number."""
        reach = [0.0, 1e-30, 0.3, 5, 17, 40, 60, 87, 88, 95, 103, 104, 200, 700, 740, 1e10]
        points = torch.tensor([*reach, torch.finfo(dtype).max], dtype=dtype)
        gammas = torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0], dtype=dtype)
        grid = (torch.cat([points, -points]), torch.tensor(targets, dtype=dtype), gammas)
        x, y, g = (part.requires_grad_() for part in torch.meshgrid(*grid, indexing="ij"))

        def assert_finite(derivative, name):
            wrong = ~derivative.isfinite()
            assert not wrong.any(), (name, x[wrong], y[wrong], g[wrong])

        derivative = sigmoid_focal_loss(x, y, None, g)
        for order in range(7):
            assert_finite(derivative, order)
            if 1 <= order <= 2:
                (mixed,) = torch.autograd.grad(derivative.sum(), g, retain_graph=True)
                assert_finite(mixed, (order, "gamma"))
            (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)

    @pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
    def test_mixed_derivatives_are_the_differences_of_the_oracle(self, gamma):
        """d2L/dx dgamma and d2L/dx dy, by a central difference of exact gradients."""
        points, target, h = [-9.0, -1.0, 0.0, 2.0, 12.0], 0.3, 2.0**-20
        x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
        y = torch.full_like(x, target, requires_grad=True)
        g = torch.full_like(x, gamma, requires_grad=True)
        (gradient,) = torch.autograd.grad(
            sigmoid_focal_loss(x, y, None, g).sum(), x, create_graph=True
        )
        in_gamma, in_target = torch.autograd.grad(gradient.sum(), (g, y))
        for computed, step in ((in_gamma, (0.0, h)), (in_target, (h, 0.0))):
            above = focal_truth(points, target + step[0], gamma + step[1]).gradient.hi
            below = focal_truth(points, target - step[0], gamma - step[1]).gradient.hi
            torch.testing.assert_close(computed, (above - below) / (2 * h), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
    @pytest.mark.parametrize("gamma", [0.1, 2.0])
    def test_gradient_in_targets_in_every_mode(self, gamma, target, dtype):
        """At hard targets too, where log b has a branch point, and where exp(-|x|) is gone."""
        points = [-400.0, -80.0, -20.0, -3.0, 0.0, 0.5, 5.0, 17.0, 40.0, 120.0]
        x = torch.tensor(points, dtype=dtype)
        y = torch.full_like(x, target, requires_grad=True)
        rounded = torch.tensor(gamma, dtype=dtype).item()
        truth = focal_truth(points, y[0].item(), rounded).target_gradient

        def loss(targets):
            return sigmoid_focal_loss(x, targets, None, gamma)

        fixed = y.detach()
        gradients = (
            torch.autograd.grad(loss(y).sum(), y)[0],
            torch.autograd.grad(loss(y).sum(), y, create_graph=True)[0].detach(),
            torch.func.grad(lambda targets: loss(targets).sum())(fixed),
            torch.func.jvp(loss, (fixed,), (torch.ones_like(x),))[1],
        )
        smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
        for gradient in gradients:
            error = ulp_error(gradient, truth, of_scale=0 < target < 1)
            assert error[truth.hi.abs() > smallest].max() <= 4 + 2 * gamma

    @pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
    def test_torch_func_agrees_with_the_oracle_everywhere(self, gamma):
        """grad, vmap, jvp and all four ways to a Hessian, at saturated logits too."""
        points = [0.0, 200.0, -3.0, 16.7, -40.0, 90.0]
        x = torch.tensor(points, dtype=torch.float64)
        truth = focal_truth(points, 1.0, gamma)

        def total(x):
            return sigmoid_focal_loss(x, torch.ones_like(x), None, gamma).sum()

        func = torch.func
        gradients = (
            func.grad(total)(x),
            torch.vmap(func.grad(total))(x),
            torch.stack([func.jvp(total, (x,), (e,))[1] for e in torch.eye(6).double()]),
        )
        for gradient in gradients:
            assert ulp_error(gradient, truth.gradient).max() <= 4 + 2 * gamma
        hessians = (
            func.hessian(total),
            func.jacrev(func.jacrev(total)),
            func.jacfwd(func.jacfwd(total)),
            func.jacrev(func.jacfwd(total)),
        )
        for hessian in hessians:
            matrix = hessian(x)
            assert torch.equal(matrix, matrix.diag().diag())
            error = ulp_error(matrix.diag(), truth.curvature, of_scale=True)
            assert error.max() <= 6 + 3 * gamma

    def test_accumulation_repetition_and_zero_incoming_gradient(self):
        """Two passes back over one graph add twice; a zero gradient gives zeros, at a cliff too."""
        logits = torch.tensor([0.5, 50.0], requires_grad=True)
        loss = sigmoid_focal_loss(logits, torch.ones(2), gamma=0.1)
        (once,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        loss.backward(torch.ones(2), retain_graph=True)
        loss.backward(torch.ones(2))
        assert torch.equal(logits.grad, 2 * once)
        loss = sigmoid_focal_loss(logits, torch.ones(2), gamma=0.1)
        assert torch.autograd.grad(loss, logits, torch.zeros(2))[0].tolist() == [0.0, 0.0]


class TestCompiled:
    """torch.compile(fullgraph=True): no graph break, same accuracy."""

    @pytest.mark.covering
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("gamma", [0.1, 2.0])
    def test_value_and_gradient_meet_the_oracle(self, dtype, gamma):
        """Over the range in which results are normal numbers."""
        compiled = torch.compile(sigmoid_focal_loss, fullgraph=True)
        reach = {torch.float64: 200.0, torch.float32: 26.0, torch.bfloat16: 26.0}[dtype]
        x = torch.linspace(-reach, reach, 4001).to(dtype).requires_grad_()
        loss = compiled(x, torch.ones_like(x), None, gamma)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        rounded = torch.tensor(gamma, dtype=torch.promote_types(dtype, torch.float32)).item()
        truth = focal_truth(x.double().tolist(), 1.0, rounded)
        bound = 1 if dtype == torch.bfloat16 else 4 + 2 * gamma
        assert ulp_error(loss.detach(), truth.value).max() <= bound
        assert ulp_error(gradient, truth.gradient).max() <= bound

    def test_func_transforms_inside_are_right_at_saturation(self):
        """A custom Function would differentiate its forward formula there, silently."""
        x = torch.tensor([0.0, 200.0, -3.0, 16.7])

        def total(x):
            return sigmoid_focal_loss(x, torch.ones_like(x), None, 0.5).sum()

        for transform in (torch.func.grad, torch.func.hessian):
            compiled = torch.compile(transform(total), fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(x), transform(total)(x), rtol=1e-5, atol=1e-12)

    def test_module_with_every_option(self):
        """Tensor parameters, weight, mask and normalizer in one graph."""
        logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
        targets = (logits > 0.3).float()
        module = SigmoidFocalLoss(torch.rand(5), torch.rand(5), "sum")
        options = {
            "weight": torch.rand(5),
            "mask": torch.rand(4, 5) > 0.3,
            "normalizer": torch.tensor(3.0),
        }
        compiled = torch.compile(module, fullgraph=True)
        torch.testing.assert_close(
            compiled(logits, targets, **options), module(logits, targets, **options)
        )


def test_alpha_may_be_mapped_over():
    """By vmap, beside logits and targets that are not."""
    x, y = torch.randn(4, 3), torch.ones(4, 3)
    alphas = torch.tensor([0.1, 0.5, 0.9])
    found = torch.vmap(lambda alpha: sigmoid_focal_loss(x, y, alpha, 0.5))(alphas)
    for one, alpha in zip(found, alphas.tolist(), strict=True):
        torch.testing.assert_close(one, sigmoid_focal_loss(x, y, alpha, 0.5))
