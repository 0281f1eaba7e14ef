"""One run from its spec to its end, however often it is interrupted: the same on every engine."""

import hashlib
import io
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from parfocal.experiments.data import Sources, load
from parfocal.experiments.errors import (
    BusyRunError,
    ChangedDataError,
    DamagedRecordError,
    OtherRunError,
)
from parfocal.experiments.losses import Loss
from parfocal.experiments.run import checkpoint
from parfocal.experiments.run.devices import describe_device, find_device, reproducible
from parfocal.experiments.run.events import Epoch, Failure, Step
from parfocal.experiments.run.pace import Pace
from parfocal.experiments.run.progress import (
    HEARTBEAT,
    RunProgress,
    progress_of,
    read_progress,
    write_progress,
)
from parfocal.experiments.run.record import (
    DONE,
    Outcome,
    Recorder,
    append_line,
    checkpoints,
    read_lines,
    read_run,
    refuse_others,
    remove_record,
)
from parfocal.experiments.run.session import Session, environment, now
from parfocal.experiments.run.trainer import Trainer
from parfocal.experiments.spec import RunSpec
from parfocal.guard import FocalGuard


class RunOptions(NamedTuple):
    """Options of a run that change its numbers at most by the order of sums.

    device: auto, cpu, cuda, or another torch device.
    checkpoint_seconds: time between two checkpoints; what a kill may cost.
    keep_checkpoint: whether the last one stays when the run is done.
    guard: whether a `FocalGuard` watches the loss: it warns through Python's warnings, and writes
        captures of failures into the run's folder if safetensors is installed.
    """

    sources: Sources = Sources()
    device: str = "auto"
    threads: int = 1
    checkpoint_seconds: float = 60.0
    keep_checkpoint: bool = False
    guard: bool = False


@reproducible()
def run_training(
    spec: RunSpec,
    directory: Path,
    options: RunOptions,
    session: Session,
    *,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[RunProgress], None] = lambda _: None,
) -> Outcome:
    """Train to the end, or until `stop` says so, from where the run's folder left off.

    A run that is done is left as it is; `overwrite` first removes whatever record the folder holds.
    In a process group all ranks call this with the same arguments; only the first writes.

    Raises:
        BusyRunError: another process is working on it.
        OtherRunError: the folder holds a run of another spec, or a file of one.
        DamagedRecordError: its checkpoint doesn't fit the installed packages.
        ChangedDataError, MissingDataError, OSError, ValueError: with the record as good as before.
    """
    device = find_device(options.device)
    torch.set_num_threads(options.threads)
    if dist.is_initialized() and dist.get_rank() > 0:
        return _agreed(None) or _follow(spec, directory, options, device)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        owner = read_progress(directory)
        who = f"process {owner.pid} on {owner.host}" if owner else "another process"
        raise BusyRunError(f"{who} is working on {directory}") from error
    try:
        if overwrite:
            remove_record(directory)
        done = _agreed(outcome_of(spec, directory))
        outcome = done or _lead(spec, directory, options, device, session, stop, watch)
        if outcome in DONE and not options.keep_checkpoint:
            checkpoint.remove_all(directory)
        return outcome
    finally:
        lock.release()


def outcome_of(spec: RunSpec, directory: Path) -> Outcome | None:
    """How the run in a folder ended, if it is done; None if anything is left to do.

    Metrics that are damaged after the end can't be repaired: they are set aside, and the run must
    be repeated.

    Raises:
        OtherRunError: the folder holds a run of another spec, or its metrics.
    """
    if not (directory / "spec.json").exists():
        return None
    try:
        run = read_run(directory)
    except DamagedRecordError:
        # A checkpoint holds all epochs so far.
        names = () if checkpoints(directory) else ("metrics.jsonl", "spec.json")
        for name in names:
            set_aside(directory / name)
        return None
    if run.spec.digest != spec.digest:
        raise OtherRunError(
            f"{directory} holds the run {run.spec.digest[:12]}, and this one is "
            f"{spec.digest[:12]}; use another folder"
        )
    return run.outcome if run.outcome in DONE else None


def set_aside(path: Path) -> None:
    """Rename a file that is damaged to a name that nothing reads."""
    if path.exists():
        path.rename(path.with_name(f"{path.name}.{time.time_ns()}.damaged"))


