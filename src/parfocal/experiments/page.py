"""One self-contained HTML page about a gradient study and the trainings beside it."""

import base64
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from parfocal.experiments.display import outcome_cells
from parfocal.experiments.gradient_study import GradientStudy
from parfocal.experiments.record import Run, replacing


def write_page(
    path: Path, study: GradientStudy, runs: Sequence[Run], gradient_png: Path, training_png: Path
) -> None:
    """Write the page; its figures are inside it."""
    environment = Environment(
        loader=PackageLoader("parfocal.experiments", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_loss = {run.spec.loss: run for run in runs}
    html = environment.get_template("demo.html").render(
        study=study,
        original=by_loss["original"],
        exact=by_loss["exact"],
        smoothed=by_loss["smoothed"],
        excess=1 + max(c.largest_relative_error for c in study.curves if c.loss == "smoothed"),
        cliffs={c.target: c.cliff for c in study.curves if c.loss == "original"},
        rows=[outcome_cells(run) for run in runs],
        gradient_image=_inline(gradient_png),
        training_image=_inline(training_png),
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _inline(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
