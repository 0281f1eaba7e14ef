"""The three losses side by side on real digits, until the original fails and beyond."""

import io
import queue
import signal
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from parfocal.experiments.data import Sources, load
from parfocal.experiments.run.engines import process_context
from parfocal.experiments.run.events import Epoch, Failure, Step
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.pace import Pace
from parfocal.experiments.run.record import Recorder, Run, read_run
from parfocal.experiments.run.trainer import Trainer
from parfocal.experiments.show.display import TrainingDisplay
from parfocal.experiments.spec import LOSS_NAMES, RunSpec

# The original dies at step 4,565 with seed 0; a run that outlives this many epochs is let go.
SPEC = read_grid("mnist-quick").base.with_settings({"epochs": 200})

# What the limit on the steps says when it is no number of steps.
_UNLIMITED = -1
_INTERRUPTED = 0


class SideBySideError(Exception):
    """A run that ended without saying why."""


def side_by_side(spec: RunSpec, directory: Path, console: Console) -> tuple[Run, ...]:
    """Train with each loss, one process each, and read the records back.

    When the original fails at step s, the others continue to step 1.5 s.
    """
    context = process_context()
    specs = [spec.with_settings({"loss": name}) for name in LOSS_NAMES]
    folders = [directory / name for name in LOSS_NAMES]
    messages = context.Queue()
    limit = context.Value("q", _UNLIMITED)
    workers = [
        context.Process(target=_work, args=(i, s, folder, messages, limit), daemon=True)
        for i, (s, folder) in enumerate(zip(specs, folders, strict=True))
    ]
    for worker in workers:
        worker.start()
    try:
        with TrainingDisplay(console, specs, open_ended=True) as display:
            _follow(workers, messages, limit, display)
    except KeyboardInterrupt:
        # An impatient second Ctrl-C mustn't cut a record's last line.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        limit.value = _INTERRUPTED
        for worker in workers:
            worker.join(timeout=60)
        signal.signal(signal.SIGINT, handler)
        raise
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    return tuple(read_run(folder) for folder in folders)


def culprit(run: Run) -> bytes | None:
    """The image behind a run's failure, as PNG; None if it didn't fail."""
    if run.failure is None:
        return None
    from torchvision.transforms.functional import to_pil_image

    pixels = load(run.spec.data, Sources()).pixels[run.failure.sample]
    file = io.BytesIO()
    to_pil_image(pixels).save(file, "PNG")
    return file.getvalue()


def _follow(
    workers: Sequence[BaseProcess], messages: Any, limit: Any, display: TrainingDisplay
) -> None:
    """Show what the workers report until the last has ended."""
    running = set(range(len(workers)))
    while running:
        for i in running:
            if workers[i].exitcode:
                raise SideBySideError(
                    f"the {LOSS_NAMES[i]} run ended with exit code {workers[i].exitcode}; "
                    "what it printed is above"
                )
        try:
            index, message, pace = messages.get(timeout=0.5)
        except queue.Empty:
            continue
        match message:
            case Step():
                display.step(index, message, pace)
            case Failure():
                display.failure(index, message)
                if LOSS_NAMES[index] == "original":
                    limit.value = message.step * 3 // 2
                    for other in running - {index}:
                        display.limit(other, limit.value)
            case None:
                running.discard(index)


def _work(index: int, spec: RunSpec, directory: Path, messages: Any, limit: Any) -> None:
    """One run, in a process and on a thread of its own; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    pace = Pace()
    trainer = Trainer(spec, load(spec.data, Sources()), look=1)
    with Recorder(directory, spec) as recorder:
        for event in trainer.events():
            match event:
                case Step():
                    recorder.step = event.step
                    if (images_per_second := pace.add(event.images)) is not None:
                        messages.put((index, event, images_per_second))
                    if limit.value != _UNLIMITED and event.step >= limit.value:
                        recorder.ended("interrupted" if limit.value == _INTERRUPTED else "stopped")
                        break
                case Epoch():
                    recorder.epoch(event)
                case Failure():
                    recorder.failure(event)
                    messages.put((index, event, None))
    messages.put((index, None, None))
