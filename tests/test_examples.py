"""The example files, run for a few steps: they train, and show what they say."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torchvision
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


@pytest.mark.parametrize("stock", [True, False], ids=["torchvision", "parfocal"])
def test_retinanet_trains_with_one_loss_alone(stock, monkeypatch):
    """torchvision's loss gives NaN within eleven steps of the very training that ours survives."""
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss", retinanet.sigmoid_focal_loss)
    loss = torchvision.ops.sigmoid_focal_loss if stock else parfocal.sigmoid_focal_loss
    norms = [norm for _, norm in example("retinanet").train(loss, 11)]
    assert all(math.isfinite(norm) for norm in norms[:-1])
    assert math.isnan(norms[-1]) if stock else math.isfinite(norms[-1])
    assert stock or len(norms) == 11


@pytest.mark.parametrize(
    ("name", "epochs", "reached"), [("segmentation", 3, 0.6), ("multilabel", 3, 0.7)]
)
def test_example_learns(name, epochs, reached):
    """The loss falls, and what was kept aside is judged well."""
    losses, scores = zip(*example(name).train(epochs), strict=True)
    assert losses[-1] < losses[0]
    assert scores[-1] > reached
