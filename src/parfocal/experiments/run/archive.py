"""The runs of a folder as one small file, to copy from a borrowed machine.

A zip file holds each run's spec, metrics and sessions, and the last checkpoint of those that aren't
done, as far as a size limit allows. Of a run that is both in a folder and in an archive, the copy
that is further counts: a run that is done before one that isn't, then the later checkpoint, from
which a run goes on, then the later end of the metrics.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import NamedTuple

from filelock import FileLock, Timeout

from parfocal.experiments.errors import DamagedRecordError, ExperimentError, OtherRunError
from parfocal.experiments.run.record import (
    CHECKPOINT,
    checkpoints,
    read_spec,
    refuse_others,
    replacing,
)
from parfocal.experiments.run.states import RunState, state_of
from parfocal.experiments.run.sweep import refuse_stranger
from parfocal.experiments.run.training import set_aside

MEGABYTE = 2**20

# The metrics, which say how far a run is, are unpacked last.
_RECORD = ("spec.json", "sessions.jsonl", "metrics.jsonl")
_MEMBER = re.compile(rf"[0-9a-f]{{64}}/({'|'.join(map(re.escape, _RECORD))}|{CHECKPOINT.pattern})")

# The date of every member, so that the same runs make the same file.
_DATE = (1980, 1, 1, 0, 0, 0)


_REACH = attrgetter("reach")


class Packed(NamedTuple):
    """What was packed: runs, and those whose checkpoints didn't fit."""

    runs: int
    without_checkpoint: int


class _Checkpoint(NamedTuple):
    """A checkpoint that is intact."""

    name: str
    step: int
    size: int


class _Copy(NamedTuple):
    """A run as a folder or an archive has it.

    records: the names of its files but for checkpoints; read: the contents of a file by name.
    checkpoint: what it goes on from; none if it is done.
    """

    state: RunState
    records: tuple[str, ...]
    checkpoint: _Checkpoint | None
    read: Callable[[str], bytes]

    @property
    def reach(self) -> tuple[bool, int, int]:
        """How far it is."""
        if self.state.done:
            return True, 0, 0
        resumed = self.checkpoint.step if self.checkpoint else 0
        return False, resumed, self.state.run.steps if self.state.run else 0


def check(archive: Path, directory: Path) -> None:
    """Check that runs can be unpacked and packed later, while no time has been spent on them.

    Raises:
        DamagedRecordError: the file is there, and isn't such an archive.
        OtherRunError: it or the folder holds a run under another one's name.
        OSError: it can't be written.
    """
    with _opened(archive):
        _refuse_strangers(directory)
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            dir=archive.parent, prefix=f".{archive.name}.", suffix=archive.suffix
        ):
            pass
    except OSError as error:
        raise OSError(
            f"Expected a path where an archive can be written, got {archive}: {error.strerror}"
        ) from error


