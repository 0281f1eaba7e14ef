"""The grid of an audit, cell by cell: what a loss gives, against the truth."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.convention import Convention
from parfocal.audit.definitions import Definition, derivatives
from parfocal.audit.evaluate import SINGLE, evaluate
from parfocal.audit.grid import every_finite, neighbourhood, representable
from parfocal.audit.oracle import Truth
from parfocal.audit.subject import Subject
from parfocal.audit.truth_cache import truths
from parfocal.audit.ulp import ulp_error

GAMMAS = (
    0.0,
    1e-3,
    0.1,
    0.5,
    1 - 2.0**-24,
    1.0,
    1 + 2.0**-23,
    1.5,
    2.0,
    5.0,
)
QUICK_GAMMAS = (0.0, 0.1, 0.5, 1.0, 2.0)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
QUANTITIES = ("value", "gradient", "curvature")
SOFT_TARGET = 0.375

# Beyond this error in ULP a result is called inaccurate: 3e-5 of it in float32, 1e-12 in float64
# (an exponential of gamma log q loses that much), more than the last bit in 16.
LIMITS = {"float64": 4096.0, "float32": 256.0, "float16": 2.0, "bfloat16": 2.0}

ONE_PERCENT = 0.01

# Of |logit|, the columns of a heat map.
BINS = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 60, 90)


class Cliff(NamedTuple):
    """The smallest |logit| at which something is wrong, and its neighbour at which it isn't.

    computed, truth, ulp: there.
    """

    logit: float
    before: float | None
    computed: float
    truth: float
    ulp: float


@dataclass(frozen=True)
class Cell:
    """One quantity at one dtype, target and gamma.

    worst: the largest error in ULP over the normal results, at `logit`, where the loss gave
        `computed` for `truth`.
    points: how many logits; `certified` if they are all of the dtype.
    nonfinite, dead, off: at how many the result is not finite though the truth is; zero though the
        truth is a normal number; wrong by more than 1 %. `flipped`: of the other sign.
    cliff: of what is not finite; `percent`: of what is wrong by more than 1 %.
    computed_in: the dtype in which the loss gave its value.
    heat: the worst error of each column of a heat map, both signs of the logit; -1 for none.
    curve: some logits with what was computed and what is true, for figures.
    """

    quantity: str
    dtype: str
    target: float
    gamma: float
    worst: float
    logit: float | None
    computed: float | None
    truth: float | None
    points: int
    certified: bool
    nonfinite: int
    dead: int
    off: int
    flipped: int
    cliff: Cliff | None
    percent: Cliff | None
    dead_from: Cliff | None
    computed_in: str
    heat: tuple[float, ...]
    curve: tuple[tuple[float, float, float, float], ...]

    @property
    def limit(self) -> float:
        """The error in ULP up to which it is accurate."""
        return LIMITS[self.dtype]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong here."""
        return self.nonfinite == 0 and self.flipped == 0 and self.worst <= self.limit


