"""An audit in plain words: whether the loss trains, and the call that takes its place."""

from collections.abc import Sequence

from parfocal.audit.cell import Cell
from parfocal.audit.report import AuditReport

# Logits of a training are smaller; what breaks beyond is an overflow near the end of the numbers.
_FAR = 1e4

_FAULTS = {
    "wrong sign": "It has the wrong sign: a training would unlearn.",
    "gamma ignored": "It never reads its gamma.",
    "reduced too early": "Of a batch it is another function: the modulator is that of the mean.",
}


def summary(report: AuditReport) -> tuple[str, ...]:
    """One sentence or two, and the replacement if there is something to replace."""
    if report.error is not None:
        return ()
    faults = [f for f in report.findings if f.logit is None]
    sentences = [_FAULTS[kind] for kind in dict.fromkeys(f.kind for f in faults) if kind in _FAULTS]
    sentences += [f"{_capital(f.cause)}." for f in faults if f.kind == "another definition"]
    gradients = [c for c in report.cells if c.quantity == "gradient" and c.target in (0, 1)]
    if gradients:
        sentences += [*_of_training(gradients), *_below_one(gradients)]
    lines = [" ".join(sentences)] if sentences else []
    if report.instead and report.status:
        lines.append(f"In its place: {report.instead}")
    return tuple(lines)


def _of_training(cells: Sequence[Cell]) -> list[str]:
    """At the gamma of most trainings, in float32 where that was looked at."""
    dtype = "float32" if any(c.dtype == "float32" for c in cells) else cells[0].dtype
    gammas = sorted({c.gamma for c in cells}, key=lambda gamma: abs(gamma - 2))
    group = [c for c in cells if c.dtype == dtype and c.gamma == gammas[0]]
    at = f"in {dtype} at gamma {gammas[0]:g}"
    if any(c.flipped for c in group):
        return [f"Its gradient has the wrong sign at some logits {at}."]
    first = _first(group)
    if first is not None:
        return [f"Its gradient isn't finite from a logit of {first:.4g} on, {at}."]
    return [f"Its gradient is finite at every logit of a training {at}."]


def _below_one(cells: Sequence[Cell]) -> list[str]:
    """At gammas between 0 and 1."""
    spots = []
    for dtype in ("float32", "bfloat16"):
        group = [c for c in cells if c.dtype == dtype and 0 < c.gamma < 1]
        first = _first(group)
        if first is not None:
            spots.append(f"{first:.4g} in {dtype}")
    if not spots:
        return []
    return [f"At gamma < 1 it isn't finite from a logit of {' and '.join(spots)}."]


def _first(cells: Sequence[Cell]) -> float | None:
    """The smallest |logit| at which a gradient isn't finite."""
    cliffs = [abs(c.cliff.logit) for c in cells if c.cliff is not None]
    near = [logit for logit in cliffs if logit < _FAR]
    return min(near, default=None)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
