"""sigmoid_focal_loss: what it equals, what it accepts, in which ways it may be called."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

from parfocal import SigmoidFocalLoss, sigmoid_focal_loss
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import ulp_error

REDUCTIONS = ["none", "mean", "sum"]
GAMMAS = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0]


def _mild(shape=(4, 5), dtype=torch.float64, seed=0):
    """Logits up to about 3, and hard targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 2, shape, generator=generator).to(dtype)


class TestEquals:
    """The functions whose place it takes."""

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("gamma", GAMMAS)
    @pytest.mark.parametrize("alpha", [-1, 0.0, 0.25, 1.0])
    @pytest.mark.parametrize("soft", [False, True])
    def test_torchvision(self, alpha, gamma, reduction, soft):
        """Same five positional arguments, same values and gradients where those are accurate."""
        logits, targets = _mild()
        if soft:
            targets = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)).double()
        logits.requires_grad_()
        ours = sigmoid_focal_loss(logits, targets, alpha, gamma, reduction)
        theirs = torchvision_loss(logits, targets, alpha, gamma, reduction)
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
        (our_gradient,) = torch.autograd.grad(ours.sum(), logits)
        (their_gradient,) = torch.autograd.grad(theirs.sum(), logits)
        torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-14)

    def test_torchvision_defaults(self):
        """alpha = 0.25, gamma = 2, no reduction."""
        logits, targets = _mild()
        torch.testing.assert_close(
            sigmoid_focal_loss(logits, targets), torchvision_loss(logits, targets)
        )

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_binary_cross_entropy_at_gamma_zero(self, reduction):
        """With weights, whose sum a mean doesn't divide by."""
        logits, targets = _mild()
        weight = torch.rand(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        ours = sigmoid_focal_loss(logits, targets, None, 0, reduction, weight=weight)
        theirs = F.binary_cross_entropy_with_logits(logits, targets, weight, reduction=reduction)
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)

    @pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
    @pytest.mark.parametrize("gamma", [0.1, 2.0])
    def test_smoothed_loss_of_the_paper(self, gamma, target):
        """(1 - p_t + epsilon) ** gamma ce against the oracle, far into saturation."""
        logits = torch.linspace(-80, 80, 321, dtype=torch.float64, requires_grad=True)
        truth = focal_truth(logits.tolist(), target, gamma, epsilon=1e-3)
        targets = torch.full_like(logits, target)
        loss = sigmoid_focal_loss(logits, targets, None, gamma, epsilon=1e-3)
        (gradient,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), logits)
        assert ulp_error(loss.detach(), truth.value).max() < 8
        assert ulp_error(gradient.detach(), truth.gradient, of_scale=True).max() < 12
        assert ulp_error(curvature, truth.curvature, of_scale=True).max() < 16


