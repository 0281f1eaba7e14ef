"""What the terminal shows."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from parfocal.experiments.run.events import Failure, Step
from parfocal.experiments.run.progress import RunProgress
from parfocal.experiments.run.record import Run
from parfocal.experiments.spec import RunSpec

if TYPE_CHECKING:
    from parfocal.experiments.gradient_study import GradientStudy

# Columns of a terminal from which on a bar fits beside the 79 of the line.
_WIDE = 100


class TrainingDisplay:
    """A live line a run: epoch, step, loss, accuracy, largest |logit|, images a second.

    open_ended: the last epoch isn't where the runs will end; no time left is shown until a limit
        is known.
    """

    def __init__(
        self, console: Console, specs: Sequence[RunSpec], *, open_ended: bool = False
    ) -> None:
        bar = [BarColumn(bar_width=16)] if console.width >= _WIDE else []
        self._progress = Progress(
            TextColumn("[bold]{task.description:<8}"),
            *bar,
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._tasks = [
            self._progress.add_task(spec.objective.loss, total=None, status="starting")
            for spec in specs
        ]
        self._specs = specs
        self._open_ended = open_ended
        self._limits: dict[int, int] = {}

    def step(self, index: int, step: Step | RunProgress, images_per_second: float) -> None:
        """Show how far a run is."""
        last = (
            None if self._open_ended else step.steps_per_epoch * self._specs[index].training.epochs
        )
        self._progress.update(
            self._tasks[index],
            completed=step.step,
            total=self._limits.get(index, last),
            status=(
                f"ep {step.epoch:>3} step {step.step:>5} loss {step.loss:.4f} "
                f"acc {step.accuracy:.4f} |logit| {step.largest_logit:4.1f} "
                f"{images_per_second:5.0f} img/s"
            ),
        )

    def limit(self, index: int, steps: int) -> None:
        """Show that a run will end at that step."""
        self._limits[index] = steps

    def failure(self, index: int, failure: Failure) -> None:
        """Show that a run has failed."""
        self._progress.update(self._tasks[index], status=f"[red]{escape(failure_text(failure))}")
        self._progress.stop_task(self._tasks[index])

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def failure_text(failure: Failure) -> str:
    """One line about a failure."""
    return (
        f"{failure.quantity} not finite, step {failure.step}: "
        f"sample {failure.sample}, {failure.label}, logit {failure.logit:.2f}"
    )


def gradient_table(study: "GradientStudy") -> Table:
    """The cliff of each loss at both targets, and how wrong it is where it is finite."""
    table = Table(
        title=(
            f"Gradient of the focal loss: gamma {study.gamma:g}, alpha {study.alpha:g}, "
            f"{study.dtype}"
        ),
        caption=(
            "Cliff: the smallest |logit| up to 120 whose gradient is not finite.\n"
            "The rest is over the paper's 100 logits from -38 to 38."
        ),
    )
    for heading in ("loss", "target", "cliff", "not finite", "largest relative error"):
        table.add_column(heading, justify="left" if heading == "loss" else "right")
    for curve in study.curves:
        table.add_row(
            curve.loss,
            str(curve.target),
            "none" if curve.cliff is None else f"{curve.cliff:.2f}",
            str(curve.nonfinite),
            f"{curve.largest_relative_error:.1e}",
        )
    return table


def outcome_table(runs: Sequence[Run]) -> Table:
    """What became of each run."""
    table = Table(title="Training outcomes", caption="Epochs are counted from 0.")
    for heading in ("loss", "first failure", "steps", "largest |logit|", "training accuracy"):
        table.add_column(
            heading, justify="left" if heading in ("loss", "first failure") else "right"
        )
    for run in runs:
        table.add_row(*outcome_cells(run))
    return table


def outcome_cells(run: Run) -> tuple[str, str, str, str, str]:
    """Loss, first failure, steps, largest |logit| and accuracy of a run, as text."""
    last = run.epochs[-1] if run.epochs else None
    failed = run.failure
    largest = math.nan if run.largest_logit is None else run.largest_logit
    return (
        run.spec.objective.loss,
        f"{failed.quantity}, step {failed.step}, epoch {failed.epoch}" if failed else "none",
        str(run.steps),
        f"{largest:.2f}",
        "-" if last is None else f"{last.accuracy:.4f}",
    )
