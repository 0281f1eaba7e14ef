"""The record of a run: a folder of files, written during the run, from which all else is made.

    spec.json        the spec, its schema version and its digest
    sessions.jsonl   two lines per process that worked on it: versions, seeds, git; how it ended
    metrics.jsonl    a line per epoch, a line for the failure, and a last line with the outcome
    progress.json    how far the run is, rewritten every second during the run
    checkpoint-*.pt  what it resumes from; removed when the run is done
    lock             held by the process that works on the run

The spec and the metrics depend only on the spec and the numerical software: a run that was killed
and resumed ends with the same bytes. Sessions, the last line of the metrics and checkpoints name
their run by its digest, and those of another run are refused.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, Self, TypeVar

import msgspec

from parfocal.experiments.errors import DamagedRecordError, OtherRunError
from parfocal.experiments.run.events import Epoch, Failure, Index
from parfocal.experiments.spec import RunSpec

Outcome = Literal["finished", "failed", "stopped", "interrupted"]

# The outcomes after which there is nothing left to do.
DONE: tuple[Outcome, ...] = ("finished", "failed")

# Files of a run that name it, line by line.
_LINES = ("metrics.jsonl", "sessions.jsonl")

# A checkpoint's name holds its step and the beginning of the SHA-256 of its contents.
CHECKPOINT = re.compile(r"checkpoint-(\d{12})-([0-9a-f]{16})\.pt")


Line = TypeVar("Line", bound=NamedTuple)


class Run(NamedTuple):
    """A record that was read back."""

    spec: RunSpec
    epochs: tuple[Epoch, ...]
    failure: Failure | None
    outcome: Outcome | None
    steps: int

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.outcome in DONE

    @property
    def largest_logit(self) -> float | None:
        """The largest |logit| of the run so far."""
        seen = [epoch.largest_logit for epoch in self.epochs[-1:]]
        if self.failure is not None:
            seen.append(self.failure.largest_logit)
        return max(seen, default=None)


class Recorder:
    """Writes a run's metrics, a line at a time; a context manager that closes them with an outcome.

    step: how far the run is, for its last line; the caller keeps it between epochs.
    parameters: digest of the parameters for the last line, where the caller has one.
    """

    def __init__(self, directory: Path, spec: RunSpec, epochs: Sequence[Epoch] = ()) -> None:
        """Make the folder and its spec, and metrics that hold these epochs alone."""
        self.directory = directory
        self._run = spec.digest
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "spec.json", spec.as_record())
        path = directory / "metrics.jsonl"
        with replacing(path) as temporary:
            temporary.write_text("".join(_line("epoch", e._asdict()) for e in epochs))
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self.epochs = list(epochs)
        self.step = epochs[-1].step if epochs else 0
        self.parameters: str | None = None
        self._outcome: Outcome = "finished"

    def epoch(self, epoch: Epoch) -> None:
        """Record one pass over the images."""
        self.step = epoch.step
        self.epochs.append(epoch)
        self._write("epoch", epoch._asdict())

    def failure(self, failure: Failure) -> None:
        """Record what failed first."""
        self.step = failure.step
        self._outcome = "failed"
        self._write("failure", failure._asdict())

    def ended(self, outcome: Outcome) -> None:
        """Note why there will be no more steps, where neither the spec nor a failure says it."""
        self._outcome = outcome

    def sync(self) -> None:
        """Bring to the disk what was written."""
        os.fsync(self._file.fileno())

    def _write(self, event: str, values: dict[str, Any]) -> None:
        self._file.write(_line(event, values))
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
        end: dict[str, Any] = {"outcome": self._outcome, "step": self.step, "run": self._run}
        if self.parameters is not None and self._outcome in DONE:
            end["parameters"] = self.parameters
        try:
            self._write("end", end)
            self.sync()
        except OSError:
            # After another error the last line is a courtesy: a full disk may be what is wrong.
            if kind is None:
                raise
        finally:
            with suppress(OSError):
                self._file.close()


def remove_record(directory: Path) -> None:
    """Remove a run's own files, and nothing else in the folder."""
    for name in ("spec.json", "metrics.jsonl", "sessions.jsonl", "progress.json"):
        (directory / name).unlink(missing_ok=True)
    for path in checkpoints(directory):
        path.unlink()


def checkpoints(directory: Path) -> list[Path]:
    """All checkpoints in a folder, the last first."""
    return sorted((p for p in directory.iterdir() if CHECKPOINT.fullmatch(p.name)), reverse=True)


def refuse_others(directory: Path, run: str) -> None:
    """Refuse sessions and metrics of another run; unreadable files are passed over.

    Raises:
        OtherRunError: they belong to another run than the one with the digest `run`.
    """
    for name in _LINES:
        with suppress(DamagedRecordError):
            for values in read_lines(directory / name):
                refuse_other(directory / name, values.get("run", run), run)


