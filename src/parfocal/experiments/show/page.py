"""Self-contained HTML pages: about the demo's trainings, and about a folder of runs."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.show.display import outcome_cells
from parfocal.experiments.show.figures import curves_figure, heat_map_figure, png_bytes
from parfocal.experiments.show.report import Report, cell_text, published_text
from parfocal.experiments.show.tabulation import Block, short, text

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


def write_report_page(path: Path, report: Report) -> None:
    """Write the page of a report; its figures are inside it."""
    sections = [
        (section.heading, [(block, _images(report, block)) for block in section.blocks])
        for section in report.sections
    ]
    _write(
        path,
        "report.html",
        report=report,
        sections=sections,
        cell_text=cell_text,
        published_text=published_text,
        short=short,
        text=text,
    )


def _images(report: Report, block: Block) -> list[tuple[str, str]]:
    """What each figure of a table shows, and the figure."""
    begun = any(report.rows[i].run.epochs for i in block.cells.values())
    figures = []
    if len(block.columns) > 1 and len(block.rows) > 1:
        figures.append(("Epochs of the first failures.", heat_map_figure(report, block)))
    if begun:
        words = (
            "Training loss and largest |logit| so far, epoch by epoch; a cross where a run failed."
        )
        figures.append((words, curves_figure(report, block)))
    return [(words, _inline(png_bytes(figure))) for words, figure in figures]


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