def pack(directory: Path, archive: Path, limit: float) -> Packed:
    """Write all runs of a sweep's folder into a zip file, beside those that it has already.

    A run that is further in the file stays as it is there. What doesn't hold the run that its name
    says is left out.

    limit: file size in bytes up to which checkpoints are added, starting with the runs that are
        furthest; the records are always included.

    Raises:
        DamagedRecordError, OtherRunError: the file is there, and isn't such an archive.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(archive) as temporary,
        _opened(archive) as archived,
        zipfile.ZipFile(temporary, "w") as file,
    ):
        chosen, left_out = _fitting(_copies_in(directory), archived, limit)
        for run, copy in chosen.items():
            _write_records(file, run, copy)
        for run, copy in _furthest_first(chosen):
            if copy.checkpoint is not None:
                _write(file, run, copy, copy.checkpoint.name, zipfile.ZIP_STORED)
    return Packed(len(chosen), left_out)


def unpack(archive: Path, directory: Path) -> int:
    """Unpack the runs of an archive that are further there than in a folder; how many.

    A run that a process is working on is left to it.

    Raises:
        DamagedRecordError: it isn't such an archive.
        OtherRunError: it or the folder holds a run under another one's name.
    """
    with _opened(archive, missing_ok=False) as archived:
        _refuse_strangers(directory)
        return sum(_take(copy, directory / run) for run, copy in archived.items())


@contextmanager
def _opened(archive: Path, missing_ok: bool = True) -> Iterator[dict[str, _Copy]]:
    """The runs of an archive by digest, all of it intact, as long as it is open."""
    with ExitStack() as stack:
        if missing_ok and not archive.exists():
            yield {}
            return
        place = Path(stack.enter_context(TemporaryDirectory()))
        try:
            file = stack.enter_context(zipfile.ZipFile(archive))
            copies = _copies_of(file, place)
        except ExperimentError as error:
            raise type(error)(f"{archive} holds {error}") from error
        except Exception as error:  # whatever zipfile and its decompressors raise for other bytes
            reason = str(error).partition("\n")[0]
            raise DamagedRecordError(f"{archive} is no archive of runs ({reason})") from error
        yield copies


def _copies_of(file: zipfile.ZipFile, place: Path) -> dict[str, _Copy]:
    """The runs of an archive; their records are read in a folder of their own.

    Raises:
        DamagedRecordError, OtherRunError: with what the archive holds.
    """
    members: dict[str, list[str]] = {}
    for member in file.namelist():
        if not _MEMBER.fullmatch(member):
            raise DamagedRecordError(f"{member!r}, which belongs to no run")
        run, _, name = member.partition("/")
        members.setdefault(run, []).append(name)
    if (damaged := file.testzip()) is not None:
        raise DamagedRecordError(f"{damaged}, which is damaged")
    return {run: _copy_of(file, place / run, members[run]) for run in sorted(members)}


def _copy_of(file: zipfile.ZipFile, folder: Path, names: Collection[str]) -> _Copy:
    run = folder.name
    folder.mkdir()
    for name in set(names).intersection(_RECORD):
        (folder / name).write_bytes(file.read(f"{run}/{name}"))
    try:
        _refuse_unknown(folder)
    except OtherRunError as error:
        raise OtherRunError(f"{run} with files of another run") from error
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{run} without a spec that can be read") from error
    return _copy(state_of(folder), names, lambda name: file.read(f"{run}/{name}"))


def _copies_in(directory: Path) -> dict[str, _Copy]:
    """The runs of a folder that hold what their names say, by digest."""
    found = {}
    for folder in _runs_in(directory):
        with suppress(DamagedRecordError, OtherRunError):
            _refuse_unknown(folder)
            found[folder.name] = _copy_in(state_of(folder))
    return found


def _copy_in(state: RunState) -> _Copy:
    folder = state.directory
    names = [path.name for path in folder.iterdir()]
    return _copy(state, names, lambda name: (folder / name).read_bytes())


def _copy(state: RunState, names: Collection[str], read: Callable[[str], bytes]) -> _Copy:
    records = tuple(name for name in _RECORD if name in names)
    found = () if state.done else (_intact(name, read) for name in sorted(names, reverse=True))
    return _Copy(state, records, next(filter(None, found), None), read)


def _intact(name: str, read: Callable[[str], bytes]) -> _Checkpoint | None:
    """The checkpoint of this name, if it is one and has the contents that it had."""
    match = CHECKPOINT.fullmatch(name)
    if match is None:
        return None
    try:
        data = read(name)
    except OSError:  # a run that is under way removes its older checkpoints
        return None
    intact = hashlib.sha256(data).hexdigest().startswith(match[2])
    return _Checkpoint(name, int(match[1]), len(data)) if intact else None


def _runs_in(directory: Path) -> list[Path]:
    specs = sorted(directory.glob("*/spec.json"))
    return [path.parent for path in specs if _MEMBER.fullmatch(f"{path.parent.name}/spec.json")]


def _refuse_strangers(directory: Path) -> None:
    for folder in _runs_in(directory):
        refuse_stranger(folder)


def _refuse_unknown(folder: Path) -> None:
    """Refuse a folder whose spec and lines aren't those of the run that its name says.

    Raises:
        DamagedRecordError: the spec can't be read.
        OtherRunError: they are of another run.
    """
    read_spec(folder)
    refuse_stranger(folder)
    refuse_others(folder, folder.name)


def _fitting(
    there: Mapping[str, _Copy], archived: Mapping[str, _Copy], limit: float
) -> tuple[dict[str, _Copy], int]:
    """The furthest copy of each run, with a checkpoint if it fits; how many don't.

    Without its checkpoint a copy may be less far than another.
    """
    copies = {
        run: [source[run] for source in (there, archived) if run in source]
        for run in sorted({*there, *archived})
    }
    chosen = {run: max(found, key=_REACH) for run, found in copies.items()}
    room = limit - sum(_size_of_records(run, copy) for run, copy in chosen.items())
    left_out = 0
    for run, copy in _furthest_first(chosen):
        if copy.checkpoint is None:
            continue
        if copy.checkpoint.size <= room:
            room -= copy.checkpoint.size
        else:
            left_out += 1
            chosen[run] = max((c._replace(checkpoint=None) for c in copies[run]), key=_REACH)
    return chosen, left_out


def _furthest_first(copies: Mapping[str, _Copy]) -> list[tuple[str, _Copy]]:
    return sorted(copies.items(), key=lambda item: -item[1].state.epochs)


def _take(copy: _Copy, folder: Path) -> bool:
    """Put a copy into a run's folder; not if a copy there is as far, or a process works on it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock").acquire(blocking=False):
            state = state_of(folder) if (folder / "spec.json").exists() else None
            if state is not None and _begun(state) and _copy_in(state).reach >= copy.reach:
                return False
            if state is not None and state.status == "damaged":
                set_aside(folder / "metrics.jsonl")
            _replace(folder, copy)
            return True
    except Timeout:
        return False


def _replace(folder: Path, copy: _Copy) -> None:
    """Put a copy in the place of what is there.

    A folder in which this was killed can go on from a checkpoint, and is less far than the copy,
    until its last file is there: the same call does the rest.
    """
    checkpoint = () if copy.checkpoint is None else (copy.checkpoint.name,)
    for name in (*checkpoint, *copy.records):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(copy.read(name))
    (folder / "progress.json").unlink(missing_ok=True)
    if copy.state.done:
        for path in checkpoints(folder):
            path.unlink()


def _begun(state: RunState) -> bool:
    return state.status != "waiting" or bool(checkpoints(state.directory))


def _size_of_records(run: str, copy: _Copy) -> int:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        _write_records(file, run, copy)
    return len(buffer.getvalue())


def _write_records(file: zipfile.ZipFile, run: str, copy: _Copy) -> None:
    for name in copy.records:
        _write(file, run, copy, name, zipfile.ZIP_DEFLATED)


def _write(file: zipfile.ZipFile, run: str, copy: _Copy, name: str, compression: int) -> None:
    member = zipfile.ZipInfo(f"{run}/{name}", _DATE)
    member.compress_type = compression
    file.writestr(member, copy.read(name))
