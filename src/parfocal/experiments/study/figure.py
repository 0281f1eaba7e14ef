"""The figure of a study; small enough for a telephone. It computes nothing."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from parfocal.experiments.run.record import replacing
from parfocal.experiments.study.comparison import Comparison
from parfocal.experiments.study.words import AP, focal_objectives

_COLUMNS = 2
_WIDTH = 390 / 96  # inches: 390 pixels of a browser
_LEAST_HEIGHT = 3.6  # the label of the vertical axis fits
_STYLES = (("none", "without alpha", "#0a7e8c", "o"), ("usual", "with alpha", "#e09f3e", "s"))
_STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "parfocal",
}


def differences_figure(comparison: Comparison) -> Figure:
    """Average precision less the first reference's by gamma, a panel a data set."""
    places = comparison.places
    columns = min(_COLUMNS, len(places))
    rows = math.ceil(len(places) / columns)
    with mpl.rc_context(_STYLE):
        height = max(0.7 + 1.45 * rows, _LEAST_HEIGHT)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, place in zip(axes, places, strict=False):
            _panel(axis, comparison, place)
        for axis in axes[len(places) :]:
            axis.set_axis_off()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
        figure.supxlabel("gamma", fontsize=9)
        figure.supylabel(
            f"average precision less the {comparison.study.references[0]}'s, points", fontsize=9
        )
    return figure


def _panel(axis: Axes, comparison: Comparison, dataset: str | None) -> None:
    reference = comparison.study.references[0]
    kinds = [focal_objectives(comparison, weights) for weights, *_ in _STYLES]
    gammas = sorted({objective.gamma for kind in kinds for objective in kind.values()})
    axis.axhline(0, color="#444444", lw=0.8)
    for kind, shift, style in zip(kinds, (-0.12, 0.12), _STYLES, strict=True):
        _, label, colour, marker = style
        for name, objective in kind.items():
            found = comparison.difference(dataset, name, reference, AP)
            if found is None:
                continue
            place = gammas.index(objective.gamma) + shift
            axis.plot([place] * 2, [100 * found.low, 100 * found.high], color=colour, lw=1.4)
            axis.plot(place, 100 * found.value, marker, color=colour, ms=3.5)
        axis.plot([], [], marker, color=colour, ms=4, label=label)
    axis.set_xticks(range(len(gammas)), [f"{gamma:g}".removeprefix("0") for gamma in gammas])
    axis.set_title(dataset or "average")
    axis.grid(axis="y", alpha=0.25)


def save_svg(figure: Figure, path: Path) -> None:
    """Write a figure; the same figure gives the same file."""
    with mpl.rc_context(_STYLE), replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None}, facecolor="white")
