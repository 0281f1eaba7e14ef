"""What all outputs say in the same words."""

import math
from collections.abc import Collection, Iterable, Sequence

from parfocal.audit.cell import Cell
from parfocal.audit.findings import Finding
from parfocal.audit.judge import TRAINING
from parfocal.audit.report import AuditReport


def title(report: AuditReport) -> str:
    """What was judged."""
    version = f" {report.version}" if report.version else ""
    place = "" if report.name == report.target else f" ({report.target})"
    return f"{report.name}{version}{place}"


def verdict(report: AuditReport, fail_on: Collection[str] = ("error",)) -> str:
    """In a line."""
    if report.error is not None:
        return f"could not be audited: {report.error}"
    failures = report.failures(fail_on)
    errors = len(failures)
    warnings = sum(f.severity != "note" and f not in failures for f in report.findings)
    certified = sum(cell.certified for cell in report.cells)
    cells = f"{len(report.cells)} cells, {certified} of them certified at all logits"
    remarks = f", {warnings} remarks" if warnings else ""
    if errors == 0:
        return f"clean{remarks}: {cells}"
    return f"{errors} errors{remarks}: {cells}"


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
    firsts = [c.cliff if c.cliff and abs(c.cliff.logit) < TRAINING else None for c in cells]
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
