"""Findings from cells: what is wrong, how bad it is, and why, in a sentence."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from parfocal.audit.cell import Cell, Cliff
from parfocal.audit.convention import Convention
from parfocal.audit.findings import SEVERITIES, Finding, Kind, Severity
from parfocal.audit.modes import Leak, Mismatch
from parfocal.audit.reproduce import reproduction
from parfocal.audit.subject import Subject

# Up to this |logit| nothing cancels in float64: what is wrong there is another function.
_MILD = 25.0


def findings_of(
    subject: Subject, convention: Convention, cells: Sequence[Cell]
) -> Iterator[Finding]:
    """Everything that the cells show; cells of one cause are one finding."""
    yield from _definition(subject, convention)
    groups: dict[tuple[str, str, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.quantity, cell.dtype, cell.target].append(cell)
    is_biased = _biased(cells)
    for (quantity, dtype, target), group in groups.items():
        told = _Told(subject, quantity, dtype, target)
        hurt = [c for c in group if c.nonfinite]
        vanishing = [c for c in hurt if dtype in ("float16", "bfloat16") and _vanishes(c, cells)]
        plain = [c for c in hurt if c not in vanishing]
        for below_one in (True, False):
            part = [c for c in plain if (0 < c.gamma < 1) == below_one]
            cause = partial(_not_finite_cause, subject)
            yield from told.finding("not finite", part, lambda c: c.cliff, cause)
        yield from told.finding(
            "vanishing constant",
            vanishing,
            lambda c: c.cliff,
            lambda c: (
                f"finite in float32 at gamma {c.gamma:g} and not in {c.dtype}: a small constant or "
                "a clamp that is no number of 16 bits, or an intermediate result that overflows"
            ),
        )
        flipped = [c for c in group if c.flipped]
        yield from told.finding(
            "wrong sign",
            flipped,
            lambda c: c.percent,
            lambda c: "the result has the opposite sign of the true one",
        )
        rest = [c for c in group if c not in flipped]
        # Under this a dead result is one of rounding: a few of the smallest numbers.
        dead = [c for c in rest if quantity == "gradient" and c.dead > max(2, c.points // 1000)]
        yield from told.finding(
            "dead gradient",
            dead,
            lambda c: c.dead_from,
            lambda c: (
                "the gradient is exactly 0 where the true one is a normal number: a clamp, or a "
                "subtraction from 1, lost it"
            ),
        )
        biased = [c for c in rest if c not in dead and is_biased(c)]
        yield from told.finding(
            "biased",
            biased,
            lambda c: c.percent,
            lambda c: (
                "wrong by more than 1 % at mild logits in float64 as well: a constant that was "
                "added, or a clamp, changes the function"
            ),
        )
        inaccurate = [
            c for c in rest if c not in dead and c not in biased and _largest(c) > c.limit
        ]
        yield from told.finding("inaccurate", inaccurate, lambda c: c.percent, _inaccurate_cause)


def _largest(cell: Cell) -> float:
    """The worst error, where it is finite."""
    finite = [e for e in cell.heat if 0 <= e < math.inf]
    return max(finite, default=0.0)


def _definition(subject: Subject, convention: Convention) -> Iterator[Finding]:
    """Another function, or one of the wrong sign."""
    cases: list[tuple[Kind, str]] = []
    if convention.definition is not None and min(convention.positive, convention.negative) < 0:
        cases.append(("wrong sign", "the loss falls where the focal loss rises"))
    if convention.other is not None:
        cases.append(("another definition", f"it computes {convention.other}"))
    for kind, cause in cases:
        yield Finding(
            kind,
            "warning" if convention.definition is None else SEVERITIES[kind],
            "value",
            "float64",
            1.0,
            "eager",
            (),
            None,
            None,
            None,
            None,
            1.0,
            math.inf if kind == "wrong sign" else 0.0,
            False,
            cause,
            reproduction(subject, "float64", 1.0, 2.0, 1.0, "value"),
        )


def _biased(cells: Sequence[Cell]) -> Callable[[Cell], bool]:
    """Whether the float64 cell of the same place is off at mild logits."""
    mild = {
        (c.quantity, c.target, c.gamma)
        for c in cells
        if c.dtype == c.computed_in == "float64"
        and c.percent is not None
        and abs(c.percent.logit) < _MILD
    }
    return lambda c: c.off > 0 and (c.quantity, c.target, c.gamma) in mild


def _vanishes(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether the float32 cell of the same place has no such number."""
    wide = [
        c
        for c in cells
        if c.dtype == "float32"
        and (c.quantity, c.target, c.gamma) == (cell.quantity, cell.target, cell.gamma)
    ]
    return bool(wide) and not wide[0].nonfinite


