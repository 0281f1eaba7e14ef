"""The first failures of a table, as cells of a heat map, with what a cell says in words."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from parfocal.experiments.show.report import Report, Row, cell_text, outcome_text, published_text
from parfocal.experiments.show.tabulation import Block, short, text

# Colours of the style sheet, from the earliest failure to the latest.
HEATS = 7


class Cell(NamedTuple):
    """What a cell shows: a line a seed, and the published one's; its class; and all in words."""

    lines: tuple[str, ...]
    published: str
    colour: str
    words: str


class HeatMap(NamedTuple):
    """The cells by row and column, and what they show in a sentence."""

    cells: dict[tuple[object, object], Cell]
    caption: str


def heat_map(report: Report, block: Block) -> HeatMap | None:
    """First failures by row and column, the published below; None for a single row or column."""
    if len(block.columns) < 2 or len(block.rows) < 2:
        return None
    found = {place: [report.rows[i] for i in members] for place, members in block.cells.items()}
    last = max((f for rows in found.values() if (f := _earliest(rows)) is not None), default=0)
    cells = {
        place: Cell(
            lines=tuple(map(cell_text, rows)),
            published=published_text(rows[0]),
            colour=_heat(rows, last),
            words=f"{_place(block, place)}: {cell_words(rows)}",
        )
        for place, rows in found.items()
    }
    caption = "Epoch of the first failure: the earlier, the redder; green: none."
    if any(cell.published for cell in cells.values()):
        caption += " Small: published."
    if any(len(cell.lines) > 1 for cell in cells.values()):
        caption += " A line a seed."
    return HeatMap(cells, caption)


def cell_words(rows: Sequence[Row]) -> str:
    """What became of the runs of one cell, and of the published one."""
    seeds = len(rows) > 1
    words = [f"seed {row.run.spec.training.seed}: " * seeds + outcome_text(row) for row in rows]
    theirs = published_text(rows[0])
    if theirs:
        failed = not theirs.endswith("+")
        words.append(
            f"published: first failure in epoch {theirs}"
            if failed
            else f"published: no failure in {theirs[:-1]} epochs"
        )
    return "; ".join(words)


def _heat(rows: Sequence[Row], last: int) -> str:
    """The colour of the earliest failure; green if all went to the end without one."""
    failure = _earliest(rows)
    if failure is not None:
        return f"heat-{min(HEATS - 1, HEATS * failure // (last + 1))}"
    return "unharmed" if all(row.status == "finished" for row in rows) else "open"


def _earliest(rows: Iterable[Row]) -> int | None:
    failures = [row.run.failure.epoch for row in rows if row.run.failure is not None]
    return min(failures, default=None)


def _place(block: Block, place: tuple[object, object]) -> str:
    row, column = place
    named = ((block.row, row), (block.column, column))
    return ", ".join(f"{short(name) if name else ''} {text(value)}" for name, value in named)
