"""Findings from cells: what is wrong, how bad it is, and why, where an experiment has shown it."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from parfocal.audit.cell import Cell, Cliff
from parfocal.audit.clamp import clamp_of
from parfocal.audit.convention import Convention
from parfocal.audit.evaluate import evaluate
from parfocal.audit.findings import SEVERITIES, UNKNOWN, Finding, Kind, Severity
from parfocal.audit.judge import ONE_PERCENT, SOFT_TARGET, TRAINING
from parfocal.audit.modes import Leak, Mismatch
from parfocal.audit.reproduce import reproduction
from parfocal.audit.subject import Subject

# Up to this |logit| nothing cancels in float64: what is wrong there is another function.
_MILD = 25.0

# Of an error by a subtraction from 1, how far it may be from what rounding gives.
_ABOUT = 64.0


def findings_of(
    subject: Subject, convention: Convention, cells: Sequence[Cell]
) -> Iterator[Finding]:
    """Everything that the cells show; cells of one cause are one finding."""
    yield from _definition(subject, convention)
    groups: dict[tuple[str, str, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.quantity, cell.dtype, cell.target].append(cell)
    why = _Why(subject, convention, cells)
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
            yield from told.finding("dead gradient", dead, _where_dead, why.dead)
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


def _where_dead(cell: Cell) -> Cliff | None:
    """Where a training feels it, if it does, else where it begins."""
    begin, harm = cell.dead_from, cell.harm
    if begin is None or not _is_dead(harm) or (harm and begin.logit * harm.logit > 0):
        return begin
    return harm


def _where_flipped(cell: Cell) -> Cliff | None:
    """The same of a sign."""
    return cell.harm if _is_flipped(cell.harm) else cell.flipped_from


def _is_dead(harm: Cliff | None) -> bool:
    return harm is not None and harm.computed == 0


def _is_flipped(harm: Cliff | None) -> bool:
    return harm is not None and harm.computed * harm.truth < 0


def _is_elsewhere(kind: Kind, cell: Cell) -> bool:
    """Whether what a training feels is of another kind than the one that is told."""
    is_same = {"dead gradient": _is_dead, "wrong sign": _is_flipped}[kind]
    return cell.harm is not None and not is_same(cell.harm)


class _Why:
    """Causes, each held to an experiment among the cells; empty where none speaks for one."""

    def __init__(self, subject: Subject, convention: Convention, cells: Sequence[Cell]) -> None:
        self._subject, self._convention = subject, convention
        self._clamps: dict[tuple[float, float], str] = {}
        self._cells = {(c.quantity, c.dtype, c.target, c.gamma): c for c in cells}
        self._mild = {
            (c.quantity, c.target, c.gamma)
            for c in cells
            if c.dtype == c.computed_in == "float64"
            and c.percent is not None
            and abs(c.percent.logit) < _MILD
        }

    def is_biased(self, cell: Cell) -> bool:
        """Whether it is off at a mild logit at which float64 is as well."""
        is_off = cell.off > 0 and (cell.quantity, cell.target, cell.gamma) in self._mild
        return is_off and self.biased_at(cell) is not None

    def biased_at(self, cell: Cell) -> Cliff | None:
        """What of the cell is off at a mild logit, and in float64 by a percent as well."""
        spots = (spot for spot in (cell.harm, cell.largest, cell.percent) if spot is not None)
        return next((spot for spot in spots if self._is_off_in_float64(cell, spot)), None)

    def _is_off_in_float64(self, cell: Cell, at: Cliff) -> bool:
        if abs(at.logit) > _MILD:
            return False
        x = torch.tensor([at.logit], dtype=torch.float64)
        second = cell.quantity == "curvature"
        found = evaluate(self._subject, x, cell.target, cell.gamma, second=second)
        result = found.of(cell.quantity)
        return result is not None and abs(float(result) - at.truth) > ONE_PERCENT * abs(at.truth)

    def biased(self, cell: Cell) -> str:
        """The constant, where it was fitted, or the clamp, where the value ends to change."""
        found = "wrong by more than 1 % at mild logits in float64 as well"
        why = self._convention.bias or self._clamp(cell, self.biased_at(cell))
        return f"{found}: {why}" if why else found

    def _clamp(self, cell: Cell, at: Cliff | None) -> str:
        """The clamp of wrong answers, if the logit is beyond it."""
        key = cell.target, cell.gamma
        if key not in self._clamps:
            self._clamps[key] = clamp_of(self._subject, self._convention, *key)
        return self._clamps[key] if at is not None and (at.logit < 0) == (cell.target > 0.5) else ""

    def flipped(self, cell: Cell) -> str:
        """The constant, where it was fitted."""
        found = "the result has the opposite sign of the true one"
        return f"{found}: {self._convention.bias}" if self._convention.bias else found

    def has_vanishing_constant(self, cell: Cell) -> bool:
        """Whether a constant is no number of the dtype, and float32, where it is one, is finite."""
        constant, wide = self._convention.constant, self._beside(cell, dtype="float32")
        if not constant or cell.dtype not in ("float16", "bfloat16") or wide is None:
            return False
        return wide.nonfinite == 0 and _vanishes(constant, cell.dtype)

    def vanishing_constant(self, cell: Cell) -> str:
        """Which one."""
        return f"{self._convention.bias}, which is lost in {cell.dtype}; in float32 it is finite"

    def not_finite(self, cell: Cell) -> str:
        """The power of a focal loss, if a larger gamma is finite at the same logits."""
        at = cell.cliff
        plain = "the true result is a number there"
        if at is not None and math.isnan(at.truth):
            plain = "it is NaN in every dtype that it takes"
        rounds = at is not None and _begins_to_round(at, cell)
        calm = [(gamma, self._beside(cell, gamma=gamma)) for gamma in (1.0, 1.5, 2.0, 5.0)]
        larger = [g for g, c in calm if c is not None and (not c.cliff or _is_farther(c.cliff, at))]
        if cell.quantity == "gradient" and 0 < cell.gamma < 1 and larger:
            finite = f"at gamma {larger[0]:g} the gradient is finite there"
            if rounds:
                return (
                    "p_t rounds to 1, and (1 - p_t) ** (gamma - 1) is infinite there and "
                    f"multiplied by zero: {finite}"
                )
            return finite
        wide = self._beside(cell, dtype="float32")
        if cell.dtype in ("float16", "bfloat16") and wide is not None and not wide.nonfinite:
            return "in float32 it is finite at all logits that were looked at"
        return f"p_t rounds to 1 in {cell.dtype} there" if rounds else plain

    def dead(self, cell: Cell) -> str:
        """A rounding of p_t to 1, where it is that."""
        at = _where_dead(cell)
        lost = "the gradient is exactly 0 where the true one is a normal number"
        if at is not None and _begins_to_round(at, cell):
            return f"{lost}: p_t rounds to 1 in {cell.dtype} there"
        clamp = self._clamp(cell, at)
        return f"{lost}: {clamp}" if clamp else lost

    def inaccurate(self, cell: Cell) -> str:
        """What the size of the error, or another dtype, speaks for."""
        at, name = cell.harm or cell.largest, cell.dtype
        assert at is not None
        if self._convention.definition is None:
            return f"{name} is not what it gives in float64"
        narrow = cell.computed_in if cell.computed_in and cell.computed_in != name else ""
        if narrow and torch.finfo(getattr(torch, narrow)).eps > torch.finfo(_dtype(cell)).eps:
            return f"its results are {narrow}, given {name}"
        clamp = self._clamp(cell, at)
        if clamp:
            return clamp
        wide = self._beside(cell, dtype="float32")
        if name in ("float16", "bfloat16"):
            is_exact = wide is not None and wide.largest is not None and wide.largest.ulp <= 1024
            return f"intermediate results are rounded to {name}: in float32 it is right" if (
                is_exact) else f"more than the last digit of {name} is wrong"  # fmt: skip
        if cell.target in (0, 1) and self._is_of_subtraction(cell, at):
            return "the error grows as that of a subtraction does, as p_t nears 1"
        return f"more than {cell.limit:g} units in the last place are wrong"

    def _is_of_subtraction(self, cell: Cell, at: Cliff) -> bool:
        u = at.logit if cell.target else -at.logit
        eps = torch.finfo(_dtype(cell)).eps
        if not 0 < u < -math.log(eps):  # from there on the difference is 0, and no digit is left
            return False
        expected = max(cell.gamma, 1.0) * eps / 2 * math.exp(min(u, 700.0))
        return 1 / _ABOUT <= at.ulp * eps / min(expected, 1.0) <= _ABOUT

    def _beside(
        self, cell: Cell, *, dtype: str | None = None, gamma: float | None = None
    ) -> Cell | None:
        """The cell at another dtype or gamma."""
        other = dtype or cell.dtype, cell.target, cell.gamma if gamma is None else gamma
        return self._cells.get((cell.quantity, *other))


def _dtype(cell: Cell) -> torch.dtype:
    dtype = getattr(torch, cell.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _vanishes(constant: float, dtype: str) -> bool:
    """Whether a number is 0 in a dtype, or nothing beside 1."""
    number = torch.tensor(constant, dtype=getattr(torch, dtype))
    return float(number) == 0 or float(1 + number) == 1


def _is_farther(one: Cliff, other: Cliff | None) -> bool:
    return other is None or abs(one.logit) > abs(other.logit)


def _begins_to_round(at: Cliff, cell: Cell) -> bool:
    """Whether p_t is 1 there in the dtype of the cell, and isn't at the number before.

    It becomes 1 where its own distance to 1 does, or already where 1 + exp(-u) is 1.
    """
    if cell.target not in (0, 1) or at.before is None:
        return False
    sign = 1.0 if cell.target else -1.0
    u = sign * torch.tensor([at.before, at.logit], dtype=torch.float64)
    dtype = _dtype(cell)
    for rounded in (u.sigmoid().to(dtype), 1 + u.neg().exp().to(dtype)):
        if (rounded == 1).tolist() == [False, True]:
            return True
    return False


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
