"""`parfocal sweep`."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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

if TYPE_CHECKING:
    from parfocal.experiments.run.engines import Engine

# Seconds until a look at an address, and Ray's own connecting to it, are given up. Ray needs a few
# on a quiet machine.
_LOOK_SECONDS = 12.0
_CONNECT_SECONDS = 60.0


@click.command()
@spec_options
@run_options
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="number of cores",
    help="Runs at once, here or on a local Ray.",
)
@click.option("--ray", metavar="ADDRESS|local", help="Conduct the runs as tasks of a Ray cluster.")
@click.option("--ray-cpus", type=float, default=1.0, help="CPUs that a run takes of it.")
@click.option("--ray-gpus", type=float, default=0.0, help="GPUs that a run takes of it.")
@click.option(
    "--ray-resource", multiple=True, metavar="NAME=AMOUNT", help="A resource of the cluster's own."
)
@out_option("Folder of the records.  [default: runs/SPEC]")
@fails_in_one_line
def sweep(
    spec: str,
    settings: tuple[str, ...],
    image_folder: Path | None,
    positive: tuple[str, ...],
    jobs: int,
    ray: str | None,
    ray_cpus: float,
    ray_gpus: float,
    ray_resource: tuple[str, ...],
    out: Path | None,
    **options: Any,
) -> None:
    """Conduct all runs of a spec that aren't done.

    SPEC is a name that `parfocal specs` lists, or a path to a TOML file. The same command goes on
    where a sweep was killed, also on another engine. Exit status 1 if a run ended with an error;
    one whose numbers became NaN has not: that is what is studied.
    """
    if ray is not None:
        _say_where(ray)

    from parfocal.experiments.data import load
    from parfocal.experiments.run.engines import Processes, Ray
    from parfocal.experiments.run.session import session

    grid = grid_of(spec, settings, image_folder, positive)
    resources = dict(_resource(text) for text in ray_resource)
    choices = options_of(image_folder, **options)
    engine: Engine
    if ray is None:
        for data in {repr(run.data): run.data for run in grid.runs()}.values():
            load(data, choices.sources)  # what is missing is said once, and at once
        engine = Processes(jobs, options["threads"])
    else:
        with nullcontext() if ray == "local" else _given_up_after(_CONNECT_SECONDS, ray):
            engine = Ray(ray, jobs=jobs, cpus=ray_cpus, gpus=ray_gpus, resources=resources)
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    with engine:
        errors = _sweep(
            grid.runs(),
            out or DEFAULT_OUT / grid.name,
            engine,
            choices,
            session(engine.name),
        )
    sys.exit(1 if errors else 0)


def _say_where(address: str) -> None:
    """Say what is waited for, and look if it is there, before anything large is imported."""
    from parfocal.experiments.run.engines import check_answers

    if address == "local":
        click.echo("starting Ray on this machine ...")
        return
    click.echo(f"connecting to {address} ...")
    with _given_up_after(_LOOK_SECONDS, address):
        check_answers(address)


@contextmanager
def _given_up_after(seconds: float, address: str) -> Iterator[None]:
    """End this process if what is inside takes longer: a resolver or Ray may be out of reach."""

    def give_up() -> None:
        click.echo(f"Error: no Ray cluster answered at {address} in {seconds:g} s", err=True)
        os._exit(2)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError as error:
        raise ValueError(f"expected --ray-resource NAME=AMOUNT, got {text!r}") from error


def _sweep(runs: Any, directory: Path, engine: "Engine", settings: Any, session: Any) -> int:
    from rich.text import Text

    from parfocal.experiments.run.sweep import Ended, folder_of, sweep
    from parfocal.experiments.show.grid_display import SweepDisplay

    console = plain_console()
    errors: list[Ended] = []
    folders = [folder_of(run, directory.resolve()) for run in runs]
    try:
        with SweepDisplay(console, folders) as display:

            def note(ended: Ended) -> None:
                display.ended(ended)
                if ended.error is not None:
                    errors.append(ended)

            sweep(runs, directory, engine, settings, session, ended=note, tick=display.tick)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from here: {directory}")
        raise
    for path in sorted(directory.glob("*/*.damaged")):
        console.print(f"damaged, and set aside: {path}", soft_wrap=True)
    for ended in errors:
        name = ended.directory.name[:12]
        console.print(Text.assemble((name, "bold red"), f": {ended.error}"), soft_wrap=True)
    console.print(f"records: {directory}", soft_wrap=True)
    return len(errors)


def _as_ctrl_c(*_: Any) -> None:
    raise KeyboardInterrupt
