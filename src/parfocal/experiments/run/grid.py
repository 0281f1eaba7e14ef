"""The specs that ship with the package, and those of users: TOML files, and their grids of runs."""

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from parfocal.experiments.spec import RunSpec, spec_of

_SHIPPED = files("parfocal.experiments.run") / "shipped"


class Grid(NamedTuple):
    """A spec file: one run, and the settings that are varied over it, each with all others.

    axes: the values of each setting that varies, in the order of the file.
    """

    name: str
    title: str
    base: RunSpec
    axes: dict[str, tuple[Any, ...]]

    def runs(self) -> list[RunSpec]:
        """All runs of the grid, the last axis fastest; none twice."""
        combinations = itertools.product(*self.axes.values())
        runs = [
            self.base.with_settings(dict(zip(self.axes, values, strict=True)))
            for values in combinations
        ]
        return list({run.digest: run for run in runs}.values())

    def with_axes(self, axes: Mapping[str, Sequence[Any]]) -> "Grid":
        """The same with the values of some settings given anew; one value fixes a setting.

        Raises:
            ValueError: there is no such setting, or a value isn't one of its own.
        """
        merged = {self.base.place(name)[1]: tuple(values) for name, values in axes.items()}
        for name, values in merged.items():
            for value in values:
                self.base.with_settings({name: value})
        kept = {name: values for name, values in self.axes.items() if name not in merged}
        # A setting keeps its place among the axes, and a new one comes last.
        order = [*self.axes, *(name for name in merged if name not in self.axes)]
        return self._replace(axes={name: (kept | merged)[name] for name in order})


def shipped() -> list[Grid]:
    """The specs of the package, by name."""
    names = sorted(path.name for path in _SHIPPED.iterdir() if path.name.endswith(".toml"))
    return [read_grid(name.removesuffix(".toml")) for name in names]


def read_grid(name: str) -> Grid:
    """A spec of the package by its name, or one of the user's by its path.

    Raises:
        ValueError: there is no such spec, or it isn't one; with the file's name.
    """
    path = Path(name)
    if path.suffix == ".toml":
        text, stem = path.read_text(encoding="utf-8"), path.stem
    else:
        resource = _SHIPPED / f"{name}.toml"
        if not resource.is_file():
            known = ", ".join(sorted(p.name.removesuffix(".toml") for p in _SHIPPED.iterdir()))
            raise ValueError(f"Expected a spec out of {known}, or a path to a .toml; got {name!r}")
        text, stem = resource.read_text(encoding="utf-8"), name
    try:
        return _grid(stem, tomllib.loads(text))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _grid(stem: str, contents: dict[str, Any]) -> Grid:
    title, axes = contents.pop("title", stem), contents.pop("grid", {})
    if not isinstance(axes, Mapping):
        raise ValueError(f"Expected `grid` to be a table of settings, got {axes!r}")
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"Expected `grid.{name}` to be a list of values, got {values!r}")
    return Grid(stem, title, spec_of(contents), {}).with_axes(axes)


def read_setting(text: str) -> tuple[str, list[Any]]:
    """`gamma=0.1,0.5` as the name and the values; words need no quotes, a list is one value.

    >>> read_setting("gamma=0.1,0.5")
    ('gamma', [0.1, 0.5])
    >>> read_setting("loss=exact")
    ('loss', ['exact'])
    >>> read_setting('positive=["cat", "dog"]')
    ('positive', [['cat', 'dog']])
    """
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise ValueError(f"Expected NAME=VALUE,..., got {text!r}")
    quoted = re.sub(
        r"(?<![\w\"'.+-])(?!true\b|false\b|inf\b|nan\b)([A-Za-z_]\w*)(?![\w\"'])", r'"\1"', values
    )
    for candidate in (values, quoted):
        try:
            return name.strip(), tomllib.loads(f"values = [{candidate}]")["values"]
        except tomllib.TOMLDecodeError:
            continue
    raise ValueError(f"Expected NAME=VALUE,..., got {text!r}")
