"""The example files, run for a few steps: they train, and show what they say."""

import importlib.util
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from allocations import memory_of
from sampled import sampled
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torchvision.models.detection import retinanet

import parfocal

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    """The module of one file; they are no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def strided_maps():
    """The smallest side of each map that a convolution with a stride sees."""
    sides = []

    def see(module, inputs):
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            sides.append(min(inputs[0].shape[-2:]))

    hook = register_module_forward_pre_hook(see)
    yield sides
    hook.remove()


@pytest.mark.parametrize(
    "stock", sampled([False, True], (False).__eq__), ids=["parfocal", "torchvision"]
)
def test_retinanet_trains_with_one_loss_alone(stock, monkeypatch, strided_maps):
    """torchvision's loss gives NaN at the first logit of 1 - p = 1, which ours trains beyond.

    In bfloat16 these are the logits up to -6.25. The twelve steps reach -11, so that rounding,
    which differs from processor to processor, moves the step of the NaN and not the verdict.
    """
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss", retinanet.sigmoid_focal_loss)
    loss = torchvision.ops.sigmoid_focal_loss if stock else parfocal.sigmoid_focal_loss
    steps = list(example("retinanet").train(loss, 12))
    lost = [step.lowest_logit <= -6.25 for step in steps]
    assert any(lost)
    if stock:
        assert [math.isnan(step.logit_gradient) for step in steps] == lost
        assert lost.index(True) == len(steps) - 1
    else:
        assert all(math.isfinite(number) for step in steps for number in step)
        assert len(steps) == 12
    # On a smaller map oneDNN's own gradient may be NaN in bfloat16.
    assert strided_maps
    assert min(strided_maps) >= 2


@pytest.mark.parametrize(
    ("name", "epochs", "reached"),
    [("segmentation", 3, 0.6), ("multilabel", 3, 0.7), ("causal_lm", 4, 0.9)],
)
def test_example_learns(name, epochs, reached):
    """The loss falls, and what was kept aside is judged well."""
    losses, scores = zip(*example(name).train(epochs), strict=True)
    assert losses[-1] < losses[0]
    assert scores[-1] > reached


def test_ctc_trains_on_with_one_loss_alone():
    """The printed formula ends at the first sequence that is sure; ours is sure of most."""
    ctc = example("ctc")
    usual, exact = (list(ctc.train(loss, 10)) for loss in (ctc.usual, ctc.exact))
    assert math.isnan(usual[-1].loss)
    assert len(usual) < len(exact) == 10
    assert exact[-1].right > 0.95
    assert exact[-1].sure > 0.2


def of_logits(hidden, weight, labels):
    """The loss of `causal_lm.exact` as it is without it: of the logits of all positions."""
    logits = F.linear(hidden, weight).transpose(1, 2)
    return parfocal.softmax_focal_loss(logits, labels, gamma=0.5)


@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float64, 1e-9, 1e-12), (torch.float32, 1e-4, 1e-5)]
)
def test_causal_lm_trains_as_with_all_logits_and_never_has_them(dtype, rtol, atol):
    """The same parameters after two steps, without a tensor of (batch, length, vocabulary).

    Of 288 positions half are answers: 128 of these have logits at a time, and then 16.
    """
    causal_lm = example("causal_lm")
    causal_lm.BATCH, causal_lm.STEPS = 36, 1
    parameters = []
    for loss, rows in ((causal_lm.exact, 128), (of_logits, 288)):
        model = causal_lm.language_model().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        step = partial(causal_lm.epoch, model, optimizer, loss, generator)
        step()  # a first call loads what stays
        assert memory_of(step).largest == rows * causal_lm.VOCABULARY * dtype.itemsize
        parameters.append(list(model.parameters()))
    for one, other in zip(*parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_flax_trains_on_with_one_loss_alone():
    """The printed formula gives NaN in the second epoch, in bfloat16; ours goes on to learn."""
    pytest.importorskip("flax")
    flax = example("flax_training")
    printed, exact = (list(flax.train(loss, 4)) for loss in (flax.printed, flax.exact))
    assert math.isnan(printed[-1].loss)
    assert len(printed) < len(exact) == 4
    assert exact[-1].loss < exact[0].loss / 2
    assert exact[-1].average_precision > 0.6


def test_two_devices_have_the_gradient_of_one():
    """In a process of its own, which may say how many devices a CPU is; it asserts by itself."""
    pytest.importorskip("jax")
    command = [sys.executable, str(EXAMPLES / "jax_devices.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two, _ = done.stdout.splitlines()
    assert one.replace("one device ", "two devices") == two
