"""Runs as tables: which settings vary, and which run stands in which row and column."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from parfocal.experiments.spec import RunSpec

# The axes of the paper's tables, where they vary.
ROW, COLUMN = "objective.gamma", "data.threshold"

# A run's length is part of its outcome, not an axis.
_NO_AXIS = ("training.epochs",)


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
    """Tables that hold all runs, in the order in which they first occur."""
    varying = varying_settings(specs)
    row = ROW if ROW in varying else next(iter(varying), None)
    rest = [name for name in varying if name != row]
    column = COLUMN if COLUMN in rest else None
    if column is None and len(rest) == 1:
        column = rest[0]
    others = [name for name in rest if name != column]
    groups: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        title = ", ".join(f"{short(name)} {text(value_of(spec, name))}" for name in others)
        groups.setdefault(title, []).append(index)
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
    """The settings in which some runs differ, in the order of the spec; lengths aren't counted."""
    names = dict.fromkeys(name for spec in specs for name in spec.settings())
    return [
        name
        for name in names
        if name not in _NO_AXIS and len({text(value_of(spec, name)) for spec in specs}) > 1
    ]


def value_of(spec: RunSpec, name: str | None) -> Any:
    """A setting as something that can be a key; None where the spec doesn't have it."""
    if name is None or name not in spec.settings():
        return None
    value = spec.value(name)
    return value if isinstance(value, (int, float, str, type(None))) else text(value)


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
    """A setting's value as a table shows it."""
    if isinstance(value, float):
        return f"{value:g}"
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
