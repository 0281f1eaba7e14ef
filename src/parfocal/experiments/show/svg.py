"""The figures of a report's page, as SVG: a heat map of first failures, and curves by epoch.

Lengths are CSS pixels at the narrowest that a figure is shown, so that no letter is under 11.
Colours are classes of the page's style sheet: `heat-0` to `heat-6`, `line-0` to `line-7`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup

from parfocal.experiments.show.report import Report, Row, cell_text, outcome_text, published_text
from parfocal.experiments.show.tabulation import SEED, Block, short, text, value_of
from parfocal.experiments.spec import LOSS_NAMES

HEATS, LINES = 7, 8

# Widths and heights of the heat map: the row labels, the line of column labels, a cell at least,
# a line of text, and a letter.
_LABELS, _HEAD, _CELL, _LINE, _LETTER = 40, 36, 35, 14, 7

# Of a panel of curves, and what its axes take: left, above, right and below.
_WIDTH, _HEIGHT = 340, 250
_LEFT, _ABOVE, _RIGHT, _BELOW = 52, 24, 12, 38

# Points of a curve, at most about one for each pixel of the panel; and of what a pointer finds, a
# band of some pixels around it.
_MOST_POINTS, _MOST_HIT = 300, 40


class Panel(NamedTuple):
    """One figure, what it shows in a sentence, and what stands for each colour, if any does."""

    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    columns: int = 1


def heat_map(report: Report, block: Block) -> Panel | None:
    """First failures by row and column, the published below; None for a single row or column."""
    if len(block.columns) < 2 or len(block.rows) < 2:
        return None
    cells = {place: [report.rows[i] for i in found] for place, found in block.cells.items()}
    failures = [f for rows in cells.values() if (f := _earliest(rows)) is not None]
    last = max(failures, default=0)
    lines = {place: _lines(rows) for place, rows in cells.items()}
    width = max(_CELL, 7 + _LETTER * max(len(line) for words in lines.values() for line in words))
    height = 10 + _LINE * max(map(len, lines.values()))
    parts = [_axis_label(_LABELS, 11, f"{_short(block.column)} →", "start")]
    parts += [
        _axis_label(_LABELS + (j + 0.5) * width, _HEAD - 7, text(column), "middle")
        for j, column in enumerate(block.columns)
    ]
    parts.append(_axis_label(0, _HEAD - 7, _short(block.row), "start"))
    for i, row in enumerate(block.rows):
        y = _HEAD + i * height
        parts.append(_axis_label(_LABELS - 8, y + height / 2 + 4, text(row), "end"))
        for j, column in enumerate(block.columns):
            place = (row, column)
            if place in cells:
                corner = (_LABELS + j * width, y)
                parts.append(
                    _cell(
                        corner,
                        (width, height),
                        lines[place],
                        len(cells[place]),
                        _heat(cells[place], last),
                        f"{_place(block, place)}: {cell_words(cells[place])}",
                    )
                )
    size = (_LABELS + len(block.columns) * width + 1, _HEAD + len(block.rows) * height + 1)
    caption = "Epoch of the first failure: the earlier, the redder; green: none."
    if any(row.published for rows in cells.values() for row in rows):
        caption += " Small: published."
    if any(len(rows) > 1 for rows in cells.values()):
        caption += " A line a seed."
    return Panel(_svg(size, caption, parts), caption, columns=len(block.columns))


def curves(report: Report, block: Block) -> list[Panel]:
    """Loss, and largest |logit| so far, by epoch; none where no curve has two epochs."""
    runs = [report.rows[i].run for i in block.members]
    if max((len(run.epochs) for run in runs), default=0) < 2:
        return []
    colours = _colours(block)
    legend = _legend(block, colours)
    names = {id(report.rows[i].run): _name(report.rows[i], block) for i in block.members}
    of_loss = [
        _Curve(
            colours[value_of(run.spec, block.row)],
            [(e.epoch, e.loss) for e in run.epochs],
            (run.failure.epoch, run.epochs[-1].loss) if run.failure and run.epochs else None,
            names[id(run)],
        )
        for run in runs
    ]
    of_logit = [
        _Curve(
            colours[value_of(run.spec, block.row)],
            [(e.epoch, e.largest_logit) for e in run.epochs],
            (run.failure.epoch, run.failure.largest_logit) if run.failure else None,
            names[id(run)],
        )
        for run in runs
    ]
    cross = "; a cross: a run failed" * any(run.failure for run in runs)
    return [
        _panel(of_loss, f"Training loss by epoch, on a logarithmic scale{cross}.", True, legend),
        _panel(of_logit, f"Largest |logit| so far by epoch{cross}.", False, legend),
    ]


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


class _Curve(NamedTuple):
    """One run in one panel; `cross`: where it failed."""

    colour: str
    points: list[tuple[float, float]]
    cross: tuple[float, float] | None
    name: str


class _Scale(NamedTuple):
    """From values to pixels, in one direction, with the values that are written at the axis."""

    place: Callable[[float], float]
    ticks: list[float]


def _panel(
    drawn: Sequence[_Curve], caption: str, logarithmic: bool, legend: tuple[tuple[str, str], ...]
) -> Panel:
    usable = [c._replace(points=[p for p in c.points if _shows(p[1], logarithmic)]) for c in drawn]
    crosses = [c.cross for c in usable if c.cross and _shows(c.cross[1], logarithmic)]
    places = [p for c in usable for p in c.points] + crosses
    x = _scale([p[0] for p in places], (_LEFT, _WIDTH - _RIGHT), logarithmic=False)
    y = _scale([p[1] for p in places], (_HEIGHT - _BELOW, _ABOVE), logarithmic=logarithmic)
    parts = []
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, at, _WIDTH - _RIGHT)
        )
        parts.append(_axis_label(_LEFT - 6, at + 4, f"{tick:g}", "end"))
    parts += [
        _axis_label(x.place(tick), _HEIGHT - _BELOW + 16, f"{tick:g}", "middle") for tick in x.ticks
    ]
    parts.append(_axis_label((_LEFT + _WIDTH) / 2, _HEIGHT - 5, "epoch, from 0", "middle"))
    title = "training loss" if logarithmic else "largest |logit|"
    parts.append(_axis_label(0, 12, title, "start"))
    for curve in usable:
        parts.append(_mark(curve, x, y, logarithmic))
    return Panel(_svg((_WIDTH, _HEIGHT), caption, parts), caption, legend)


def _mark(curve: _Curve, x: _Scale, y: _Scale, logarithmic: bool) -> Markup:
    places, band = (
        [(x.place(a), y.place(b)) for a, b in thinned(curve.points, most)]
        for most in (_MOST_POINTS, _MOST_HIT)
    )
    inside = Markup("<title>{}</title>").format(curve.name)
    if len(places) > 1:
        inside += Markup('<path class="hit" d="{}"/><path class="line {}" d="{}"/>').format(
            _path(band), curve.colour, _path(places)
        )
    elif places:
        inside += Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(
            curve.colour, *places[0]
        )
    if curve.cross and _shows(curve.cross[1], logarithmic):
        a, b = x.place(curve.cross[0]), y.place(curve.cross[1])
        inside += Markup('<path class="cross" d="M{:.1f} {:.1f}l8 8m0-8l-8 8"/>').format(
            a - 4, b - 4
        )
    return Markup('<g class="mark">{}</g>').format(inside)


def _path(places: Sequence[tuple[float, float]]) -> str:
    """Lines through all places, from each to the next, in tenths of a pixel without drift."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in places]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(tenths)]
    begin = f"M{tenths[0][0] / 10:g} {tenths[0][1] / 10:g}"
    return begin + "".join(f"l{x / 10:g} {y / 10:g}" for x, y in steps)


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """A curve in at most about so many points: the lowest and the highest of each run of them.

    Both ends stay.
    """
    if len(points) <= most:
        return list(points)
    length = math.ceil(2 * len(points) / most)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), length):
        part = range(begin, min(begin + length, len(points)))
        kept |= {min(part, key=lambda i: points[i][1]), max(part, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _scale(values: Sequence[float], pixels: tuple[float, float], *, logarithmic: bool) -> _Scale:
    low, high = min(values, default=1.0), max(values, default=1.0)
    if logarithmic:
        ticks = _powers(low, high)
        a, b = math.log(min(low, ticks[0])), math.log(max(high, ticks[-1]))
    else:
        ticks = _rounds(min(low, 0.0), high)
        a, b = min(low, 0.0), max(high, ticks[-1])
    begin, end = pixels

    def place(value: float) -> float:
        share = ((math.log(value) if logarithmic else value) - a) / ((b - a) or 1.0)
        return begin + share * (end - begin)

    return _Scale(place, ticks)


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten that enclose both, at most six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / 5))
    return [10.0**n for n in range(first, max(last, first + 1) + step, step)]


