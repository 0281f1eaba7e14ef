"""`parfocal sweep`."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli.options import (
    DEFAULT_OUT,
    Number,
    end_as_ctrl_c,
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

# More CPUs or GPUs than a machine has; the CPUs of all jobs together must be a number, too.
_MOST = 2**20


def _resources(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, float]:
    """How much of which resources, before anything is asked about the cluster."""
    found = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = math.nan
        if not name.strip() or not 0 <= found[name] < math.inf:
            raise click.BadParameter(
                f"expected NAME=AMOUNT with a finite amount of at least 0, got {text!r}"
            )
    return found


@click.command()
@spec_options
@run_options
@click.option(
    "--jobs",
    type=click.IntRange(1, 4096),
    default=lambda: os.cpu_count() or 1,
    show_default="number of cores",
    help="Number of concurrent runs, here, on a local Ray or in Slurm's queue.",
)
@click.option("--ray", metavar="ADDRESS|local", help="Make the runs as tasks of a Ray cluster.")
@click.option(
    "--ray-cpus",
    type=Number(0, _MOST),
    default=1.0,
    help="CPUs that a run takes from the cluster.",
)
@click.option(
    "--ray-gpus",
    type=Number(0, _MOST),
    default=0.0,
    help="GPUs that a run takes from the cluster.",
)
@click.option(
    "--ray-resource",
    callback=_resources,
    multiple=True,
    metavar="NAME=AMOUNT",
    help="A custom resource of the cluster.",
)
@click.option(
    "--slurm",
    metavar="NAME=VALUE,...|local",
    help="Make the runs as Slurm jobs with these submitit parameters, for example "
    "partition=gpu,gpus_per_node=1,timeout_min=240; local tries it out on this machine.",
)
@click.option(
    "--budget",
    type=Number(min=0, min_open=True),
    metavar="SECONDS",
    help="Ask the runs to end after this time; the same command resumes them.",
)
@click.option(
    "--archive",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.zip",
    help="Begin with the runs in this file, and save all runs to it at the end: one small file to "
    "copy from a borrowed machine.",
)
@click.option(
    "--archive-megabytes",
    type=Number(min=0),
    default=15.0,
    show_default=True,
    help="Add checkpoints to the archive up to this size.",
)
@out_option("Folder for the records.  [default: runs/SPEC]")
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
    ray_resource: dict[str, float],
    slurm: str | None,
    budget: float | None,
    archive: Path | None,
    archive_megabytes: float,
    out: Path | None,
    **options: Any,
) -> None:
    """Make all runs of a spec that aren't done.

    SPEC is a name that `parfocal specs` lists, or a path to a TOML file. If a sweep is killed, the
    same command resumes it, even on another engine. Exit status 1 if a run ended with an error. A
    NaN is no error: that is what the sweep studies.

    Runs that have begun come first, then those that make a coarse table of all settings, then
    finer ones. So the table is as complete as it can be whenever the sweep ends.
    """
    deadline = math.inf if budget is None else time.monotonic() + budget
    if ray is not None and slurm is not None:
        raise click.UsageError("a sweep is on Ray or on Slurm: give one of --ray and --slurm")
    if ray == "local" and ray_resource:
        # Runs would wait for it for ever.
        raise click.UsageError(
            "a Ray that is started here has no custom resources: expected --ray-resource with the "
            "address of a cluster, got --ray local"
        )
    if ray is not None:
        _say_where(ray)

    from parfocal.experiments.data import load
    from parfocal.experiments.run.archive import check
    from parfocal.experiments.run.devices import find_device
    from parfocal.experiments.run.engines import Processes, Ray
    from parfocal.experiments.run.session import session
    from parfocal.experiments.run.slurm import Slurm, read_parameters
    from parfocal.experiments.run.sweep import folder_of, refuse_stranger

    grid = grid_of(spec, settings, image_folder, positive)
    choices = options_of(image_folder, **options)
    directory = out or DEFAULT_OUT / grid.name
    runs = grid.coarse_to_fine()
    for run in runs:
        refuse_stranger(folder_of(run, directory))
    if archive is not None:
        check(archive, directory)
    engine: Engine
    if slurm is not None:
        engine = Slurm(
            (directory / "slurm").resolve(),
            jobs=jobs,
            parameters={} if slurm == "local" else read_parameters(slurm),
            local=slurm == "local",
        )
    elif ray is None:
        # What is missing is said once, and at once.
        find_device(choices.device)
        for data in {repr(run.data): run.data for run in grid.runs()}.values():
            load(data, choices.sources)
        engine = Processes(jobs, options["threads"])
    else:
        with nullcontext() if ray == "local" else _given_up_after(_CONNECT_SECONDS, ray):
            engine = Ray(ray, jobs=jobs, cpus=ray_cpus, gpus=ray_gpus, resources=ray_resource)
    signal.signal(signal.SIGTERM, end_as_ctrl_c)
    kept = nullcontext() if archive is None else _kept(directory, archive, archive_megabytes)
    with kept, engine:
        errors = _sweep(runs, directory, engine, choices, session(engine.name), deadline)
    sys.exit(1 if errors else 0)


@contextmanager
def _kept(directory: Path, archive: Path, megabytes: float) -> Iterator[None]:
    """Begin with the runs of an archive, and put those of the folder into it however it ends."""
    from parfocal.experiments.run.archive import MEGABYTE, pack, unpack

    if archive.exists():
        click.echo(f"{unpack(archive, directory)} runs unpacked from {archive}")
    try:
        yield
    finally:
        if directory.exists():
            packed = pack(directory, archive, megabytes * MEGABYTE)
            size = archive.stat().st_size / MEGABYTE
            click.echo(f"{packed.runs} runs packed into {archive}, {size:.1f} MB")
            if packed.without_checkpoint:
                click.echo(f"{packed.without_checkpoint} checkpoints didn't fit")


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


def _sweep(
    runs: Any, directory: Path, engine: "Engine", choices: Any, session: Any, deadline: float
) -> int:
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

            sweep(
                runs,
                directory,
                engine,
                choices,
                session,
                deadline=deadline,
                ended=note,
                tick=display.tick,
            )
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command resumes from here: {directory}")
        raise
    for path in sorted(directory.glob("*/*.damaged")):
        console.print(f"damaged, and set aside: {path}", soft_wrap=True)
    for ended in errors:
        name = ended.directory.name[:12]
        console.print(Text.assemble((name, "bold red"), f": {ended.error}"), soft_wrap=True)
    if time.monotonic() >= deadline:
        console.print("the budget is used up; the same command resumes from here")
    console.print(f"records: {directory}", soft_wrap=True)
    return len(errors)
