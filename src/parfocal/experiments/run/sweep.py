"""Many runs, each in its own folder, on any engine; what is done isn't repeated."""

import json
import math
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from parfocal.experiments.errors import (
    BusySweepError,
    DamagedRecordError,
    DeadWorkerError,
    OtherRunError,
)
from parfocal.experiments.run.engines import Engine
from parfocal.experiments.run.record import Outcome, checkpoints, read_spec, write_json
from parfocal.experiments.run.session import Session, now
from parfocal.experiments.run.states import state_of
from parfocal.experiments.run.training import RunOptions, run_training
from parfocal.experiments.spec import RunSpec

# A file with which all runs of a folder are asked to end, wherever they are.
STOP = "stop"

# How often a run is begun whose process died.
ATTEMPTS = 2

_TICK = 1.0


class Ended(NamedTuple):
    """A run that ended: how, or with which error."""

    directory: Path
    outcome: Outcome | None
    error: str | None


def folder_of(spec: RunSpec, directory: Path) -> Path:
    """Where a run of a sweep is."""
    return directory / spec.digest


def refuse_stranger(folder: Path) -> None:
    """Refuse a folder of a sweep that holds another run than its name says.

    Raises:
        OtherRunError: it does; what can't be read is passed over.
    """
    with suppress(DamagedRecordError):
        found = read_spec(folder).digest
        if found != folder.name:
            raise OtherRunError(
                f"Expected the run {folder.name[:12]} in {folder}, got a spec.json of the run "
                f"{found[:12]}; move the folder, or name another one with --out"
            )


def sweep(
    specs: Sequence[RunSpec],
    directory: Path,
    engine: Engine,
    options: RunOptions,
    session: Session,
    *,
    deadline: float = math.inf,
    ended: Callable[[Ended], None] = lambda _: None,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Conduct all runs that aren't done, starting with those already begun.

    A run whose process died is restarted once, from its checkpoint. `ended` is called for each run
    that ends, `tick` every second. On KeyboardInterrupt, or once `time.monotonic` reaches the
    deadline, the runs are asked to end, and waited for.

    Raises:
        BusySweepError: another sweep is working on the folder.
        OtherRunError: a run's folder holds another run.
    """
    directory = directory.resolve()
    with _alone(directory, session):
        stop = directory / STOP
        stop.unlink(missing_ok=True)
        waiting: dict[Future[Outcome], tuple[RunSpec, int]] = {}

        def submit(spec: RunSpec, attempt: int) -> None:
            arguments = (spec, folder_of(spec, directory), options, session, stop)
            waiting[engine.submit(work, *arguments)] = spec, attempt

        for spec in prepare(specs, directory):
            submit(spec, 1)
        late = False
        try:
            while waiting:
                if not late and time.monotonic() >= deadline:
                    late = True
                    stop.touch()
                    engine.withdraw()
                    for future in [f for f in waiting if f.cancel()]:
                        del waiting[future]
                done, _ = wait(waiting, timeout=_TICK, return_when=FIRST_COMPLETED)
                for future in done:
                    spec, attempt = waiting.pop(future)
                    error = future.exception()
                    if isinstance(error, CancelledError):
                        continue
                    if isinstance(error, DeadWorkerError) and attempt < ATTEMPTS and not late:
                        submit(spec, attempt + 1)
                    else:
                        ended(_ended(folder_of(spec, directory), future))
                tick()
        except BaseException:
            with _only_once():
                stop.touch()
                engine.withdraw()
                wait([future for future in waiting if not future.cancel()])
            raise


def prepare(specs: Sequence[RunSpec], directory: Path) -> list[RunSpec]:
    """Make the folders of all runs, so that others see them; those that aren't done.

    A run that has a checkpoint comes before one that hasn't.

    Raises:
        OtherRunError: the folder of one holds another; none is made then.
    """
    for spec in specs:
        refuse_stranger(folder_of(spec, directory))
    todo = []
    for spec in specs:
        folder = folder_of(spec, directory)
        if not (folder / "spec.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "spec.json", spec.as_record())
        if not state_of(folder).done:
            todo.append(spec)
    return sorted(todo, key=lambda spec: not checkpoints(folder_of(spec, directory)))


def work(
    spec: RunSpec, directory: Path, options: RunOptions, session: Session, stop: Path
) -> Outcome:
    """One run, in a process of an engine's; it ends when asked to, or when its parent is gone."""
    if not (directory / "spec.json").exists():
        raise OSError(
            f"{socket.gethostname()} doesn't see {directory}: the folder of a sweep must be on a "
            "disk that all machines share, under the same path"
        )
    parent = multiprocessing.parent_process()

    def wanted() -> bool:
        return stop.exists() or (parent is not None and not parent.is_alive())

    if wanted():
        return "interrupted"
    return run_training(spec, directory, options, session, stop=wanted)


def _ended(directory: Path, future: Future[Outcome]) -> Ended:
    error = future.exception()
    if error is None:
        return Ended(directory, future.result(), None)
    return Ended(directory, None, f"{type(error).__name__}: {error}")


@contextmanager
def _alone(directory: Path, session: Session) -> Iterator[None]:
    """Only one sweep at a time works on a folder; a second one is told who the first is."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = _owner(directory)
        raise BusySweepError(
            f"another sweep is working on {directory}: process {owner.get('pid')} on "
            f"{owner.get('host')}, since {owner.get('began')}; wait for it, or name another folder "
            "with --out"
        ) from error
    try:
        values = {"host": socket.gethostname(), "pid": os.getpid(), "engine": session.engine}
        write_json(directory / "sweep.json", {"began": now(), **values})
        yield
    finally:
        lock.release()


def _owner(directory: Path) -> dict[str, Any]:
    try:
        owner = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


@contextmanager
def _only_once() -> Iterator[None]:
    """An impatient second Ctrl-C leaves at once; the runs see that their parent is gone."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
