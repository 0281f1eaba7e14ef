"""A report in a terminal: what is wrong, where, and a heat map in characters."""

import math
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parfocal.audit.cell import Cell, edges
from parfocal.audit.findings import Finding
from parfocal.audit.report import AuditReport
from parfocal.audit.summary import summary

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

# Of the error in ULP, for dtypes of 16 bits and for wider ones: up to 1, 2, ... and 4, 64, ...
_NARROW = ((1.0, "·"), (2.0, "-"), (8.0, "+"), (64.0, "*"), (math.inf, "#"))
_WIDE = ((16.0, "·"), (256.0, "-"), (4096.0, "+"), (1e6, "*"), (math.inf, "#"))
LEGEND = "· - within the limit, + * # beyond it, ! not finite, blank: nothing normal"


def report_view(report: AuditReport) -> RenderableType:
    """All of a report."""
    parts: list[RenderableType] = [Text(title(report), style="bold")]
    parts += [Text(line, style="bold") for line in summary(report)]
    parts += [Text(f"  {line}", style="dim") for line in (*report.how, *report.meaning)]
    if report.error is not None:
        parts.append(Text(f"could not be audited: {report.error}", style="red"))
    if report.output:
        parts.append(Text(f"it printed: {report.output[-300:]}", style="dim"))
    if report.error is not None:
        return Group(*parts)
    parts += finding_lines(report.findings)
    for dtype in ("float32", "bfloat16"):
        parts += heat_map(report.cells, "gradient", dtype, 1.0)
    parts += [Text(f"✓ {line}", style="green") for line in report.certificates]
    shown = dict.fromkeys(f.kind for f in report.findings if f.severity != "note")
    for kind in shown:
        finding = next(f for f in report.findings if f.kind == kind)
        parts.append(Text(f"{kind}, by itself:", style="bold"))
        parts.append(Text(f"  {finding.reproduce}"))
    parts.append(Text(verdict(report), style="bold"))
    return Group(*parts)


def title(report: AuditReport) -> str:
    """What was judged."""
    version = f" {report.version}" if report.version else ""
    place = "" if report.name == report.target else f" ({report.target})"
    return f"{report.name}{version}{place}"


def verdict(report: AuditReport) -> str:
    """In a line."""
    if report.error is not None:
        return f"could not be audited: {report.error}"
    errors = sum(f.severity == "error" for f in report.findings)
    warnings = sum(f.severity == "warning" for f in report.findings)
    kinds = "certified where all logits were looked at, else sampled"
    cells = f"{len(report.cells)} cells, {kinds}"
    if report.status == 0:
        return f"clean: {cells}"
    return f"{errors} errors, {warnings} warnings: {cells}"


def groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one kind, quantity and mode together."""
    found: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.severity, finding.kind, finding.quantity, finding.mode, finding.cause)
        found.setdefault(key, []).append(finding)
    return list(found.values())


def where(group: Sequence[Finding]) -> str:
    """A line a target: the dtypes, each with its logit."""
    lines = []
    for target in dict.fromkeys(f.target for f in group):
        spots = [
            f"{f.dtype} {f.logit:.10g}" if f.logit is not None else f.dtype
            for f in group
            if f.target == target
        ]
        lines.append(f"target {target:g}: {', '.join(spots)}")
    return "\n".join(lines)


def finding_lines(findings: Sequence[Finding]) -> list[RenderableType]:
    """A paragraph a group."""
    parts: list[RenderableType] = []
    for group in groups(findings):
        worst = max(group, key=lambda f: (f.share, f.ulp))
        gammas = sorted({gamma for f in group for gamma in f.gammas})
        mode = "" if worst.mode == "eager" else f", {worst.mode}"
        head = Text(f"{worst.severity}: ", style=_COLOURS[worst.severity])
        head.append(f"{worst.kind}, {worst.quantity}{mode}", style="bold")
        if gammas:
            head.append(" at gamma " + ", ".join(f"{gamma:.8g}" for gamma in gammas))
        if worst.severity != "note":
            head.append(f"; {max(f.ulp for f in group):.3g} ULP, {worst.share:.1%} of the logits")
        parts.append(head)
        if worst.logit is not None:
            parts += [Text(f"    {line}") for line in where(group).splitlines()]
        parts.append(Text(f"    {worst.cause}", style="dim"))
    return parts


def heat_map(
    cells: Sequence[Cell], quantity: str, dtype: str, target: float
) -> list[RenderableType]:
    """Rows are gammas, columns logits from left to right."""
    group = [c for c in cells if (c.quantity, c.dtype, c.target) == (quantity, dtype, target)]
    if not group:
        return []
    ends = edges()
    lines = [
        f"{quantity}, {dtype}, target {target:g}: error against logit "
        f"({ends[0]:g} to {ends[-2]:g} and beyond)"
    ]
    for cell in group:
        scale = _NARROW if dtype in ("float16", "bfloat16") else _WIDE
        lines.append(f"{cell.gamma:>9.7g} |{''.join(_mark(e, scale) for e in cell.heat)}|")
    lines.append(f"  {LEGEND}")
    return [Text("\n".join(lines), no_wrap=True)]


def _mark(error: float, scale: Sequence[tuple[float, str]]) -> str:
    if error < 0:
        return " "
    if math.isinf(error):
        return "!"
    return next(mark for bound, mark in scale if error <= bound)


def installed_table(reports: Sequence[AuditReport]) -> Table:
    """One row a loss."""
    table = Table(title="Focal losses of this environment", show_lines=False)
    for heading in ("loss", "version", "verdict", *(words for words, *_ in COLUMNS)):
        table.add_column(heading, overflow="fold")
    for report in reports:
        table.add_row(*(escape(cell) for cell in installed_row(report)))
    return table


# A heading, and the cell that it tells of: dtype and gamma.
COLUMNS = (
    ("float32, gamma 0.5", "float32", 0.5),
    ("float32, gamma 2", "float32", 2.0),
    ("bfloat16, gamma 0.5", "bfloat16", 0.5),
)


def installed_row(report: AuditReport) -> list[str]:
    """Name, version, verdict, and what the gradient does in each column."""
    row = [report.name, report.version]
    if report.error is not None:
        return [*row, f"could not be audited: {report.error}", *("" for _ in COLUMNS)]
    if report.status == 0:
        verdicts = ["clean"]
    else:
        verdicts = list(
            dict.fromkeys(f.kind for f in report.findings if f.severity == "error")
        ) or ["warnings"]
    notes = [f.cause for f in report.findings if f.severity == "note"]
    row.append("; ".join([", ".join(verdicts), *notes]))
    for _, dtype, gamma in COLUMNS:
        row.append(cliffs(report, dtype, gamma))
    return row


# An overflow of a logit beyond is not what a table is for.
_FAR = 1e4


def cliffs(report: AuditReport, dtype: str, gamma: float) -> str:
    """Where the gradient is not finite, or off by a percent, at targets 1 and 0; or its ULP."""
    cells = [
        c
        for target in (1.0, 0.0)
        for c in report.cells
        if (c.quantity, c.dtype, c.gamma, c.target) == ("gradient", dtype, gamma, target)
    ]
    if not cells:
        return ""
    firsts = [c.cliff if c.cliff and abs(c.cliff.logit) < _FAR else None for c in cells]
    if any(firsts):
        return "not finite from " + " | ".join(
            "-" if cliff is None else f"{abs(cliff.logit):.6g}" for cliff in firsts
        )
    if any(c.percent or c.dead_from for c in cells):
        return "> 1 % from " + " | ".join(_off(c) for c in cells)
    worst = max(e for c in cells for e in c.heat if not math.isinf(e))
    return f"{worst:.3g} ULP" + (", certified" if all(c.certified for c in cells) else "")


def _off(cell: Cell) -> str:
    spots = [abs(c.logit) for c in (cell.percent, cell.dead_from) if c is not None]
    return f"{min(spots):.6g}" if spots else "-"


def show(console: Console, reports: Sequence[AuditReport]) -> None:
    """One report in full, several as a table."""
    if len(reports) == 1:
        console.print(report_view(reports[0]), soft_wrap=True)  # lines to copy aren't broken
    else:
        console.print(installed_table(reports))
