"""An audit in plain words: whether the loss trains, and the call that takes its place."""

import math
from collections.abc import Sequence

from parfocal.audit.cell import Cell
from parfocal.audit.findings import Finding
from parfocal.audit.judge import TRAINING
from parfocal.audit.report import AuditReport

_FAULTS = {
    "wrong sign": "It has the wrong sign: a training would unlearn.",
    "gamma ignored": "It never reads its gamma.",
    "dead gradient": "One class has no gradient.",
    "reduced too early": "Of a batch it is another function: the modulator is that of the mean.",
}

# Findings on a logit and a target; the mode of others is a mask of the loss's own, or a compiler's.
_MODES = ("eager", "masked", "5 classes")


def summary(report: AuditReport) -> tuple[str, ...]:
    """One sentence or more, and the replacement if there is something to replace."""
    call = replacement_of(report)
    lines = [in_words(report), f"In its place: {call}" if call else ""]
    return tuple(line for line in lines if line)


def replacement_of(report: AuditReport) -> str:
    """The call to write instead; empty where there is nothing to replace, or nothing to do it."""
    return report.instead if report.error is None and report.status else ""


def in_words(report: AuditReport) -> str:
    """Whether the loss trains, in one sentence or more."""
    if report.error is not None:
        return ""
    faults = [f for f in report.findings if f.logit is None and f.mode == "eager"]
    sentences = [_FAULTS[kind] for kind in dict.fromkeys(f.kind for f in faults) if kind in _FAULTS]
    for kind in ("no function", "another definition"):
        sentences += [f"{_capital(f.cause)}." for f in faults if f.kind == kind]
    gradients = [c for c in report.cells if c.quantity == "gradient" and c.target in (0, 1)]
    if gradients:
        sentences += _of_training(report, gradients)
        sentences += _narrower(gradients)
        sentences += _below_one(gradients)
    if any(f.kind == "not finite" for f in faults):
        sentences.append("At soft targets its gradient is NaN.")
    sentences += _of_own_masks(report.findings)
    return " ".join(sentences)


def _of_training(report: AuditReport, cells: Sequence[Cell]) -> list[str]:
    """At the gamma of most trainings, in float32 where that was looked at."""
    dtype, gamma = _usual(cells)
    group = [c for c in cells if c.dtype == dtype and c.gamma == gamma]
    at = f"in {dtype} at gamma {gamma:g}"
    first = _first(group)
    if first is not None:
        return [f"Its gradient becomes {_number(first)} from a logit of {_logit(first)} {at}."]
    errors = [f for f in report.findings if f.severity == "error" and f.mode in _MODES]
    here = [f for f in errors if f.dtype == dtype and gamma in f.gammas and f.target in (0, 1)]
    kinds = {finding.kind for finding in here}
    if any(f.kind == "wrong sign" and f.quantity == "gradient" for f in here):
        return [f"Its gradient has the wrong sign at some logits {at}."]
    if "masked leak" in kinds:
        return [f"Behind a mask from outside its gradient isn't 0 {at}."]
    if here:
        return [f"It is wrong by more than a training overlooks {at}: {_worst(here)}."]
    if not report.held or _is_at_fault(errors):
        return [f"Its gradient is finite at every logit of a training {at}."]
    return [f"Trains safely {at}."]


def _of_own_masks(findings: Sequence[Finding]) -> list[str]:
    """Its own masks that leak or fail, at numbers, whatever the dtype."""
    own = [f for f in findings if f.kind in ("masked leak", "fails") and f.mode not in _MODES]
    names = dict.fromkeys(f.mode for f in own if f.severity == "error")
    return [f"Its own mask fails or leaks: {', '.join(names)}."] if names else []


def _is_at_fault(errors: Sequence[Finding]) -> bool:
    """Whether the function itself is wrong."""
    return any(
        finding.kind in (*_FAULTS, "no function") and finding.logit is None for finding in errors
    )


def _worst(findings: Sequence[Finding]) -> str:
    """The first of the gradient, if there is one."""
    worst = next((f for f in findings if f.quantity == "gradient"), findings[0])
    assert worst.logit is not None
    return (
        f"its {worst.quantity} at a logit of {worst.logit:.4g} and target {worst.target:g} is "
        f"{worst.computed:.4g} for {worst.truth:.4g}"
    )


def _usual(cells: Sequence[Cell]) -> tuple[str, float]:
    """float32, and the gamma nearest to 2, where these were looked at."""
    dtype = "float32" if any(c.dtype == "float32" for c in cells) else cells[0].dtype
    return dtype, min({c.gamma for c in cells}, key=lambda gamma: abs(gamma - 2))


def _narrower(cells: Sequence[Cell]) -> list[str]:
    """At the same gamma in 16 bits, unless float32 has said so."""
    dtype, gamma = _usual(cells)
    if _first([c for c in cells if c.dtype == dtype and c.gamma == gamma]) is not None:
        return []
    spots = _spots([c for c in cells if c.gamma == gamma], ("float16", "bfloat16"))
    return (
        [f"At gamma {gamma:g} its gradient becomes {spots}."]
        if spots and dtype != "float16"
        else []
    )


def _below_one(cells: Sequence[Cell]) -> list[str]:
    """At gammas between 0 and 1."""
    spots = _spots([c for c in cells if 0 < c.gamma < 1], ("float32", "bfloat16"))
    is_told = 0 < _usual(cells)[1] < 1 and not any(c.dtype == "bfloat16" for c in cells)
    return [f"At gamma < 1 its gradient becomes {spots}."] if spots and not is_told else []


def _spots(cells: Sequence[Cell], dtypes: Sequence[str]) -> str:
    """The logit of each dtype from which on it isn't finite."""
    firsts = [(d, _first([c for c in cells if c.dtype == d])) for d in dtypes]
    found = [(dtype, first) for dtype, first in firsts if first is not None]
    if not found:
        return ""
    spots = " and ".join(f"{_logit(first)} in {dtype}" for dtype, first in found)
    return f"{_number(found[0][1])} from a logit of {spots}"


def _first(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """The smallest |logit| at which a gradient isn't finite, and what it is there."""
    cliffs = [(abs(c.cliff.logit), c.cliff.computed) for c in cells if c.cliff is not None]
    return min((pair for pair in cliffs if pair[0] < TRAINING), default=None)


def _logit(first: tuple[float, float]) -> str:
    return f"{first[0]:.4g}"


def _number(first: tuple[float, float]) -> str:
    return "NaN" if math.isnan(first[1]) else "infinite"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