def refuse_other(path: Path, found: str | None, run: str) -> None:
    """Refuse a file of another run than the one with the digest `run`.

    Raises:
        OtherRunError: it belongs to another run, or to none.
    """
    if found != run:
        of = "names no run" if found is None else f"is of the run {str(found)[:12]}"
        raise OtherRunError(
            f"{path} {of}, and this one is {run[:12]}; move it, or use another folder"
        )


def read_run(directory: Path) -> Run:
    """The record in a folder, also one that is still being written.

    Raises:
        DamagedRecordError: a file isn't what was written there; with its path and line.
        OtherRunError: metrics or sessions are of another run than the spec.
    """
    spec = read_spec(directory)
    refuse_others(directory, spec.digest)
    run = Run(spec, (), None, None, 0)
    epochs: list[Epoch] = []
    path = directory / "metrics.jsonl"
    for number, values in enumerate(read_lines(path), start=1):
        try:
            run = _followed(run, epochs, values)
        except ValueError as error:
            raise DamagedRecordError(f"{path}, line {number} is damaged ({error})") from error
    return run._replace(epochs=tuple(epochs))


def _followed(run: Run, epochs: list[Epoch], values: dict[str, Any]) -> Run:
    """The run after one more line: epochs in their order, then perhaps a failure, then the end."""
    event = values.get("event")
    rest = {name: value for name, value in values.items() if name != "event"}
    if run.outcome is not None or (run.failure is not None and event != "end"):
        raise ValueError(f"expected nothing after {'a failure' if run.failure else 'the end'}")
    match event:
        case "epoch":
            epoch = _typed(rest, Epoch)
            _refuse_disorder(run, epochs, epoch)
            epochs.append(epoch)
            return run._replace(steps=epoch.step)
        case "failure":
            if isinstance(rest.get("label"), float):  # a class is called `nan`
                rest["label"] = repr(rest["label"])
            failure = _typed(rest, Failure)
            _refuse_disorder(run, epochs, failure)
            return run._replace(failure=failure, steps=failure.step)
        case "end":
            end = _typed({"run": None, "parameters": None, **rest}, _End)
            if (end.outcome == "failed") != (run.failure is not None):
                raise ValueError(f"expected the outcome of the lines before, got {end.outcome}")
            if end.outcome == "finished" and len(epochs) != run.spec.training.epochs:
                raise ValueError(f"expected {run.spec.training.epochs} epochs, got {len(epochs)}")
            return run._replace(outcome=end.outcome, steps=end.step)
        case _:
            raise ValueError(f"expected epoch, failure or end, got {event!r}")


def _refuse_disorder(run: Run, epochs: Sequence[Epoch], event: Epoch | Failure) -> None:
    """Refuse what doesn't follow upon these epochs of a run.

    Raises:
        ValueError: it is of another epoch than the next, or of an earlier step.
    """
    if event.epoch != len(epochs) or event.epoch >= run.spec.training.epochs:
        raise ValueError(f"expected epoch {len(epochs)}, got {event.epoch}")
    if event.step < run.steps:
        raise ValueError(f"expected step {run.steps} or a later one, got {event.step}")


class _End(NamedTuple):
    """The last line."""

    outcome: Outcome
    step: Index
    run: str | None
    parameters: str | None


def _typed(values: dict[str, Any], kind: type[Line]) -> Line:
    """A line's values by name, each of its type, none missing and none more."""
    if wrong := sorted(set(values) ^ set(kind._fields)):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}")
    try:
        return msgspec.convert([values[name] for name in kind._fields], kind)
    except msgspec.ValidationError as error:
        # msgspec reads a NamedTuple as an array, and says places: $[0].
        named = re.sub(r"\$\[(\d+)\]", lambda place: kind._fields[int(place[1])], str(error))
        raise ValueError(named) from error


def read_spec(directory: Path) -> RunSpec:
    """The spec in a folder.

    Raises:
        DamagedRecordError: it can't be read, or isn't of this schema, or its digest isn't right.
    """
    path = directory / "spec.json"
    try:
        return RunSpec.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedRecordError(f"{path}: {error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a JSON-lines file; none if there is no file.

    Raises:
        DamagedRecordError: a line isn't whole; with its number.
    """
    if not path.exists():
        return []
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DamagedRecordError(str(error)) from error
    found = []
    for number, line in enumerate(contents.splitlines(keepends=True), start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or not line.endswith(b"\n"):
                raise ValueError("not a whole line")
        except (ValueError, RecursionError) as error:
            raise DamagedRecordError(f"{path}, line {number} is damaged ({error})") from error
        found.append(_numbers(values))
    return found


def append_line(path: Path, event: str, values: dict[str, Any]) -> None:
    """Add a line to a JSON-lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(event, values))


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


def _line(event: str, values: dict[str, Any]) -> str:
    """JSON has no NaN and no infinity: their names stand for them."""
    named = {
        key: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
    return json.dumps({"event": event, **named}, allow_nan=False) + "\n"


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    names = ("nan", "inf", "-inf")
    return {
        key: float(value) if isinstance(value, str) and value in names else value
        for key, value in values.items()
    }
