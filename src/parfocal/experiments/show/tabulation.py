"""Runs as tables: which settings vary, and which runs stand in which row and column."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from parfocal.experiments.spec import LOSS_NAMES, RunSpec

# The axes of the paper's tables, where they vary.
ROW, COLUMN = "objective.gamma", "data.threshold"

SEED = "training.seed"

# A run's length is part of its outcome: an axis only where nothing else tells two runs apart.
_LENGTH = "training.epochs"


class Block(NamedTuple):
    """One table of runs that differ in its row, its column and perhaps their seed.

    title: the other settings that vary.
    settings: the same, by name.
    row, column: the settings of rows and columns; None if there is a single one.
    cells: indices of the runs in each place that has some, in the order of their seeds.
    """

    title: str
    settings: dict[str, Any]
    row: str | None
    column: str | None
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: dict[tuple[Any, Any], tuple[int, ...]]

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of all its runs, in ascending order."""
        return tuple(sorted(index for cell in self.cells.values() for index in cell))


def blocks(specs: Sequence[RunSpec], *, seeds_together: bool = False) -> list[Block]:
    """Tables that hold all runs, in the order in which they first occur.

    Several records of one spec don't fit into one cell: the second has a table of second ones.

    Args:
        specs: of the runs.
        seeds_together: runs that differ in their seed alone share a cell.
    """
    varying = varying_settings(specs, apart_from={SEED} if seeds_together else ())
    row = ROW if ROW in varying else next(iter(varying), None)
    rest = [name for name in varying if name != row]
    column = COLUMN if COLUMN in rest else None
    if column is None and len(rest) == 1:
        column = rest[0]
    others = [name for name in rest if name != column]
    groups: dict[str, list[int]] = {}
    records: Counter[tuple[Any, ...]] = Counter()
    for index, spec in enumerate(specs):
        words = [f"{short(name)} {text(value_of(spec, name))}" for name in others]
        key = tuple(value_of(spec, name) for name in (*varying, SEED))
        records[key] += 1
        if records[key] > 1:
            words.append(f"record {records[key]} of the same")
        groups.setdefault(", ".join(words), []).append(index)
    return [
        Block(
            title,
            {name: value_of(specs[members[0]], name) for name in others},
            row,
            column,
            _values([specs[i] for i in members], row),
            _values([specs[i] for i in members], column),
            _cells(specs, members, row, column),
        )
        for title, members in groups.items()
    ]


def _cells(
    specs: Sequence[RunSpec], members: Sequence[int], row: str | None, column: str | None
) -> dict[tuple[Any, Any], tuple[int, ...]]:
    cells: dict[tuple[Any, Any], tuple[int, ...]] = {}
    for index in sorted(members, key=lambda i: specs[i].training.seed):
        place = (value_of(specs[index], row), value_of(specs[index], column))
        cells[place] = (*cells.get(place, ()), index)
    return cells


def varying_settings(specs: Sequence[RunSpec], *, apart_from: Collection[str] = ()) -> list[str]:
    """The settings in which some runs differ, in the order of the spec.

    The number of epochs is left out, unless two runs differ in nothing else.

    Args:
        specs: of the runs.
        apart_from: settings that are passed over.
    """
    runs = [
        {name: _as_key(spec.value(name)) for name in spec.settings() if name not in apart_from}
        for spec in specs
    ]
    names = dict.fromkeys(name for run in runs for name in run)
    varying = [name for name in names if len({run.get(name) for run in runs}) > 1]
    without_length = [name for name in varying if name != _LENGTH]
    distinct = [
        len({tuple(run.get(name) for name in settings) for run in runs})
        for settings in (without_length, varying)
    ]
    return without_length if distinct[0] == distinct[1] else varying


def value_of(spec: RunSpec, name: str | None) -> Any:
    """A setting as something that can be a key; None where the spec doesn't have it."""
    if name is None or name not in spec.settings():
        return None
    return _as_key(spec.value(name))


def _as_key(value: Any) -> Any:
    return str(dict(sorted(value.items()))) if isinstance(value, dict) else value


def short(name: str) -> str:
    """A setting's name without its part."""
    return name.rpartition(".")[2]


def text(value: Any) -> str:
    """A setting's value as a table shows it: in six digits, or in all where six aren't enough."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (tuple, list)):
        return "+".join(map(str, value))
    return str(value)


def label(spec: RunSpec, varying: Sequence[str]) -> str:
    """What tells a run from the others: `original gamma 0.1 threshold 3`."""
    parts = []
    for name in varying:
        value = text(value_of(spec, name))
        parts.append(value if name == "objective.loss" else f"{short(name)} {value}")
    return " ".join(sorted(parts, key=lambda part: " " in part)) or spec.objective.loss


def _values(specs: Sequence[RunSpec], name: str | None) -> tuple[Any, ...]:
    """The values of a setting: the compared losses in their order, else ascending."""
    found = {value_of(spec, name) for spec in specs}
    if name == "objective.loss":
        known = [loss for loss in LOSS_NAMES if loss in found]
        return (*known, *sorted(found - set(known)))
    return tuple(sorted(found, key=lambda v: (isinstance(v, str), v is None, v)))