class TestOptions:
    """alpha, gamma, weight, mask, normalizer and reduction."""

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float16])
    def test_targets_of_other_dtypes(self, dtype):
        """Class labels may come as they are stored."""
        logits, targets = _mild()
        torch.testing.assert_close(
            sigmoid_focal_loss(logits, targets.to(dtype)), sigmoid_focal_loss(logits, targets)
        )

    def test_tensor_parameters_broadcast(self):
        """Per class or per sample, they equal one call a class."""
        logits, targets = _mild()
        gamma = torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0])
        alpha = torch.tensor([[0.1], [0.25], [0.5], [0.9]], dtype=torch.float64)
        whole = sigmoid_focal_loss(logits, targets, alpha, gamma)
        for i in range(4):
            for j in range(5):
                one = sigmoid_focal_loss(
                    logits[i, j], targets[i, j], alpha[i].item(), gamma[j].item()
                )
                torch.testing.assert_close(whole[i, j], one, rtol=1e-15, atol=0)

    def test_normalizer_divides_the_sum(self):
        """As a number and as a tensor."""
        logits, targets = _mild()
        total = sigmoid_focal_loss(logits, targets, reduction="sum")
        for normalizer in (7, 7.0, torch.tensor(7), torch.tensor([7.0])):
            ours = sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=normalizer)
            assert ours.item() == total.item() / 7

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf, 1e30, 40.0])
    def test_masked_position_adds_exactly_nothing(self, hidden, reduction):
        """Not to the value, nor to a gradient in any argument, nor to what a mean divides by."""
        logits = torch.tensor([1.0, hidden, -2.0, hidden], requires_grad=True)
        targets = torch.tensor([1.0, hidden, 0.0, 1.0], requires_grad=True)
        weight = torch.tensor([1.0, hidden, 2.0, 3.0], requires_grad=True)
        gamma = torch.tensor([0.5, hidden, 0.5, 0.5], requires_grad=True)
        mask = torch.tensor([True, False, True, False])
        arguments = (logits, targets, weight, gamma)
        loss = sigmoid_focal_loss(logits, targets, 0.25, gamma, reduction, weight=weight, mask=mask)
        few = [argument.detach()[mask].requires_grad_() for argument in arguments]
        expected = sigmoid_focal_loss(few[0], few[1], 0.25, few[3], reduction, weight=few[2])
        if reduction == "none":
            assert loss[~mask].tolist() == [0.0, 0.0]
            loss = loss[mask]
        torch.testing.assert_close(loss, expected)
        gradients = torch.autograd.grad(loss.sum(), arguments)
        expected_gradients = torch.autograd.grad(expected.sum(), few)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert gradient[~mask].tolist() == [0.0, 0.0]
            torch.testing.assert_close(gradient[mask], expected_gradient)

    def test_masked_row_broadcasts(self):
        """A mask of one row masks every row."""
        logits, targets = _mild()
        mask = torch.tensor([True, False, True, True, False])
        ours = sigmoid_focal_loss(logits, targets, reduction="mean", mask=mask)
        theirs = sigmoid_focal_loss(logits[:, mask], targets[:, mask], reduction="mean")
        torch.testing.assert_close(ours, theirs)

    def test_mean_of_nothing_is_nan_and_can_be_zero(self):
        """As PyTorch has it; the docstring's way gives 0, and a gradient of 0."""
        logits = torch.tensor([1.0, math.nan], requires_grad=True)
        targets = torch.zeros(2)
        mask = torch.zeros(2, dtype=torch.bool)
        assert sigmoid_focal_loss(logits, targets, reduction="mean", mask=mask).isnan()
        assert sigmoid_focal_loss(logits[:0], targets[:0], reduction="mean").isnan()
        loss = sigmoid_focal_loss(
            logits, targets, reduction="sum", mask=mask, normalizer=mask.sum().clamp(min=1)
        )
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_infinite_logits_give_the_limit_and_nan_stays(self, gamma, compiled):
        """L(+inf, 1) = 0, L(-inf, 1) = inf; the slopes are 0 and -1."""
        function = torch.compile(sigmoid_focal_loss) if compiled else sigmoid_focal_loss
        logits = torch.tensor([math.inf, -math.inf, math.nan], requires_grad=True)
        loss = function(logits, torch.ones(3), None, gamma)
        assert loss[:2].tolist() == [0.0, math.inf]
        assert loss[2].isnan()
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient[:2].tolist() == [0.0, -1.0]
        assert gradient[2].isnan()


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
    @pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize("target", [0.0, 1.0, 0.3, 1e-30])
    def test_no_derivative_is_ever_nan_or_infinite(self, dtype, gamma, target):
        """Six orders in the logit, two mixed with gamma, from 0 to the largest number."""
        largest = torch.finfo(dtype).max
        points = [
            0.0,
            1e-30,
            0.3,
            5,
            17,
            40,
            60,
            87,
            88,
            95,
            103,
            104,
            200,
            700,
            740,
            1e10,
            largest,
        ]
        x = torch.tensor([*points, *(-p for p in points)], dtype=dtype, requires_grad=True)
        y = torch.full_like(x, target, requires_grad=True)
        g = torch.full_like(x, gamma, requires_grad=True)
        derivative = sigmoid_focal_loss(x, y, None, g)
        for order in range(7):
            assert derivative.isfinite().all(), order
            if 1 <= order <= 2:
                (mixed,) = torch.autograd.grad(derivative.sum(), g, retain_graph=True)
                assert mixed.isfinite().all(), order
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
            compiled = torch.compile(transform(total), fullgraph=True)
            torch.testing.assert_close(compiled(x), transform(total)(x), rtol=1e-5, atol=1e-12)

    def test_module_with_every_option(self):
        """Tensor parameters, weight, mask and normalizer in one graph."""
        logits, targets = _mild(dtype=torch.float32)
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


