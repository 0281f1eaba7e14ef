"""A chart of a page, as values: its lines are the columns of a table, which the page has too."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

ScaleName = Literal["linear", "log", "symlog", "category"]
Style = Literal["line", "broad", "points", "interval"]


class Interval(NamedTuple):
    """A value between two bounds."""

    value: float
    low: float
    high: float


class Axis(NamedTuple):
    """An axis; a symlog scale is linear under `threshold`, on a place of `zone` decades."""

    title: str
    scale: ScaleName = "linear"
    threshold: float | None = None
    zone: float | None = None


@dataclass(frozen=True)
class Line:
    """Values by x, a number or, on a category axis, words.

    An x that isn't there is no data; a value that isn't finite is a gap.

    group: the entry of the legend that it belongs to; its own if there is none.
    colour: a custom property of the style sheet; by its group if there is none.
    """

    name: str
    values: Mapping[Any, float | Interval]
    group: str | None = None
    colour: str | None = None
    style: Style = "line"


class Mark(NamedTuple):
    """A cross; `line`: the number of the line that it belongs to."""

    x: float
    y: float
    line: int | None = None


class Band(NamedTuple):
    """A part of an axis that is shaded, with words in it; None is open-ended."""

    axis: Literal["x", "y"]
    low: float | None
    high: float | None
    words: str


class Level(NamedTuple):
    """A dashed line from side to side, with words on it or none."""

    y: float
    words: str = ""


@dataclass(frozen=True)
class Chart:
    """A figure. `label` says in sentences what it shows, to those who don't see it.

    digits: of its numbers, where a chart of many lines needs fewer than six.
    """

    label: str
    caption: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    bands: Sequence[Band] = ()
    levels: Sequence[Level] = ()
    height: int = 280
    digits: int = 6

    @property
    def spec(self) -> str:
        """All but the numbers, as `chart.js` reads it."""
        spec = {
            "label": self.label,
            "x": self.x._asdict(),
            "y": self.y._asdict(),
            "lines": [
                {"group": line.group, "colour": line.colour, "style": line.style}
                for line in self.lines
            ],
            "marks": [mark._asdict() for mark in self.marks],
            "bands": [band._asdict() for band in self.bands],
            "levels": [level._asdict() for level in self.levels],
            "height": self.height,
        }
        return json.dumps(_without_none(spec), separators=(",", ":"), allow_nan=False)

    @property
    def header(self) -> list[str]:
        """Of its table."""
        return [self.x.title, *(line.name for line in self.lines)]

    @property
    def rows(self) -> Iterator[list[str]]:
        """Of its table: a row a place on x, ascending, or as they come where x is in words."""
        places = dict.fromkeys(x for line in self.lines for x in line.values)
        is_category = self.x.scale == "category"
        for x in places if is_category else sorted(places):
            yield [_text(x, 6), *(_text(line.values.get(x), self.digits) for line in self.lines)]


def _text(value: float | str | Interval | None, digits: int) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case Interval():
            number, low, high = (f"{part:.{digits}g}" for part in value)
            return f"{number} [{low}, {high}]"
    return "NaN" if math.isnan(value) else f"{value:.{digits}g}"


def _without_none(value: Any) -> Any:
    """Nothing is said twice: what isn't there is what `chart.js` takes by itself."""
    if isinstance(value, dict):
        kept = {key: _without_none(part) for key, part in value.items() if part is not None}
        return {key: part for key, part in kept.items() if part not in ([], "line")}
    if isinstance(value, list):
        return [_without_none(part) for part in value]
    return value
