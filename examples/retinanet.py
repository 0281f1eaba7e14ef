"""torchvision's RetinaNet, under autocast
=======================================

torchvision's RetinaNet with its focal loss swapped by one assignment, under bfloat16 autocast.

    python examples/retinanet.py [STEPS]

Random weights, generated images with a box each, gamma 0.5; both trainings are the same but for
the loss. With torchvision's own loss the gradient is NaN after a few steps, as soon as a logit
passes -6.25, where bfloat16 rounds the probability of the background to 1. With parfocal's the
training goes on. Each line has the gradient of the logits beside that of the parameters: the first
is the loss's own, the second also what the layers make of it. Needs `pip install '.[experiments]'`.
"""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet, retinanet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import parfocal

SIZE = 64  # of the images, in pixels
STOCK = retinanet.sigmoid_focal_loss


class Step(NamedTuple):
    """What one step of a training shows.

    loss: classification and boxes together.
    lowest_logit: of all anchors that the focal loss counts; the surest background.
    logit_gradient: the norm of what the focal loss gives back to its logits.
    parameter_gradient: the norm over the whole model.
    """

    loss: float
    lowest_logit: float
    logit_gradient: float
    parameter_gradient: float


def scene(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """A bright square on noise, with its box."""
    image = 0.2 * torch.rand(3, SIZE, SIZE, generator=generator)
    side = int(torch.randint(SIZE // 4, SIZE // 2, (), generator=generator))
    x, y = (int(torch.randint(0, SIZE - side, (), generator=generator)) for _ in range(2))
    image[:, y : y + side, x : x + side] += 0.7
    box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}


def detector() -> RetinaNet:
    """A RetinaNet that a CPU can train: three stages of ResNet-18, 64 channels in its pyramid.

    The maps of the pyramid are 16 to 1 pixels wide, and no convolution of stride 2 sees the last:
    the weight gradient of a 3x3 one on a 1x1 map reads memory that nobody wrote when oneDNN
    computes it in bfloat16 on a processor with AVX-512, and is then NaN with any loss.
    """
    stages = {"layer1": "0", "layer2": "1", "layer3": "2"}
    pyramid = BackboneWithFPN(
        resnet18(weights=None), stages, [64, 128, 256], 64, LastLevelP6P7(64, 64)
    )
    return RetinaNet(pyramid, num_classes=2, min_size=SIZE, max_size=SIZE)


def keeping_logits(loss: Callable[..., Tensor], kept: list[Tensor]) -> Callable[..., Tensor]:
    """The loss at gamma 0.5, which appends the logits of each call, with their gradient."""

    def call(logits: Tensor, targets: Tensor, **options: str) -> Tensor:
        logits.retain_grad()
        kept.append(logits)
        return loss(logits, targets, gamma=0.5, **options)

    return call


def train(loss: Callable[..., Tensor], steps: int) -> Iterator[Step]:
    """Each step, up to the first with a gradient that isn't finite."""
    torch.manual_seed(0)
    model = detector()
    logits: list[Tensor] = []  # of the images of one step
    # The one assignment: the head of the model looks the name up in its module.
    retinanet.sigmoid_focal_loss = keeping_logits(loss, logits)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        logits.clear()
        images, boxes = zip(*(scene(generator) for _ in range(2)), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            parts = model(list(images), list(boxes))
        total = parts["classification"] + parts["bbox_regression"]
        optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        yield Step(
            loss=total.item(),
            lowest_logit=min(x.min().item() for x in logits),
            logit_gradient=torch.cat([x.grad.float().flatten() for x in logits]).norm().item(),
            parameter_gradient=norm.item(),
        )
        if not norm.isfinite():
            return
        optimizer.step()


def main(steps: int = 40) -> None:
    """Both trainings, a line a step."""
    for name, loss in (("torchvision", STOCK), ("parfocal", parfocal.sigmoid_focal_loss)):
        for number, step in enumerate(train(loss, steps)):
            print(
                f"{name:11} step {number:3}   loss {step.loss:7.4f}   "
                f"lowest logit {step.lowest_logit:7.2f}   norm of the gradient: "
                f"logits {step.logit_gradient:7.4f}, parameters {step.parameter_gradient:8.4f}"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
