"""The data of a study, split in three: for training, to choose the rate, and to judge."""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parfocal.experiments.data import Images, Sources, evenly, image_folder, mnist, mnist5k
from parfocal.experiments.errors import DamagedDataError, MissingDataError
from parfocal.experiments.run.record import replacing
from parfocal.experiments.run.tasks import noise_levels, noisy, normalised
from parfocal.experiments.spec import DigitSource, seed_of
from parfocal.experiments.study.losses import Head
from parfocal.experiments.study.scenes import CLASSES, scenes
from parfocal.experiments.study.spec import (
    Dataset,
    DigitInk,
    DigitThreshold,
    LongTail,
    Shapes,
    Table,
)
from parfocal.experiments.study.tables import read_table
from parfocal.losses.balance import label_counts

# Of splits, noise and scenes: they are the same for every objective and every seed.
_DATA_SEED = 0


class Split(NamedTuple):
    """Inputs, what should be answered, and which samples belong together, from 0."""

    inputs: Tensor
    targets: Tensor
    groups: Tensor


class Problem(NamedTuple):
    """A data set, ready to be trained on.

    head: of the network; classes: of a softmax; noise: that is added to bytes whenever they are
    drawn; counts: how often each class occurs in the training split.
    """

    head: Head
    classes: int
    noise: float
    counts: Tensor
    train: Split
    validation: Split
    test: Split

    def checksum(self) -> str:
        """SHA-256 of all that was prepared, in hexadecimal."""
        digest = hashlib.sha256(repr((self.head, self.classes, self.noise)).encode())
        for tensor in (self.counts, *self.train, *self.validation, *self.test):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def save_problem(problem: Problem, path: Path) -> None:
    """Write a problem whole or not at all."""
    splits = {"train", "validation", "test"}
    values = {
        name: dict(value._asdict()) if name in splits else value
        for name, value in problem._asdict().items()
    }
    with replacing(path) as temporary:
        torch.save(values, temporary)


def load_problem(path: Path) -> Problem:
    """A problem that was saved.

    Raises:
        DamagedDataError: the file isn't one.
    """
    try:
        values: dict[str, Any] = torch.load(path, weights_only=True)
        splits = {name: Split(**values[name]) for name in ("train", "validation", "test")}
        return Problem(**{**values, **splits})
    except Exception as error:
        raise DamagedDataError(
            f"{path} holds no prepared data ({error!r}); remove it, and the next run rebuilds it"
        ) from error