class TestForms:
    """Shapes, layouts, dtypes and modes."""

    @pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4, 5)])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_shape_and_dtype_are_kept(self, shape, dtype):
        """A reduction leaves a scalar of the same dtype."""
        logits, targets = _mild(shape, dtype)
        logits.requires_grad_()
        loss = sigmoid_focal_loss(logits, targets)
        assert (loss.shape, loss.dtype) == (logits.shape, dtype)
        total = sigmoid_focal_loss(logits, targets, reduction="sum")
        assert (total.shape, total.dtype) == ((), dtype)
        (gradient,) = torch.autograd.grad(total, logits)
        assert (gradient.shape, gradient.dtype) == (logits.shape, dtype)

    def test_layout_does_not_matter(self):
        """Transposed, strided, expanded and channels-last logits give the numbers of a copy."""
        base, _ = _mild((4, 6, 8, 2))
        layouts = (
            base.transpose(0, 2),
            base[:, ::2, 1::3],
            base[:1].expand(3, 6, 8, 2),
            base.contiguous(memory_format=torch.channels_last),
        )
        for logits in layouts:
            targets = (logits > 0.3).double()
            copied = sigmoid_focal_loss(
                logits.clone(memory_format=torch.contiguous_format), targets
            )
            assert torch.equal(sigmoid_focal_loss(logits, targets), copied)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_autocast_gives_float32_like_other_losses(self, dtype):
        """16-bit logits of a layer; the gradient is right at the cliff of the usual code."""
        layer = nn.Linear(3, 4)
        with torch.autocast("cpu", dtype):
            logits = layer(torch.rand(2, 3, generator=torch.Generator().manual_seed(0))) * 40
            assert logits.dtype == dtype
            logits = logits.detach().requires_grad_()
            loss = sigmoid_focal_loss(logits, (logits > 0).float(), None, 0.5, "sum")
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, logits)
        margins = logits.detach().abs().double().flatten().tolist()
        truth = focal_truth(margins, 1.0, 0.5).gradient
        signed = (gradient * -logits.sign()).flatten().abs() * -1
        assert ulp_error(signed, truth).max() <= 1

    def test_sixteen_bit_reductions_are_rounded_once(self):
        """2 ** 16 losses of 0.17 add up in float32; in bfloat16 they would stop at 32."""
        logits = torch.zeros(2**16, dtype=torch.bfloat16)
        targets = torch.ones_like(logits)
        total = sigmoid_focal_loss(logits, targets, None, 2, "sum")
        assert abs(total.item() / (2**16 * math.log(2) / 4) - 1) < 2**-8
        mean = sigmoid_focal_loss(logits, targets, None, 2, "mean")
        assert mean.item() == torch.tensor(math.log(2) / 4, dtype=torch.bfloat16).item()

    def test_call_changes_nothing_else(self):
        """Neither arguments nor the generator nor a mode."""
        logits, targets = _mild()
        before = logits.clone(), targets.clone(), torch.get_rng_state(), torch.is_grad_enabled()
        sigmoid_focal_loss(logits, targets, gamma=0.5, mask=targets > 0)
        assert torch.equal(logits, before[0])
        assert torch.equal(targets, before[1])
        assert torch.equal(torch.get_rng_state(), before[2])
        assert torch.is_grad_enabled() == before[3]

    def test_result_does_not_depend_on_the_lane(self):
        """The vectorised power and its scalar tail see one exponent."""
        logits = torch.full((67,), 30.0)
        for gamma in (1.7, 0.3):
            assert sigmoid_focal_loss(logits, torch.ones(67), None, gamma).unique().numel() == 1


class TestModule:
    """SigmoidFocalLoss stores, prints, copies and learns its parameters."""

    def test_calls_the_function(self):
        """With every option handed on."""
        logits, targets = _mild()
        module = SigmoidFocalLoss(0.3, 0.7, "sum", epsilon=0.01)
        options = {"weight": torch.rand(5), "mask": targets > 0, "normalizer": 3.0}
        expected = sigmoid_focal_loss(logits, targets, 0.3, 0.7, "sum", epsilon=0.01, **options)
        assert torch.equal(module(logits, targets, **options), expected)

    @pytest.mark.parametrize("gamma", [0.5, torch.tensor([0.5, 2.0]), nn.Parameter(torch.ones(2))])
    def test_copies_and_pickles(self, gamma):
        """deepcopy and torch.save keep numbers, buffers and parameters apart."""
        module = SigmoidFocalLoss(None, gamma, "mean")
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        logits, targets = _mild((3, 2))
        for twin in (copy.deepcopy(module), torch.load(file, weights_only=False)):
            assert repr(twin) == repr(module)
            assert twin.state_dict().keys() == module.state_dict().keys()
            assert torch.equal(twin(logits, targets), module(logits, targets))

    def test_learns_a_parameter(self):
        """gamma as an nn.Parameter is in parameters() and gets a gradient; a buffer is in state."""
        module = SigmoidFocalLoss(torch.tensor(0.3), nn.Parameter(torch.tensor(0.5)), "mean")
        assert [name for name, _ in module.named_parameters()] == ["gamma"]
        assert [name for name, _ in module.named_buffers()] == ["alpha"]
        module(torch.randn(3, generator=torch.Generator().manual_seed(0)), torch.ones(3)).backward()
        assert module.gamma.grad < 0
        assert repr(module) == (
            "SigmoidFocalLoss(alpha=Tensor(shape=()), gamma=Parameter(shape=()), "
            "reduction='mean', epsilon=0.0)"
        )
