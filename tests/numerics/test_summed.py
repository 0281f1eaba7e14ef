"""Sums that make their gradient in the forward pass: right in whatever way they are used."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_cases import ELEMENTWISE, LOSSES

import parfocal
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics.cpu import blocks, classes, memory
from parfocal.numerics.cpu.memory import keep_temporaries

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def binary(x, y=None, **options):
    y = (torch.arange(x.numel()) % 2).view_as(x) if y is None else y
    return parfocal.sigmoid_focal_loss(x, y, 0.25, 0.5, **{"reduction": "mean", **options})


def multiclass(x, **options):
    return parfocal.softmax_focal_loss(x, torch.arange(len(x)) % x.shape[1], gamma=0.5, **options)


def elementwise(case, is_hard):
    """A loss of the family at its own targets, or at hard ones; a mean unless it is asked for."""

    def of_logits(x, **options):
        y = case.targets(x.shape, torch.Generator().manual_seed(1))
        y = (y >= 0.5).to(y.dtype) if is_hard else y
        x = x.abs() if case.kind == "likelihoods" else x
        return case.loss(x, y, **{"reduction": "mean", **options})

    of_logits.__name__ = f"{case.name}, hard" if is_hard else case.name
    return of_logits


def counted(x, **options):
    """Weights of positions, and a mask of two in three; a sum, so that nothing is divided."""
    weight = (torch.arange(x.numel()) % 7 / 4).view_as(x)
    mask = (torch.arange(x.numel()) % 3 > 0).view_as(x)
    total = binary(x, weight=weight, mask=mask, **{"reduction": "sum", **options})
    return total if options else total / x.numel()


SUMS = [
    binary,
    multiclass,
    counted,
    *(
        elementwise(case, is_hard)
        for case in LOSSES
        for is_hard in (False, True)
        if case.options >= ELEMENTWISE
    ),
]
every_sum = pytest.mark.parametrize("loss", SUMS, ids=lambda loss: loss.__name__)


def logits(dtype=torch.float32, scale=4.0):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(12, 5, generator=generator) * scale).to(dtype).requires_grad_()


def reference(loss, x, factor=1.0):
    """The gradient in float64, of the unreduced loss, whose gradient is made when it is asked."""
    wide = x.detach().double().requires_grad_()
    return torch.autograd.grad(factor * loss(wide, reduction="none").mean(), wide)[0]


def close(found, expected):
    info = torch.finfo(found.dtype)
    smallest = info.tiny * info.eps
    torch.testing.assert_close(
        found.double(), expected, rtol=16 * info.eps, atol=max(5e-9, smallest)
    )


@every_sum
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_is_that_of_the_unreduced_loss(loss, dtype):
    """And the value is its mean."""
    x = logits(dtype)
    value = loss(x)
    close(torch.autograd.grad(value, x)[0], reference(loss, x))
    expected = loss(x.detach().double(), reduction="none").mean()
    torch.testing.assert_close(value.detach().double(), expected, rtol=4e-3, atol=0)


@every_sum
def test_retained_graph_gives_the_same_gradient_again(loss):
    """The first was given away, and changed by its owner."""
    x = logits()
    value = loss(x)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    for _ in range(2):
        (again,) = torch.autograd.grad(value, x, retain_graph=True)
        torch.testing.assert_close(again, kept, rtol=0, atol=0)


@pytest.mark.parametrize("loss", SUMS[:4], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("factor", [0.0, 0.125, -0.3, 1.0, 65_536.0, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_incoming_gradient_multiplies_once(loss, dtype, factor):
    """Zero, small, large or not a number; on the first backward pass and on the second."""
    x = logits(dtype)
    with torch.autocast("cpu", torch.float16, enabled=dtype == torch.float16):  # a loss in float32
        value = loss(x) * factor
    for retain in (True, False):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=retain)
        if math.isnan(factor):
            assert gradient.isnan().all()
        else:
            close(gradient, reference(loss, x, factor))


@every_sum
def test_gradients_accumulate(loss):
    """Two calls of one input in one graph, and two backward passes into one gradient."""
    x = logits()
    (loss(x) + 3 * loss(x)).backward()
    close(x.grad, reference(loss, x, 4.0))
    loss(x).backward()
    close(x.grad, reference(loss, x, 5.0))


@every_sum
def test_many_incoming_gradients_at_once(loss):
    """As torch.autograd.grad takes them with is_grads_batched."""
    x = logits()
    factors = torch.tensor([1.0, -2.0, 0.0])
    (found,) = torch.autograd.grad(loss(x), x, factors, is_grads_batched=True)
    for gradient, factor in zip(found, factors.tolist(), strict=True):
        close(gradient, reference(loss, x, factor))


@every_sum
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_double_backward(loss, factor):
    """The Hessian of the mean, by differences of the closed gradient."""
    x = logits(torch.float64, scale=2.0)
    total = factor * loss(x)
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    (curvature,) = torch.autograd.grad((gradient * direction).sum(), x)
    h = 1e-6
    ahead, behind = (reference(loss, x + s * h * direction, factor) for s in (1, -1))
    torch.testing.assert_close(curvature, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-10)
    narrow = x.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(factor * loss(narrow), narrow, create_graph=True)
    (found,) = torch.autograd.grad((gradient * direction).sum(), narrow)
    torch.testing.assert_close(found.double(), curvature, rtol=1e-4, atol=1e-6)


@every_sum
def test_logits_changed_after_the_forward_pass_are_refused(loss):
    """As everywhere in autograd, though the gradient is there already."""
    x = logits()
    z = x * 1
    value = loss(z)
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [65_536.0, 2.0**-10])
def test_sixteen_bit_gradient_is_rounded_after_the_incoming_one(dtype, scale):
    """A GradScaler's factor, and a mean: nothing underflows that the true product wouldn't."""
    points = [-8.0, -1.0, 0.5, 3.0, 8.0] * 200
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype):  # the loss is in float32
        loss = parfocal.sigmoid_focal_loss(x, torch.ones_like(x), None, 2.0, "mean")
    (scale * loss).backward()
    truth = focal_truth(points, 1.0, 2.0).gradient
    factor = scale / len(points)
    scaled = type(truth)(*(part * factor for part in truth))
    error = ulp_error(x.grad, scaled)
    assert error.max() <= 0.51, error.max()
    assert (x.grad != 0).sum() >= 600


@pytest.mark.parametrize("soft", [1e-9, 0.3])
def test_one_soft_target_is_not_taken_for_a_hard_one(soft):
    """However near: an easy negative with a little of a positive has another loss."""
    x = torch.tensor([-20.0, 3.0, -1.0], requires_grad=True)
    y = torch.tensor([soft, 1.0, 0.0])
    wide = x.detach().double().requires_grad_()
    found, expected = binary(x, y), binary(wide, y.double(), reduction="none").mean()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(z, v)[0] for z, v in ((found, x), (expected, wide))]
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [2**6, 2**10, 2**16])
@pytest.mark.parametrize("target", ["hard", "soft", "far"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_element_depends_on_the_blocks(dtype, target, size, count, monkeypatch):
    """Gradients are the same to the bit, sums to their rounding; where forms change as well."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3000, generator=generator) * 5).to(dtype)
    y = (torch.rand(3000, generator=generator) > 0.5).to(dtype)
    if target == "soft":
        y[2900] = 0.3
    if target == "far":
        x[2900] = 500.0
    x.requires_grad_()

    def results():
        total = binary(x, y)
        unreduced = binary(x, y, reduction="none")
        gradients = (torch.autograd.grad(z.sum(), x)[0] for z in (total, unreduced))
        return total.detach(), unreduced.detach(), *gradients

    whole = results()
    before = torch.get_num_threads()
    monkeypatch.setattr(blocks, "_BLOCK", size)
    try:
        torch.set_num_threads(count)
        found = results()
    finally:
        torch.set_num_threads(before)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], whole[0], rtol=2 * eps, atol=0)
    for one, other in zip(found[1:], whole[1:], strict=True):
        # A block that is no multiple of a vector leaves some to scalar functions: an ULP or two.
        torch.testing.assert_close(one, other, rtol=3 * eps, atol=0)
        assert size < 2**10 or (one == other).double().mean() > 0.98


