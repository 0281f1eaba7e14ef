"""Every statement of a report as a claim that is checked.

A claim is true if the record of the loss or an experiment with the loss itself says so: it is
called at the logit that is shown, and compared with mpmath's value there.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch

from audit.zoo import Entry
from audit.zoo_causes import check_cause
from audit.zoo_findings import Told, check_finding
from audit.zoo_lines import HOW, MEANING, matched
from audit.zoo_results import computed, defects, defects_at, scan, spacing, true
from audit.zoo_truth import QUANTITIES
from parfocal.audit import AuditReport, Subject
from parfocal.audit.cell import Cell
from parfocal.audit.findings import Finding


class Claim(NamedTuple):
    """One statement. why: what contradicts it; empty if it is true."""

    entry: str
    kind: str
    words: str
    why: str = ""

    @property
    def is_true(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.why


class Checker:
    """Claims of one report on one entry."""

    def __init__(self, entry: Entry, report: AuditReport, subject: Subject) -> None:
        self.entry, self.report, self.subject = entry, report, subject

    def claims(self) -> Iterator[Claim]:
        """All of them."""
        yield from self._call()
        for line in self.report.how:
            yield self._claim("how", line, matched(line, HOW, self.entry))
        for line in self.report.meaning:
            yield self._claim("meaning", line, matched(line, MEANING, self.entry))
        for finding in self.report.findings:
            yield from self._finding(finding)
        for cell in self.report.cells:
            yield from self._cliffs(cell)
        for line in self.report.certificates:
            yield self._claim("certificate", line, self._certificate(line))

    def _claim(self, kind: str, words: str, why: str) -> Claim:
        return Claim(self.entry.name, kind, words, why)

    def _call(self) -> Iterator[Claim]:
        """How it is called."""
        entry, subject = self.entry, self.subject
        fields = {
            "kind": "multiclass" if entry.is_multiclass else "binary",
            "takes": entry.takes,
            "targets_first": entry.targets_first,
            "framework": entry.framework,
            "gamma": entry.gamma,
            "gamma_on_call": entry.place == "call",
            "reduced": entry.reduced,
            "column": entry.shape == "column",
            "maps": "map" in entry.shape,
            "one_hot": "one-hot" in entry.shape,
            "long": entry.shape == "long",
        }
        for name, right in fields.items():
            if entry.framework == "numpy" and name == "reduced":
                continue
            found = getattr(subject, name)
            why = "" if found == right else f"expected {right!r}, got {found!r}"
            yield self._claim("call", f"{name} is {found!r}", why)

    def _finding(self, finding: Finding) -> Iterator[Claim]:
        place = (
            f"{finding.kind}, {finding.quantity}, {finding.dtype}, target {finding.target:g}, "
            f"gammas {finding.gammas}, at {finding.logit!r}"
        )
        told = Told(self.entry, finding)
        yield self._claim("finding", place, check_finding(told))
        if finding.mode in ("eager", "masked"):
            yield self._claim("cause", f"{place}: {finding.cause}", check_cause(told))

    # The cells

    def _cliffs(self, cell: Cell) -> Iterator[Claim]:
        """The smallest |logit| of each defect, and its neighbour that has it not."""
        if not self.entry.held or cell.target not in (0, 1) or cell.quantity == "curvature":
            return
        if self.entry.reduced == "mean" or self.entry.framework != "torch":
            return
        for name, cliff in (("nonfinite", cell.cliff), ("dead", cell.dead_from),
                            ("flipped", cell.flipped_from), ("off", cell.percent)):  # fmt: skip
            if cliff is None:
                continue
            words = (
                f"{name}, {cell.quantity}, {cell.dtype}, target {cell.target:g}, gamma "
                f"{cell.gamma:g}: from {cliff.logit!r} on, not at {cliff.before!r}"
            )
            yield self._claim("cliff", words, self._cliff(cell, name, cliff.logit, cliff.before))

    def _cliff(self, cell: Cell, name: str, logit: float, before: float | None) -> str:
        where = cell.quantity, logit, cell.dtype, cell.target, cell.gamma
        if not any(defects_at(self.entry, *where, count)[name] for count in (1, 32, 64)):
            return f"nothing is {name} there"
        if before is not None and all(self._ways(cell, name, before, margin=1e-6)):
            return f"{name} at {before!r} as well"
        found = scan(self.entry.name, cell.dtype, cell.target, cell.gamma)
        wide = found.x.double().abs()
        earlier = found.wrong[cell.quantity][name] & (wide < abs(logit) * (1 - 1e-12))
        for other in sorted(found.x[earlier].double().tolist(), key=abs)[:8]:
            if all(self._ways(cell, name, other, margin=1e-6)):
                return f"{name} at {other!r} already"
        return ""

    def _ways(self, cell: Cell, name: str, logit: float, margin: float = 0.0) -> Iterator[bool]:
        """Whether it is wrong there, alone and among many: vector units round otherwise."""
        for count in (1, 32, 64):
            x = torch.full((count,), logit, dtype=torch.float64).to(getattr(torch, cell.dtype))
            wrong = defects(self.entry, x, cell.target, cell.gamma, margin)
            yield bool(wrong[cell.quantity][name][0])

    def _certificate(self, line: str) -> str:
        """Within what is stated at other logits, but for twice of it and one ULP."""
        match = re.match(r"(\w+): value and gradient accurate to ([0-9.e+-]+) ULP", line)
        if not match:
            return "words that no check is for"
        if not self.entry.held:
            return "nothing is known of what it should be"
        dtype, bound = match.group(1), float(match.group(2))
        x = torch.linspace(-37, 41, 7, dtype=torch.float64).to(getattr(torch, dtype))
        targets = {c.target for c in self.report.cells if c.dtype == dtype}
        for y in targets:
            for gamma in {c.gamma for c in self.report.cells if c.dtype == dtype}:
                for logit in x.tolist():
                    for i, quantity in enumerate(QUANTITIES[:2]):
                        got = computed(self.entry.name, dtype, logit, y, gamma)[i]
                        right = true(self.entry, quantity, logit, y, gamma)
                        if math.isnan(got) and self.entry.framework == "numpy":
                            continue
                        if not math.isfinite(got) and self.entry.reduced != "none":
                            continue
                        if abs(float(right)) < torch.finfo(getattr(torch, dtype)).tiny:
                            continue
                        if y not in (0, 1) and quantity == "gradient":
                            continue  # of the scale of its terms
                        error = abs(float(got - right)) / spacing(float(right), dtype)
                        if not error <= 2 * bound + 1:
                            return f"{error:.3g} ULP at {logit:g}, target {y:g}, gamma {gamma:g}"
        return ""
