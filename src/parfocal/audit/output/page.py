"""Reports as one self-contained page, with figures that answer."""

import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import torch

from parfocal.audit.cell import Cell, edges
from parfocal.audit.findings import Finding
from parfocal.audit.judge import TRAINING
from parfocal.audit.output.summary import in_words, replacement_of
from parfocal.audit.output.wording import groups, title, verdict, where
from parfocal.audit.report import AuditReport
from parfocal.pages.page import made_by, render


def page(reports: Sequence[AuditReport], command: str = "parfocal audit") -> str:
    """HTML; whatever a target is called, prints or raises is escaped.

    Args:
        reports: a section each.
        command: what made it, as its foot names it.
    """
    script = files("parfocal.audit.output").joinpath("templates/audit.js")
    return render(
        "parfocal.audit.output",
        "audit.html",
        made_by(command, "torch"),
        scripts=[script.read_text(encoding="utf-8")],
        reports=reports,
        title=title,
        in_words=in_words,
        replacement_of=replacement_of,
        verdict=verdict,
        groups=groups,
        where=where,
        worst_of=lambda group: max(group, key=lambda f: (f.share, f.ulp)),
        error_of=_error,
        overviews=lambda report: list(_overviews(report.cells)),
        data={
            "edges": [edge if math.isfinite(edge) else None for edge in edges()],
            "reports": [
                [_cell(cell) for cell in report.cells if cell.quantity != "curvature"]
                for report in reports
            ],
        },
    )


class Overview(NamedTuple):
    """The worst errors of a quantity: a row a gamma, a column a dtype.

    A cell is its text, and whether it says where the quantity isn't finite.
    """

    quantity: str
    dtypes: tuple[str, ...]
    rows: tuple[tuple[float, tuple[tuple[str, bool], ...]], ...]


def _overviews(cells: Sequence[Cell]) -> Iterator[Overview]:
    dtypes = tuple(dict.fromkeys(cell.dtype for cell in cells))
    for quantity in dict.fromkeys(cell.quantity for cell in cells):
        of_quantity = [cell for cell in cells if cell.quantity == quantity]
        rows = tuple(
            (gamma, tuple(_worst(of_quantity, dtype, gamma) for dtype in dtypes))
            for gamma in sorted({cell.gamma for cell in of_quantity})
        )
        yield Overview(quantity, dtypes, rows)


def _worst(cells: Sequence[Cell], dtype: str, gamma: float) -> tuple[str, bool]:
    """Over all targets the worst error in ULP, or from where it isn't finite at a training."""
    group = [cell for cell in cells if (cell.dtype, cell.gamma) == (dtype, gamma)]
    if not group:
        return "", False
    cliffs = [abs(cell.cliff.logit) for cell in group if cell.cliff is not None]
    if cliffs and min(cliffs) < TRAINING:
        return f"from {min(cliffs):.4g}", True
    errors = [error for cell in group for error in (cell.worst, *cell.heat) if error >= 0]
    return f"{max((e for e in errors if math.isfinite(e)), default=0.0):.2g}", False


def _error(finding: Finding) -> str:
    return f"{finding.ulp:.3g} ULP" if math.isfinite(finding.ulp) else "not finite"


def _cell(cell: Cell) -> dict[str, Any]:
    """What the figures need; JSON has no infinity."""
    dtype = getattr(torch, cell.dtype)
    return {
        "q": cell.quantity,
        "d": cell.dtype,
        "y": cell.target,
        "g": float(f"{cell.gamma:.9g}"),
        "limit": cell.limit,
        "cliff": None if cell.cliff is None else _number(cell.cliff.logit),
        "smallest": torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps,
        "points": cell.points,
        "certified": cell.certified,
        "worst": _number(cell.worst),
        "heat": [_number(error) for error in cell.heat],
        "curve": [[_number(part) for part in point] for point in cell.curve],
    }


def _number(value: float) -> float | None:
    """None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
