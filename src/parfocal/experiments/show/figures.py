"""Figures of studies and records. They compute nothing."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.show.report import Report, Row, cell_text, published_text
from parfocal.experiments.show.tabulation import Block, short, text
from parfocal.experiments.spec import (
    LOSS_NAMES,
    SMOOTHING,
    DigitMasks,
    Digits,
    Photographs,
    RunSpec,
)

if TYPE_CHECKING:
    from parfocal.experiments.gradient_study import Curve, GradientStudy

DESCRIPTIONS = {
    "original": "torchvision.ops.sigmoid_focal_loss",
    "smoothed": f"the paper's, (1 - p_t + {SMOOTHING:g}) ** gamma",
    "exact": "parfocal.sigmoid_focal_loss",
}

# Early failures are dark red, late ones pale; runs without one green, what isn't known white.
_HEAT = "YlOrRd_r"
_UNHARMED = "#cfe8e2"
COLOURS = {"original": "#c1121f", "smoothed": "#e09f3e", "exact": "#0a7e8c"}
_STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.0,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "parfocal",
}


def gradient_figure(study: "GradientStudy") -> Figure:
    """|gradient| against the logit, one column a loss, one row a target, beside the truth."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 6), layout="constrained")
        axes = figure.subplots(2, len(LOSS_NAMES), sharex=True, sharey=True, squeeze=False)
        for curve in study.curves:
            axis = axes[1 - curve.target, LOSS_NAMES.index(curve.loss)]
            _gradient_panel(axis, curve)
        figure.supxlabel("logit")
        figure.supylabel("|gradient| of the loss with respect to the logit")
        figure.suptitle(
            f"Gradient of the focal loss, gamma = {study.gamma:g}, alpha = {study.alpha:g}, "
            f"{study.dtype}"
        )
    return figure


def _gradient_panel(axis: Axes, curve: "Curve") -> None:
    finite = curve.gradient.isfinite()
    shown = finite & (curve.gradient != 0)
    axis.plot(curve.logits, curve.truth.abs(), color="#999999", lw=5, alpha=0.5, label="true")
    axis.plot(
        curve.logits[shown],
        curve.gradient[shown].abs().double(),
        ".",
        ms=4,
        color=COLOURS[curve.loss],
        label=curve.loss,
    )
    broken = curve.logits[~finite]
    if broken.numel():
        axis.axvspan(
            broken.min().item(), broken.max().item(), color=COLOURS["original"], alpha=0.18
        )
        axis.text(
            broken.mean().item(),
            0.5,
            "NaN",
            color=COLOURS["original"],
            ha="center",
            va="center",
            rotation="vertical",
            transform=axis.get_xaxis_transform(),
        )
    axis.set_yscale("log")
    axis.set_title(f"{curve.loss}, target {curve.target}")
    axis.legend(loc="lower center")


