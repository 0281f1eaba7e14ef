"""Checkpoints: files that are written whole or not at all, and whose damage is detected.

A file's name holds the step and the beginning of its own SHA-256; the file names its run. The last
two are kept, so that a damaged one costs an interval and not the run.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.run.record import CHECKPOINT, checkpoints, refuse_other, replacing

KEPT = 2


def save(directory: Path, run: str, step: int, contents: dict[str, Any]) -> Path:
    """Write a checkpoint of the run with this digest, then remove all but the last two."""
    buffer = io.BytesIO()
    torch.save({"run": run, **contents}, buffer)
    view = buffer.getbuffer()
    path = directory / f"checkpoint-{step:012d}-{hashlib.sha256(view).hexdigest()[:16]}.pt"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(view)
        file.flush()
        os.fsync(file.fileno())
    for old in checkpoints(directory)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest(directory: Path, run: str) -> dict[str, Any] | None:
    """The last checkpoint that isn't damaged; damaged ones are renamed, not removed.

    Raises:
        OtherRunError: it belongs to a run with another digest.
        DamagedRecordError: it is intact, but can't be read.
    """
    for path in checkpoints(directory):
        data = path.read_bytes()
        name = CHECKPOINT.fullmatch(path.name)
        assert name is not None
        if hashlib.sha256(data).hexdigest().startswith(name[2]):
            contents = _read(path, data)
            refuse_other(path, contents.get("run"), run)
            return contents
        path.rename(path.with_suffix(".damaged"))
    return None


def _read(path: Path, data: bytes) -> dict[str, Any]:
    try:
        contents = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(contents, dict):
            raise TypeError(f"expected a dict, got {type(contents).__name__}")
    except Exception as error:  # whatever torch raises for a file of another format
        reason = str(error).partition("\n")[0]
        raise DamagedRecordError(
            f"{path} is no checkpoint that torch {torch.__version__} can read ({reason}); move it"
        ) from error
    return contents


def remove_all(directory: Path) -> None:
    """Remove the checkpoints of a run that is done."""
    for path in checkpoints(directory):
        path.unlink(missing_ok=True)
