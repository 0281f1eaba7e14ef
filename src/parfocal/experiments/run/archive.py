"""The runs of a folder as one small file, to copy from a borrowed machine.

A zip file holds each run's spec, metrics and sessions, and the last checkpoint of those that aren't
done, as far as a size limit allows.
"""

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.run.record import CHECKPOINT, checkpoints, replacing
from parfocal.experiments.run.states import RunState, scan

MEGABYTE = 2**20

_RECORD = ("spec.json", "metrics.jsonl", "sessions.jsonl")
_MEMBER = re.compile(rf"[0-9a-f]{{64}}/({'|'.join(map(re.escape, _RECORD))}|{CHECKPOINT.pattern})")

# The date of every member, so that the same runs make the same file.
_DATE = (1980, 1, 1, 0, 0, 0)


class Packed(NamedTuple):
    """What was packed: runs, and those whose checkpoints didn't fit."""

    runs: int
    without_checkpoint: int


def pack(directory: Path, archive: Path, limit: int) -> Packed:
    """Write all runs of a sweep's folder into a zip file.

    limit: file size in bytes up to which checkpoints are added, starting with the runs that are
        furthest; the records are always included.
    """
    states = [s for s in scan(directory) if _MEMBER.fullmatch(f"{s.directory.name}/spec.json")]
    left_out = 0
    archive.parent.mkdir(parents=True, exist_ok=True)
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for state in states:
            for path in (state.directory / name for name in _RECORD):
                if path.exists():
                    _write(file, path, zipfile.ZIP_DEFLATED)
        for state in sorted(states, key=lambda state: -state.epochs):
            for path in checkpoints(state.directory)[: 0 if state.done else 1]:
                if temporary.stat().st_size + path.stat().st_size <= limit:
                    _write(file, path, zipfile.ZIP_STORED)
                else:
                    left_out += 1
    return Packed(len(states), left_out)


def unpack(archive: Path, directory: Path) -> int:
    """Unpack the runs of an archive into a folder, except those already there; how many.

    Raises:
        DamagedRecordError: it isn't such an archive.
    """
    there = {state.directory.name for state in scan(directory) if _begun(state)}
    new = set()
    try:
        with zipfile.ZipFile(archive) as file:
            unknown = [name for name in file.namelist() if not _MEMBER.fullmatch(name)]
            if unknown:
                raise DamagedRecordError(f"{archive} holds {unknown[0]!r}, which belongs to no run")
            for name in file.namelist():
                run, _, _ = name.partition("/")
                if run not in there:
                    new.add(run)
                    path = directory / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as temporary:
                        temporary.write_bytes(file.read(name))
    except (zipfile.BadZipFile, EOFError) as error:
        raise DamagedRecordError(f"{archive} is no archive of runs ({error})") from error
    return len(new)


def _begun(state: RunState) -> bool:
    return state.status != "waiting" or bool(checkpoints(state.directory))


def _write(file: zipfile.ZipFile, path: Path, compression: int) -> None:
    member = zipfile.ZipInfo(f"{path.parent.name}/{path.name}", _DATE)
    member.compress_type = compression
    file.writestr(member, path.read_bytes())
