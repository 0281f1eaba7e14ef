"""Self-contained HTML pages: about the demo's trainings, and about a folder of runs."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal import __version__
from parfocal.experiments.run.events import Failure
from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.show.charts import curves, gradient_charts, training_charts
from parfocal.experiments.show.conclusion import (
    agreement_text,
    factor_text,
    headline,
    interval_text,
    later_text,
    published_rate_text,
    range_text,
    sentences,
)
from parfocal.experiments.show.display import outcome_cells
from parfocal.experiments.show.heat_map import heat_map
from parfocal.experiments.show.report import Report, cell_text, plural, published_text
from parfocal.experiments.show.tabulation import short, text
from parfocal.experiments.spec import Digits, RunSpec
from parfocal.pages.page import DOCS, Made, made_by, render

if TYPE_CHECKING:
    from parfocal.experiments.gradient_study import GradientStudy


def write_demo_page(
    path: Path,
    study: "GradientStudy",
    runs: Sequence[Run],
    picture: bytes | None,
    command: str,
) -> None:
    """Write the demo's page.

    Args:
        path: of the page.
        study: the gradients of the losses.
        runs: one per loss.
        picture: the image that the original failed at, as PNG, if it did.
        command: what made it, as the page names it.
    """
    by_loss = {run.spec.objective.loss: run for run in runs}
    _write(
        path,
        "demo.html",
        made_by(command, "torch"),
        study=study,
        original=by_loss["original"],
        exact=by_loss["exact"],
        smoothed=by_loss["smoothed"],
        excess=1 + max(c.largest_relative_error for c in study.curves if c.loss == "smoothed"),
        cliffs={c.target: c.cliff for c in study.curves if c.loss == "original"},
        rows=[outcome_cells(run) for run in runs],
        gradients=gradient_charts(study),
        trainings=training_charts(runs),
        picture=None if picture is None else _inline(picture),
        is_right=_is_right(by_loss["original"]),
        docs=DOCS,
    )


def _is_right(run: Run) -> bool:
    """Whether the sample behind a failure was on the side of its logit."""
    match run:
        case Run(failure=Failure(label=label, logit=logit), spec=RunSpec(data=Digits(threshold=t))):
            return (int(label) <= t) == (logit > 0)
    return False


def write_report_page(path: Path, report: Report, command: str) -> None:
    """Write the page of a report; the same records give the same page.

    Args:
        path: of the page.
        report: what is known about a folder of runs.
        command: what made it, as the page names it.
    """
    sections = [
        (
            section,
            [(block, heat_map(report, block), curves(report, block)) for block in section.blocks],
        )
        for section in report.sections
    ]
    _write(
        path,
        "report.html",
        Made(command, (report.provenance.last or "")[:10], {"parfocal": __version__}),
        report=report,
        sections=sections,
        headline=headline(report),
        sentences=sentences(report),
        rows_of=lambda cell: [report.rows[index] for index in cell],
        agreement_text=agreement_text,
        factor_text=factor_text,
        cell_text=cell_text,
        interval_text=interval_text,
        later_text=later_text,
        plural=plural,
        published_rate_text=published_rate_text,
        published_text=published_text,
        range_text=range_text,
        short=short,
        text=text,
    )


def _write(path: Path, template: str, made: Made, **values: Any) -> None:
    html = render("parfocal.experiments.show", template, made, **values)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
