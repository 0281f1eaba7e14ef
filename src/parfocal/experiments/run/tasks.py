"""What a network is shown, and what it should answer: images and spec to inputs and targets."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from parfocal.experiments.data import Images
from parfocal.experiments.spec import Data, DigitMasks, Digits


class Task(NamedTuple):
    """The images of a run, on the device where they are shown.

    Everything random is drawn on the host, by one generator, so that it is the same on every
    device; what is drawn has a row an image.

    draw: a number of images and a generator to what the inputs need, on the host.
    inputs: indices (N,) and what was drawn to floats (N, channels, H, W), on the device.
    targets: indices (N,) to 0.0 or 1.0 in the shape of the logits, on the device.
    """

    images: Images
    draw: Callable[[int, Generator], tuple[Tensor, ...]]
    inputs: Callable[..., Tensor]
    targets: Callable[[Tensor], Tensor]


def task_of(
    data: Data,
    images: Images,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Task:
    """The task that a spec's data are; targets have the given type.

    Raises:
        ValueError: a positive class isn't among those of the images, or all or none are positive.
    """
    pixels = images.pixels.to(device)
    shape = images.pixels.shape[1:]
    match data:
        case Digits(noise=noise, threshold=threshold):
            positive = (images.labels <= threshold).to(device, dtype)
            return Task(
                images,
                lambda count, generator: noise_levels((count, *shape), noise, generator),
                lambda indices, *levels: noisy(pixels[indices], noise, *levels),
                lambda indices: positive[indices],
            )
        case DigitMasks(noise=noise):
            return Task(
                images,
                lambda count, generator: noise_levels((count, *shape), noise, generator),
                lambda indices, *levels: noisy(pixels[indices], noise, *levels),
                lambda indices: (pixels[indices] > 0.5 * 255).to(dtype),
            )
    unknown = sorted(set(data.positive) - set(images.classes))
    if unknown or not 0 < len(set(data.positive)) < len(images.classes):
        raise ValueError(
            f"Expected `positive` to name some of the classes {', '.join(images.classes)}, "
            f"got {', '.join(data.positive) or 'none'}"
        )
    chosen = torch.tensor([name in data.positive for name in images.classes])
    positive = chosen[images.labels].to(device, dtype)
    if data.crop is None:
        return Task(
            images,
            lambda count, generator: (),
            lambda indices: normalised(pixels[indices]),
            lambda indices: positive[indices],
        )
    crop, size = data.crop, shape[-1]
    return Task(
        images,
        lambda count, generator: (crop_boxes(count, size, generator),),
        lambda indices, boxes: resized(normalised(pixels[indices]), boxes, crop),
        lambda indices: positive[indices],
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The same there; from pinned memory, so that the host needn't wait for a GPU to take it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def noise_levels(
    shape: Sequence[int], amplitude: float, generator: Generator
) -> tuple[Tensor, ...]:
    """Integers uniform in -2 ** 15 ... 2 ** 15 - 1, one a pixel; nothing where there is no noise.

    Four of them come from each draw of 64 bits, three times as fast as `torch.rand`.
    """
    if amplitude == 0:
        return ()
    count = math.prod(shape)
    draws = torch.empty((count + 3) // 4, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    return (draws.view(torch.int16)[:count].view(*shape),)


def noisy(pixels: Tensor, amplitude: float, levels: Tensor | None = None) -> Tensor:
    """Bytes as floats in [0, 1], plus uniform noise, clipped to [0, 1].

    The noise is amplitude * k / 2 ** 16, where k = level + 2 ** 15 is uniform in 0 ... 2 ** 16 - 1:
    256 levels for each one of a pixel.
    """
    images = pixels.float().div_(255)
    if levels is None:
        return images
    return images.add_(levels, alpha=amplitude / 2**16).add_(amplitude / 2).clamp_(0, 1)


def normalised(pixels: Tensor) -> Tensor:
    """Bytes as floats of mean 0.5 and standard deviation 0.5 brought to 0 and 1: in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


# Of torchvision's RandomResizedCrop: share of the area, width over height, tries for a box.
_AREA = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10


def crop_boxes(count: int, size: int, generator: Generator) -> Tensor:
    """Random boxes (count, 4) in a square image: left, top, width, height in whole pixels.

    As torchvision's RandomResizedCrop draws them, all at once: an area uniform in 8 to 100 %, a
    ratio log-uniform in 3/4 to 4/3; the first of ten tries that fits, or else the whole image.
    """
    area, ratio, x, y = torch.rand(4, count, _TRIES, generator=generator)
    area = size**2 * (_AREA[0] + (_AREA[1] - _AREA[0]) * area)
    ratio = torch.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * ratio)
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    left = (x * (size - width + 1)).floor()
    top = (y * (size - height + 1)).floor()
    boxes = torch.stack([left, top, width, height], dim=-1)
    fits = (width <= size) & (height <= size)
    first = fits.int().argmax(dim=1)
    chosen = boxes[torch.arange(count), first]
    whole = torch.tensor([0.0, 0.0, size, size])
    return torch.where(fits.any(dim=1, keepdim=True), chosen, whole)


def resized(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One box (left, top, width, height) of each image (N, C, H, H), bilinearly to `size`.

    As cutting and then scaling without antialiasing: nothing outside of a box is seen.
    """
    # Output pixel i looks at (i + 1/2) width / size - 1/2, held between the box's pixel centres.
    centres = (torch.arange(size, device=images.device) + 0.5) / size
    left, top, width, height = boxes.unsqueeze(-1).unbind(1)
    across = left + (centres * width - 0.5).clamp(min=0).minimum(width - 1)
    down = top + (centres * height - 0.5).clamp(min=0).minimum(height - 1)
    # grid_sample's coordinates: -1 and 1 are the outer edges of the image.
    across, down = ((2 * c + 1) / images.shape[-1] - 1 for c in (across, down))
    grid = torch.stack(
        [
            across.unsqueeze(1).expand(-1, size, -1),
            down.unsqueeze(2).expand(-1, -1, size),
        ],
        dim=-1,
    )
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
