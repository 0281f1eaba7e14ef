"""The kernels of elementwise losses with one class index a row in place of targets."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import parfocal
from kernels.device import DEVICE
from kernels.forced import to_device, use_kernels
from parfocal.losses import values
from parfocal.numerics.triton import elementwise

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)

# Rows shorter and longer than a block of 1024, of all sorts of sizes; maps below and above it.
SHAPES = [
    *((700, 1), (700, 2), (100, 21), (40, 80), (3, 1000), (2, 1500)),
    *((3, 2, 5), (2, 21, 7, 9), (2, 3, 33, 34), (1, 80, 4, 3), (2, 5, 3, 4, 2)),
]


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch):
    """All calls of this file."""
    use_kernels(monkeypatch)


@pytest.fixture
def targets(monkeypatch):
    """The shapes of the targets of each launch."""
    seen = []
    for name in ("launch_sum", "launch_each"):
        launch = getattr(elementwise._Call, name)

        def look(self, *arguments, launch=launch, **options):
            seen.append(self.columns[1].shape)
            return launch(self, *arguments, **options)

        monkeypatch.setattr(elementwise._Call, name, look)
    return seen


def draw(shape, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Logits, and indices of which C says that there is no class."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype)
    return logits, torch.randint(0, shape[1] + 1, shape[:1] + shape[2:], generator=generator)


def one_hot(index: Tensor, classes: int) -> Tensor:
    """A target of each class; at C all are 0."""
    return F.one_hot(index, classes + 1)[..., :classes].movedim(-1, 1).double()


def layouts(x: Tensor):
    """The same numbers with the classes first, between and last in memory, and with gaps."""
    yield "contiguous", x
    yield "classes last", x.movedim(1, -1).contiguous().movedim(-1, 1)
    yield "classes first", x.transpose(0, 1).contiguous().transpose(0, 1)
    yield "backwards", x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
    yield "gaps", torch.stack([x, x], -1)[..., 0]


@DTYPES
@pytest.mark.filterwarnings("ignore:.*indices of a single class")
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_layout(shape, reduction, dtype, targets):
    """Value and gradient against float64, and no target of each class is made."""
    logits, index = draw(shape, dtype)
    wide = logits.double().requires_grad_()
    truth = parfocal.sigmoid_focal_loss(wide, one_hot(index, shape[1]), reduction=reduction)
    (slope,) = torch.autograd.grad(truth.sum(), wide)
    eps = torch.finfo(dtype).eps
    tolerance = {"rtol": (8 if dtype == torch.float32 else 2) * eps, "atol": 1e-6}
    for name, laid in layouts(logits):
        (x,) = to_device(laid.requires_grad_())
        loss = parfocal.sigmoid_focal_loss(x, index.to(DEVICE), reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.allclose(loss.double().cpu(), truth, **tolerance), name
        assert torch.allclose(gradient.double().cpu(), slope, **tolerance), name
    assert {math.prod(shape) for shape in targets} == {index.numel()}


@pytest.mark.parametrize("loss", [parfocal.poly_focal_loss, parfocal.asymmetric_loss])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_indices_are_one_hot_targets(loss, reduction):
    """Of the other losses, with weight, mask and rubbish below it, to the bit."""
    x, index = draw((30, 21))
    void = torch.arange(30) % 5 == 0
    spoiled = torch.where(void, 255, index)
    x[void] = math.nan
    weight, y = torch.rand(30, 1), one_hot(index, 21).bool()
    x, spoiled, y, weight, mask = to_device(x, spoiled, y, weight, ~void.unsqueeze(1))
    x.requires_grad_()
    options = {"weight": weight, "mask": mask, "reduction": reduction}
    pairs = []
    for targets in (spoiled.to(torch.uint8), spoiled, y):
        value = loss(x, targets, **options)
        pairs.append((value, torch.autograd.grad(value.sum(), x)[0]))
    for found in pairs[:2]:
        assert all(torch.equal(a, b) for a, b in zip(found, pairs[2], strict=True))


@pytest.mark.parametrize(
    "kind",
    [
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    ],
    ids=str,
)
def test_an_index_that_is_none_is_nan(kind, monkeypatch):
    """Of its row alone, in every integer dtype, also where it would wrap around onto a class."""
    monkeypatch.setattr(values, "is_readable", lambda *tensors: False)
    bits = torch.iinfo(kind).bits
    beyond = 3 if bits == 8 else {16: 2**8, 32: 2**16, 64: 2**32 + 1}[bits]
    index = torch.tensor([0, beyond, 2, 1]).to(kind)
    x = torch.linspace(-2, 2, 8).view(4, 2)
    if kind.is_signed:
        index[3] = -1
    x, index = to_device(x.requires_grad_(), index)
    for reduction in ("none", "sum"):
        loss = parfocal.sigmoid_focal_loss(x, index, reduction=reduction)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        is_wrong = torch.tensor([False, True, False, kind.is_signed])
        assert torch.equal(gradient.isnan().cpu(), is_wrong[:, None].expand(4, 2))
        assert loss.isnan().any()
    right = parfocal.sigmoid_focal_loss(x[::2], index[::2].long())
    assert torch.equal(parfocal.sigmoid_focal_loss(x, index)[::2], right)


@pytest.mark.parametrize("name", ["_FAR", "WIDE"])
def test_more_than_32_bits(name, monkeypatch):
    """As if the logits were so many that an element, or a place in a run, needs more."""
    x, index = draw((2, 3, 40, 41))
    x, index = to_device(x.requires_grad_(), index)
    expected = parfocal.sigmoid_focal_loss(x, index)
    if name == "_FAR":
        monkeypatch.setattr(elementwise, "_FAR", 1)
    else:
        launch = elementwise._Call.launch_each

        def wide(self, *arguments):
            self.options |= {"WIDE": True}
            return launch(self, *arguments)

        monkeypatch.setattr(elementwise._Call, "launch_each", wide)
    assert torch.equal(parfocal.sigmoid_focal_loss(x, index), expected)


def test_what_has_no_kernel_is_composed(targets):
    """A gamma of each class, float64, a second derivative; empty logits."""
    x, index = draw((20, 3))
    x, index, y = to_device(x.requires_grad_(), index, one_hot(index, 3))
    gamma = torch.tensor([0.5, 1.0, 2.0], device=DEVICE)
    for logits, options in ((x, {"gamma": gamma}), (x.double(), {})):
        found, expected = (
            parfocal.sigmoid_focal_loss(logits, t, reduction="mean", **options) for t in (index, y)
        )
        assert torch.allclose(found, expected)
    assert targets == []
    curvatures = []
    for t in (index, y):
        loss = parfocal.sigmoid_focal_loss(x, t, reduction="mean")
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        curvatures.append(torch.autograd.grad(slope.sum(), x)[0])
    assert torch.allclose(*curvatures)
    empty = torch.zeros(0, 3, device=DEVICE)
    assert parfocal.sigmoid_focal_loss(empty, index[:0], reduction="sum") == 0


@DTYPES
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiled_is_eager(dtype, reduction):
    """The operator is given the index itself."""
    seen = []

    def look(module, inputs):
        for node in module.graph.nodes:
            if "parfocal.elementwise" in str(node.target):
                seen.append(node.args[1].meta["example_value"].shape)
        return module

    def step(x, index):
        return parfocal.sigmoid_focal_loss(2 * x, index, gamma=0.5, reduction=reduction)

    x, index = to_device(*draw((40, 9), dtype))
    expected = step(x, index)
    found = torch.compile(step, fullgraph=True, backend=look)(x, index)
    assert torch.allclose(found, expected, rtol=2 * torch.finfo(dtype).eps)
    assert seen == [(40,)]
