"""Where runs come from: sessions, dates, versions, machines and commits, out of their records."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.run.record import read_lines


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
    lines: list[dict[str, Any]] = []
    problems = []
    runs = 0
    for directory in directories:
        try:
            found = read_lines(directory / "sessions.jsonl")
        except DamagedRecordError as error:
            problems.append(str(error).replace(f"{root}/", ""))
            continue
        runs += any(line.get("event") == "began" for line in found)
        lines += found
    began = [line for line in lines if line.get("event") == "began"]
    # All times are of one zone and one form, so that they sort as text.
    times = [str(line[key]) for line in lines for key in ("began", "ended") if key in line]
    return Provenance(
        sessions=len(began),
        runs=runs,
        first=min(times, default=None),
        last=max(times, default=None),
        software=_software(began),
        machines=_distinct(_machine(line) for line in began),
        commits=_distinct(_commit(line.get("git")) for line in began),
        problems=tuple(problems),
    )


def session_start(directory: Path) -> str | None:
    """When the first session of a run began, if that is recorded.

    Raises:
        DamagedRecordError: the record can't be read.
    """
    lines = read_lines(directory / "sessions.jsonl")
    return min((str(line["began"]) for line in lines if "began" in line), default=None)


def _software(began: Sequence[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """The versions of parfocal, torch, Python and all other packages that were there."""
    of_sessions = [{**(line.get("versions") or {}), "Python": line.get("python")} for line in began]
    names = dict.fromkeys(("parfocal", "torch", "Python"))
    names |= dict.fromkeys(name for versions in of_sessions for name in versions)
    found = {name: _distinct(versions.get(name) for versions in of_sessions) for name in names}
    return {name: versions for name, versions in found.items() if versions}


def _machine(line: dict[str, Any]) -> str | None:
    """`cpu (AMD EPYC, x86_64)`."""
    device = line.get("device")
    inside = ", ".join(str(line[key]) for key in ("processor", "machine") if line.get(key))
    if device and inside:
        return f"{device} ({inside})"
    return device or inside or None


def _commit(git: dict[str, Any] | None) -> str | None:
    if not git:
        return None
    return f"{git['commit'][:12]}{'+' * bool(git.get('changed'))}"


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
