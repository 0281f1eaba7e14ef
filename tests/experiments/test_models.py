"""The networks are the paper's: sizes by hand, shapes, seeds."""

import pytest
import torch

from parfocal.experiments.models import network
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.spec import DigitMasks, Photographs, RunSpec, UNet, Vit

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
    model = network(spec)
    assert model(torch.rand(5, 3, 32, 32)).shape == (5,)
    assert model[0].pos_embed.shape == (1, 17, 48)
    assert len(model[0].blocks) == 2


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
