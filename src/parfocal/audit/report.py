"""An audit as one frozen value: what was judged, how it is called, and what came out."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from parfocal.audit.cell import Cell, Cliff
from parfocal.audit.findings import Finding


@dataclass(frozen=True)
class AuditReport:
    """The verdict on a loss.

    name, target: of the loss. version: of its distribution.
    how: lines on how it is called. meaning: lines on which function it is.
    cells: the whole grid. findings: what is wrong, the worst first.
    error: why it could not be judged; then there are no cells.
    output: what it printed.
    instead: the equivalent call of this package, if there is one.
    held: whether it was compared with a definition; else with its own float64.
    """

    name: str
    target: str
    version: str
    how: tuple[str, ...]
    meaning: tuple[str, ...]
    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]
    quick: bool
    modes: tuple[str, ...]
    error: str | None = None
    output: str = ""
    instead: str = ""
    held: bool = True

    @property
    def status(self) -> int:
        """0 clean, 1 errors, 2 could not be audited; another definition alone is clean."""
        return 2 if self.error is not None else int(bool(self.failures()))

    def failures(self, fail_on: Collection[str] = ("error",)) -> tuple[Finding, ...]:
        """The findings of the given severities and kinds."""
        return tuple(f for f in self.findings if f.severity in fail_on or f.kind in fail_on)

    @property
    def certificates(self) -> tuple[str, ...]:
        """A sentence for each dtype whose results are all within the limit."""
        if not self.held:
            return ()
        sentences = []
        for dtype in dict.fromkeys(cell.dtype for cell in self.cells):
            group = [c for c in self.cells if c.dtype == dtype and c.quantity != "curvature"]
            if not group or not all(cell.is_clean for cell in group):
                continue
            worst = max(cell.worst for cell in group)
            points = max(cell.points for cell in group)
            kind = (
                f"certified on all {points:,} finite logits"
                if all(cell.certified for cell in group)
                else f"sampled at {points:,} logits"
            )
            sentences.append(
                f"{dtype}: value and gradient accurate to {worst:.3g} ULP, {kind}, "
                f"{len({c.gamma for c in group})} gammas, {len({c.target for c in group})} targets"
            )
        return tuple(sentences)

    def to_json(self) -> str:
        """Everything; numbers that are not finite are strings."""
        return json.dumps(_plain(asdict(self)), indent=1)

    @staticmethod
    def from_json(text: str) -> "AuditReport":
        """What `to_json` wrote."""
        data = json.loads(text)
        for name in ("how", "meaning", "modes"):
            data[name] = tuple(data[name])
        data["cells"] = tuple(_cell(cell) for cell in data["cells"])
        data["findings"] = tuple(_finding(finding) for finding in data["findings"])
        return AuditReport(**data)


def could_not(name: str, target: str, error: str, output: str = "") -> AuditReport:
    """The report of a loss that can't be judged."""
    return AuditReport(
        name=name,
        target=target,
        version="",
        how=(),
        meaning=(),
        cells=(),
        findings=(),
        quick=False,
        modes=(),
        error=error,
        output=output,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _cell(data: dict[str, Any]) -> Cell:
    for name in ("worst", "logit", "computed", "truth"):
        data[name] = _number(data[name])
    for name in ("cliff", "percent", "dead_from", "flipped_from", "largest", "harm"):
        data[name] = None if data[name] is None else Cliff(*map(_number, data[name]))
    data["heat"] = tuple(_number(part) for part in data["heat"])
    data["curve"] = tuple(tuple(_number(part) for part in point) for point in data["curve"])
    return Cell(**data)


def _finding(data: dict[str, Any]) -> Finding:
    for name in ("logit", "before", "computed", "truth", "share", "ulp"):
        data[name] = _number(data[name])
    data["gammas"] = tuple(data["gammas"])
    return Finding(**data)
