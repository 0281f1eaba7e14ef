"""Why a cell is wrong: causes, each held to an experiment."""

import math
from collections.abc import Sequence

import torch

from parfocal.audit.cell import Cell, Cliff
from parfocal.audit.clamp import clamp_of
from parfocal.audit.convention import Convention
from parfocal.audit.evaluate import evaluate
from parfocal.audit.judge import ONE_PERCENT
from parfocal.audit.subject import Subject

# Up to this |logit| nothing cancels in float64: what is wrong there is another function.
_MILD = 25.0

# Of an error by a subtraction from 1, how far it may be from what rounding gives.
_ABOUT = 64.0


class Causes:
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
        at = where_dead(cell)
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


def where_dead(cell: Cell) -> Cliff | None:
    """Where a training feels it, if it does, else where it begins."""
    begin, harm = cell.dead_from, cell.harm
    if begin is None or not is_dead(harm) or (harm and begin.logit * harm.logit > 0):
        return begin
    return harm


def is_dead(harm: Cliff | None) -> bool:
    """Whether what a training feels is a gradient of 0."""
    return harm is not None and harm.computed == 0
