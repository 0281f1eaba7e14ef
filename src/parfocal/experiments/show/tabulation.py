"""Runs as tables: which settings vary, and which run stands in which row and column."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from parfocal.experiments.spec import RunSpec

# The axes of the paper's tables, where they vary.
ROW, COLUMN = "objective.gamma", "data.threshold"

# A run's length is part of its outcome: an axis only where nothing else tells two runs apart.
_LENGTH = "training.epochs"


class Block(NamedTuple):
    """One table of runs that differ in its row, its column and nothing else.

    title: the other settings that vary.
    settings: the same, by name.
    row, column: the settings of rows and columns; None if there is a single one.
    cells: index of the run in each place that has one.
    """

    title: str
    settings: dict[str, Any]
    row: str | None
    column: str | None
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: dict[tuple[Any, Any], int]


def blocks(specs: Sequence[RunSpec]) -> list[Block]:
    """Tables that hold all runs, in the order in which they first occur.

    Several records of one spec don't fit into one cell: the second has a table of second ones.
    """
    varying = varying_settings(specs)
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
        key = tuple(value_of(spec, name) for name in varying)
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
            {(value_of(specs[i], row), value_of(specs[i], column)): i for i in members},
        )
        for title, members in groups.items()
    ]


def varying_settings(specs: Sequence[RunSpec]) -> list[str]:
    """The settings in which some runs differ, in the order of the spec.

    The number of epochs is left out, unless two runs differ in nothing else.
    """
    runs = [{name: _as_key(spec.value(name)) for name in spec.settings()} for spec in specs]
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


def experiment_of(spec: RunSpec) -> str:
    """Kind of data, network and type of the logits: runs that differ in these aren't compared."""
    network = spec.network
    sizes = [getattr(network, field) for field in network.__struct_fields__]
    images = f", {spec.data.images} images" if spec.data.images else ""
    described = [type(network).__name__.lower(), *(str(s) for s in sizes if s is not None)]
    return (
        f"{type(spec.data).__name__} of {spec.data.source}{images}; {' '.join(described)}; "
        f"logits in {spec.objective.logits}"
    )


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
    found = {value_of(spec, name) for spec in specs}
    return tuple(sorted(found, key=lambda v: (isinstance(v, str), v is None, v)))
