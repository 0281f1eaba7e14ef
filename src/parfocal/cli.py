"""The command line: reads options, calls the experiments, prints what came out."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parfocal import __version__

DTYPES = ("float64", "float32", "float16", "bfloat16")
_DEFAULT_OUT = Path("runs")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="parfocal")
def cli() -> None:
    """Focal losses that are exact for every gamma, and the experiments that show it."""


def _fails_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an error that a user can mend into one line and exit status 2."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapped


@cli.command()
@click.option("--gamma", type=click.FloatRange(min=0), default=0.5, help="Focusing exponent.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, help="Share of the positives.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float64", help="Of the logits.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT_OUT / "gradients",
    help="Folder for the figure.",
)
@_fails_in_one_line
def gradients(gamma: float, alpha: float, dtype: str, out: Path) -> None:
    """Compare the gradient of each loss with the true one.

    The paper's first experiment; the defaults are the paper's settings.
    """
    import torch

    from parfocal.experiments.display import gradient_table
    from parfocal.experiments.figures import gradient_figure, save
    from parfocal.experiments.gradient_study import gradient_study

    study = gradient_study(gamma, alpha, getattr(torch, dtype))
    console = Console()
    console.print(gradient_table(study))
    out.mkdir(parents=True, exist_ok=True)
    for path in save(gradient_figure(study), out / "gradients"):
        console.print(f"figure: {path}", soft_wrap=True)


@cli.group()
def train() -> None:
    """Train one network of the paper."""


@train.command()
@click.option("--loss", type=click.Choice(("original", "smoothed", "exact")), default="original")
@click.option("--gamma", type=float, default=0.1, help="Focusing exponent.")
@click.option("--alpha", type=float, default=0.5, help="Share of the positives.")
@click.option("--threshold", type=int, default=0, help="Digits up to it are positive.")
@click.option("--noise", type=float, default=0.0, help="Amplitude; the paper has 0, 0.5, 0.75.")
@click.option("--epochs", type=int, default=100)
@click.option("--batch-size", type=int, default=64)
@click.option("--lr", type=float, default=1e-3, help="Learning rate.")
@click.option("--seed", type=int, default=0, help="Of everything random.")
@click.option("--dtype-of-logits", type=click.Choice(DTYPES), default="float32")
@click.option("--data", type=click.Choice(("mnist5k", "mnist")), default="mnist5k")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    help="Where mnist is: the folder that holds MNIST/raw.",
)
@click.option("--download", is_flag=True, help="Let torchvision download mnist to there.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Of this process.")
@click.option("--overwrite", is_flag=True, help="Replace a record that is there.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the record.  [default: runs/mnist-DIGEST]",
)
@_fails_in_one_line
def mnist(
    lr: float,
    dtype_of_logits: Any,
    data_dir: Path,
    download: bool,
    threads: int,
    overwrite: bool,
    out: Path | None,
    **options: Any,
) -> None:
    """Classify digits until the last epoch or the first number that isn't finite.

    Leaves spec.json, metrics.jsonl and a figure; exit status 1 if the training failed.
    """
    import torch

    from parfocal.experiments.data import MissingDataError, load
    from parfocal.experiments.record import Recorder, RecordExistsError
    from parfocal.experiments.spec import MnistSpec

    spec = MnistSpec(**options, learning_rate=lr, logits_dtype=dtype_of_logits)
    out = out or _DEFAULT_OUT / f"mnist-{spec.digest[:12]}"
    torch.set_num_threads(threads)
    console = Console()
    try:
        images = load(spec.data, data_dir, download=download)
        recorder = Recorder(out, spec, overwrite=overwrite)
    except (MissingDataError, RecordExistsError) as error:
        raise click.UsageError(str(error)) from error
    _run_and_report(console, recorder, spec, images)


def _run_and_report(console: Console, recorder: Any, spec: Any, images: Any) -> None:
    from parfocal.experiments.display import outcome_table
    from parfocal.experiments.figures import save, training_figure
    from parfocal.experiments.record import read_run

    try:
        _run(console, recorder, spec, images)
    finally:
        run = read_run(recorder.directory)
        if run.epochs:
            save(training_figure([run]), recorder.directory / "curve")
        console.print(outcome_table([run]))
        console.print(f"record: {recorder.directory}", soft_wrap=True)
    if run.failure is not None:
        sys.exit(1)


def _run(console: Console, recorder: Any, spec: Any, images: Any) -> None:
    from parfocal.experiments.display import Pace, TrainingDisplay
    from parfocal.experiments.trainer import Epoch, Failure, Step, train

    pace = Pace()
    with recorder, TrainingDisplay(console, [spec]) as display:
        for event in train(spec, images):
            match event:
                case Step():
                    recorder.step = event.step
                    if (images_per_second := pace.add(event.images)) is not None:
                        display.step(0, event, images_per_second)
                case Epoch():
                    recorder.epoch(event)
                case Failure():
                    recorder.failure(event)
                    display.failure(0, event)


@cli.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DEFAULT_OUT / "demo",
    help="Folder of records, figures and the page.",
)
@_fails_in_one_line
def demo(out: Path) -> None:
    """Watch the original loss die on real digits.

    The gradient study, then the three losses side by side, the other two half as long again as
    the original lives; under three minutes on two cores, offline.
    """
    import torch

    from parfocal.experiments.demo import SPEC, SideBySideError, side_by_side
    from parfocal.experiments.display import gradient_table, outcome_table
    from parfocal.experiments.figures import gradient_figure, save, training_figure
    from parfocal.experiments.gradient_study import gradient_study
    from parfocal.experiments.page import write_page

    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    # As the trainings are, so that the cliff in the figure is the one they meet.
    dtype = getattr(torch, SPEC.logits_dtype)
    study = gradient_study(SPEC.gamma, SPEC.alpha, dtype)
    console.print(gradient_table(study))
    gradient_png, _ = save(gradient_figure(study), out / "gradients")
    try:
        runs = side_by_side(SPEC, out, console)
    except SideBySideError as error:
        raise click.ClickException(str(error)) from error
    training_png, _ = save(training_figure(runs), out / "training")
    console.print(outcome_table(runs))
    page = out / "index.html"
    write_page(page, study, runs, gradient_png, training_png)
    console.print(f"What this means, on one page: {page.resolve()}", soft_wrap=True)
