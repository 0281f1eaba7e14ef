"""The record of a run: a folder of files, written as the run goes, from which all else is made.

    spec.json         the spec, its schema version and its digest
    environment.json  versions, threads, and when it began
    metrics.jsonl     a line an epoch, a line for the failure, and a last line with the outcome

The first and the last depend on nothing but the spec and the numerical software.
"""

import json
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, Self

import torch

from parfocal.experiments.spec import MnistSpec
from parfocal.experiments.trainer import Epoch, Failure

Outcome = Literal["finished", "failed", "stopped", "interrupted"]
_PACKAGES = ("parfocal", "torch", "torchvision", "numpy", "mlxtend")


class Run(NamedTuple):
    """A record that was read back."""

    spec: MnistSpec
    epochs: tuple[Epoch, ...]
    failure: Failure | None
    outcome: Outcome | None
    steps: int


class RecordExistsError(Exception):
    """The folder holds a record already."""


class Recorder:
    """Writes a record, a line at a time; a context manager that closes it with an outcome.

    step: how far the run is, for its last line; the caller keeps it between epochs.
    """

    def __init__(self, directory: Path, spec: MnistSpec, *, overwrite: bool = False) -> None:
        """Make the folder and its spec.

        Raises:
            RecordExistsError: there is a record, and it isn't to be overwritten.
        """
        self.directory = directory
        if (directory / "spec.json").exists() and not overwrite:
            raise RecordExistsError(
                f"{directory} holds a run already; add --overwrite, or name another folder by --out"
            )
        directory.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = (directory / "metrics.jsonl").open("w", encoding="utf-8")
        write_json(directory / "environment.json", _environment())
        write_json(directory / "spec.json", spec.as_record())
        self.step = 0
        self._outcome: Outcome = "finished"

    def epoch(self, epoch: Epoch) -> None:
        """Record one pass over the images."""
        self.step = epoch.step
        self._line("epoch", epoch._asdict())

    def failure(self, failure: Failure) -> None:
        """Record what failed first."""
        self.step = failure.step
        self._outcome = "failed"
        self._line("failure", failure._asdict())

    def ended(self, outcome: Outcome) -> None:
        """Note why there will be no more steps, where neither the spec nor a failure says it."""
        self._outcome = outcome

    def _line(self, event: str, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, **_jsonable(values)}, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._outcome = "interrupted"
        self._line("end", {"outcome": self._outcome, "step": self.step})
        self._file.close()


def read_run(directory: Path) -> Run:
    """The record in a folder, also one that is still being written."""
    spec = MnistSpec.from_record(json.loads((directory / "spec.json").read_text()))
    epochs: list[Epoch] = []
    failure: Failure | None = None
    outcome: Outcome | None = None
    steps = 0
    with (directory / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            values = json.loads(line)
            match values.pop("event"):
                case "epoch":
                    epochs.append(Epoch(**_numbers(values)))
                    steps = epochs[-1].step
                case "failure":
                    failure = Failure(**_numbers(values))
                    steps = failure.step
                case "end":
                    outcome, steps = values["outcome"], values["step"]
    return Run(spec, tuple(epochs), failure, outcome, steps)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place at the end, if all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: their names stand for them."""
    return {
        key: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    names = ("nan", "inf", "-inf")
    return {key: float(value) if value in names else value for key, value in values.items()}


def _environment() -> dict[str, Any]:
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
