"""What a call launches compiles for a GPU; the interpreter runs code that no compiler takes."""

import importlib
import inspect
from dataclasses import asdict
from itertools import product

import pytest
import torch
import triton.language as tl

import parfocal
from kernels.device import DEVICE
from kernels.forced import use_kernels
from kernels.offline import Case
from parfocal.numerics.triton import classes, elementwise, smoothed

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU compiles what it is to run")
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


class Recorder:
    """A kernel of which launches are recorded, as cases to compile; nothing is computed."""

    def __init__(self, found, module, name):
        self.found, self.kernel = found, f"{module.__name__}:{name}"
        function = getattr(importlib.import_module(module.__name__), name).fn
        self.arguments = inspect.signature(function).parameters

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, num_warps=4, **options):
        """None, 1 and what is declared so are constants."""
        given = dict(zip(self.arguments, arguments, strict=False)) | options
        signature, constants = {}, {}
        for name, value in given.items():
            is_constant = self.arguments[name].annotation is tl.constexpr
            if isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
            elif is_constant or value is None or (type(value) is int and value == 1):
                constants[name] = value
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        case = Case(self.kernel, signature, constants, 1024, warps=num_warps, divisible=())
        self.found[str(asdict(case))] = case


@pytest.fixture
def cases(monkeypatch):
    """Of all launches, by what tells them apart."""
    use_kernels(monkeypatch)
    found = {}
    for module, names in (
        (classes, ("_whole_rows", "_a_position_a_thread")),
        (elementwise, ("sum_kernel", "each_kernel")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Recorder(found, module, name))
    names = ("whole_rows", "a_position_a_thread")
    kernels = tuple(Recorder(found, smoothed, name) for name in names)
    monkeypatch.setattr(smoothed, "KERNELS", kernels)
    return found


@pytest.mark.exhaustive
def test_all_options_of_class_losses_compile(cases, compile_all):
    """With and without weights, smoothing, a mask; unreduced, scaled, without a gradient."""
    for shape in ((4, 300), (2, 5, 3, 3)):
        index = torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
        weight, ones = torch.ones(shape[1]), torch.ones(index.shape)
        for of_classes, of_rows, smoothing, reduction, needs_gradient in product(
            (None, weight), (None, ones), (0.0, 0.1), ("none", "mean"), (False, True)
        ):
            x = torch.zeros(shape, requires_grad=needs_gradient)
            loss = parfocal.softmax_focal_loss(
                x,
                index,
                of_classes,
                position_weight=of_rows,
                label_smoothing=smoothing,
                reduction=reduction,
            )
            if needs_gradient:
                loss.backward(torch.full_like(loss, 3.0))
    assert len(cases) > 20
    assert len(compile_all(cases)) == len(cases)


ELEMENTWISE = (
    (parfocal.sigmoid_focal_loss, {}),
    (parfocal.sigmoid_focal_loss, {"alpha": None}),
    (parfocal.sigmoid_focal_loss, {"epsilon": 0.1}),
    (parfocal.varifocal_loss, {}),
    (parfocal.gaussian_focal_loss, {}),
    (parfocal.quality_focal_loss, {}),
    (parfocal.asymmetric_loss, {}),
    (parfocal.asymmetric_loss, {"margin": 0.0}),
    (parfocal.poly_focal_loss, {}),
    (parfocal.poly_focal_loss, {"alpha": 0.25}),
)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:gaussian_focal_loss. no value")
def test_all_elementwise_losses_compile(cases, compile_all):
    """Of soft and hard targets, with and without weights and a mask; unreduced, and scaled."""
    ones = torch.ones(4, 8)
    for (loss, options), of_positions, reduction, (dtype, targets) in product(
        ELEMENTWISE,
        ({}, {"weight": ones, "mask": ones > 0}),
        ("none", "mean"),
        ((torch.float32, torch.float32), (torch.bfloat16, torch.bool)),
    ):
        x = torch.zeros(4, 8, dtype=dtype, requires_grad=True)
        value = loss(x, ones.to(targets), reduction=reduction, **of_positions, **options)
        value.backward(torch.full_like(value, 3.0))
    assert len(cases) > 100
    assert len(compile_all(cases)) == len(cases)