def _lead(
    spec: RunSpec,
    directory: Path,
    options: RunOptions,
    device: torch.device,
    session: Session,
    stop: Callable[[], bool],
    watch: Callable[[RunProgress], None],
) -> Outcome:
    images = load(spec.data, options.sources)
    data = _unchanged(directory, images.checksum())
    trainer = Trainer(spec, images, device, _watch(directory, options))
    refuse_others(directory, spec.digest)
    (directory / "metrics.jsonl").touch()  # empty until a line is made, so that readers find it
    epochs = _resume(trainer, checkpoint.latest(directory, spec.digest))
    started = {
        "run": spec.digest,
        "began": now(),
        "engine": session.engine,
        "git": session.git,
        "device": describe_device(device),
        "ranks": dist.get_world_size() if dist.is_initialized() else 1,
        "seed": spec.training.seed,
        "data": data,
        "from_step": trainer.step,
        "damaged": sorted(path.name for path in directory.glob("*.damaged")),
        **environment(),
    }
    append_line(directory / "sessions.jsonl", "began", started)
    try:
        with Recorder(directory, spec, epochs) as recorder:
            recorder.step = trainer.step
            outcome = _train(trainer, recorder, options, session, stop, watch)
    finally:
        (directory / "progress.json").unlink(missing_ok=True)
    append_line(
        directory / "sessions.jsonl",
        "ended",
        {"ended": now(), "outcome": outcome, "steps": trainer.step - started["from_step"]},
    )
    return outcome


def _train(
    trainer: Trainer,
    recorder: Recorder,
    options: RunOptions,
    session: Session,
    stop: Callable[[], bool],
    watch: Callable[[RunProgress], None],
) -> Outcome:
    """Draw events; write progress every heartbeat and a checkpoint every interval."""
    directory, pace, saved = recorder.directory, Pace(HEARTBEAT), time.monotonic()
    outcome: Outcome = "finished"

    def save() -> None:
        recorder.sync()
        contents = {"trainer": trainer.state(), "epochs": [e._asdict() for e in recorder.epochs]}
        checkpoint.save(directory, trainer.spec.digest, trainer.step, contents)

    for event in trainer.events():
        match event:
            case Step():
                recorder.step = event.step
                if (images_per_second := pace.add(event.images)) is not None:
                    progress = progress_of(event, trainer, session.engine, images_per_second)
                    write_progress(directory, progress)
                    watch(progress)
                    if stop():
                        trainer.stop()
                if time.monotonic() - saved >= options.checkpoint_seconds:
                    save()
                    saved = time.monotonic()
            case Epoch():
                recorder.epoch(event)
            case Failure():
                recorder.failure(event)
                outcome = "failed"
    if outcome == "finished" and not trainer.finished:
        outcome = "interrupted"
        save()
    recorder.ended(outcome)
    recorder.parameters = digest_of(trainer.parameters)
    return outcome


def _follow(spec: RunSpec, directory: Path, options: RunOptions, device: torch.device) -> Outcome:
    """What all ranks but the first do: compute."""
    images = load(spec.data, options.sources)
    trainer = Trainer(spec, images, device, _watch(directory, options))
    _resume(trainer, None)
    last = None
    for event in trainer.events():
        last = event
    if isinstance(last, Failure):
        return "failed"
    return "finished" if trainer.finished else "interrupted"


def _watch(directory: Path, options: RunOptions) -> Callable[[Loss], FocalGuard] | None:
    """What makes the guard of a loss, if there is to be one."""
    if not options.guard:
        return None
    capture = directory / "captures" if find_spec("safetensors") else None
    return partial(FocalGuard, action="record", capture=capture)


def _resume(trainer: Trainer, contents: dict[str, Any] | None) -> list[Epoch]:
    """Bring a trainer to a checkpoint, on all ranks that of the first; the epochs before it."""
    if dist.is_initialized():
        buffer = io.BytesIO()
        torch.save(contents, buffer)
        sent = io.BytesIO(_agreed(buffer.getvalue()))
        contents = torch.load(sent, map_location="cpu", weights_only=True)
    if contents is None:
        return []
    try:
        trainer.load_state(contents["trainer"])
        return [Epoch(**epoch) for epoch in contents["epochs"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedRecordError(
            f"the checkpoint doesn't fit the network that the installed packages make ({reason}); "
            "install the versions in `sessions.jsonl`, or begin again in another folder"
        ) from error


def _agreed(value: Any) -> Any:
    """The value that the first rank has, on all ranks of a group."""
    if not dist.is_initialized():
        return value
    sent = [value]
    dist.broadcast_object_list(sent, src=0)
    return sent[0]


def _unchanged(directory: Path, checksum: str) -> str:
    """The checksum of a run's data, which is that of each session before."""
    try:
        sessions = read_lines(directory / "sessions.jsonl")
    except DamagedRecordError:
        set_aside(directory / "sessions.jsonl")
        sessions = []
    before = {line["data"] for line in sessions if "data" in line} - {checksum}
    if before:
        raise ChangedDataError(
            f"the data have the checksum {checksum}; {directory} was started with {before.pop()}"
        )
    return checksum


def digest_of(parameters: torch.Tensor) -> str:
    """SHA-256 of the parameters' bytes, in hexadecimal."""
    return hashlib.sha256(parameters.cpu().numpy().tobytes()).hexdigest()
