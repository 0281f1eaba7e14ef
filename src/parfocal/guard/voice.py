"""How a guard speaks: each thing once, and of its own errors too, which end no training."""

import warnings
from collections.abc import Callable
from typing import TypeVar

from parfocal.guard import notices, ranks
from parfocal.guard.notices import FocalGuardError, FocalGuardWarning, Notice
from parfocal.guard.tally import Tally

Result = TypeVar("Result")


class Voice:
    """Warns on the first rank, and keeps what it said.

    said: the notices, one of each kind, and one of each thing that the guard couldn't do.
    """

    def __init__(self, tally: Tally) -> None:
        self.said: list[Notice] = []
        self._tally = tally
        self._failed: set[str] = set()

    def notice(self, kind: notices.Kind, text: str, *numbers: float) -> None:
        """Say it, if nothing of its kind has been said."""
        if kind != "own" and any(before.kind == kind for before in self.said):
            return
        step = self._tally.step
        self.said.append(Notice(step, kind, text, *numbers))
        if ranks.rank() == 0:
            warnings.warn(f"Step {step}: {text}", FocalGuardWarning, stacklevel=2)

    def safely(self, what: str, do: Callable[..., Result], *arguments: object) -> Result | None:
        """What a function gives; where it raises, None and a notice."""
        try:
            return do(*arguments)
        except (FocalGuardError, FocalGuardWarning):
            raise  # warnings may be errors, if the user says so
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                self.notice("own", notices.of_own_error(what, error))
            return None
