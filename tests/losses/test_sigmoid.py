"""sigmoid_focal_loss: what it equals, what it accepts, in which ways it may be called."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
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
    """Numbers, buffers and parameters of a module are kept apart."""

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
