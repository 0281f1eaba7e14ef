"""Figures of a gradient study and of one training. They compute nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from parfocal.experiments.run.record import Run, replacing
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
