"""The grid of a sweep on a terminal, live or at a glance, from the states of its runs."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from parfocal.experiments.run.states import RunState, RunStatus, state_of
from parfocal.experiments.show.tabulation import (
    COLUMN,
    ROW,
    Block,
    blocks,
    label,
    short,
    text,
    varying_settings,
)

if TYPE_CHECKING:
    from parfocal.experiments.run.sweep import Ended

LEGEND = "· waiting   12 at epoch 12   ✓ finished   ✗12 failed at epoch 12   ! see below"
_STYLES: dict[RunStatus, str] = {
    "waiting": "dim",
    "running": "bold cyan",
    "interrupted": "yellow",
    "lost": "bold yellow",
    "finished": "green",
    "failed": "bold red",
    "damaged": "bold magenta",
}

# Lines of a terminal that a title, the runs at work and the totals take, beside the tables.
_OTHER_LINES = 14


class Throughput:
    """Epochs a second, from what was done since a sweep began."""

    def __init__(self, states: Sequence[RunState]) -> None:
        self._begin = time.monotonic()
        self._before = epochs_done(states)

    def rate(self, states: Sequence[RunState]) -> float:
        """Model-epochs a second."""
        passed = time.monotonic() - self._begin
        return (epochs_done(states) - self._before) / passed if passed > 0 else 0.0


class SweepDisplay:
    """The grid of a sweep while it goes; without a terminal, a line a run that ended."""

    def __init__(self, console: Console, folders: Sequence[Path]) -> None:
        self._console = console
        self._states = {folder: state_of(folder) for folder in folders if _has_spec(folder)}
        self._folders = folders
        self._throughput = Throughput(list(self._states.values()))
        self._live = Live(console=console, auto_refresh=False)

    def tick(self) -> None:
        """Look at the runs that write, and draw."""
        for folder in self._folders:
            if folder not in self._states or (folder / "progress.json").exists():
                self._states[folder] = state_of(folder)
        states = list(self._states.values())
        if self._console.is_terminal:
            rate = self._throughput.rate(states)
            self._live.update(grid(states, self._console, rate), refresh=True)

    def ended(self, ended: "Ended") -> None:
        """Look at a run that ended."""
        state = self._states[ended.directory] = state_of(ended.directory)
        if not self._console.is_terminal:
            self._console.print(f"{ended.directory.name[:12]} {_ending(ended, state)}")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print(grid(list(self._states.values()), self._console, 0.0))


def _has_spec(folder: Path) -> bool:
    return (folder / "spec.json").exists()


def _ending(ended: "Ended", state: RunState) -> str:
    if ended.error is not None:
        return f"error: {ended.error}"
    if state.run is None:
        return str(ended.outcome)
    run = state.run
    described = label(run.spec, ("objective.loss", ROW, COLUMN, "data.noise"))
    where = f" at epoch {run.failure.epoch}" if run.failure is not None else ""
    return f"{described}: {ended.outcome}{where}, step {run.steps}"


def epochs_done(states: Sequence[RunState]) -> float:
    """Epochs of all runs together, parts included."""
    return sum(state.epochs for state in states)


def epochs_left(states: Sequence[RunState]) -> float:
    """Epochs at most until all runs have ended: one that fails ends before."""
    return sum(
        s.run.spec.training.epochs - s.epochs for s in states if s.run is not None and not s.done
    )


def grid(states: Sequence[RunState], console: Console, rate: float | None = None) -> RenderableType:
    """Tables of all cells, the runs at work, and the totals.

    rate: model-epochs a second, for the time left; that of the running runs together if None.
    """
    readable = [state for state in states if state.run is not None]
    specs = [state.run.spec for state in readable if state.run is not None]
    varying = varying_settings(specs)
    parts: list[RenderableType] = []
    room = console.height - _OTHER_LINES
    for block in blocks(specs):
        members = [readable[i] for i in block.members]
        table = _table(block, readable)
        room -= len(block.rows) + 4
        # Where not all tables fit, those in which nothing happens are a line each.
        busy = any(state.status in ("running", "lost", "interrupted") for state in members)
        fits = not console.is_terminal or busy or room >= 0
        parts.append(table if fits else Text(f"{block.title}: {_counts(members)}"))
    parts.append(Text(LEGEND, style="dim"))
    parts += [_running(state, varying) for state in readable if state.status == "running"]
    parts += [
        Text(f"! {state.directory.name[:12]}: {_problem(state)}", style=_STYLES[state.status])
        for state in states
        if state.status in ("damaged", "lost")
    ]
    parts.append(_totals(states, rate))
    return Group(*parts)


def _table(block: Block, states: Sequence[RunState]) -> Table:
    table = Table(title=block.title or None, title_justify="left", padding=(0, 1))
    corner = short(block.row) if block.row else ""
    if block.column:
        corner += f" \\ {short(block.column)}"
    table.add_column(corner)
    for column in block.columns:
        table.add_column(text(column) if block.column else "", justify="right")
    for row in block.rows:
        found = [block.cells.get((row, column), ()) for column in block.columns]
        cells = [Text(" ").join(_cell(states[i]) for i in cell) for cell in found]
        table.add_row(text(row) if block.row else "", *cells)
    return table


def _cell(state: RunState) -> Text:
    match state.status:
        case "waiting":
            words = "·"
        case "running" | "interrupted":
            words = str(int(state.epochs))
        case "finished":
            words = "✓"
        case "failed":
            assert state.run is not None
            assert state.run.failure is not None
            words = f"✗{state.run.failure.epoch}"
        case _:
            words = "!"
    return Text(words, style=_STYLES[state.status])


def _running(state: RunState, varying: Sequence[str]) -> Text:
    assert state.run is not None
    assert state.progress is not None
    p = state.progress
    return Text(
        f"▸ {label(state.run.spec, varying)}: epoch {p.epoch} of {p.epochs}, step {p.step}, "
        f"loss {p.loss:.4f}, |logit| {p.largest_logit:.1f}, {p.images_per_second:.0f} img/s, "
        f"{p.host}",
        no_wrap=True,
        overflow="ellipsis",
    )


def _problem(state: RunState) -> str:
    if state.problem is not None:
        return state.problem
    assert state.progress is not None
    silence = time.time() - state.progress.time
    return (
        f"process {state.progress.pid} on {state.progress.host} is gone, or hasn't written for "
        f"{silence:.0f} s"
    )


def _counts(states: Sequence[RunState]) -> str:
    counts = Counter(state.status for state in states)
    return ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])


def _totals(states: Sequence[RunState], rate: float | None) -> RenderableType:
    done = sum(state.done for state in states)
    running = [state.progress for state in states if state.status == "running" and state.progress]
    words = f"{len(states)} run{'s' * (len(states) != 1)}: {_counts(states)}"
    if rate is None:
        rate = sum(p.epochs_per_second for p in running)
    if rate:
        words += f"; {rate:.3g} epochs/s"
        left = epochs_left(states)
        if left:
            words += f", at most {_duration(left / rate)} left"
    bar = ProgressBar(total=max(1, len(states)), completed=done, width=40)
    return Group(Text(words), Padding(bar))  # a bar alone ends no line


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
