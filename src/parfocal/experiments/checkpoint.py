"""Checkpoints: files that are there whole or not at all, and that are seen when they are damaged.

A file's name holds the step and the beginning of its own SHA-256. The last two are kept, so that
one that was damaged costs an interval and not the run.
"""

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import torch

from parfocal.experiments.record import replacing

KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{12})-([0-9a-f]{16})\.pt")


def save(directory: Path, step: int, contents: dict[str, Any]) -> Path:
    """Write a checkpoint, then remove all but the last two."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    view = buffer.getbuffer()
    path = directory / f"checkpoint-{step:012d}-{hashlib.sha256(view).hexdigest()[:16]}.pt"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(view)
        file.flush()
        os.fsync(file.fileno())
    for old in _files(directory)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest(directory: Path) -> dict[str, Any] | None:
    """The last checkpoint that isn't damaged; damaged ones are renamed, not removed."""
    for path in _files(directory):
        contents = path.read_bytes()
        found = _NAME.fullmatch(path.name)
        if found and hashlib.sha256(contents).hexdigest().startswith(found[2]):
            loaded: dict[str, Any] = torch.load(
                io.BytesIO(contents), map_location="cpu", weights_only=True
            )
            return loaded
        path.rename(path.with_suffix(".damaged"))
    return None


def remove_all(directory: Path) -> None:
    """Remove the checkpoints of a run that is done."""
    for path in _files(directory):
        path.unlink(missing_ok=True)


def _files(directory: Path) -> list[Path]:
    """All checkpoints, the last first."""
    return sorted((p for p in directory.iterdir() if _NAME.fullmatch(p.name)), reverse=True)