def training_figure(runs: Sequence[Run]) -> Figure:
    """Loss and largest |logit| an epoch; a cross where a run failed."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        loss_axis, logit_axis = figure.subplots(1, 2)
        for run in runs:
            name = run.spec.objective.loss
            colour = COLOURS.get(name, "#444444")
            # An exact curve may lie under another one: each is drawn a little thinner.
            rank = LOSS_NAMES.index(name) if name in LOSS_NAMES else len(LOSS_NAMES)
            epochs = [e.epoch for e in run.epochs]
            label = f"{name}: {DESCRIPTIONS[name]}" if name in DESCRIPTIONS else name
            # One epoch makes no line.
            marker = "o" if len(epochs) == 1 else ""
            style: Any = {"color": colour, "lw": max(1, 4.5 - 1.5 * rank), "marker": marker}
            loss_axis.plot(epochs, [e.loss for e in run.epochs], label=label, **style)
            logit_axis.plot(epochs, [e.largest_logit for e in run.epochs], **style)
            if run.failure is not None:
                end = run.failure.epoch
                if run.epochs:
                    _cross(loss_axis, end, run.epochs[-1].loss)
                _cross(logit_axis, end, run.failure.largest_logit)
                logit_axis.annotate(
                    f"{run.failure.quantity} not finite\nat step {run.failure.step},\n"
                    f"|logit| {run.failure.largest_logit:.2f}",
                    (end, run.failure.largest_logit),
                    xytext=(12, -56),
                    textcoords="offset points",
                    fontsize=9,
                )
        loss_axis.set(xlabel="epoch, from 0", ylabel="training loss", yscale="log")
        loss_axis.legend(fontsize=8)
        logit_axis.set(xlabel="epoch, from 0", ylabel="largest |logit| so far")
        figure.suptitle(describe(runs[0].spec))
    return figure


def heat_map_figure(report: Report, block: Block) -> Figure:
    """Epochs of the first failures, of one table; the published ones beside it where there are."""
    ours = _failures(report, block, lambda row: row.run.failure and row.run.failure.epoch)
    panels = [("here", ours, cell_text)]
    if any(report.rows[i].published for i in block.cells.values()):
        theirs = _failures(report, block, lambda row: row.published and row.published.first_failure)
        panels.append(("published", theirs, published_text))
    failures = np.concatenate([values[np.isfinite(values)] for _, values, _ in panels])
    last = failures.max(initial=1)
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        width = 1.6 + len(panels) * (0.5 * len(block.columns) + 0.6)
        figure = Figure(figsize=(width, 1.3 + 0.36 * len(block.rows)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, values, words) in zip(axes, panels, strict=True):
            axis.imshow(values, cmap=_HEAT, vmin=0, vmax=last, aspect="auto")
            for (i, j), value in np.ndenumerate(values):
                index = block.cells.get((block.rows[i], block.columns[j]))
                if index is not None:
                    if words(report.rows[index]).endswith("+"):
                        axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=_UNHARMED))
                    light = np.isfinite(value) and value < 0.35 * last
                    colour = "white" if light else "#222222"
                    cell = words(report.rows[index])
                    axis.text(j, i, cell, ha="center", va="center", fontsize=8, color=colour)
            axis.set_xticks(range(len(block.columns)), [text(c) for c in block.columns])
            axis.set_yticks(range(len(block.rows)), [text(r) for r in block.rows])
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(short(block.column) if block.column else "")
        axes[0].set_ylabel(short(block.row) if block.row else "")
        figure.suptitle(
            f"epoch of the first failure{block.title and ', '}{block.title}", fontsize=11
        )
    return figure


def _failures(
    report: Report, block: Block, epoch: Callable[[Row], int | None]
) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    values = np.full((len(block.rows), len(block.columns)), np.nan)
    for (row, column), index in block.cells.items():
        found = epoch(report.rows[index])
        if found is not None:
            values[block.rows.index(row), block.columns.index(column)] = found
    return values


def curves_figure(report: Report, block: Block) -> Figure:
    """Loss and largest |logit| of all runs of one table, a colour a row; a cross a failure."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 4), layout="constrained")
        loss_axis, logit_axis = figure.subplots(1, 2)
        shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(2, len(block.rows))))
        for (value, _), index in sorted(block.cells.items(), key=lambda item: item[1]):
            run = report.rows[index].run
            colour = COLOURS.get(value, shades[block.rows.index(value)])
            epochs = [e.epoch for e in run.epochs]
            losses, logits = [e.loss for e in run.epochs], [e.largest_logit for e in run.epochs]
            loss_axis.plot(epochs, losses, color=colour, lw=1)
            logit_axis.plot(epochs, logits, color=colour, lw=1)
            if run.failure is not None and run.epochs:
                _cross(loss_axis, run.failure.epoch, losses[-1], size=7)
                _cross(logit_axis, run.failure.epoch, run.failure.largest_logit, size=7)
        for value, shade in zip(block.rows, shades, strict=False):
            colour = COLOURS.get(value, shade)
            label = f"{short(block.row)} {text(value)}" if block.row else "all"
            loss_axis.plot([], [], color=colour, label=label)
        loss_axis.set(xlabel="epoch, from 0", ylabel="training loss", yscale="log")
        loss_axis.legend(fontsize=8)
        logit_axis.set(xlabel="epoch, from 0", ylabel="largest |logit| so far")
        figure.suptitle(block.title)
    return figure


def describe(spec: RunSpec) -> str:
    """The settings of a run but its loss, in a line."""
    match spec.data:
        case Digits(source=source, threshold=threshold, noise=noise):
            what = f"{source}, digits up to {threshold} against the rest, noise {noise:g}"
        case DigitMasks(source=source, noise=noise):
            what = f"ink of {source}, noise {noise:g}"
        case Photographs(source=source, positive=positive):
            what = f"{source}, {', '.join(positive)} against the rest"
    objective = spec.objective
    return (
        f"{what}, gamma = {objective.gamma:g}, alpha = {objective.alpha:g}, "
        f"logits in {objective.logits}"
    )


def _cross(axis: Axes, x: float, y: float, size: float = 12) -> None:
    axis.plot([x], [y], "X", color=COLOURS["original"], ms=size, mec="white", zorder=5)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write stem.png and stem.svg; the same figure gives the same files."""
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    with mpl.rc_context(_STYLE):
        with replacing(png) as temporary:
            figure.savefig(temporary, dpi=150, metadata={"Software": None})
        with replacing(svg) as temporary:
            figure.savefig(temporary, metadata={"Date": None})
    return png, svg


def png_bytes(figure: Figure) -> bytes:
    """A figure as the contents of a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
