"""How far a run is, as its process says it to whoever looks."""

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from parfocal.experiments.run.events import Step
from parfocal.experiments.run.record import replacing

if TYPE_CHECKING:
    from parfocal.experiments.run.trainer import Trainer

# Seconds between two looks at a run's other duties: progress written, a wish to stop heard.
HEARTBEAT = 1.0


class RunProgress(msgspec.Struct, frozen=True):
    """How far a run is; `time` is when it was written, in seconds since 1970."""

    host: str
    pid: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    engine: str
    time: float
    epochs: int
    epoch: int
    step: int
    steps_per_epoch: Annotated[int, msgspec.Meta(ge=1)]
    loss: float
    accuracy: float
    largest_logit: float
    images_per_second: float
    epochs_per_second: float


def progress_of(
    step: Step, trainer: "Trainer", engine: str, images_per_second: float
) -> RunProgress:
    """What a process would write after a step."""
    return RunProgress(
        host=socket.gethostname(),
        pid=os.getpid(),
        engine=engine,
        time=time.time(),
        epochs=trainer.spec.training.epochs,
        epoch=step.epoch,
        step=step.step,
        steps_per_epoch=step.steps_per_epoch,
        loss=step.loss,
        accuracy=step.accuracy,
        largest_logit=step.largest_logit,
        images_per_second=images_per_second,
        epochs_per_second=images_per_second / trainer.images,
    )


def write_progress(directory: Path, progress: RunProgress) -> None:
    """Write how far a run is."""
    with replacing(directory / "progress.json") as temporary:
        temporary.write_bytes(msgspec.json.encode(progress))


def read_progress(directory: Path) -> RunProgress | None:
    """How far the run in a folder is, if it says so."""
    try:
        return msgspec.json.decode((directory / "progress.json").read_bytes(), type=RunProgress)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
