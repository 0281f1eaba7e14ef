"""What a call launches compiles for a GPU; the interpreter runs code that no compiler takes."""

import importlib
from dataclasses import asdict
from itertools import product

import pytest
import torch

import parfocal
from kernels.device import DEVICE
from kernels.forced import use_kernels
from kernels.offline import Case
from parfocal.numerics.triton import classes, smoothed

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU compiles what it is to run")
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}


def case_of(name, names, arguments, options):
    """How a launch with these arguments is compiled: None and 1 are constants."""
    given = dict(zip(names, arguments, strict=False)) | options
    warps = given.pop("num_warps")
    signature, constants = {}, {}
    for argument, value in given.items():
        if isinstance(value, torch.Tensor):
            signature[argument] = TYPES[value.dtype]
        elif value is None or argument.isupper() or (value == 1 and type(value) is int):
            constants[argument] = value
        else:
            signature[argument] = "fp32" if isinstance(value, float) else "i32"
    return Case(name, signature, constants, given["CLASSES"], warps=warps, divisible=())


@pytest.fixture
def cases(monkeypatch):
    """Of all launches of kernels of classes, by what tells them apart; nothing is computed."""
    use_kernels(monkeypatch)
    found = {}

    class Recorder:
        def __init__(self, name):
            self.name = name
            module, _, kernel = name.partition(":")
            self.names = getattr(importlib.import_module(module), kernel).arg_names

        def __getitem__(self, grid):
            def launch(*arguments, **options):
                case = case_of(self.name, self.names, arguments, options)
                found[str(asdict(case))] = case

            return launch

    kernels = ("_whole_rows", "_a_position_a_thread")
    for name in kernels:
        monkeypatch.setattr(classes, name, Recorder(f"{classes.__name__}:{name}"))
    recorders = tuple(Recorder(f"{smoothed.__name__}:{name[1:]}") for name in kernels)
    monkeypatch.setattr(smoothed, "KERNELS", recorders)
    return found


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
    assert all(report.instructions > 0 for report in compile_all(cases).values())
