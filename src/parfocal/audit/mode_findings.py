"""Findings from other modes: autocast and its like, and a mask from outside."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from parfocal.audit.findings import SEVERITIES, Finding
from parfocal.audit.modes import Leak, Mismatch
from parfocal.audit.reproduce import reproduction
from parfocal.audit.subject import Subject


def mode_findings(subject: Subject, mismatches: Iterable[Mismatch]) -> Iterator[Finding]:
    """One finding a mode and a target."""
    groups: dict[tuple[str, float, bool], list[Mismatch]] = defaultdict(list)
    for found in mismatches:
        groups[found.mode, found.target, found.error is None].append(found)
    for (mode, target, _), group in groups.items():
        worst = max(group, key=lambda m: m.ulp)
        cause = f"fails: {worst.error}" if worst.error else "not what eager gives, beyond rounding"
        yield Finding(
            kind="mode mismatch",
            severity=SEVERITIES["mode mismatch"],
            quantity="gradient",
            dtype="float32",
            target=target,
            mode=mode,
            gammas=tuple(m.gamma for m in group),
            logit=worst.logit,
            before=None,
            computed=worst.computed,
            truth=worst.eager,
            share=worst.share,
            ulp=worst.ulp,
            certified=False,
            cause=cause,
            reproduce=reproduction(
                subject, "float32", target, worst.gamma, worst.logit or 0.0, "gradient", mode
            ),
        )


def leak_findings(subject: Subject, leaks: Iterable[Leak]) -> Iterator[Finding]:
    """One finding a dtype and a target."""
    groups: dict[tuple[str, float], list[Leak]] = defaultdict(list)
    for leak in leaks:
        groups[leak.dtype, leak.target].append(leak)
    for (dtype, target), group in groups.items():
        worst = max(group, key=lambda leak: leak.share)
        yield Finding(
            kind="masked leak",
            severity=SEVERITIES["masked leak"],
            quantity="gradient",
            dtype=dtype,
            target=target,
            mode="masked",
            gammas=tuple(leak.gamma for leak in group),
            logit=worst.logit,
            before=None,
            computed=worst.computed,
            truth=0.0,
            share=worst.share,
            ulp=math.inf,
            certified=False,
            cause="a position whose loss is multiplied by 0 has a gradient that is not 0: "
            + (
                "its backward doesn't read what it is multiplied by"
                if math.isfinite(worst.computed)
                else "zero times infinity behind the mask"
            ),
            reproduce=reproduction(
                subject, dtype, target, worst.gamma, worst.logit, "gradient", "masked"
            ),
        )
