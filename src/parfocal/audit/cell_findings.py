"""Findings from the cells of a grid: what is wrong there, and how bad it is."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch

from parfocal.audit.causes import Causes, is_dead, where_dead
from parfocal.audit.cell import Cell, Cliff
from parfocal.audit.convention import Convention
from parfocal.audit.findings import SEVERITIES, UNKNOWN, Finding, Kind, Severity
from parfocal.audit.judge import TRAINING
from parfocal.audit.reproduce import reproduction
from parfocal.audit.soft import SOFT_TARGET
from parfocal.audit.subject import Subject


def findings_of(
    subject: Subject, convention: Convention, cells: Sequence[Cell]
) -> Iterator[Finding]:
    """Everything that the cells show; cells of one cause are one finding."""
    yield from _definition(subject, convention)
    groups: dict[tuple[str, str, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.quantity, cell.dtype, cell.target].append(cell)
    why = Causes(subject, convention, cells)
    for (quantity, dtype, target), group in groups.items():
        told = _Told(subject, quantity, dtype, target)
        hurt = [c for c in group if c.nonfinite]
        vanishing = [c for c in hurt if why.has_vanishing_constant(c)]
        plain = [c for c in hurt if c not in vanishing]
        for below_one in (True, False):
            part = [c for c in plain if (0 < c.gamma < 1) == below_one]
            yield from told.finding("not finite", part, lambda c: c.cliff, why.not_finite)
        yield from told.finding(
            "vanishing constant", vanishing, lambda c: c.cliff, why.vanishing_constant
        )
        rest = group
        if convention.definition is not None:
            flipped = [c for c in group if c.flipped]
            yield from told.finding(
                "wrong sign",
                flipped,
                _where_flipped,
                why.flipped,
            )
            rest = [c for c in group if c not in flipped or _is_elsewhere("wrong sign", c)]
            # Under this a dead result is one of rounding: a few of the smallest numbers.
            dead = [
                c for c in group if quantity == "gradient" and c.dead > max(2, c.points // 1000)
            ]
            yield from told.finding("dead gradient", dead, where_dead, why.dead)
            biased = [c for c in rest if c not in dead and why.is_biased(c)]
            yield from told.finding("biased", biased, why.biased_at, why.biased)
            felt = [c for c in biased if c.harm and why.biased_at(c) != c.harm]  # elsewhere
            felt += [c for c in dead if _is_elsewhere("dead gradient", c)]
            rest = [c for c in rest if c in felt or (c not in dead and c not in biased)]
        if convention.definition is None and getattr(torch, dtype) == subject.widest:
            continue  # that is what it is held to
        inaccurate = [c for c in rest if c.largest is not None and c.largest.ulp > c.limit]
        yield from told.finding(
            "inaccurate", inaccurate, lambda c: c.harm or c.largest, why.inaccurate
        )


def _definition(subject: Subject, convention: Convention) -> Iterator[Finding]:
    """Another function, or one of the wrong sign."""
    cases: list[tuple[Kind, str]] = [(fault.kind, fault.words) for fault in convention.faults]
    if convention.other is not None:
        cases.append(("another definition", f"it computes {convention.other}"))
    wide = str(subject.widest).removeprefix("torch.")
    for kind, cause in cases:
        is_soft = kind == "not finite"  # of soft targets alone
        is_remark = is_soft or cause == UNKNOWN
        target, quantity = (SOFT_TARGET, "gradient") if is_soft else (1.0, "value")
        yield Finding(
            kind=kind,
            severity="warning" if is_remark else SEVERITIES[kind],
            quantity=quantity,
            dtype=wide,
            target=target,
            mode="eager",
            gammas=(),
            logit=None,
            before=None,
            computed=None,
            truth=None,
            share=1.0,
            ulp=math.inf if kind == "wrong sign" else 0.0,
            certified=False,
            cause=cause,
            reproduce=reproduction(subject, wide, target, 2.0, 1.0, quantity),
        )


def _where_flipped(cell: Cell) -> Cliff | None:
    """The same of a sign."""
    return cell.harm if _is_flipped(cell.harm) else cell.flipped_from


def _is_flipped(harm: Cliff | None) -> bool:
    return harm is not None and harm.computed * harm.truth < 0


def _is_elsewhere(kind: Kind, cell: Cell) -> bool:
    """Whether what a training feels is of another kind than the one that is told."""
    is_same = {"dead gradient": is_dead, "wrong sign": _is_flipped}[kind]
    return cell.harm is not None and not is_same(cell.harm)


def _ulp(cell: Cell) -> float:
    return 0.0 if cell.largest is None else cell.largest.ulp


class _Told:
    """The place of some cells, and findings there."""

    def __init__(self, subject: Subject, quantity: str, dtype: str, target: float) -> None:
        self.subject, self.quantity, self.dtype, self.target = subject, quantity, dtype, target

    def finding(
        self,
        kind: Kind,
        cells: Sequence[Cell],
        cliff_of: Callable[[Cell], Cliff | None],
        cause_of: Callable[[Cell], str],
    ) -> Iterator[Finding]:
        """One finding of all the gammas, told at the worst of them."""
        shown = [(cell, at) for cell in cells if (at := cliff_of(cell)) is not None]
        groups: dict[tuple[Severity, str], list[tuple[Cell, Cliff]]] = {}
        for cell, at in shown:
            key = self._severity(kind, cell, at), cause_of(cell)
            groups.setdefault(key, []).append((cell, at))
        for (severity, cause), group in groups.items():
            yield self._finding(kind, severity, group, cause)

    def _finding(
        self, kind: Kind, severity: Severity, shown: Sequence[tuple[Cell, Cliff]], cause: str
    ) -> Finding:
        """Cells of one severity and one cause, with what is shown of each."""
        worst, at = max(shown, key=lambda pair: (self._share(kind, pair[0]), _ulp(pair[0])))
        return Finding(
            kind=kind,
            severity=severity,
            quantity=self.quantity,
            dtype=self.dtype,
            target=self.target,
            mode="eager",
            gammas=tuple(cell.gamma for cell, _ in shown),
            logit=at.logit,
            before=at.before,
            computed=at.computed,
            truth=at.truth,
            share=self._share(kind, worst),
            ulp=at.ulp,
            certified=worst.certified,
            cause=cause,
            reproduce=reproduction(
                self.subject, self.dtype, self.target, worst.gamma, at.logit, self.quantity
            ),
        )

    def _severity(self, kind: Kind, cell: Cell, at: Cliff) -> Severity:
        """An error harms a training; but for boosters none takes steps by a second derivative."""
        if self.quantity == "curvature" and not self.subject.is_pair:
            return "warning"
        if kind in ("not finite", "vanishing constant"):
            return "error" if abs(at.logit) <= TRAINING else "warning"
        if kind in ("dead gradient", "wrong sign"):
            return "error" if cell.harm and not _is_elsewhere(kind, cell) else "warning"
        return "error" if at == cell.harm else "warning"

    def _share(self, kind: Kind, cell: Cell) -> float:
        counts = {
            "not finite": cell.nonfinite,
            "vanishing constant": cell.nonfinite,
            "wrong sign": cell.flipped,
            "dead gradient": cell.dead,
        }
        return counts.get(kind, cell.off) / cell.points
