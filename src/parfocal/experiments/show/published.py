"""The paper's published results, read from its tables, and the runs that they are results of."""

import csv
import math
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from parfocal.experiments.errors import UnreadableResultsError
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.spec import RunSpec

# Files of a folder of published results, each with the spec whose runs it is about.
FILES = {
    "mnist_classification.csv": "mnist",
    "cifar10_cnn.csv": "cifar10-cnn",
    "mnist_segmentation.csv": "segmentation",
}


# Columns of a table of runs, and of one of epochs.
_OF_RUNS = (
    "loss", "noise", "gamma", "threshold", "first_nonfinite_epoch", "first_epoch_loss",
    "last_finite_loss",
)  # fmt: skip
_OF_EPOCHS = ("loss", "epoch", "train_loss")


class PublishedRun(NamedTuple):
    """What the paper says about one run.

    first_failure: the first epoch whose loss wasn't finite; None if all were.
    first_loss, last_loss: of the first epoch, and of the last finite one.
    epochs: how many it was meant to have.
    losses: by epoch, where they were published.
    """

    first_failure: int | None
    first_loss: float
    last_loss: float
    epochs: int
    losses: tuple[float, ...] = ()


# By the digest of a run of a shipped spec.
Published = dict[str, PublishedRun]


def read_published(folder: Path) -> Published:
    """All published runs of a folder that holds some of FILES.

    Raises:
        UnreadableResultsError: there is none, or one isn't as expected.
    """
    found: Published = {}
    for name, spec in FILES.items():
        path = folder / name
        if path.exists():
            try:
                found |= _read(spec, path)
            except (ValueError, csv.Error) as error:
                raise UnreadableResultsError(f"{path}: {error}") from error
    if not found:
        raise UnreadableResultsError(f"none of {', '.join(FILES)} in {folder}")
    return found


def _read(spec: str, path: Path) -> Published:
    """The runs of one table: a row each, or a row an epoch."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        rows = list(reader)
    is_summary = "epoch" not in columns
    expected = _OF_RUNS if is_summary else _OF_EPOCHS
    if missing := [name for name in expected if name not in columns]:
        raise ValueError(
            f"expected the columns {', '.join(expected)}; {', '.join(missing)} are missing"
        )
    if not rows:
        raise ValueError("expected a row below the names of the columns")
    for number, row in enumerate(rows, start=2):
        if None in row.values() or None in row:
            raise ValueError(f"row {number} has another length than the first")
    return (_summaries if is_summary else _curves)(spec, rows)


def _epoch(text: str, epochs: int) -> int:
    """An epoch of so many, counted from 0."""
    if not 0 <= int(text) < epochs:
        raise ValueError(f"expected an epoch from 0 to {epochs - 1}, got {text}")
    return int(text)


def _loss(text: str) -> float:
    """A mean loss, which is finite."""
    if not 0 <= float(text) < math.inf:
        raise ValueError(f"expected a loss that is finite and not negative, got {text}")
    return float(text)


def published_of(spec: RunSpec, published: Published) -> PublishedRun | None:
    """The published run with a spec's settings, whatever its seed and its number of epochs."""
    for name in FILES.values():
        paper = _by_digest(name)
        base = next(iter(paper.values()))
        same = spec.with_settings({"epochs": base.training.epochs, "seed": base.training.seed})
        if same.digest in paper:
            return published.get(same.digest)
    return None


@cache
def _by_digest(name: str) -> dict[str, RunSpec]:
    return {run.digest: run for run in read_grid(name).runs()}


def _summaries(name: str, rows: Iterable[dict[str, str]]) -> Published:
    """One row a run."""
    base = read_grid(name).base
    found = {}
    for row in rows:
        settings = {
            "loss": row["loss"],
            "noise": float(row["noise"]),
            "gamma": float(row["gamma"]),
            "threshold": int(row["threshold"]),
        }
        failure = row["first_nonfinite_epoch"]
        found[base.with_settings(settings).digest] = PublishedRun(
            first_failure=_epoch(failure, base.training.epochs) if failure else None,
            first_loss=_loss(row["first_epoch_loss"]),
            last_loss=_loss(row["last_finite_loss"]),
            epochs=base.training.epochs,
        )
    return found


def _curves(name: str, rows: Iterable[dict[str, str]]) -> Published:
    """One row an epoch; the first loss that is missing, or no finite number, is the failure."""
    base = read_grid(name).base
    epochs = base.training.epochs
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        settings = {key: float(row[key]) for key in ("noise",) if key in row}
        digest = base.with_settings({"loss": row["loss"], **settings}).digest
        of_epochs, epoch = cells.setdefault(digest, {}), _epoch(row["epoch"], epochs)
        if epoch in of_epochs:
            raise ValueError(f"epoch {epoch} of {row['loss']} is there twice")
        of_epochs[epoch] = row["train_loss"]
    curves = {digest: list(_finite(of_epochs)) for digest, of_epochs in cells.items()}
    if not all(curves.values()):
        raise ValueError("expected a number in train_loss at epoch 0 of each loss")
    return {
        digest: PublishedRun(
            first_failure=len(curve) if len(curve) < epochs else None,
            first_loss=curve[0],
            last_loss=curve[-1],
            epochs=epochs,
            losses=tuple(curve),
        )
        for digest, curve in curves.items()
    }


def _finite(of_epochs: dict[int, str]) -> Iterator[float]:
    """The losses by epoch up to the first that is missing, or no finite number."""
    for epoch in range(len(of_epochs)):
        text = of_epochs.get(epoch) or "nan"
        if not math.isfinite(float(text)):
            return
        yield _loss(text)