def network_inputs(inputs: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Bytes as floats, those of one channel with noise; what is prepared already stays as it is."""
    if inputs.is_floating_point():
        return inputs
    if inputs.shape[1] == 3:
        return normalised(inputs)
    return noisy(inputs, noise, *noise_levels(inputs.shape, noise, generator))


def prepare(dataset: Dataset, sources: Sources) -> Problem:
    """The three splits of a data set.

    Raises:
        ExperimentError: the data aren't there, or too few.
    """
    match dataset:
        case DigitThreshold():
            return _digits(dataset, sources)
        case DigitInk():
            return _ink(dataset, sources)
        case LongTail():
            return _long_tail(dataset, sources)
        case Table():
            return _table(dataset, sources)
        case Shapes():
            return _shapes(dataset)


def _digits(dataset: DigitThreshold, sources: Sources) -> Problem:
    images, test = _digit_images(dataset.source, sources)
    train, rest = _divided(images, dataset.images)
    validation, rest = _divided(rest, dataset.validation)
    splits = [
        _split(part.pixels, (part.labels <= dataset.threshold).float())
        for part in (train, validation, rest if test is None else test)
    ]
    return _problem("sigmoid", splits)


def _ink(dataset: DigitInk, sources: Sources) -> Problem:
    """Noise is drawn once for validation and test, and anew each time for training."""
    images, others = _digit_images(dataset.source, sources)
    train, rest = _divided(images, dataset.images)
    validation, rest = _divided(rest, dataset.validation)
    test, _ = _divided(rest if others is None else others, dataset.test)
    generator = torch.Generator().manual_seed(seed_of(_DATA_SEED, "noise"))
    masks = [(part.pixels > 0.5 * 255).float() for part in (train, validation, test)]
    noised = [network_inputs(part.pixels, dataset.noise, generator) for part in (validation, test)]
    splits = map(_split, [train.pixels, *noised], masks)
    return _problem("sigmoid", list(splits), noise=dataset.noise)


def _digit_images(source: DigitSource, sources: Sources) -> tuple[Images, Images | None]:
    if source == "mnist5k":
        return mnist5k(), None
    return mnist(sources), mnist(sources, train=False)


def _long_tail(dataset: LongTail, sources: Sources) -> Problem:
    each = dataset.head + dataset.validation + dataset.test
    images = image_folder(sources, each * _class_count(sources), dataset.pixels)
    classes = len(images.classes)
    test, rest = _divided(images, dataset.test * classes)
    validation, rest = _divided(rest, dataset.validation * classes)
    sizes = tail_sizes(dataset.head, dataset.imbalance, classes)
    kept = torch.cat([(rest.labels == c).nonzero()[:n, 0] for c, n in enumerate(sizes)])
    train = _chosen(rest, kept)
    if label_counts(train.labels, classes).tolist() != sizes:
        raise DamagedDataError(
            f"{sources.image_folder} has too few images of a class; expected {each} of each"
        )
    splits = [_split(part.pixels, part.labels) for part in (train, validation, test)]
    return _problem("softmax", splits, classes=classes)


def _class_count(sources: Sources) -> int:
    folder = sources.image_folder
    if folder is None or not folder.is_dir():
        where = "" if folder is None else f"; {folder} isn't one"
        raise MissingDataError(
            "the long-tailed data sets need a folder of images, one subfolder per class: name it "
            f"with --image-folder{where}"
        )
    return sum(path.is_dir() for path in folder.iterdir())


def tail_sizes(head: int, imbalance: float, classes: int) -> list[int]:
    """How many images each class keeps: from `head` down to `head / imbalance`, exponentially.

    >>> tail_sizes(1000, 100, 5)
    [1000, 316, 100, 32, 10]
    """
    return [round(head * imbalance ** (-c / (classes - 1))) for c in range(classes)]


def _table(dataset: Table, sources: Sources) -> Problem:
    features, labels = read_table(dataset.table, sources.data_dir)
    kinds, groups = np.unique(features, axis=0, return_inverse=True)
    order = np.random.default_rng(_DATA_SEED).permutation(len(kinds))[groups.reshape(-1)]
    ends = (0, 2 * len(kinds) // 5, 3 * len(kinds) // 5, len(kinds))
    rows = [(order >= a) & (order < b) for a, b in pairwise(ends)]
    mean, deviation = features[rows[0]].mean(0), features[rows[0]].std(0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1)
    splits = [
        Split(
            torch.from_numpy(scaled[part]).float(),
            torch.from_numpy(labels[part]).float(),
            torch.from_numpy(order[part] - first),
        )
        for part, first in zip(rows, ends, strict=False)
    ]
    return _problem("sigmoid", splits)


def _shapes(dataset: Shapes) -> Problem:
    sizes = (dataset.images, dataset.validation, dataset.test)
    splits = [_split(*scenes(n, seed_of(_DATA_SEED, f"scenes/{i}"))) for i, n in enumerate(sizes)]
    return _problem("boxes", splits)


def _problem(head: Head, splits: list[Split], *, classes: int = 1, noise: float = 0.0) -> Problem:
    train, validation, test = splits
    labels = train.targets[:, :CLASSES] if head == "boxes" else train.targets
    counts = label_counts(labels.flatten(), classes if head == "softmax" else None)
    return Problem(head, classes, noise, counts, train, validation, test)


def _split(inputs: Tensor, targets: Tensor) -> Split:
    return Split(inputs, targets, torch.arange(len(inputs)))


def _divided(images: Images, count: int) -> tuple[Images, Images]:
    """The first `count` images, as many of each class, and the rest."""
    if count >= len(images.labels):
        raise DamagedDataError(f"expected more than {count} images, got {len(images.labels)}")
    kept = evenly(images.labels, count)
    others = torch.ones(len(images.labels), dtype=torch.bool)
    others[kept] = False
    return _chosen(images, kept), _chosen(images, others)


def _chosen(images: Images, which: Tensor) -> Images:
    return Images(images.pixels[which], images.labels[which], images.classes)
