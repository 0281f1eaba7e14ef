"""The charts of pages: gradients of a study, and runs by epoch. They compute nothing."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from parfocal.experiments.run.record import Run
from parfocal.experiments.show.report import Report, Row
from parfocal.experiments.show.tabulation import SEED, Block, short, text, value_of
from parfocal.experiments.spec import LOSS_NAMES
from parfocal.pages.charts import Axis, Band, Chart, Line, Mark

if TYPE_CHECKING:
    from parfocal.experiments.gradient_study import Curve, GradientStudy

# How many shades the style sheet has for rows.
SHADES = 8

# Points of a curve, at most: about one for each pixel of a narrow chart.
_MOST_POINTS = 300

_EPOCH = Axis("epoch, from 0")


def gradient_charts(study: "GradientStudy") -> list[Chart]:
    """|gradient| by logit, of all losses and the true one; a chart a target."""
    return [
        _gradient_chart(study, [c for c in study.curves if c.target == target]) for target in (1, 0)
    ]


def _gradient_chart(study: "GradientStudy", curves: Sequence["Curve"]) -> Chart:
    target, logits = curves[0].target, curves[0].logits.tolist()
    lines = [
        Line(
            "true",
            dict(zip(logits, curves[0].truth.abs().tolist(), strict=True)),
            colour="--of-true",
            style="broad",
        )
    ]
    bands, words = [], []
    for curve in curves:
        given = curve.gradient.abs().double().tolist()
        lines.append(
            Line(curve.loss, dict(zip(logits, given, strict=True)), colour=_of(curve.loss))
        )
        broken = curve.logits[~curve.gradient.isfinite()].tolist()
        if broken:
            bands.append(Band("x", min(broken), max(broken), f"{curve.loss}: NaN"))
            words.append(f"the {curve.loss} one's is NaN at {len(broken)} of {len(logits)} logits")
        else:
            error = curve.largest_relative_error
            words.append(f"the {curve.loss} one's is off by {100 * error:.2g} % at most")
    return Chart(
        label=f"Gradients of the three losses beside the true one, target {target}: "
        f"{', '.join(words)}.",
        caption=f'The right answer is "{"yes" if target else "no"}" (target {target}): the size of '
        f"the gradient, gamma {study.gamma:g}, alpha {study.alpha:g}, {study.dtype}.",
        x=Axis("logit"),
        y=Axis("|gradient|", "log"),
        lines=lines,
        bands=bands,
    )


def training_charts(runs: Sequence[Run]) -> list[Chart]:
    """Loss, and largest |logit| so far, by epoch, of one run a loss."""
    names = [run.spec.objective.loss for run in runs]
    colours = [_of(name) if name in LOSS_NAMES else "--line-0" for name in names]
    return _by_epoch(runs, names, names, colours, ends=True)


def curves(report: Report, block: Block) -> list[Chart]:
    """The same of the runs of a table, a colour a row; none where no run has two epochs."""
    by_place = [i for row in block.rows for column in block.columns
                for i in block.cells.get((row, column), ())]  # fmt: skip
    rows = [report.rows[i] for i in by_place]
    runs = [row.run for row in rows]
    if max((len(run.epochs) for run in runs), default=0) < 2:
        return []
    colours = _colours(block)
    values = [value_of(run.spec, block.row) if block.row else None for run in runs]
    groups = _groups(block, colours)
    return _by_epoch(
        runs,
        [_name(row, block) for row in rows],
        [groups[colours[value]] for value in values],
        [colours[value] for value in values],
    )


def _by_epoch(
    runs: Sequence[Run],
    names: Sequence[str],
    groups: Sequence[str],
    colours: Sequence[str],
    *,
    ends: bool = False,
) -> list[Chart]:
    """Two charts; `ends`: whether the text alternative says how each run ended."""
    fell = _words([(n, r.epochs[-1].loss) for n, r in zip(names, runs, strict=True) if r.epochs])
    grew = _words([(n, r.largest_logit) for n, r in zip(names, runs, strict=True)])
    failed = sum(run.failure is not None for run in runs)
    cross = "; a cross: a run failed" * bool(failed)
    counted = f"{len(runs)} runs, of which {failed} failed."
    charts = []
    for what, axis, said in (
        ("loss", Axis("training loss", "log"), fell),
        ("largest_logit", Axis("largest |logit| so far"), grew),
    ):
        lines, marks = [], []
        for i, run in enumerate(runs):
            points = [(float(e.epoch), float(getattr(e, what))) for e in run.epochs]
            values = dict(thinned(points, _MOST_POINTS))
            lines.append(Line(names[i], values, group=groups[i], colour=colours[i]))
            place = _end(run, what)
            if place is not None and math.isfinite(place[1]):
                marks.append(Mark(*place, i))
        title = axis.title[0].upper() + axis.title[1:]
        charts.append(
            Chart(
                label=f"{title} by epoch of {counted}{f' At the end: {said}.' * ends}",
                caption=f"{title} by epoch{', on a logarithmic scale' * (axis.scale == 'log')}"
                f"{cross}.",
                x=_EPOCH,
                y=axis,
                lines=lines,
                marks=marks,
                digits=6 if ends else 4,
            )
        )
    return charts


def _end(run: Run, what: str) -> tuple[float, float] | None:
    """Where a run failed, on the chart of loss or logit."""
    if run.failure is None:
        return None
    if what == "largest_logit":
        return float(run.failure.epoch), run.failure.largest_logit
    return (float(run.failure.epoch), run.epochs[-1].loss) if run.epochs else None


def _words(ends: Sequence[tuple[str, float | None]]) -> str:
    return ", ".join(f"{name} {end:.4g}" for name, end in ends if end is not None)


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


def _of(loss: str) -> str:
    """The colour of a loss."""
    return f"--of-{loss}"


def _colours(block: Block) -> dict[object, str]:
    """The losses' own colours, or shades from the first row to the last."""
    steps = max(1, len(block.rows) - 1)
    shades = {v: f"--line-{int(i * (SHADES - 1) / steps + 0.5)}" for i, v in enumerate(block.rows)}
    return shades | {v: _of(str(v)) for v in block.rows if v in LOSS_NAMES}


def _groups(block: Block, colours: dict[object, str]) -> dict[str, str]:
    """What each colour stands for: the rows that have it."""
    if block.row is None:
        return {colours[value]: "run" for value in block.rows}
    rows: dict[str, list[str]] = {}
    for value in block.rows:
        rows.setdefault(colours[value], []).append(text(value))
    return {colour: f"{short(block.row)} {', '.join(values)}" for colour, values in rows.items()}


def _name(row: Row, block: Block) -> str:
    varying = [name for name in (block.row, block.column, SEED) if name is not None]
    return ", ".join(f"{short(name)} {text(value_of(row.run.spec, name))}" for name in varying)
