"""The state of each run of a folder, read only from the records, on this machine or another."""

import os
import socket
import time
from pathlib import Path
from typing import Literal, NamedTuple

from parfocal.experiments.errors import DamagedRecordError, OtherRunError
from parfocal.experiments.run.progress import HEARTBEAT, RunProgress, read_progress
from parfocal.experiments.run.record import Run, read_run

RunStatus = Literal["waiting", "running", "interrupted", "lost", "finished", "failed", "damaged"]

# A process that hasn't written for so long is taken for dead: a step of a large network may take
# a minute, and clocks of two machines differ.
SILENCE = 120 * HEARTBEAT


class RunState(NamedTuple):
    """One run: its record if it can be read, its progress if it is running, what is wrong if not.

    status: waiting to begin, running, interrupted (it said so), lost (it didn't), finished at the
        last epoch, failed at a number that wasn't finite, or damaged.
    """

    directory: Path
    status: RunStatus
    run: Run | None
    progress: RunProgress | None
    problem: str | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.status in ("finished", "failed")

    @property
    def epochs(self) -> float:
        """How many epochs are done, parts included."""
        if self.progress is not None and self.status == "running":
            return self.progress.step / self.progress.steps_per_epoch
        if self.run is None:
            return 0.0
        return float(len(self.run.epochs))


def state_of(directory: Path) -> RunState:
    """The state of the run in a folder."""
    try:
        run = read_run(directory)
    except (DamagedRecordError, OtherRunError) as error:
        return RunState(directory, "damaged", None, None, str(error))
    progress = read_progress(directory)
    match run.outcome:
        case "finished" | "failed":
            return RunState(directory, run.outcome, run, None)
        case "interrupted" | "stopped":
            return RunState(directory, "interrupted", run, None)
    if progress is None:
        return RunState(directory, "interrupted" if run.epochs else "waiting", run, None)
    return RunState(directory, "running" if _lives(progress) else "lost", run, progress)


def _lives(progress: RunProgress) -> bool:
    """Whether the process that wrote this still works, as far as can be told from here."""
    if progress.host == socket.gethostname():
        try:
            os.kill(progress.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it is another user's
    return time.time() - progress.time < SILENCE


def scan(directory: Path) -> list[RunState]:
    """The state of the run in a folder, or of all runs in its folders, in the order of names."""
    if (directory / "spec.json").exists():
        return [state_of(directory)]
    return [state_of(path.parent) for path in sorted(directory.glob("*/spec.json"))]


def scan_all(directory: Path) -> list[RunState]:
    """The states of all runs in a folder of a run, of a sweep, or of several sweeps."""
    states = scan(directory)
    if not (directory / "spec.json").exists():
        inner = sorted(path for path in directory.iterdir() if path.is_dir())
        states += [s for path in inner if not (path / "spec.json").exists() for s in scan(path)]
    return states
