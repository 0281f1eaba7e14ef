"""The specs that ship with the package, and the user's: TOML files, and their grids of runs."""

import itertools
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from parfocal.experiments.spec import RunSpec, spec_of
from parfocal.places import did_you_mean

Made = TypeVar("Made")

_SHIPPED = files("parfocal.experiments.run") / "shipped"

_TOO_DEEP = "expected the lists and tables of a spec, got some that are nested too deeply"


class Grid(NamedTuple):
    """A spec file: one run, and the settings that vary over it, in all combinations.

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

    def coarse_to_fine(self) -> list[RunSpec]:
        """The same runs, in an order in which the table is whole at any moment, if coarse.

        First those at both ends of each axis of numbers, then those in the middles, then at the
        quarters; words, as the names of losses, have no middle and come together.
        """
        levels = {
            name: dict(zip(sorted(set(values)), bisection_levels(len(set(values))), strict=True))
            if all(isinstance(value, (int, float)) for value in values)
            else {}
            for name, values in self.axes.items()
        }

        def fineness(run: RunSpec) -> tuple[int, int]:
            found = [level[run.value(name)] for name, level in levels.items() if level]
            return max(found, default=0), sum(found)

        return sorted(self.runs(), key=fineness)

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
    return read_toml(name, _SHIPPED, _grid)


def read_toml(name: str, shipped: Traversable, make: Callable[[str, dict[str, Any]], Made]) -> Made:
    """What `make` makes of a spec file's short name and contents.

    name: of a file in the folder `shipped`, or a path that ends in .toml.

    Raises:
        ValueError: there is no such file, or it isn't what it should be; with the file's name.
    """
    file: Path | Traversable = Path(name)
    stem = Path(name).stem
    if not name.endswith(".toml"):
        file, stem = shipped / f"{name}.toml", name
        if not file.is_file():
            known = sorted(p.name.removesuffix(".toml") for p in shipped.iterdir())
            raise ValueError(
                f"Expected a spec from {', '.join(known)}, or a path to a .toml; "
                f"got {name!r}{did_you_mean(name, known)}"
            )
    try:
        return make(stem, tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ValueError(f"Expected a spec's file, got {name!r}, which isn't there") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected text in UTF-8 ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{name}: {_TOO_DEEP}") from error
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


def bisection_levels(count: int) -> list[int]:
    """For each of so many places the round in which bisection comes to it; the ends are there.

    >>> bisection_levels(9)
    [0, 3, 2, 3, 1, 3, 2, 3, 0]
    """
    levels = [0] * count
    gaps, level = [(0, count - 1)], 1
    while gaps := [gap for gap in gaps if gap[1] - gap[0] > 1]:
        middles = [(low + high) // 2 for low, high in gaps]
        for middle in middles:
            levels[middle] = level
        gaps = [
            half
            for (low, high), middle in zip(gaps, middles, strict=True)
            for half in ((low, middle), (middle, high))
        ]
        level += 1
    return levels


def read_setting(text: str) -> tuple[str, list[Any]]:
    """`gamma=0.1,0.5` as the name and the values; words need no quotes, a list is one value.

    >>> read_setting("gamma=0.1,0.5")
    ('gamma', [0.1, 0.5])
    >>> read_setting("gamma=.1,5.,1e-1")
    ('gamma', [0.1, 5.0, 0.1])
    >>> read_setting("loss=exact")
    ('loss', ['exact'])
    >>> read_setting("variant=vit-tiny,true")
    ('variant', ['vit-tiny', True])
    >>> read_setting('positive=["cat", "dog"]')
    ('positive', [['cat', 'dog']])
    """
    name, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise ValueError(f"Expected NAME=VALUE,..., got {text!r}")
    parts = _STRING.split(values)
    parts[::2] = map(_with_digits, parts[::2])
    quoted = [_with_quotes(part) if place % 2 == 0 else part for place, part in enumerate(parts)]
    if "#" not in "".join(parts[::2]):  # TOML's comments would hide what follows
        for candidate in map("".join, (parts, quoted)):
            try:
                found = tomllib.loads(f"values = [{candidate}]")
            except tomllib.TOMLDecodeError:
                continue
            except RecursionError as error:
                raise ValueError(f"{name.strip()}: {_TOO_DEEP}") from error
            if len(found) == 1:
                return name.strip(), found["values"]
    raise ValueError(f"Expected NAME=VALUE,..., got {text!r}")


# Of TOML, in whose texts nothing is to be changed.
_STRING = re.compile(r'("""(?:[^\\]|\\.)*?"""|"(?:[^"\\]|\\.)*"|' r"'''.*?'''|'[^']*')", re.DOTALL)


def _with_digits(values: str) -> str:
    """TOML wants a digit on both sides of a point."""
    values = re.sub(r"(?<![\w.])([+-]?)\.(?=\d)", r"\g<1>0.", values)
    return re.sub(r"(?<![\w.])([+-]?\d+)\.(?=[eE][+-]?\d|(?![\w.]))", r"\1.0", values)


def _with_quotes(values: str) -> str:
    """TOML wants quotes around words."""
    return re.sub(
        r"(?<![\w.+-])(?!(?:true|false|inf|nan)(?![\w-]))([A-Za-z_][\w-]*)", r'"\1"', values
    )