def _not_finite_cause(subject: Subject, cell: Cell) -> str:
    if cell.quantity == "value" or subject.framework == "numpy":  # nothing was differentiated
        return "a logarithm of zero, or an intermediate result that overflows"
    if cell.quantity == "curvature":
        return (
            "differentiating (1 - p_t) ** gamma twice gives (1 - p_t) ** (gamma - 2): infinity "
            "times zero once p_t rounds to 1"
        )
    if 0 < cell.gamma < 1:
        return (
            "(1 - p_t) ** (gamma - 1) is infinite once p_t rounds to 1, and is multiplied by zero"
        )
    if cell.gamma == 0:
        return "a power of zero is differentiated at gamma 0, or a logarithm of zero is taken"
    return "a logarithm of zero, or an intermediate result that overflows"


def _inaccurate_cause(cell: Cell) -> str:
    if cell.dtype == "float64" and cell.computed_in not in ("", "float64"):
        return f"computes in {cell.computed_in}, and loses the digits of 1 - p_t in a subtraction"
    if cell.dtype in ("float16", "bfloat16"):
        return f"intermediate results are rounded to {cell.dtype}"
    return "1 - p_t is formed by subtraction, and loses its digits as p_t nears 1"


# Below this share of the logits, what is not finite is an overflow near the end of the numbers.
_FEW = 0.01


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
        if not cells:
            return
        worst = max(cells, key=lambda c: (self._share(kind, c), c.worst))
        cliff = cliff_of(worst)
        logit = worst.logit if cliff is None else cliff.logit
        assert logit is not None
        severity: Severity = SEVERITIES[kind]
        if self.quantity == "curvature" and severity == "error":
            severity = "warning"
        if kind == "not finite" and not 0 < worst.gamma < 1 and self._share(kind, worst) < _FEW:
            severity = "warning"
        if kind == "inaccurate" and self.quantity != "curvature" and worst.off:
            severity = "error"
        first = Cliff(logit, None, worst.computed or 0.0, worst.truth or 0.0, worst.worst)
        first = first if cliff is None else cliff
        ulp = math.inf if kind in ("not finite", "vanishing constant") else _largest(worst)
        yield Finding(
            kind,
            severity,
            self.quantity,
            self.dtype,
            self.target,
            "eager",
            tuple(c.gamma for c in cells),
            logit,
            first.before,
            first.computed,
            first.truth,
            self._share(kind, worst),
            ulp,
            worst.certified,
            cause_of(worst),
            reproduction(self.subject, self.dtype, self.target, worst.gamma, logit, self.quantity),
        )

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
            "mode mismatch",
            SEVERITIES["mode mismatch"],
            "gradient",
            "float32",
            target,
            mode,
            tuple(m.gamma for m in group),
            worst.logit,
            None,
            worst.computed,
            worst.eager,
            worst.share,
            worst.ulp,
            False,
            cause,
            reproduction(
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
            "masked leak",
            SEVERITIES["masked leak"],
            "gradient",
            dtype,
            target,
            "masked",
            tuple(leak.gamma for leak in group),
            worst.logit,
            None,
            worst.computed,
            0.0,
            worst.share,
            math.inf,
            False,
            "a position whose loss is multiplied by 0 has a gradient that is not 0: zero times "
            "infinity behind the mask",
            reproduction(subject, dtype, target, worst.gamma, worst.logit, "gradient", "masked"),
        )
