"""The networks are the paper's: sizes by hand, shapes, seeds."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from parfocal.experiments import memory
from parfocal.experiments.models import initialised, network
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.spec import DigitMasks, Photographs, RunSpec, UNet, Vit
from parfocal.experiments.study.networks import study_network
from parfocal.experiments.study.spec import Table

# By hand for the CNN, on 28 x 28 x 1 and on 32 x 32 x 3:
_CNN = (25 + 1) * 6 + (6 * 25 + 1) * 16 + (16 * 16 + 1) * 120 + 121 * 84 + 85
_CNN_COLOUR = (75 + 1) * 6 + (6 * 25 + 1) * 16 + (16 * 25 + 1) * 120 + 121 * 84 + 85


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mnist", _CNN),
        ("cifar10-cnn", _CNN_COLOUR),
        # ViT-B/16 has 86,567,656 with the 1,000 classes of ImageNet, 769 a class.
        ("cifar10-vit", 86_567_656 - 999 * 769),
        # The usual U-Net of 64 to 1024 channels has 31,037,633 on three channels with one output.
        ("segmentation", 31_037_633 - 2 * 64 * 9),
    ],
)
def test_networks_have_the_papers_size(name, count):
    """The number of their parameters."""
    model = network(read_grid(name).base)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("size", [16, 28, 31])
def test_unet_answers_each_pixel(size):
    """Also where a size is odd on the way down; each logit depends on its own pixel."""
    model = network(RunSpec(data=DigitMasks(), network=UNet(width=8)))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, size, size, generator=generator, requires_grad=True)
    logits = model(images)
    assert logits.shape == images.shape
    (gradient,) = torch.autograd.grad(logits[1, 0, 5, 7], images)
    assert gradient[1, 0, 5, 7] != 0


def test_small_transformer_has_the_sizes_of_its_spec():
    """One logit an image; width, depth and heads are those that were asked for."""
    vit = Vit(variant="vit_tiny_patch16_224", input_size=32, patch=8, width=48, depth=2, heads=3)
    spec = RunSpec(data=Photographs(), network=vit)
    before = torch.get_rng_state()
    model = network(spec)
    assert torch.equal(torch.get_rng_state(), before)
    assert model(torch.rand(5, 3, 32, 32)).shape == (5,)
    assert model[0].pos_embed.shape == (1, 17, 48)
    assert len(model[0].blocks) == 2


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"variant": "vit_tiny_patch16_225"}, r"`variant`.*; did you mean 'vit_tiny_patch16_224'"),
        ({"variant": "vit_tiny_patch16_224.nowhere"}, r"got Vit\(.*nowhere.*tag"),
        ({"variant": "resnet18"}, r"`variant` that is a vision transformer.*got Vit\(.*resnet18"),
        ({"variant": "mixer_s16_224", "width": 24}, r"`variant`.*got Vit\(.*mixer_s16_224.*24"),
        ({"width": 7, "heads": 3}, r"`width`, `depth` and `heads`; got .*width=7.*heads=3.*divis"),
        ({"variant": "coat_lite_mini"}, r"takes images of its size, got .*coat_lite.*32 x 32"),
    ],
)
def test_a_transformer_that_timm_can_not_make_is_refused(sizes, words):
    """In a line, with what was asked for, and before a step."""
    vit = Vit(**{"variant": "vit_tiny_patch16_224", "input_size": 32, "patch": 8, **sizes})
    with pytest.raises(ValueError, match=words) as caught:
        network(RunSpec(data=Photographs(), network=vit))
    assert "\n" not in str(caught.value)


def test_a_network_with_other_than_one_logit_is_refused(monkeypatch):
    """An encoder of timm's has its features."""
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Flatten())
    spec = RunSpec(data=Photographs(), network=Vit(input_size=32, patch=8))
    with pytest.raises(ValueError, match=r"one logit for each image, got Vit.*, with 3072$"):
        network(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            RunSpec(data=DigitMasks(), network=UNet(width=4)),
            r"UNet\(width=4\) for images of 28 x 28 pixels",
        ),
        (RunSpec(data=Photographs(crop=48)), r"Cnn\(\) for images of 48 x 48 pixels"),
    ],
)
def test_a_network_larger_than_memory_is_refused(spec, words, monkeypatch):
    """The system would end the process that makes it."""
    monkeypatch.setattr(memory, "memory", lambda: 100_000.0)
    with pytest.raises(ValueError, match=rf"fits into memory, got {words} \(it takes .* GB"):
        network(spec)


def test_a_network_of_a_study_larger_than_memory_is_refused():
    """With its data set, whose width it has."""
    dataset = Table(epochs=1, batch_size=1, rates=(1.0,), table="randhie", width=2**30)
    with pytest.raises(ValueError, match=rf"fits into memory, got Table\(.*width={2**30}"):
        study_network(dataset, 5, 2, 0)


@pytest.mark.parametrize("features", [2**50, 2**62])
def test_an_allocation_that_fails_is_named(features, monkeypatch):
    """Where the machine's memory isn't known: an exabyte, and more than 64 bits count."""
    monkeypatch.setattr(memory, "memory", lambda: math.inf)
    with pytest.raises(ValueError, match=r"fits into memory, got a layer \(.*(allocate|overflow)"):
        initialised(partial(nn.Linear, features, 120), 0, "a layer")


def test_a_network_that_reads_numbers_while_it_is_built_is_made():
    """Its size isn't known before."""

    def build():
        return nn.Linear(int(torch.ones(3).sum().item()), 1)

    assert initialised(build, 0, "a layer").in_features == 3


def test_same_seed_same_network():
    """The global generator neither matters nor moves."""
    spec = read_grid("segmentation-quick-bfloat16").base
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = network(spec).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = network(spec).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = network(spec.with_settings({"seed": 1})).state_dict()
    assert not torch.equal(first["head.weight"], other["head.weight"])
