"""Certified values on a grid, kept on disk with a checksum, so that they are made once."""

import hashlib
import io
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import torch
from torch import Tensor

from parfocal.audit import definitions, oracle
from parfocal.audit.definitions import Definition, Derivatives, derivatives
from parfocal.audit.oracle import Truth

# Logits of one task of an executor.
_CHUNK = 2048


def cache_folder() -> Path:
    """PARFOCAL_CACHE, or `parfocal` in the user's folder of caches."""
    given = os.environ.get("PARFOCAL_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parfocal"


def truths(
    logits: Tensor,
    target: float,
    gammas: Sequence[float],
    definition: Definition,
    executor: Executor | None = None,
) -> list[Derivatives]:
    """`derivatives`, one entry a gamma; from the disk where they are there and whole."""
    bits = 110 if logits.dtype == torch.float64 else 64
    points = logits.double()
    if target == 0 and definition.base == "linear":
        # L at the other class is that of the opposite logit.
        mirrored = truths(-logits.flip(0), 1.0, gammas, definition, executor)
        return [_mirrored(entry) for entry in mirrored]
    path = cache_folder() / f"{_key(points, target, gammas, definition, bits)}.truth"
    found = _read(path, len(gammas))
    if found is None:
        found = _computed(points, target, gammas, definition, bits, executor)
        _write(path, found)
    return found


def _mirrored(entry: Derivatives) -> Derivatives:
    value, gradient, curvature = (part.flip() for part in entry)
    return Derivatives(value, -gradient, curvature)


def _key(
    points: Tensor, target: float, gammas: Sequence[float], definition: Definition, bits: int
) -> str:
    """Of all that the values depend on, the oracle's own source among it."""
    digest = hashlib.sha256()
    for module in (oracle, definitions):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(repr((target, tuple(gammas), tuple(definition), bits)).encode())
    digest.update(array("d", points.tolist()).tobytes())
    return digest.hexdigest()[:32]


def _computed(
    points: Tensor,
    target: float,
    gammas: Sequence[float],
    definition: Definition,
    bits: int,
    executor: Executor | None,
) -> list[Derivatives]:
    if executor is None or len(points) <= _CHUNK:
        return derivatives(points.tolist(), target, gammas, definition, bits=bits)
    tasks = [
        executor.submit(_task, part.tolist(), target, tuple(gammas), definition, bits)
        for part in points.split(_CHUNK)
    ]
    return _entries(torch.cat([task.result() for task in tasks], dim=-1))


def _task(
    points: list[float],
    target: float,
    gammas: tuple[float, ...],
    definition: Definition,
    bits: int,
) -> Tensor:
    """One tensor, since each that comes back from another process is a file."""
    return _table(derivatives(points, target, gammas, definition, bits=bits))


def _table(entries: Sequence[Derivatives]) -> Tensor:
    """gammas x quantities x (hi, lo, scale) x logits."""
    return torch.stack([torch.stack([torch.stack(tuple(part)) for part in e]) for e in entries])


def _entries(table: Tensor) -> list[Derivatives]:
    return [Derivatives(*(Truth(*parts) for parts in entry)) for entry in table]


def _read(path: Path, count: int) -> list[Derivatives] | None:
    """None if there is no such file, or it isn't what was written."""
    try:
        digest, content = path.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        return None
    table = torch.load(io.BytesIO(content), weights_only=True)
    if table.shape[:3] != (count, 3, 3):
        return None
    return _entries(table)


def _write(path: Path, entries: Sequence[Derivatives]) -> None:
    """Whole or not at all; a folder that can't be written to is no reason to fail."""
    buffer = io.BytesIO()
    torch.save(_table(entries), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(digest + b"\n" + content)
        temporary.replace(path)
    except OSError:
        return
