"""Reports as one self-contained page, with figures that answer."""

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from parfocal.audit.cell import Cell, edges
from parfocal.audit.output.summary import summary
from parfocal.audit.output.wording import groups, title, verdict, where
from parfocal.audit.report import AuditReport


def page(reports: Sequence[AuditReport]) -> str:
    """HTML; whatever a target is called, prints or raises is escaped."""
    environment = Environment(
        loader=PackageLoader("parfocal.audit.output", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html").render(
        reports=reports,
        title=title,
        summary=summary,
        verdict=verdict,
        groups=groups,
        where=where,
        worst_of=lambda group: max(group, key=lambda f: (f.share, f.ulp)),
        data=[
            {"cells": [_cell(c) for c in report.cells if c.quantity != "curvature"]}
            for report in reports
        ],
        edges=[edge if math.isfinite(edge) else 1e9 for edge in edges()],
    )


def _cell(cell: Cell) -> dict[str, Any]:
    """What the figures need; JSON has no infinity."""
    return {
        "q": cell.quantity,
        "d": cell.dtype,
        "y": cell.target,
        "g": float(f"{cell.gamma:.9g}"),
        "limit": cell.limit,
        "points": cell.points,
        "certified": cell.certified,
        "worst": _number(cell.worst),
        "heat": [_number(error) for error in cell.heat],
        "curve": [[_number(part) for part in point] for point in cell.curve],
    }


def _number(value: float) -> float | None:
    """None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
