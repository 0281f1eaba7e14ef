"""The table of all known losses, as a page of the documentation."""

import platform
from collections.abc import Sequence

import torch

from parfocal.audit.known import KNOWN
from parfocal.audit.output.wording import COLUMNS, installed_row
from parfocal.audit.report import AuditReport

_HEAD = """# What other libraries' focal losses do

Made by `parfocal audit --installed --markdown docs/ecosystem.md`. Each loss was called as its
library has it, with alpha off where it can be, and its results held against enclosures in ball
arithmetic: all logits of the 16-bit types, samples of the others, each cliff bisected to two
neighbouring numbers.

Gradients with respect to the logit: "not finite from" and "> 1 % from" give the smallest |logit| at
target 1 | target 0; else the largest error in ULP. A loss that computes another function is held
to that function, and says so.
"""


def markdown(reports: Sequence[AuditReport]) -> str:
    """The page."""
    headings = ("loss", "version", "verdict", *(words for words, *_ in COLUMNS))
    notes = {entry.name: entry.note for entry in KNOWN}
    lines = [_HEAD, _row(headings), _row(["---"] * len(headings))]
    for report in reports:
        name, *rest = installed_row(report)
        note = notes.get(report.name)
        lines.append(_row([f"{name} ({note})" if note else name, *rest]))
    lines += ["", "## What each one means", ""]
    for report in reports:
        meaning = "; ".join(report.meaning) or str(report.error)
        lines.append(f"- {_escaped(report.name)}: {_escaped(meaning)}.")
    lines += ["", "## Cliffs to the bit", "", _cliffs(reports), ""]
    lines += ["## A line of Python for each kind", ""]
    for report in reports:
        seen = set()
        for finding in report.findings:
            if finding.severity == "error" and finding.kind not in seen:
                seen.add(finding.kind)
                lines.append(f"{report.name}, {finding.kind} ({finding.cause}):\n")
                lines.append(f"    {finding.reproduce}\n")
    lines.append(f"torch {torch.__version__}, Python {platform.python_version()}, on a CPU.")
    return "\n".join(lines) + "\n"


def _cliffs(reports: Sequence[AuditReport]) -> str:
    """The last finite neighbour and the first number whose gradient isn't, at gamma 0.5."""
    rows = [_row(("loss", "dtype", "target", "finite at", "not finite at")), _row(["---"] * 5)]
    for report in reports:
        for cell in report.cells:
            if cell.quantity == "gradient" and cell.gamma == 0.5 and cell.cliff is not None:
                rows.append(
                    _row(
                        (
                            report.name,
                            cell.dtype,
                            f"{cell.target:g}",
                            "" if cell.cliff.before is None else repr(cell.cliff.before),
                            repr(cell.cliff.logit),
                        )
                    )
                )
    return "\n".join(rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
