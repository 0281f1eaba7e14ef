"""`parfocal train`."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TextIO

import click
from rich.console import Console

from parfocal.cli.options import (
    DEFAULT_OUT,
    fails_in_one_line,
    grid_of,
    options_of,
    out_option,
    plain_console,
    run_options,
    spec_options,
)


@click.command()
@spec_options
@run_options
@click.option(
    "--guard", is_flag=True, help="Watch the loss: warn before a failure, and explain it."
)
@click.option("--overwrite", is_flag=True, help="Start over, whatever the folder holds.")
@out_option("Folder for the record.  [default: runs/SPEC/DIGEST]")
@fails_in_one_line
def train(
    spec: str,
    settings: tuple[str, ...],
    image_folder: Path | None,
    positive: tuple[str, ...],
    overwrite: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Make one run, to the last epoch or the first number that isn't finite.

    SPEC is a name that `parfocal specs` lists, or a path to a TOML file. An interrupted run
    resumes from its checkpoint. Under torchrun all processes share the work of one run. Exit
    status: 1 if the training failed, 130 if it was interrupted.
    """
    grid = grid_of(spec, settings, image_folder, positive)
    runs = grid.runs()
    if len(runs) > 1:
        varied = ", ".join(name.rpartition(".")[2] for name, v in grid.axes.items() if len(v) > 1)
        raise click.UsageError(
            f"{spec} has {len(runs)} runs; fix {varied} with --set, or use `parfocal sweep`"
        )
    (run,) = runs
    directory = out or DEFAULT_OUT / grid.name / run.digest
    with _process_group(str(options["device"])) as rank:
        settings_of_run = options_of(image_folder, **options)
        outcome = _conduct(run, directory, settings_of_run, overwrite, rank)
    if outcome == "interrupted":
        sys.exit(130)
    if outcome == "failed":
        sys.exit(1)


def _conduct(run: Any, directory: Path, settings: Any, overwrite: bool, rank: int) -> str:
    from parfocal.experiments.run.record import read_run
    from parfocal.experiments.run.session import session
    from parfocal.experiments.run.training import run_training
    from parfocal.experiments.show.display import TrainingDisplay, outcome_table
    from parfocal.experiments.show.figures import save, training_figure

    console = plain_console(quiet=rank > 0)
    engine = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "alone"
    with (
        _stop_on_signal() as stop,
        TrainingDisplay(console, [run]) as display,
        _warnings_of_the_guard(console),
    ):
        outcome = run_training(
            run,
            directory,
            settings,
            session(engine),
            overwrite=overwrite,
            stop=stop.is_set,
            watch=lambda progress: display.step(0, progress, progress.images_per_second),
        )
    if rank == 0:
        record = read_run(directory)
        if record.epochs:
            save(training_figure([record]), directory / "curve")
        console.print(outcome_table([record]))
        console.print(f"record: {directory}", soft_wrap=True)
        if outcome == "interrupted":
            console.print("interrupted; the same command resumes from here")
    return outcome


@contextmanager
def _warnings_of_the_guard(console: Console) -> Iterator[None]:
    """Shown above the progress, as they come."""
    from parfocal.guard import FocalGuardWarning

    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, FocalGuardWarning):
                console.print(
                    str(message), style="yellow", markup=False, highlight=False, soft_wrap=True
                )
            else:
                show_others(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", FocalGuardWarning)
        warnings.showwarning = show
        yield


@contextmanager
def _stop_on_signal() -> Iterator[Event]:
    """Ctrl-C and SIGTERM ask for the end between two steps; a second Ctrl-C ends at once."""
    stop = Event()

    def handle(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _process_group(device: str) -> Iterator[int]:
    """This process's rank among those that torchrun started, or 0."""
    import torch.distributed as dist

    from parfocal.experiments.run.devices import find_device

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    dist.init_process_group("nccl" if find_device(device).type == "cuda" else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
