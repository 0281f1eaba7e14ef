"""Self-contained HTML pages: about the demo's trainings, and about a folder of runs."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from parfocal import __version__
from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.show.conclusion import (
    agreement_text,
    headline,
    interval_text,
    published_rate_text,
    range_text,
    sentences,
)
from parfocal.experiments.show.display import outcome_cells
from parfocal.experiments.show.report import Report, cell_text, plural, published_text
from parfocal.experiments.show.svg import curves, heat_map
from parfocal.experiments.show.tabulation import short, text

if TYPE_CHECKING:
    from parfocal.experiments.gradient_study import GradientStudy


def write_demo_page(
    path: Path, study: "GradientStudy", runs: Sequence[Run], gradient_png: Path, training_png: Path
) -> None:
    """Write the demo's page; its figures are inside it."""
    by_loss = {run.spec.objective.loss: run for run in runs}
    _write(
        path,
        "demo.html",
        study=study,
        original=by_loss["original"],
        exact=by_loss["exact"],
        smoothed=by_loss["smoothed"],
        excess=1 + max(c.largest_relative_error for c in study.curves if c.loss == "smoothed"),
        cliffs={c.target: c.cliff for c in study.curves if c.loss == "original"},
        rows=[outcome_cells(run) for run in runs],
        gradient_image=_inline(gradient_png.read_bytes()),
        training_image=_inline(training_png.read_bytes()),
    )


def write_report_page(path: Path, report: Report, command: str) -> None:
    """Write the page of a report; its figures are inside it.

    Args:
        path: where to.
        report: what is known of a folder of runs.
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
        report=report,
        sections=sections,
        headline=headline(report),
        sentences=sentences(report),
        command=command,
        version=__version__,
        rows_of=lambda cell: [report.rows[index] for index in cell],
        agreement_text=agreement_text,
        cell_text=cell_text,
        interval_text=interval_text,
        plural=plural,
        published_rate_text=published_rate_text,
        published_text=published_text,
        range_text=range_text,
        short=short,
        text=text,
    )


def _write(path: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=PackageLoader("parfocal.experiments.show", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
