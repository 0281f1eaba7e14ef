"""The losses by their public functions, on the kernels: what they mean, and what they are told."""

import contextlib
import logging
import math

import pytest
import torch
from loss_cases import ELEMENTWISE, LOSSES
from torch import nn

import fuzz
import parfocal
from kernels.device import DEVICE
from kernels.forced import to_device, use_kernels
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics import backends
from parfocal.numerics.triton import elementwise, launch

SUMMED = [case for case in LOSSES if case.options >= ELEMENTWISE or "indices" in case.name]
CALLS = 700


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch):
    """All calls of this file."""
    use_kernels(monkeypatch)


@pytest.fixture
def launches(monkeypatch):
    """How often each kernel was launched."""
    counted = []
    for name in ("launch_sum", "launch_each"):
        launch = getattr(elementwise._Call, name)

        def count(self, *arguments, launch=launch, name=name, **options):
            counted.append(name)
            return launch(self, *arguments, **options)

        monkeypatch.setattr(elementwise._Call, name, count)
    return counted


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", SUMMED, ids=lambda case: case.name)
def test_meaning_is_the_textbooks(case, dtype, reduction):
    """Value and gradient, against the formula in float64 at the same logits."""
    x, y = case.draw(3, dtype)
    wide = x.double().requires_grad_()
    truth = case.formula(wide, y)
    incoming = torch.linspace(0.5, 2, truth.numel(), dtype=torch.float64).view(truth.shape)
    if reduction != "none":
        truth = getattr(truth, reduction)()
        incoming = torch.tensor(3.0, dtype=torch.float64)
    (slope,) = torch.autograd.grad(truth, wide, incoming)
    x, incoming = to_device(x.requires_grad_(), incoming.to(dtype))
    loss = case.loss(x, y.to(DEVICE), reduction=reduction)
    (gradient,) = torch.autograd.grad(loss, x, incoming)
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-6}
    tolerance["rtol"] *= 8 if dtype == torch.float32 else 1
    assert loss.dtype == gradient.dtype == dtype
    assert torch.allclose(loss.double().cpu(), truth, **tolerance)
    assert torch.allclose(gradient.double().cpu(), slope, **tolerance)


@pytest.mark.exhaustive
@pytest.mark.skipif(DEVICE != "cpu", reason="the fuzzer's tensors are on the CPU")
def test_random_calls():
    """The fuzzer's, against float64. No value of a tensor is looked at, so none is refused.

    A row whose class has weight 0 isn't read: NaN in it is hidden, where a CPU shows it.
    """
    failures = fuzz.many(29, range(CALLS)).failures
    failures = [line for line in failures if "was accepted, expected a refusal" not in line]
    hidden = [line for line in failures if line.startswith("softmax") and "expected nan" in line]
    failures = [line for line in failures if line not in hidden]
    assert not failures, "\n".join([f"{len(failures)} faults of {CALLS} calls:", *failures])


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0, 5.0])
def test_every_logit_is_within_the_promise(gamma):
    """4 + 2 gamma ULP of value and gradient, by ball arithmetic, in both tails."""
    gamma = torch.tensor(gamma).item()
    sizes = torch.logspace(-6, 2.3, 300)
    logits = torch.cat([sizes, -sizes, torch.tensor([0.0, 3e38, -3e38])])
    (x,) = to_device(logits.requires_grad_())
    for target in (0.0, 1.0):
        truth = focal_truth(logits.tolist(), target, gamma)
        y = torch.full_like(x, target)
        each = parfocal.sigmoid_focal_loss(x, y, alpha=None, gamma=gamma)
        total = parfocal.sigmoid_focal_loss(x, y, alpha=None, gamma=gamma, reduction="sum")
        for loss in (each.sum(), total):
            (slope,) = torch.autograd.grad(loss, x)
            assert ulp_error(slope.cpu(), truth.gradient).max() <= 4 + 2 * gamma
        assert ulp_error(each.detach().cpu(), truth.value).max() <= 4 + 2 * gamma


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_infinite_logits_are_the_limit(gamma, target):
    """And NaN stays; the value and the slope that a CPU gives."""
    logits = torch.tensor([math.inf, -math.inf, math.nan])
    (x,) = to_device(logits.requires_grad_())
    loss = parfocal.sigmoid_focal_loss(x, torch.full_like(x, target), alpha=None, gamma=gamma)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    p = torch.tensor([1.0, 0.0, math.nan])
    distance = target * (1 - p) + (1 - target) * p
    entropy = math.inf * distance  # of what is right infinitely far away nothing is left
    entropy = torch.where(distance == 0, 0.0, entropy)
    assert torch.allclose(loss.detach().cpu(), entropy, equal_nan=True)
    expected = (p - target) * distance**gamma
    assert torch.allclose(slope.cpu(), expected, rtol=1e-6, equal_nan=True)


