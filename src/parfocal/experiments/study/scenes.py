"""Generated scenes for a detector: squares, discs and triangles on noise, and what it answers.

A scene is cut into cells. The cell of an object's centre has its class and its box: the centre's
offset from the cell's own centre in cells, and the logarithms of width and height in units of two
cells. No two objects of a scene have their centres in the same cell, so that the targets of a scene
are its truth; nor do they overlap by an IoU of a half, so that a detector could find all of them.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

SIZE, CELL, CLASSES = 64, 8, 3
GRID = SIZE // CELL
UNIT = 2.0 * CELL

_MOST = 4  # objects in a scene
_SIDES = (10, 24)  # of an object, in pixels
_CONTRAST = (0.15, 0.5)  # added to noise that is uniform in [0, 0.5)
_KEPT = 20  # detections of a scene


class Detections(NamedTuple):
    """Detections of several scenes, a row each: logit, class, scene, and whether it is right."""

    logits: Tensor
    classes: Tensor
    scenes: Tensor
    hits: Tensor


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 64, 64) and targets (N, CLASSES + 4, 8, 8): one-hot classes, then boxes."""
    generator = np.random.default_rng(seed)
    images = 0.5 * generator.random((count, 1, SIZE, SIZE), dtype=np.float32)
    targets = np.zeros((count, CLASSES + 4, GRID, GRID), dtype=np.float32)
    for image, target in zip(images, targets, strict=True):
        drawn: list[tuple[float, float, float]] = []
        for _ in range(generator.integers(1, _MOST + 1)):
            _draw(image[0], target, drawn, generator)
    return torch.from_numpy(images).clamp_(max=1), torch.from_numpy(targets)


def _draw(
    image: np.ndarray,
    target: np.ndarray,
    drawn: list[tuple[float, float, float]],
    generator: np.random.Generator,
) -> None:
    """One object into an image and its targets, if there is room for it.

    Two squares of sides a <= b whose centres are a quarter of a + b apart in one direction share
    no more than a (a + b) / 4, which is a third of their union at a = b, and less of it at a < b.
    """
    side = float(generator.integers(_SIDES[0], _SIDES[1] + 1))
    x, y = generator.uniform(side / 2, SIZE - side / 2, 2)
    kind = int(generator.integers(CLASSES))
    contrast = generator.uniform(*_CONTRAST)
    column, row = int(x // CELL), int(y // CELL)
    is_apart = [max(abs(x - a), abs(y - b)) >= (side + c) / 4 for a, b, c in drawn]
    if target[:CLASSES, row, column].any() or not all(is_apart):
        return
    drawn.append((x, y, side))
    down, across = np.mgrid[:SIZE, :SIZE] + 0.5
    u, v = (across - x) / (side / 2), (down - y) / (side / 2)  # in [-1, 1] inside the box
    inside = (
        (abs(u) <= 1) & (abs(v) <= 1),
        u**2 + v**2 <= 1,
        (abs(v) <= 1) & (abs(u) <= (v + 1) / 2),
    )[kind]
    image[inside] += contrast
    target[kind, row, column] = 1
    size = np.log(side / UNIT)
    target[CLASSES:, row, column] = x / CELL - column - 0.5, y / CELL - row - 0.5, size, size


def decoded_boxes(boxes: Tensor) -> Tensor:
    """(N, 4, 8, 8) as of the targets to corners (N, 8, 8, 4) in pixels: x0, y0, x1, y1."""
    dx, dy, w, h = boxes.double().unbind(1)
    cells = torch.arange(GRID, dtype=torch.float64) + 0.5
    x, y = (dx + cells) * CELL, (dy + cells.unsqueeze(1)) * CELL
    # No box is wider than four scenes, however wrong the network is.
    half = [(side.clamp(max=np.log(4 * SIZE / UNIT)).exp() * UNIT / 2) for side in (w, h)]
    return torch.stack([x - half[0], y - half[1], x + half[0], y + half[1]], dim=-1)


def truth_counts(targets: Tensor) -> Tensor:
    """How many objects of each class each scene has: (N, CLASSES)."""
    return targets[:, :CLASSES].sum(dim=(2, 3)).long()


def detections(outputs: Tensor, targets: Tensor) -> Detections:
    """The detections of a network, and which are right.

    A detection is a cell and a class. Of a class those that overlap a surer one by more than a half
    are left out, and the surest twenty of a scene are kept. From the surest on, each is right if an
    object of its class, which no surer one has taken, overlaps it by an IoU of 0.5 or more.
    """
    found = [_in_scene(i, outputs[i], targets[i]) for i in range(len(outputs))]
    return Detections(*map(torch.cat, zip(*found, strict=True)))


def _in_scene(number: int, output: Tensor, target: Tensor) -> Detections:
    logits = output[:CLASSES].flatten()
    classes = torch.arange(CLASSES).repeat_interleave(GRID * GRID)
    boxes = decoded_boxes(output[CLASSES:].unsqueeze(0)).view(-1, 4)
    kept = batched_nms(boxes.repeat(CLASSES, 1), logits.double(), classes, 0.5)[:_KEPT]
    logits, classes = logits[kept], classes[kept]
    cells = target[:CLASSES].flatten(1).nonzero()  # class and cell of each object
    truths = decoded_boxes(target[CLASSES:].unsqueeze(0)).view(-1, 4)[cells[:, 1]]
    overlaps = box_iou(boxes[kept % (GRID * GRID)], truths)
    overlaps[classes.unsqueeze(1) != cells[:, 0]] = 0
    hits = torch.zeros(len(kept), dtype=torch.bool)
    for detection in range(len(kept)):
        best = overlaps[detection].argmax()
        hits[detection] = overlaps[detection, best] >= 0.5
        if hits[detection]:
            overlaps[:, best] = 0
    return Detections(logits, classes, torch.full_like(classes, number), hits)