@pytest.mark.parametrize(
    "shape", [(50, 7), (3, 7, 40), (2, 7, 9, 11), (40, 7, 3), (9, 2), (4, 300)]
)
@pytest.mark.parametrize("block", [1, 64, 2**20])
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"ignore_index": 1}])
def test_rows_and_maps_are_those_of_cross_entropy(shape, block, options, monkeypatch):
    """At gamma 0, whatever a block holds: rows, runs of pixels or whole images."""
    monkeypatch.setattr(classes, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    if "weight" in options:
        options = {"weight": torch.rand(shape[1], generator=generator, dtype=torch.float64)}
    narrow = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    for reduction in ("mean", "sum"):
        wide, single = x.clone().requires_grad_(), x.float().requires_grad_()
        expected = F.cross_entropy(wide, targets, reduction=reduction, **options)
        found = parfocal.softmax_focal_loss(single, targets, gamma=0, reduction=reduction, **narrow)
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
        gradients = [torch.autograd.grad(z, x)[0] for z, x in ((found, single), (expected, wide))]
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=1e-12)


def test_far_and_infinite_class_logits_have_their_limits():
    """A sum of rows that have no odds in float32 is left to the general form."""
    x = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    value = parfocal.softmax_focal_loss(x, torch.tensor([0, 0]), gamma=0.5, reduction="sum")
    value.backward()
    assert value.item() == 400
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0, 0], [-1, 1, 0]]))
    ruled_out = torch.tensor([[0.0, -math.inf, 0.0]], requires_grad=True)
    value = parfocal.softmax_focal_loss(ruled_out, torch.tensor([0]), gamma=0.0)
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    torch.testing.assert_close(ruled_out.grad, torch.tensor([[-0.5, 0.0, 0.5]]))


def test_large_memory_is_like_any_other():
    """Asked for in huge pages or not."""
    count = memory._LARGE // 4 + 3
    tensor = memory.fresh(torch.Size([count]), torch.float32)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((count,), torch.float32, True)
    tensor.fill_(2.0)
    assert tensor.sum(dtype=torch.float64).item() == 2.0 * count


def test_extra_memory_is_the_gradient():
    """No other tensor of the size of the logits is allocated."""
    x = torch.zeros(2**21, requires_grad=True)
    y = torch.ones_like(x)
    binary(x[:1], y[:1])  # what is done once
    keep_temporaries()
    largest = 2**17 * torch.get_num_threads() * 8  # a block in float64
    with torch.profiler.profile(profile_memory=True) as profile:
        binary(x, y).backward()
    sizes = [e.cpu_memory_usage for e in profile.events() if e.cpu_memory_usage > largest]
    assert sizes == [x.grad.nbytes], sizes
