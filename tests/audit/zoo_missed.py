"""What is true of a loss of the zoo, and isn't in its report."""

import re
from collections.abc import Iterator

from audit.zoo import Entry
from audit.zoo_lines import SOFT
from audit.zoo_results import scan
from parfocal.audit import AuditReport

_TOLD_BY = {
    "nonfinite": ("not finite", "vanishing constant"),
    "dead": ("dead gradient", "biased"),
    "flipped": ("wrong sign",),
    "off": ("biased", "inaccurate", "dead gradient", "wrong sign"),
}

# Of the logits of a scan, the part from which on a defect must be told.
_PART = 0.01


def missed(entry: Entry, report: AuditReport) -> Iterator[str]:
    """What is true of a loss, and isn't in its report."""
    kinds = {finding.kind for finding in report.findings}
    yield from (f"{kind} isn't found" for kind in entry.faults if kind not in kinds)
    lines = " | ".join((*report.meaning, *(f.cause for f in report.findings)))
    if entry.other and not re.search(entry.other, lines):
        yield f"it isn't called {entry.other}"
    if any(entry.constants) and "is added to" not in lines:
        yield f"the constants {entry.constants} aren't found"
    if entry.soft and SOFT[entry.soft] not in lines:
        yield f"soft targets aren't told: {SOFT[entry.soft]}"
    for name, divisor in entry.means.items():
        if f"{name} divides by {divisor}" not in lines:
            yield f"that {name} divides by {divisor} isn't told"
    if entry.ratio and f"weighs {entry.ratio:.4g} times" not in lines:
        yield f"that a mean weighs {entry.ratio:.4g} isn't told"
    if entry.weights and ", ".join(f"{w:.4g}" for w in entry.weights) not in lines:
        yield f"the weights {entry.weights} of the classes aren't told"
    for dtype in entry.refused:
        if not any(line.startswith(f"{dtype} is refused") for line in report.how):
            yield f"that {dtype} is refused isn't told"
    refused = [gamma for gamma in entry.gammas if gamma < entry.least_gamma]
    if refused and "is refused" not in lines:
        yield f"that gamma {refused[0]:g} is refused isn't told"
    yield from _missed_numbers(entry, report)


def _missed_numbers(entry: Entry, report: AuditReport) -> Iterator[str]:
    if not entry.held or entry.framework != "torch" or entry.reduced == "mean":
        return
    for dtype in (name for name in entry.dtypes if name not in entry.refused):
        for y in (1.0, 0.0):
            for gamma in (g for g in entry.gammas if g >= entry.least_gamma):
                wrong = scan(entry.name, dtype, y, entry.exponent if entry.gamma is None else gamma)
                for quantity, defects in wrong.wrong.items():
                    for name, where in defects.items():
                        if (quantity, name) == ("value", "dead"):
                            continue
                        if float(where.double().mean()) < _PART:
                            continue
                        if not _is_told(report, _TOLD_BY[name], quantity, dtype, y, gamma, entry):
                            yield (
                                f"{name}, {quantity}, {dtype}, target {y:g}, gamma {gamma:g}: "
                                f"{float(where.double().mean()):.1%} of the logits"
                            )


def _is_told(
    report: AuditReport, kinds: tuple[str, ...], quantity: str, dtype: str, y: float, gamma: float,
    entry: Entry,
) -> bool:  # fmt: skip
    return any(
        finding.kind in kinds
        and (finding.quantity, finding.dtype, finding.target) == (quantity, dtype, y)
        and (gamma in finding.gammas or entry.gamma is None)
        for finding in report.findings
    )