@pytest.mark.filterwarnings("ignore:gaussian_focal_loss. no value")
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "case", [c for c in SUMMED if c.kind == "binary" and "hard" not in c.name], ids=lambda c: c.name
)
def test_nan_is_not_hidden(case, target, reduction):
    """In value and gradient, and nowhere else."""
    (x,) = to_device(torch.tensor([math.nan, 1.0]).requires_grad_())
    loss = case.loss(x, torch.full_like(x, target), reduction=reduction)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.isnan().tolist() == [True, False]
    assert loss.isnan().tolist() == ([True, False] if reduction == "none" else True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_not_summed(dtype):
    """Each loss and, of what comes in for each, the gradient; ignored rows hold NaN."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 7, 6, 5, generator=generator).to(dtype)
    index = torch.randint(0, 7, (2, 6, 5), generator=generator)
    index[0, 0] = 255
    x[0, :, 0] = math.nan
    weight, incoming = torch.rand(7), torch.rand(2, 6, 5).to(dtype)
    wide = torch.where(index.unsqueeze(1) == 255, 0.0, x.double()).requires_grad_()
    options = {"gamma": 0.5, "ignore_index": 255, "reduction": "none"}
    truth = parfocal.softmax_focal_loss(wide, index, weight.double(), **options)
    (slope,) = torch.autograd.grad(truth, wide, incoming.double())
    x, index, weight, incoming = to_device(x.requires_grad_(), index, weight, incoming)
    loss = parfocal.softmax_focal_loss(x, index, weight, **options)
    (gradient,) = torch.autograd.grad(loss, x, incoming)
    assert loss.grad_fn.name() == "_ReductionBackward"
    rtol = torch.finfo(dtype).eps * (16 if dtype == torch.float32 else 2)
    assert torch.allclose(loss.double().cpu(), truth, rtol=rtol, atol=0)
    assert torch.allclose(gradient.double().cpu(), slope, rtol=rtol, atol=1e-9)


def strided(x):
    """The same numbers in other layouts: transposed, with gaps, of one number."""
    yield x.t().contiguous().t()
    wide = torch.empty(x.shape[0], 2 * x.shape[1], device=x.device, dtype=x.dtype)
    wide[:, ::2] = x
    yield wide[:, ::2]


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_layouts(reduction):
    """Of logits, targets, weight and mask, each on its own."""
    generator = torch.Generator().manual_seed(0)
    x, y, weight = (torch.randn(30, 40, generator=generator) for _ in range(3))
    x, y, weight, mask = to_device(x.requires_grad_(), (y > 0).float(), weight.abs(), y > -1)

    def gradient(x, y, weight, mask):
        x = x.detach().requires_grad_()
        options = {"weight": weight, "mask": mask, "reduction": reduction}
        loss = parfocal.sigmoid_focal_loss(x, y, **options)
        return torch.autograd.grad(loss.sum(), x)[0]

    expected = gradient(x, y, weight, mask)
    for place, column in enumerate((x, y, weight, mask)):
        for other in strided(column):
            columns = [x, y, weight, mask]
            columns[place] = other
            assert torch.equal(gradient(*columns), expected)
    narrow = weight[:, :1], weight[0, 0], mask[0]
    for part in narrow:
        columns = {"weight": part} if part.is_floating_point() else {"mask": part}
        broad = {name: column.expand_as(x).contiguous() for name, column in columns.items()}
        assert torch.equal(
            gradient(x, y, **{"weight": None, "mask": None, **columns}),
            gradient(x, y, **{"weight": None, "mask": None, **broad}),
        )


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16])
def test_targets_of_all_dtypes(kind):
    """Hard ones, which are the same numbers."""
    x, y = to_device(torch.linspace(-9, 9, 50), torch.arange(50) % 2)
    expected = parfocal.poly_focal_loss(x, y.float(), reduction="mean")
    assert parfocal.poly_focal_loss(x, y.to(kind), reduction="mean") == expected


def test_one_launch_a_pass(launches):
    """A sum makes its gradient with it; what comes in is looked at on the device."""
    x, y = to_device(torch.randn(300).requires_grad_(), torch.ones(300))
    loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
    assert launches == ["launch_sum"]
    loss.backward()
    assert launches == ["launch_sum"] * 2
    launches.clear()
    parfocal.sigmoid_focal_loss(x, y).sum().backward()
    assert launches == ["launch_each"] * 2
    launches.clear()
    with torch.no_grad():
        parfocal.sigmoid_focal_loss(x, y, reduction="mean")
    assert launches == ["launch_sum"]


def test_a_second_pass_over_one_graph_is_the_first():
    """The gradient of the first is given away, with what came in."""
    x, y = to_device(torch.linspace(-5, 5, 100).requires_grad_(), torch.ones(100))
    loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
    incoming = torch.tensor(3.0, device=DEVICE)
    once, again = (torch.autograd.grad(loss, x, incoming, retain_graph=True)[0] for _ in range(2))
    (single,) = torch.autograd.grad(loss, x)
    assert torch.equal(once, again)
    assert torch.allclose(once, 3 * single, rtol=2**-22)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scaled_gradient_of_16_bits_is_rounded_once(dtype):
    """By 2 ** 16, as GradScaler has it: numbers that were below the least are not 0."""
    x, y = to_device(torch.linspace(-12, 12, 200).to(dtype).requires_grad_(), torch.ones(200))
    loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean", gamma=2)
    (gradient,) = torch.autograd.grad(loss, x, torch.tensor(2.0**16, dtype=dtype).to(DEVICE))
    wide = x.detach().double().requires_grad_()
    truth = parfocal.sigmoid_focal_loss(wide, y.double(), reduction="mean", gamma=2)
    (slope,) = torch.autograd.grad(truth, wide, torch.tensor(2.0**16, dtype=dtype).double())
    assert torch.allclose(gradient.double(), slope, rtol=torch.finfo(dtype).eps, atol=0)


def test_a_mean_of_nothing_is_nan_and_leaves_no_gradient():
    """Whatever stands where nothing counts."""
    x = torch.tensor([math.nan, math.inf, 1.0], device=DEVICE, requires_grad=True)
    y, mask = torch.ones(3, device=DEVICE), torch.zeros(3, dtype=torch.bool, device=DEVICE)
    loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean", mask=mask)
    loss.backward()
    assert loss.isnan()
    assert not x.grad.any()
    empty = torch.zeros(0, device=DEVICE, requires_grad=True)
    total = parfocal.sigmoid_focal_loss(empty, empty.detach(), reduction="sum")
    assert total == 0
    assert parfocal.sigmoid_focal_loss(empty, empty.detach()).shape == (0,)


def test_normalizers():
    """A number, a tensor of one on the device, and one on the CPU."""
    x, y = to_device(torch.linspace(-3, 3, 60).requires_grad_(), torch.ones(60))
    for normalizer in (4, torch.tensor(4.0), torch.tensor([4], device=DEVICE)):
        loss = parfocal.sigmoid_focal_loss(x, y, reduction="sum", normalizer=normalizer)
        total = parfocal.sigmoid_focal_loss(x, y, reduction="sum")
        assert torch.allclose(4 * loss, total)
        gradients = (torch.autograd.grad(t, x)[0] for t in (4 * loss, total))
        assert torch.allclose(*gradients)


def test_what_has_no_kernel_is_composed(launches):
    """float64, a gamma of each class, torch.func, a second derivative."""
    x, y = to_device(torch.linspace(-3, 3, 60).view(20, 3).requires_grad_(), torch.ones(20, 3))
    by_class = torch.tensor([0.5, 1.0, 2.0], device=DEVICE)
    parfocal.sigmoid_focal_loss(x.double(), y, reduction="mean").backward()
    parfocal.sigmoid_focal_loss(x, y, gamma=by_class, reduction="mean").backward()
    torch.func.grad(lambda x: parfocal.sigmoid_focal_loss(x, y, reduction="mean"))(x.detach())
    assert launches == []
    loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    wide = x.detach().double().requires_grad_()
    truth = parfocal.sigmoid_focal_loss(wide, y.double(), reduction="mean")
    (slope,) = torch.autograd.grad(truth, wide, create_graph=True)
    (expected,) = torch.autograd.grad(slope.sum(), wide)
    assert torch.allclose(curvature.double(), expected, rtol=1e-5, atol=1e-9)


def test_autocast_gives_float32():
    """Of 16-bit logits, as accurate as float32 is."""
    x, y = to_device(torch.linspace(-9, 9, 99).bfloat16(), torch.ones(99))
    with torch.autocast(DEVICE, torch.bfloat16):
        each = parfocal.sigmoid_focal_loss(x, y)
        total = parfocal.sigmoid_focal_loss(x, y, reduction="sum")
    assert each.dtype == total.dtype == torch.float32
    truth = parfocal.sigmoid_focal_loss(x.double(), y.double())
    assert torch.allclose(each.double(), truth, rtol=1e-6, atol=0)
    assert torch.allclose(total.double(), truth.sum(), rtol=2e-5)


def test_checkpoints_and_hooks_of_saved_tensors():
    """What is kept for the backward pass goes through autograd's own doors."""
    x, y = to_device(torch.linspace(-3, 3, 60).requires_grad_(), torch.ones(60))
    layer = nn.Linear(60, 60).to(DEVICE)

    def loss(x):
        return parfocal.sigmoid_focal_loss(layer(x), y, reduction="mean")

    (expected,) = torch.autograd.grad(loss(x), x)
    checkpointed = torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(checkpointed, x)[0], expected)
    with torch.autograd.graph.save_on_cpu():
        kept = loss(x)
    assert torch.equal(torch.autograd.grad(kept, x)[0], expected)


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    backend = "gloo" if DEVICE == "cpu" else "nccl"
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed here")
@pytest.mark.parametrize("how", ["DDP", "FSDP"])
def test_a_network_on_several_processes(one_process, how):
    """Its outputs are plain tensors, and the gradients those of the network alone."""
    torch.manual_seed(0)
    x, y = to_device(torch.randn(8, 5), torch.randint(0, 3, (8,)))
    network = nn.Linear(5, 3).to(DEVICE)
    parfocal.softmax_focal_loss(network(x), y).backward()
    expected = network.weight.grad.clone()
    network.zero_grad()
    if how == "DDP":
        wrapped = nn.parallel.DistributedDataParallel(network)
    else:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh(DEVICE, (1,))
        wrapped = fully_shard(network, mesh=mesh)
    parfocal.softmax_focal_loss(wrapped(x), y).backward()
    gradient = network.weight.grad
    gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    assert torch.allclose(gradient, expected)


def test_where_no_kernel_runs_all_is_composed(monkeypatch, caplog, launches):
    """A compiler or a driver that is missing is a line of the log, once, and never an error."""

    def fail(*arguments):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(launch, "_works", {})
    monkeypatch.setattr(launch, "add_up", fail)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(backends, "has_kernels", launch.works_on)
    x, y = to_device(torch.randn(50).requires_grad_(), torch.ones(50))
    with caplog.at_level(logging.WARNING, logger="parfocal"):
        for _ in range(2):
            parfocal.sigmoid_focal_loss(x, y, reduction="mean").backward()
    assert [r.message for r in caplog.records if r.name == "parfocal"] == [
        f"no Triton kernels on {x.device}: RuntimeError: no C compiler"
    ]
    assert launches == []
    wide = x.detach().double().requires_grad_()
    parfocal.sigmoid_focal_loss(wide, y.double(), reduction="mean").backward()
    assert torch.allclose(x.grad.double(), 2 * wide.grad, rtol=1e-5)
