"""The networks of the paper, each with one logit per image or pixel.

A seed sets only the initial parameters; the global generator is left as it was.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.experiments.spec import Cnn, Network, Photographs, RunSpec, UNet


def network(spec: RunSpec) -> nn.Module:
    """The network of a spec: images (N, channels, H, W) to logits (N,), or (N, 1, H, W) of a U-Net.

    Raises:
        ValueError: the network has dropout, whose randomness no checkpoint would hold.
    """
    channels, size = 1, 28
    if isinstance(spec.data, Photographs):
        channels, size = 3, spec.data.crop or spec.data.pixels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed_of("parameters"))
        model = _build(spec.network, channels, size)
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
        raise ValueError(f"Expected a network without dropout, got {spec.network}")
    return model


def _build(network: Network, channels: int, size: int) -> nn.Module:
    if isinstance(network, Cnn):
        return cnn(channels, size)
    if isinstance(network, UNet):
        return Segmenter(channels, network.width)
    import timm

    sizes: dict[str, Any] = {
        "embed_dim": network.width,
        "depth": network.depth,
        "num_heads": network.heads,
    }
    transformer = timm.create_model(
        network.variant,
        pretrained=False,
        num_classes=1,
        in_chans=channels,
        img_size=network.input_size,
        patch_size=network.patch,
        **{name: size for name, size in sizes.items() if size is not None},
    )
    return nn.Sequential(transformer, nn.Flatten(0))


def cnn(channels: int = 1, size: int = 28) -> nn.Module:
    """Two convolutions and three layers, for square images of at least 16 x 16."""
    maps = ((size - 4) // 2 - 4) // 2  # their width after two convolutions and two poolings
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * maps**2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 1),
        nn.Flatten(0),
    )


class Segmenter(nn.Module):
    """A U-Net of five levels: two 3 x 3 convolutions with batch normalisation and ReLU at each.

    Down by max-pooling, up by transposed convolutions of 2 x 2, each joined with the level of its
    size on the way down. Where a size was odd, the way up is stretched to it.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            _double_convolution(a, b) for a, b in pairwise([channels, *widths])
        )
        self.pool = nn.MaxPool2d(2)
        upward = list(pairwise(reversed(widths)))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in upward)
        self.up = nn.ModuleList(_double_convolution(2 * b, b) for _, b in upward)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) to logits (N, 1, H, W)."""
        maps = images
        skips: list[Tensor] = []
        for level in self.down:
            if skips:
                maps = self.pool(maps)
            maps = level(maps)
            skips.append(maps)
        skips.pop()
        for widen, level in zip(self.widen, self.up, strict=True):
            skip = skips.pop()
            maps = widen(maps)
            if maps.shape != skip.shape:
                maps = nn.functional.interpolate(
                    maps, size=skip.shape[2:], mode="bilinear", align_corners=False
                )
            maps = level(torch.cat([skip, maps], dim=1))
        return self.head(maps)  # type: ignore[no-any-return]


def _double_convolution(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
