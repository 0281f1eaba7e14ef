"""A report in a terminal: what is wrong, where, and a heat map in characters."""

import math
from collections.abc import Collection, Sequence

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from parfocal.audit.cell import Cell, edges
from parfocal.audit.findings import Finding
from parfocal.audit.output.summary import summary
from parfocal.audit.output.wording import COLUMNS, groups, installed_row, title, verdict, where
from parfocal.audit.report import AuditReport

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}

# Of the error in ULP, for dtypes of 16 bits and for wider ones: up to 1, 2, ... and 4, 64, ...
_NARROW = ((1.0, "·"), (2.0, "-"), (8.0, "+"), (64.0, "*"), (math.inf, "#"))
_WIDE = ((16.0, "·"), (256.0, "-"), (4096.0, "+"), (1e6, "*"), (math.inf, "#"))
LEGEND = "· - within the limit, + * # beyond it, ! not finite, blank: nothing normal"


def report_view(report: AuditReport, fail_on: Collection[str] = ("error",)) -> RenderableType:
    """All of a report: what fails in full, the rest of what is wrong in a line each."""
    parts: list[RenderableType] = [Text(title(report), style="bold")]
    parts += [Text(line, style="bold") for line in summary(report)]
    parts += [Text(f"  {line}", style="dim") for line in (*report.how, *report.meaning)]
    if report.error is not None:
        parts.append(Text(f"could not be audited: {report.error}", style="red"))
    if report.output:
        parts.append(Text(f"it printed: {_end(report.output)}", style="dim"))
    if report.error is not None:
        return Group(*parts)
    failures = report.failures(fail_on)
    told = [f for f in report.findings if f in failures or f.severity != "warning"]
    parts += finding_lines(told)
    parts += remark_lines([f for f in report.findings if f not in told])
    for dtype in ("float32", "bfloat16"):
        parts += heat_map(report.cells, "gradient", dtype, 1.0)
    parts += [Text(f"✓ {line}", style="green") for line in report.certificates]
    for kind in dict.fromkeys(f.kind for f in failures):
        finding = next(f for f in failures if f.kind == kind)
        parts.append(Text(f"{kind}, by itself:", style="bold"))
        parts.append(Text(f"  {finding.reproduce}"))
    parts.append(Text(verdict(report, fail_on), style="bold"))
    return Group(*parts)


def _end(output: str, length: int = 300) -> str:
    """The last words, from a beginning of one on."""
    if len(output) <= length:
        return output
    return "... " + output[-length:].split(maxsplit=1)[-1]


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


def remark_lines(findings: Sequence[Finding]) -> list[RenderableType]:
    """A line a kind and quantity: what no training feels; all of it is in JSON and on the page."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for f in findings:
        places.setdefault((f.kind, f.quantity, f.mode), []).append(f.dtype)
    lines: list[RenderableType] = []
    for (kind, quantity, mode), dtypes in places.items():
        line = Text("remark: ", style=_COLOURS["warning"])
        line.append(f"{kind}, {quantity}" + ("" if mode == "eager" else f", {mode}"), style="bold")
        line.append(f" in {', '.join(dict.fromkeys(dtypes))}")
        lines.append(line)
    return lines


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


def show(
    console: Console, reports: Sequence[AuditReport], fail_on: Collection[str] = ("error",)
) -> None:
    """One report in full, several as a table."""
    if len(reports) == 1:
        console.print(
            report_view(reports[0], fail_on), soft_wrap=True
        )  # lines to copy aren't broken
    else:
        console.print(installed_table(reports))
