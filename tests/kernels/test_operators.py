"""The kernels inside a user's torch.compile: operators with shapes, dtypes and derivatives."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import parfocal
from kernels.device import DEVICE
from kernels.forced import to_device, use_kernels

OPERATORS = torch.ops.parfocal
FOCAL = ("focal", 0.5, 0.25, 0.0, 0.0, False)


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch):
    """All calls of this file."""
    use_kernels(monkeypatch)


def arguments():
    """Plain, masked and weighted, transposed, of one dtype and another; for any reduction."""
    x = torch.randn(12, 7, device=DEVICE)
    y = (x > 0.3).float()
    yield x, y, None, None
    yield x.bfloat16(), y.bool(), None, None
    yield x.t(), y.t(), torch.rand(7, 12, device=DEVICE), x.t() > -1
    yield x[:, ::2], y[:, ::2], torch.rand((), device=DEVICE).expand(12, 4), None
    yield x, torch.arange(12, device=DEVICE) % 8, None, x > -1
    maps = torch.randn(2, 4, 3, 5, device=DEVICE).permute(0, 3, 1, 2)
    yield maps, torch.randint(0, 6, (2, 4, 3), device=DEVICE, dtype=torch.uint8), None, None


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_opcheck():
    """torch's own test: schema, registration of the derivative, fake tensors, compilation."""
    for x, *columns in arguments():
        x.requires_grad_()
        torch.library.opcheck(OPERATORS.elementwise_sum, (x, *columns, *FOCAL))
        for dtype in (torch.float32, x.dtype):
            torch.library.opcheck(OPERATORS.elementwise_values, (x, *columns, dtype, *FOCAL))


def rows():
    """Rows, maps, other layouts of them; with weights, and without."""
    yield torch.randn(30, 5, device=DEVICE), (30,), None
    yield torch.randn(30, 5, device=DEVICE).bfloat16(), (30,), torch.rand(30, device=DEVICE)
    yield torch.randn(2, 5, 4, 3, device=DEVICE), (2, 4, 3), None
    yield torch.randn(2, 4, 3, 5, device=DEVICE).permute(0, 3, 1, 2), (2, 4, 3), None
    yield torch.randn(4, 3, 2, 5, device=DEVICE).permute(0, 3, 2, 1), (4, 2, 3), None
    yield torch.randn(30, 10, device=DEVICE)[:, ::2], (30,), None


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_opcheck_of_classes():
    """The same of class indices."""
    for x, shape, weight in rows():
        index = torch.randint(0, 5, shape, device=DEVICE)
        of_class = torch.rand(5, device=DEVICE)
        for loss in ((0.5, 0.0, None), (0.5, 0.1, None), (2.0, 1.0, of_class)):
            torch.library.opcheck(OPERATORS.class_sum, (x.requires_grad_(), index, weight, *loss))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_classes_are_eager(dtype, smoothing):
    """With weights of classes and ignored rows."""

    def step(x, index, weight):
        options = {"ignore_index": 1, "label_smoothing": smoothing}
        return 3 * parfocal.softmax_focal_loss(2 * x, index, weight, **options)

    x, index, weight = to_device(
        torch.randn(40, 9).to(dtype).requires_grad_(), torch.arange(40) % 9, torch.rand(9)
    )
    eager = step(x, index, weight)
    (expected,) = torch.autograd.grad(eager, x)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(x, index, weight), x)
    rtol = 2 * torch.finfo(dtype).eps
    assert torch.allclose(compiled(x, index, weight), eager, rtol=2 * rtol)
    atol = rtol * expected.abs().max() if smoothing else 1e-30  # its terms cancel
    assert torch.allclose(gradient, expected, rtol=2 * rtol, atol=float(atol))


def test_fake_tensors_of_a_gpu():
    """Shapes, dtypes, strides and devices are known where there is no GPU."""
    with FakeTensorMode():
        x = torch.empty(8, 5, device="cuda", dtype=torch.float16).t()
        total = OPERATORS.elementwise_sum(x, x, None, None, *FOCAL)
        assert (total.shape, total.dtype, total.device.type) == ((), torch.float32, "cuda")
        slopes = OPERATORS.elementwise_sum_slopes(total, x, x, None, None, *FOCAL)
        each = OPERATORS.elementwise_values(x, x, None, None, torch.float32, *FOCAL)
        assert slopes.stride() == each.stride() == x.stride()
        assert (slopes.dtype, each.dtype) == (torch.float16, torch.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_is_eager(dtype, reduction, backend):
    """In one graph, between other operations, with an incoming gradient that isn't 1."""

    def step(x, y, mask):
        options = {"gamma": 0.5, "reduction": reduction, "mask": mask}
        return 3 * parfocal.sigmoid_focal_loss(2 * x, y, **options).float().sum()

    x = torch.randn(40, 9).to(dtype).requires_grad_()
    x, y, mask = to_device(x, (x > 0).float(), x < 1)
    eager = step(x, y, mask)
    (expected,) = torch.autograd.grad(eager, x)
    loss = torch.compile(step, fullgraph=True, backend=backend)(x, y, mask)
    (gradient,) = torch.autograd.grad(loss, x)
    rtol = 2 * torch.finfo(dtype).eps
    assert torch.allclose(loss, eager, rtol=rtol)
    assert torch.allclose(gradient, expected, rtol=rtol, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_graph_has_the_operator():
    """And another size needs no other graph."""
    seen = []

    def look(module, inputs):
        seen.extend(str(node.target) for node in module.graph.nodes)
        return module

    loss = torch.compile(
        lambda x, y: parfocal.sigmoid_focal_loss(x, y, reduction="mean"),
        fullgraph=True,
        dynamic=True,
        backend=look,
    )
    for n in (50, 60):
        x, y = to_device(torch.randn(n), torch.ones(n))
        expected = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
        assert torch.allclose(loss(x, y), expected)
    assert seen.count("parfocal.elementwise_sum") == 1


def test_an_export_needs_no_operator_of_ours():
    """Whoever loads it may not have this package."""

    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return parfocal.sigmoid_focal_loss(x, y, reduction="mean")

    x, y = to_device(torch.randn(50), torch.ones(50))
    exported = torch.export.export(Loss(), (x, y))
    assert not [n for n in exported.graph.nodes if "parfocal" in str(n.target)]
    expected = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
    assert torch.allclose(exported.module()(x, y), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_func_inside_a_compiler_is_composed():
    """There a Function, or an operator, would be differentiated in another way than it means."""
    x, y = to_device(torch.randn(50), torch.ones(50))
    gradient = torch.func.grad(lambda x: parfocal.sigmoid_focal_loss(x, y, reduction="mean"))
    compiled = torch.compile(gradient, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), gradient(x), rtol=1e-6)
