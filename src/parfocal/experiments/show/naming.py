"""The name of an experiment, as people say it."""

import re

from parfocal.experiments.spec import (
    CIFAR10_VEHICLES,
    Cnn,
    DigitMasks,
    Digits,
    DigitSource,
    Network,
    Photographs,
    RunSpec,
    UNet,
    Vit,
)

_DIGITS: dict[DigitSource, str] = {"mnist": "MNIST", "mnist5k": "MNIST (5,000 digits)"}

# A plain vision transformer of timm: its name has its size, and a patch and an input size that the
# spec's own replace.
_VIT = re.compile(r"vit_(tiny|small|base|large|huge)_patch\d+_\d+")
_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}


def experiment_of(spec: RunSpec) -> str:
    """Kind of data, network and type of the logits: runs that differ in these aren't compared.

    Example:
        >>> experiment_of(RunSpec())
        'MNIST, digits up to the threshold, CNN'
    """
    parts = [_data(spec), _network(spec.network)]
    if spec.data.images:
        parts.append(f"{spec.data.images:,} images")
    match spec.objective.logits:
        case "float32":
            pass
        case "autocast":
            parts.append("autocast to bfloat16")
        case dtype:
            parts.append(f"logits in {dtype}")
    return ", ".join(parts)


def _data(spec: RunSpec) -> str:
    match spec.data:
        case Digits(source=source):
            return f"{_DIGITS[source]}, digits up to the threshold"
        case DigitMasks(source=source):
            return f"{_DIGITS[source]} segmentation"
        case Photographs(source="cifar10", positive=positive):
            return f"CIFAR-10, {_sides(positive)}"
        case Photographs(positive=positive):
            origin = "CIFAR-10's classes" if positive == CIFAR10_VEHICLES else "images"
            return f"{origin} from a folder, {_sides(positive)}"


def _sides(positive: tuple[str, ...]) -> str:
    """What is told apart."""
    if positive == CIFAR10_VEHICLES:
        return "animals and vehicles"
    return f"{' and '.join(positive)} against the rest"


def _network(network: Network) -> str:
    match network:
        case Cnn():
            return "CNN"
        case UNet(width=64):
            return "U-Net"
        case UNet(width=width):
            return f"U-Net of width {width}"
        case Vit():
            return _vit(network)


def _vit(vit: Vit) -> str:
    """`ViT-B/16`, and what differs from the variant and from images of 224 pixels."""
    plain = _VIT.fullmatch(vit.variant)
    words = [f"ViT-{_SIZES[plain[1]]}/{vit.patch}" if plain else f"{vit.variant}/{vit.patch}"]
    if vit.input_size != 224:
        words.append(f"on {vit.input_size} pixels")
    own = [("width", vit.width), ("depth", vit.depth), ("heads", vit.heads)]
    set_anew = [f"{name} {value}" for name, value in own if value is not None]
    if set_anew:
        words.append(f"({', '.join(set_anew)})")
    return " ".join(words)
