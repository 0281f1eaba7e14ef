"""The networks of the paper, each with one logit per image or pixel.

A seed sets only the initial parameters; the global generator is left as it was.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.experiments.memory import made, reason
from parfocal.experiments.spec import Cnn, Network, Photographs, RunSpec, UNet, Vit
from parfocal.places import did_you_mean

# What timm raises for a model that can't have some sizes, or that takes no such argument.
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def network(spec: RunSpec) -> nn.Module:
    """The network of a spec: images (N, channels, H, W) to logits (N,), or (N, 1, H, W) of a U-Net.

    Raises:
        ValueError: it can't be made, doesn't fit into memory, doesn't answer with one logit, or has
            dropout, whose randomness no checkpoint would hold.
    """
    channels, size = 1, 28
    if isinstance(spec.data, Photographs):
        channels, size = 3, spec.data.crop or spec.data.pixels
    got = f"{spec.network} for images of {size} x {size} pixels"
    build = partial(_build, spec.network, channels, size)
    if isinstance(spec.network, Vit):
        _check_answers(build, (2, channels, size, size), got)
    model = initialised(build, spec.seed_of("parameters"), got)
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
        raise ValueError(f"Expected a network without dropout, got {spec.network}")
    return model


def initialised(build: Callable[[], nn.Module], seed: int, got: str) -> nn.Module:
    """What `build` makes, with parameters from a seed; the global generator is left as it was.

    Raises:
        ValueError: it can't be made; with `got`, the settings it is made from.
    """
    outline = _outline(build)
    size = 0 if outline is None else sum(p.nbytes for p in outline.parameters())
    with torch.random.fork_rng(devices=[]), made("a network", got, size):
        torch.manual_seed(seed)
        return build()


def _outline(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The network without its numbers; None where building it reads some, as old timm's does."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build()
    except RuntimeError:
        return None


def _check_answers(build: Callable[[], nn.Module], shape: tuple[int, ...], got: str) -> None:
    """Check that a network gives one logit for each image of a shape; nothing is computed."""
    outline = _outline(build)
    if outline is None:
        return
    try:
        logits = outline(torch.empty(shape, device="meta"))
    except NotImplementedError:  # an operation of which torch doesn't know the shape
        return
    except (*_UNFIT, RuntimeError) as error:
        raise ValueError(
            f"Expected a network that takes images of its size, got {got} ({reason(error)})"
        ) from error
    if logits.shape != shape[:1]:
        raise ValueError(
            f"Expected a network with one logit for each image, got {got}, with "
            f"{logits.numel() // shape[0]}"
        )


def _build(network: Network, channels: int, size: int) -> nn.Module:
    if isinstance(network, Cnn):
        return cnn(channels, size)
    if isinstance(network, UNet):
        return Segmenter(channels, network.width)
    return nn.Sequential(_transformer(network, channels), nn.Flatten(0))


def _transformer(network: Vit, channels: int) -> nn.Module:
    """A model of timm.

    Raises:
        ValueError: timm has none of that name, or it can't have these sizes.
    """
    import timm

    if not timm.is_model(network.variant):
        raise ValueError(
            f"Expected a `variant` that timm has, got {network.variant!r}"
            f"{did_you_mean(network.variant, timm.list_models())}"
        )
    sizes: dict[str, Any] = {
        "embed_dim": network.width,
        "depth": network.depth,
        "num_heads": network.heads,
    }
    try:
        model: nn.Module = timm.create_model(
            network.variant,
            pretrained=False,
            num_classes=1,
            in_chans=channels,
            img_size=network.input_size,
            patch_size=network.patch,
            **{name: size for name, size in sizes.items() if size is not None},
        )
    except _UNFIT as error:
        raise ValueError(
            "Expected a `variant` that is a vision transformer and can have this `input_size`, "
            f"`patch`, `width`, `depth` and `heads`; got {network} ({reason(error)})"
        ) from error
    return model


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
