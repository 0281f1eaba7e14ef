"""Where runs come from: sessions, dates, versions, machines and commits, out of their records."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.run.sessions import SessionLine, read_sessions


class Provenance(NamedTuple):
    """What worked on some runs, each distinct value once, in the order in which it first occurs.

    sessions: processes that worked on a run; a run that was taken up again has had several.
    runs: how many of the runs have a record of that.
    first, last: when the first session began, and the last began or ended; None without any.
    software, machines, commits: of all sessions; a commit ends in `+` if files differed from it.
    problems: records that couldn't be read, each in a sentence.
    """

    sessions: int
    runs: int
    first: str | None
    last: str | None
    software: dict[str, tuple[str, ...]]
    machines: tuple[str, ...]
    commits: tuple[str, ...]
    problems: tuple[str, ...]


def provenance_of(root: Path, directories: Sequence[Path]) -> Provenance:
    """Read what is recorded of the sessions in some folders of runs below `root`."""
    lines: list[SessionLine] = []
    problems = []
    runs = 0
    for directory in directories:
        try:
            found = read_sessions(directory / "sessions.jsonl")
        except DamagedRecordError as error:
            problems.append(str(error).replace(f"{root}/", ""))
            continue
        runs += any(line.event == "began" for line in found)
        lines += found
    began = [line for line in lines if line.event == "began"]
    times = [time for line in lines if (time := line.began or line.ended)]
    return Provenance(
        sessions=len(began),
        runs=runs,
        first=min(times).isoformat() if times else None,
        last=max(times).isoformat() if times else None,
        software=_software(began),
        machines=_distinct(_machine(line) for line in began),
        commits=_distinct(_commit(line) for line in began),
        problems=tuple(problems),
    )


def session_start(directory: Path) -> datetime | None:
    """When the first session of a run began; None if no readable record says it."""
    with suppress(DamagedRecordError):
        lines = read_sessions(directory / "sessions.jsonl")
        return min((line.began for line in lines if line.began), default=None)
    return None


def _software(began: Sequence[SessionLine]) -> dict[str, tuple[str, ...]]:
    """The versions of parfocal, torch, Python and all other packages that were there."""
    of_sessions = [{**line.installed, "Python": line.python} for line in began]
    names = dict.fromkeys(("parfocal", "torch", "Python"))
    names |= dict.fromkeys(name for versions in of_sessions for name in versions)
    found = {name: _distinct(versions.get(name) for versions in of_sessions) for name in names}
    return {name: versions for name, versions in found.items() if versions}


def _machine(line: SessionLine) -> str | None:
    """`cpu (AMD EPYC, x86_64)`."""
    inside = ", ".join(filter(None, (line.processor, line.machine)))
    if line.device and inside:
        return f"{line.device} ({inside})"
    return line.device or inside or None


def _commit(line: SessionLine) -> str | None:
    return None if line.git is None else f"{line.git.commit[:12]}{'+' * line.git.changed}"


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