def logits_of(dtype: torch.dtype, *, quick: bool, single: bool = False) -> tuple[Tensor, bool]:
    """The logits of a dtype, and whether these are all that are finite."""
    if single:
        return representable(dtype, SINGLE // 2, smallest=2.0**-6, largest=100.0), False
    if dtype.itemsize == 2 and not quick:
        return every_finite(dtype), True
    count = 256 if quick else 1024
    parts = [
        representable(dtype, count, smallest=0.125, largest=120.0),
        representable(dtype, count // 4, smallest=float(torch.finfo(dtype).tiny)),
        neighbourhood(dtype, [0.0, 16.63, 17.32, 36.7, 88.0, 103.0], reach=2),
    ]
    return torch.cat(parts).unique(), False


def rounded_gamma(gamma: float, dtype: torch.dtype) -> float:
    """As it takes part in a computation: float32 for 16 bits."""
    return gamma if dtype == torch.float64 else torch.tensor(gamma, dtype=torch.float32).item()


def cells(
    subject: Subject,
    convention: Convention,
    dtype: torch.dtype,
    target: float,
    gammas: Sequence[float],
    *,
    quick: bool = False,
    executor: Executor | None = None,
) -> Iterator[Cell]:
    """The cells of a dtype and a target; nothing at soft targets of another meaning."""
    definition = convention.definition if target in (0, 1) else convention.soft
    if definition is None:
        return
    logits, certified = logits_of(dtype, quick=quick, single=subject.reduced == "mean")
    exponents = [rounded_gamma(gamma, dtype) for gamma in gammas]
    right = truths(logits, target, exponents, definition, executor)
    factor = convention.factor(target)
    for gamma, exponent, truth in zip(gammas, exponents, right, strict=True):
        found = evaluate(subject, logits, target, gamma)
        judge = _Judge(subject, definition, dtype, target, gamma, exponent, factor)
        for quantity in QUANTITIES:
            computed = found.of(quantity)
            if computed is not None:
                part = _scaled(getattr(truth, quantity), factor)
                yield judge.cell(quantity, logits, computed, part, certified, found.dtype)


def _scaled(truth: Truth, factor: float) -> Truth:
    if factor == 1:
        return truth
    return Truth(truth.hi * factor, truth.lo * factor, truth.scale * abs(factor))


class _Judge(NamedTuple):
    """What is judged, at one dtype, target and gamma; exponent is gamma rounded to the dtype."""

    subject: Subject
    definition: Definition
    dtype: torch.dtype
    target: float
    gamma: float
    exponent: float
    factor: float

    def cell(
        self,
        quantity: str,
        logits: Tensor,
        computed: Tensor,
        truth: Truth,
        certified: bool,
        computed_in: str,
    ) -> Cell:
        """Everything about one quantity."""
        of_scale = self._of_scale(quantity)
        magnitude = truth.scale if of_scale else truth.hi.abs()
        info = torch.finfo(self.dtype)
        normal = (magnitude >= info.tiny) & (truth.hi.abs() <= info.max)
        error = ulp_error(computed, truth, of_scale=of_scale)
        wide = computed.double()
        finite = computed.isfinite()
        nonfinite = ~finite & (truth.hi.abs() <= info.max)
        dead = finite & normal & (wide == 0) & (truth.hi.abs() >= info.tiny)
        off = finite & normal & ((wide - truth.hi).abs() > ONE_PERCENT * magnitude)
        flipped = off & ~dead & (wide * truth.hi < 0) & ((wide - truth.hi).abs() > magnitude)
        at_normal = torch.where(normal | nonfinite, error, -1.0)
        worst = int(at_normal.argmax())
        x = logits.double()
        cliff = self._cliff(quantity, logits, nonfinite, self._is_nonfinite)
        percent = dead_from = None
        if quantity != "curvature":
            percent = self._cliff(quantity, logits, off & ~dead, self._is_off)
        if quantity == "gradient":
            dead_from = self._cliff(quantity, logits, dead, self._is_dead)
        return Cell(
            quantity,
            str(self.dtype).removeprefix("torch."),
            self.target,
            self.gamma,
            max(float(at_normal[worst]), 0.0),
            float(x[worst]),
            float(wide[worst]),
            float(truth.hi[worst]),
            len(x),
            certified,
            int(nonfinite.sum()),
            int(dead.sum()),
            int(off.sum()),
            int(flipped.sum()),
            cliff,
            percent,
            dead_from,
            computed_in,
            _heat(x, at_normal),
            () if quantity == "curvature" else _curve(x, wide, truth.hi, at_normal),
        )

    def _cliff(
        self,
        quantity: str,
        logits: Tensor,
        wrong: Tensor,
        is_wrong: Callable[[str, Tensor], Tensor],
    ) -> Cliff | None:
        """The first wrong logit from 0 on, and the number before it, found by bisection."""
        if not bool(wrong.any()):
            return None
        x = logits.double()
        magnitudes = torch.where(wrong, x.abs(), math.inf)
        first = int(magnitudes.argmin())
        sign = -1.0 if float(x[first]) < 0 else 1.0
        same = (x * sign >= 0) & (x.abs() < float(magnitudes[first])) & ~wrong
        if not bool(same.any()):
            return self._at(quantity, float(x[first]), None)
        low, high = float((x.abs() * same).max()) * sign, float(x[first])
        while True:
            probes = _between(low, high, self.dtype)
            if not len(probes):
                return self._at(quantity, high, low)
            found = is_wrong(quantity, probes)
            at = int(found.double().argmax())
            if not bool(found[at]):
                low = float(probes[-1])
                continue
            high = float(probes[at])
            if at:
                low = float(probes[at - 1])

    def _at(self, quantity: str, logit: float, before: float | None) -> Cliff:
        probe = torch.full((_PROBES,), logit, dtype=self.dtype)
        computed, truth = self._computed(quantity, probe)[:1], self._truth(quantity, probe[:1])
        error = ulp_error(computed.to(self.dtype), truth, of_scale=self._of_scale(quantity))
        return Cliff(logit, before, float(computed), float(truth.hi), float(error))

    def _of_scale(self, quantity: str) -> bool:
        """Whether terms of both signs meet."""
        return quantity == "curvature" or (quantity == "gradient" and self.target not in (0, 1))

    def _computed(self, quantity: str, probes: Tensor) -> Tensor:
        """At as many logits as there always are: a compiler of shapes has met them."""
        count = len(probes)
        if self.subject.reduced != "mean":
            probes = torch.cat([probes, probes[-1:].expand(_PROBES - count)])
        second = quantity == "curvature"
        found = evaluate(self.subject, probes, self.target, self.gamma, second=second)
        result = found.of(quantity)
        assert result is not None
        return result[:count].double()

    def _truth(self, quantity: str, probes: Tensor) -> Truth:
        [entry] = derivatives(
            probes.double().tolist(), self.target, [self.exponent], self.definition, bits=64
        )
        return _scaled(getattr(entry, quantity), self.factor)

    def _is_nonfinite(self, quantity: str, probes: Tensor) -> Tensor:
        return ~self._computed(quantity, probes).isfinite()

    def _is_off(self, quantity: str, probes: Tensor) -> Tensor:
        truth, computed = self._truth(quantity, probes), self._computed(quantity, probes)
        magnitude = truth.scale if self._of_scale(quantity) else truth.hi.abs()
        off = (computed - truth.hi).abs() > ONE_PERCENT * magnitude
        return off & (magnitude >= torch.finfo(self.dtype).tiny)

    def _is_dead(self, quantity: str, probes: Tensor) -> Tensor:
        truth, computed = self._truth(quantity, probes), self._computed(quantity, probes)
        return (computed == 0) & (truth.hi.abs() >= torch.finfo(self.dtype).tiny)


# Numbers that are looked at in one step of a search.
_PROBES = 32


def _between(low: float, high: float, dtype: torch.dtype) -> Tensor:
    """Numbers that divide the way between two of one sign evenly by their bit patterns."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    first, last = torch.tensor([abs(low), abs(high)], dtype=dtype).view(integer).tolist()
    count = min(_PROBES, last - first - 1)
    patterns = [first + (last - first) * (i + 1) // (count + 1) for i in range(count)]
    numbers = torch.tensor(patterns, dtype=integer).view(dtype)
    return -numbers if high < 0 else numbers


def edges() -> tuple[float, ...]:
    """The upper edges of the columns of a heat map, ascending in the logit."""
    return (*(-bound for bound in reversed(BINS)), 0.0, *BINS, math.inf)


def _heat(x: Tensor, error: Tensor) -> tuple[float, ...]:
    columns = torch.bucketize(x, torch.tensor(edges()[:-1], dtype=torch.float64))
    heat = torch.full((len(edges()),), -1.0, dtype=torch.float64)
    heat.scatter_reduce_(0, columns, error, "amax")
    return tuple(heat.tolist())


def _curve(
    x: Tensor, computed: Tensor, truth: Tensor, error: Tensor
) -> tuple[tuple[float, float, float, float], ...]:
    """Of each of some hundred short runs of logits up to 45, the point with the worst error."""
    inside = (x.abs() <= 45.0).nonzero().squeeze(1)
    columns = ((x[inside] + 45.0) / 90.0 * 119).round().long()
    # By column, and by error within it: the last of each column is its worst.
    order = error[inside].argsort(stable=True)
    order = order[columns[order].argsort(stable=True)]
    sorted_columns = columns[order]
    last = torch.ones_like(sorted_columns, dtype=torch.bool)
    last[:-1] = sorted_columns[1:] != sorted_columns[:-1]
    worst = inside[order[last]]
    parts = [part[worst].tolist() for part in (x, computed, truth, error)]
    return tuple(
        (logit, *(float(f"{part:.5g}") for part in rest))
        for logit, *rest in zip(*parts, strict=True)
    )
