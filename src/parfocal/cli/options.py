"""Options that several commands share, and what they mean."""

import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parfocal.experiments.errors import ExperimentError

if TYPE_CHECKING:
    from rich.console import Console

    from parfocal.experiments.run.grid import Grid
    from parfocal.experiments.run.training import RunOptions

DEFAULT_OUT = Path("runs")

_PATH = click.Path(file_okay=False, path_type=Path)


class Number(click.FloatRange):
    """A number of a range; NaN, which no bound keeps out, is none, nor is infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number that a text is."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            kind = "number" if math.isnan(number) else "finite number"
            self.fail(f"expected a {kind}, got {number}", param, ctx)
        return number


def plain_console(quiet: bool = False) -> "Console":
    """A terminal on which text is text: a folder may have brackets in its name."""
    from rich.console import Console

    return Console(quiet=quiet, markup=False, emoji=False)


def out_option(help_text: str, default: Path | None = None) -> Callable[..., Any]:
    """The folder that a command writes to."""
    return click.option("--out", type=_PATH, default=default, help=help_text)


def fails_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an error that a user can mend into one line and exit status 2."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (ExperimentError, ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapped


def end_as_ctrl_c(*_: Any) -> None:
    """A handler of SIGTERM, which is to end a command as Ctrl-C does."""
    raise KeyboardInterrupt


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which runs: a spec, what is set anew, and the images that take CIFAR-10's place."""
    for option in reversed(
        (
            click.argument("spec"),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="NAME=VALUE,...",
                help="Give a setting one or several values; may be repeated.",
            ),
            click.option(
                "--image-folder",
                type=_PATH,
                help="Images to use instead of CIFAR-10: one folder per class.",
            ),
            click.option(
                "--positive",
                multiple=True,
                metavar="CLASS,...",
                help="The classes of images that are positive.",
            ),
        )
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """How a run is conducted; nothing here changes its numbers but by the order of sums."""
    for option in reversed(
        (
            click.option(
                "--data-dir",
                type=_PATH,
                default=Path("data"),
                help="Folder of torchvision's data sets: the one that holds MNIST/raw.",
            ),
            click.option("--download", is_flag=True, help="Let torchvision download them there."),
            click.option(
                "--device",
                default="auto",
                show_default=True,
                help="cpu, cuda, or auto: cuda if there is one.",
            ),
            click.option(
                "--threads", type=click.IntRange(1, 1024), default=1, help="Threads per run."
            ),
            click.option(
                "--checkpoint-seconds",
                type=Number(min=0),
                default=60.0,
                help="Seconds between checkpoints: the most work that a kill can lose.",
            ),
            click.option(
                "--keep-checkpoint", is_flag=True, help="Keep the checkpoint of a finished run."
            ),
        )
    ):
        command = option(command)
    return command


def grid_of(
    spec: str,
    settings: tuple[str, ...],
    image_folder: Path | None,
    positive: tuple[str, ...],
) -> "Grid":
    """The grid of a spec with what the options say; each of its losses exists."""
    from parfocal.experiments.losses import compared_loss

    grid = _grid_of(spec, settings, image_folder, positive)
    for objective in {repr(run.objective): run.objective for run in grid.runs()}.values():
        compared_loss(
            objective.loss,
            alpha=objective.alpha,
            gamma=objective.gamma,
            reduction="mean",
            options=objective.options,
        )
    return grid


def _grid_of(
    spec: str,
    settings: tuple[str, ...],
    image_folder: Path | None,
    positive: tuple[str, ...],
) -> "Grid":
    from parfocal.experiments.data import Sources, load
    from parfocal.experiments.run.grid import read_grid, read_setting
    from parfocal.experiments.spec import Photographs

    axes: dict[str, list[Any]] = {}
    for text in settings:
        name, values = read_setting(text)
        axes.setdefault(name, []).extend(values)
    grid = read_grid(spec)
    if positive:
        axes["positive"] = [[name for text in positive for name in text.split(",")]]
    if image_folder is not None:
        if not isinstance(grid.base.data, Photographs):
            raise ValueError(f"Expected a spec of photographs for --image-folder, got {spec}")
        grid = grid.with_axes({"source": ["folder"], **axes})
        # Of what is read from it: as many images, of as many pixels, as a run takes.
        photographs = [run.data for run in grid.runs() if isinstance(run.data, Photographs)]
        kinds = {(data.images, data.pixels): data for data in photographs}
        if len(kinds) > 1:
            raise ValueError("Expected one number of images and of pixels for all runs of a folder")
        (data,) = kinds.values()
        checksum = load(data, Sources(image_folder=image_folder)).checksum()
        return grid.with_axes({"checksum": [checksum]})
    return grid.with_axes(axes)


def options_of(
    image_folder: Path | None,
    data_dir: Path,
    download: bool,
    device: str,
    threads: int,
    checkpoint_seconds: float,
    keep_checkpoint: bool,
    guard: bool = False,
) -> "RunOptions":
    """The options of a run as a value; folders absolute, for processes elsewhere."""
    from parfocal.experiments.data import Sources
    from parfocal.experiments.run.training import RunOptions

    folder = image_folder.resolve() if image_folder is not None else None
    sources = Sources(data_dir.resolve(), folder, download)
    return RunOptions(sources, device, threads, checkpoint_seconds, keep_checkpoint, guard)
