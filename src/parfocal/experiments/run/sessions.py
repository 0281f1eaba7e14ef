"""What sessions.jsonl says: the processes that worked on a run or a study, read back with types."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.run.record import read_lines

# Times of different zones can be compared.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Git(msgspec.Struct, frozen=True):
    """A commit, and whether files differed from it."""

    commit: str
    changed: bool = False


class SessionLine(msgspec.Struct, frozen=True):
    """The beginning or the end of a session; what isn't known is None, or empty.

    versions: of the packages that were installed, the others None.
    seconds: of a core, by data set, at the end of a study's session.
    """

    event: str
    began: Moment | None = None
    ended: Moment | None = None
    git: Git | None = None
    device: str | None = None
    python: str | None = None
    machine: str | None = None
    processor: str | None = None
    versions: dict[str, str | None] | None = None
    seconds: dict[str, float] | None = None

    @property
    def installed(self) -> dict[str, str]:
        """The versions of the packages that were there."""
        return {name: number for name, number in (self.versions or {}).items() if number}


def read_sessions(path: Path) -> list[SessionLine]:
    """All lines of a sessions.jsonl; none if there is no file.

    Raises:
        DamagedRecordError: a line isn't what was written there; with its number.
    """
    found = []
    for number, values in enumerate(read_lines(path), start=1):
        try:
            found.append(msgspec.convert(values, SessionLine))
        except msgspec.ValidationError as error:
            raise DamagedRecordError(f"{path}, line {number} is damaged ({error})") from error
    return found
