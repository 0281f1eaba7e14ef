"""The table of all known losses, as a page of the documentation."""

import datetime
import platform
from collections.abc import Callable, Sequence

import torch

import parfocal
from parfocal.audit.known import KNOWN
from parfocal.audit.output.summary import in_words, replacement_of
from parfocal.audit.output.wording import COLUMNS, installed_row
from parfocal.audit.report import AuditReport

_READING = """
An error harms a training: a result that isn't finite, a gradient that is wrong by more than a
percent of the largest one. Remarks are of what no training feels, and of second derivatives. Each
loss was called as its library has it, with alpha off where it can be, and held against enclosures
in ball arithmetic: at all logits of the 16-bit types (samples under `--quick`), at samples of the
others; each cliff is bisected to two neighbouring numbers. A loss that computes another function is
held to that function, and says so.

The last three columns are of gradients in the logit: "not finite from" and "> 1 % from" give the
smallest |logit| at target 1 | target 0; else the largest error in ULP.
"""


def markdown(reports: Sequence[AuditReport], command: str = "parfocal audit --installed") -> str:
    """The page: the verdict, the fix, how it was made, the table, then each loss."""
    is_all = "--installed" in command
    title = "What other libraries' focal losses do" if is_all else "What an audit says"
    headings = ("loss", "version", "verdict", *(words for words, *_ in COLUMNS))
    notes = {entry.name: entry.note for entry in KNOWN}
    lines = [f"# {title}", "", *_opening(reports, command), _READING]
    lines += [_row(headings), _row(["---"] * len(headings))]
    for report in reports:
        name, *rest = installed_row(report)
        note = notes.get(report.name)
        lines.append(_row([f"{name} ({note})" if note else name, *rest]))
    lines += ["", "## Each one, and the call that takes its place", ""]
    for report in reports:
        lines += _of_one(report)
    lines += ["", "## Cliffs to the bit", "", _cliffs(reports), ""]
    lines += ["## A line of Python for each kind", ""]
    for report in reports:
        seen = set()
        for finding in report.findings:
            if finding.severity == "error" and finding.kind not in seen:
                seen.add(finding.kind)
                lines.append(f"{report.name}, {finding.kind} ({finding.cause}):\n")
                lines.append(f"    {finding.reproduce}\n")
    return "\n".join(lines).rstrip() + "\n"


def _opening(reports: Sequence[AuditReport], command: str) -> list[str]:
    """What came out of all, what to do, and how it was made."""
    others = [r for r in reports if not r.target.startswith("parfocal") and r.error is None]
    packages = {entry.distribution for entry in KNOWN if entry.name in {r.name for r in others}}

    def count(holds: Callable[[AuditReport], bool]) -> int:
        return sum(map(holds, others))

    below_one = [
        sum(_breaks(report, dtype) for report in others) for dtype in ("float32", "bfloat16")
    ]
    failed = [r.name for r in reports if r.error is not None]
    return [
        f"**Of {len(others)} losses of {len(packages)} packages {count(_is_clean)} are clean and "
        f"{count(_is_safe)} train safely in float32 at gamma 2; at gammas between 0 and 1 the "
        f"gradients of {below_one[0]} aren't finite in float32, those of {below_one[1]} in "
        "bfloat16.** The fix is one line and stands below each loss: a call of parfocal with the "
        "alpha and the mean that were found."
        + (f" Not audited: {', '.join(failed)}." if failed else ""),
        "",
        f"Made on {datetime.date.today():%Y-%m-%d} by `{command}`,",
        f"with parfocal {parfocal.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, on a CPU.",
    ]


def _is_clean(report: AuditReport) -> bool:
    return report.status == 0


def _breaks(report: AuditReport, dtype: str) -> bool:
    """Whether a gradient isn't finite below 1 at a logit of a training."""
    return any(
        f.kind == "not finite" and (f.quantity, f.dtype, f.severity) == ("gradient", dtype, "error")
        and any(0 < gamma < 1 for gamma in f.gammas)
        for f in report.findings
    )  # fmt: skip


def _is_safe(report: AuditReport) -> bool:
    return "Trains safely in float32 at gamma 2" in in_words(report)


def _of_one(report: AuditReport) -> list[str]:
    """Its first lines, its meaning, and the call."""
    if report.error is not None:
        return [f"- **{_escaped(report.name)}**: could not be audited: {_escaped(report.error)}"]
    meaning = "; ".join(report.meaning)
    lines = [f"- **{_escaped(report.name)}** (`{report.target}`): {_escaped(in_words(report))} "
             f"{_escaped(meaning[:1].upper() + meaning[1:])}."]  # fmt: skip
    if call := replacement_of(report):
        lines.append(f"  In its place: `{call}`")
    return lines


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
