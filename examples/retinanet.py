"""torchvision's RetinaNet with its focal loss swapped by one assignment, under bfloat16 autocast.

    python examples/retinanet.py [STEPS]

Random weights, generated images with a box each, gamma 0.5; both trainings are the same but for
the loss. With torchvision's own loss the gradient is NaN after a few steps, as soon as a logit
passes 6.25, where bfloat16 rounds the probability of the background to 1. With parfocal's the
training goes on. Needs `pip install '.[experiments]'`.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet, retinanet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import parfocal

SIZE = 64  # of the images, in pixels
STOCK = retinanet.sigmoid_focal_loss


def scene(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A bright square on noise, with its box."""
    image = 0.2 * torch.rand(3, SIZE, SIZE, generator=generator)
    side = int(torch.randint(SIZE // 4, SIZE // 2, (), generator=generator))
    x, y = (int(torch.randint(0, SIZE - side, (), generator=generator)) for _ in range(2))
    image[:, y : y + side, x : x + side] += 0.7
    box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}


def detector() -> RetinaNet:
    """A RetinaNet that a CPU can train: ResNet-18, 64 channels in its pyramid."""
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    pyramid = BackboneWithFPN(
        resnet18(weights=None), layers, [128, 256, 512], 64, LastLevelP6P7(64, 64)
    )
    return RetinaNet(pyramid, num_classes=2, min_size=SIZE, max_size=SIZE)


def train(loss: Callable[..., Tensor], steps: int) -> Iterator[tuple[float, float]]:
    """Loss and norm of the gradient at each step, up to the first gradient that isn't finite."""
    torch.manual_seed(0)
    model = detector()
    # The one assignment: the head of the model looks the name up in its module.
    retinanet.sigmoid_focal_loss = partial(loss, gamma=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        images, boxes = zip(*(scene(generator) for _ in range(2)), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            parts = model(list(images), list(boxes))
        total = parts["classification"] + parts["bbox_regression"]
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        yield total.item(), norm.item()
        if not norm.isfinite():
            return
        optimizer.step()


def main(steps: int = 40) -> None:
    """Both trainings, a line a step."""
    for name, loss in (("torchvision", STOCK), ("parfocal", parfocal.sigmoid_focal_loss)):
        for step, (total, norm) in enumerate(train(loss, steps)):
            print(f"{name:11} step {step:3}   loss {total:7.4f}   norm of the gradient {norm:8.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