def _rounds(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from below `low` to below `high`, at most six."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(step for m in (1, 2, 5, 10) if span / (step := m * power) <= 5.001)
    first = math.floor(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def _shows(value: float, logarithmic: bool) -> bool:
    return math.isfinite(value) and (value > 0 or not logarithmic)


def _colours(block: Block) -> dict[object, str]:
    """The losses' own colours, or shades from the first row to the last."""
    steps = max(1, len(block.rows) - 1)
    shades = {v: f"line-{int(i * (LINES - 1) / steps + 0.5)}" for i, v in enumerate(block.rows)}
    return shades | {v: f"of-{v}" for v in block.rows if v in LOSS_NAMES}


def _legend(block: Block, colours: dict[object, str]) -> tuple[tuple[str, str], ...]:
    """Each colour, and the rows that have it; nothing for a single row."""
    if block.row is None:
        return ()
    rows: dict[str, list[str]] = {}
    for value in block.rows:
        rows.setdefault(colours[value], []).append(text(value))
    return tuple(
        (colour, f"{short(block.row)} {', '.join(values)}") for colour, values in rows.items()
    )


def _name(row: Row, block: Block) -> str:
    spec = row.run.spec
    varying = [name for name in (block.row, block.column, SEED) if name is not None]
    settings = ", ".join(f"{short(name)} {text(value_of(spec, name))}" for name in varying)
    return f"{settings}: {outcome_text(row)}"


def _cell(
    corner: tuple[float, float],
    size: tuple[float, float],
    lines: Sequence[str],
    seeds: int,
    colour: str,
    words: str,
) -> Markup:
    """A place of the heat map, with a line for each of its seeds and perhaps a small one."""
    (x, y), (width, height) = corner, size
    first = y + height / 2 - _LINE * (len(lines) - 1) / 2 + 4
    texts = Markup("").join(
        Markup('<text{} x="{:.4g}" y="{:.4g}">{}</text>').format(
            Markup(' class="small"') if n == seeds else "",
            x + width / 2,
            first + _LINE * n,
            line,
        )
        for n, line in enumerate(lines)
    )
    return Markup(
        '<g class="mark {}"><title>{}</title>'
        '<rect x="{:.4g}" y="{:.4g}" width="{:.4g}" height="{:.4g}"/>{}</g>'
    ).format(colour, words, x, y, width - 1, height - 1, texts)


def _lines(rows: Sequence[Row]) -> list[str]:
    """A line a seed, and one for the published epoch if there is one."""
    theirs = published_text(rows[0])
    return [*map(cell_text, rows), *[theirs] * bool(theirs)]


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
    return f"{_short(block.row)} {text(row)}, {_short(block.column)} {text(column)}"


def _short(name: str | None) -> str:
    return short(name) if name else ""


def _axis_label(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text class="axis" x="{:.4g}" y="{:.4g}" text-anchor="{}">{}</text>').format(
        x, y, anchor, words
    )


def _svg(size: tuple[float, float], label: str, parts: Sequence[Markup]) -> Markup:
    width, height = (math.ceil(side) for side in size)
    return Markup(
        '<svg viewBox="0 0 {0} {1}" style="min-width:{0}px;max-width:{2}px" role="img" '
        'aria-label="{3}">{4}</svg>'
    ).format(width, height, round(1.35 * width), label, Markup("\n").join(parts))
