"""The grid of an audit, cell by cell: what a loss gives, against the truth."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.audit.cell import Cell, Cliff, edges
from parfocal.audit.convention import Convention
from parfocal.audit.definitions import Definition, Derivatives, derivatives
from parfocal.audit.evaluate import SINGLE, evaluate
from parfocal.audit.fit import Fit
from parfocal.audit.oracle import Truth
from parfocal.audit.subject import Subject
from parfocal.audit.truth_cache import truths
from parfocal.audit.ulp import ulp_error
from parfocal.floats import between, every_finite, neighbourhood, representable

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
ONE_PERCENT = 0.01

# Logits of a training are smaller; what breaks beyond is an overflow near the end of the numbers.
TRAINING = 1e4


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
    quantities: Sequence[str] = QUANTITIES,
    quick: bool = False,
    executor: Executor | None = None,
) -> Iterator[Cell]:
    """The cells of a dtype and a target; nothing at soft targets of another meaning."""
    is_soft = target not in (0, 1)
    definition = convention.soft.definition if is_soft else convention.definition
    if definition is None and (is_soft or convention.definition is not None):
        return
    logits, certified = logits_of(dtype, quick=quick, single=subject.reduced == "mean")
    exponents = [rounded_gamma(convention.exponent(gamma, target), dtype) for gamma in gammas]
    right: Sequence[Derivatives | None] = [None] * len(exponents)
    if definition is not None:
        right = truths(logits, target, exponents, definition, executor)
    for gamma, exponent, truth in zip(gammas, exponents, right, strict=True):
        try:
            second = "curvature" in quantities
            found = evaluate(subject, logits, target, gamma, second=second)
        except Exception:
            continue  # a gamma that is refused, as the report says
        factor = convention.factor(target, gamma)
        judge = _Judge(subject, definition, dtype, target, gamma, exponent, factor)
        for quantity in quantities:
            computed = found.of(quantity)
            if computed is None or (quantity == "value" and convention.is_shifted):
                continue
            if truth is None:  # what it gives itself has its factor
                part = judge.of_itself(quantity, logits)
            else:
                part = _scaled(truth.of(quantity), factor)
            if part is not None:
                yield judge.cell(quantity, logits, computed, part, certified, found.dtype)


def _scaled(truth: Truth, factor: float) -> Truth:
    if factor == 1:
        return truth
    return Truth(truth.hi * factor, truth.lo * factor, truth.scale * abs(factor))


class _Judge(NamedTuple):
    """What is judged, at one dtype, target and gamma; exponent is gamma rounded to the dtype.

    definition: None for a function that isn't known, which is held to its own float64 where that
        is finite.
    """

    subject: Subject
    definition: Definition | None
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
        defects = {
            name: defect(self, quantity, computed, truth) for name, defect in _DEFECTS.items()
        }
        error = ulp_error(computed, truth, of_scale=self.of_scale(quantity))
        counts = self.is_normal(quantity, truth) | defects["nonfinite"]
        at_normal = torch.where(counts, error, -1.0)
        worst = int(at_normal.argmax())
        x, wide = logits.double(), computed.double()
        searched = {"curvature": ("nonfinite", "flipped"), "value": ("nonfinite", "off", "flipped")}
        cliffs = {
            name: self._cliff(quantity, logits, defects[name], name)
            for name in searched.get(quantity, tuple(_DEFECTS))
        }
        return Cell(
            quantity=quantity,
            dtype=str(self.dtype).removeprefix("torch."),
            target=self.target,
            gamma=self.gamma,
            worst=max(float(at_normal[worst]), 0.0),
            logit=float(x[worst]),
            computed=float(wide[worst]),
            truth=float(truth.hi[worst]),
            points=len(x),
            certified=certified,
            nonfinite=int(defects["nonfinite"].sum()),
            dead=int(defects["dead"].sum()),
            off=int((defects["off"] | defects["dead"]).sum()),
            flipped=int(defects["flipped"].sum()),
            cliff=cliffs["nonfinite"],
            percent=cliffs.get("off"),
            dead_from=cliffs.get("dead"),
            flipped_from=cliffs.get("flipped"),
            largest=self._largest(quantity, logits, truth, at_normal),
            harm=self._harm(quantity, logits, computed, truth),
            computed_in=computed_in,
            heat=_heat(x, at_normal),
            curve=() if quantity == "curvature" else _curve(x, wide, truth.hi, at_normal),
        )

    def _largest(self, quantity: str, logits: Tensor, truth: Truth, error: Tensor) -> Cliff | None:
        """The largest error that is a number, as it is of a logit that is given alone."""
        finite = torch.where(error.isinf(), -1.0, error)
        most = finite.topk(min(_TRIED, len(finite)))
        best: Cliff | None = None
        for one, index in zip(most.values.tolist(), most.indices.tolist(), strict=True):
            if one < 0 or (best is not None and best.ulp >= one):
                break
            part = Truth(*(column[index : index + 1] for column in truth))
            found = self._shown(quantity, float(logits[index]), None, part)
            if math.isfinite(found.ulp) and (best is None or found.ulp > best.ulp):
                best = found
        return best

    def _harm(self, quantity: str, logits: Tensor, computed: Tensor, truth: Truth) -> Cliff | None:
        """The largest error that a training feels, as it is of a logit that is given alone."""
        if quantity == "curvature" and not self.subject.is_pair:
            return None
        near = logits.double().abs() <= TRAINING
        error = (computed.double() - truth.hi).abs()
        part = max(ONE_PERCENT, 8 * torch.finfo(self.dtype).eps)
        felt = part * self._felt(quantity, truth, near)
        harmful = near & error.isfinite() & (error > felt) & self.is_normal(quantity, truth)
        # Of those as large as the largest, but for a factor of about two, the nearest to 0.
        size = ((error / felt).log2() + 0.1).floor() - logits.double().abs() / (2 * TRAINING)
        most = torch.where(harmful, size, -math.inf).topk(min(_TRIED, len(error)))
        for worst, index in zip(most.values.tolist(), most.indices.tolist(), strict=True):
            if worst == -math.inf:
                break
            right = Truth(*(column[index : index + 1] for column in truth))
            found = self._shown(quantity, float(logits[index]), None, right)
            if abs(found.computed - found.truth) > float(felt[index]):
                return found
        return None

    def _felt(self, quantity: str, truth: Truth, near: Tensor) -> Tensor:
        """What an error is small beside: the largest slope, or a value that is larger."""
        if quantity != "value":
            return truth.hi.abs()[near].amax().expand_as(truth.hi)
        return truth.hi.abs().clamp(min=abs(self.factor))

    def _cliff(self, quantity: str, logits: Tensor, wrong: Tensor, defect: str) -> Cliff | None:
        """The first wrong logit from 0 on, and the number before it, found by bisection."""
        if not bool(wrong.any()):
            return None
        x = logits.double()
        magnitudes = torch.where(wrong, x.abs(), math.inf)
        first = int(magnitudes.argmin())
        sign = -1.0 if float(x[first]) < 0 else 1.0
        same = (x * sign >= 0) & (x.abs() < float(magnitudes[first])) & ~wrong
        high, low = float(x[first]), None
        if bool(same.any()):

            def is_wrong(probes: Tensor) -> Tensor:
                computed = self._computed(quantity, probes)
                truth = self._truth(quantity, probes.tolist())
                return _DEFECTS[defect](self, quantity, computed, truth)

            high, low = self._edge(is_wrong, high, float((x.abs() * same).max()) * sign)
        if not self._is_wrong_alone(quantity, defect, high):
            beyond = self._first_alone(quantity, defect, x[wrong & (x.abs() > abs(high))])
            if beyond is None:
                return None
            high = beyond
        high, low = self._nearest(quantity, defect, high, low)
        return self._alone(quantity, defect, high, low, x[~wrong])

    def _alone(
        self, quantity: str, defect: str, high: float, low: float | None, right: Tensor
    ) -> Cliff:
        """The edge as it is of logits that are given alone.

        A vector unit rounds otherwise than a scalar, and what is shown has to be seen again.
        """
        is_wrong = partial(self._is_wrong_alone, quantity, defect)
        if low is not None and (is_wrong(low) or high * low < 0 or abs(low) > abs(high)):
            nearer = right[(right.abs() < abs(high)) & (right * high >= 0)]
            nearer = nearer[nearer.abs().argsort(descending=True)][:_TRIED]
            low = next((x for x in nearer.tolist() if not is_wrong(x)), None)
        if low is not None:
            high, low = self._edge(
                lambda probes: torch.tensor([is_wrong(x) for x in probes.tolist()]), high, low
            )
        return self._shown(quantity, high, low, self._truth(quantity, [high]))

    def _first_alone(self, quantity: str, defect: str, logits: Tensor) -> float | None:
        """The logit nearest to 0, of some that are wrong among others, that is wrong alone."""
        nearest = logits[logits.abs().argsort()][:_TRIED].tolist()
        return next((x for x in nearest if self._is_wrong_alone(quantity, defect, x)), None)

    def _is_wrong_alone(self, quantity: str, defect: str, logit: float) -> bool:
        computed, truth = self._of_one(quantity, logit), self._truth(quantity, [logit])
        return bool(_DEFECTS[defect](self, quantity, computed, truth))

    def _nearest(
        self, quantity: str, defect: str, high: float, low: float | None
    ) -> tuple[float, float | None]:
        """The wrong logit nearest to 0, and the number before it, where bisection found one.

        Errors of rounding are scattered, and a bisection ends at any of their edges: nearer ones
        are looked for among many numbers, again and again, until there are none.
        """
        if self.subject.reduced == "mean" or self.definition is None:
            return high, low
        right = torch.empty(0, dtype=self.dtype)
        for _ in range(_SCANS):
            probes = self._nearer(high)
            wrong = self._is_wrong(quantity, defect, probes)
            nearest = self._first_alone(quantity, defect, probes[wrong].double())
            if nearest is None and not len(right):
                return high, low  # nothing is nearer than what was bisected
            high = high if nearest is None else nearest
            is_nearer = (probes.double().abs() < abs(high)) & (probes * high >= 0)
            right = probes[~wrong & is_nearer]
            if nearest is None:
                break
        if not len(right):
            return high, None
        is_wrong = partial(self._is_wrong, quantity, defect)
        return self._edge(is_wrong, high, float(right[right.double().abs().argmax()]))

    def _nearer(self, high: float) -> Tensor:
        """Numbers nearer to 0, of both signs: in 16 bits all."""
        if self.dtype.itemsize == 2:
            every = every_finite(self.dtype)
            return every[every.double().abs() < abs(high)]
        spread = [
            torch.linspace(a * high, high, _SCANNED, dtype=torch.float64)[:-1] for a in (0, 0.5)
        ]
        near = torch.cat(spread).to(self.dtype).unique()
        return torch.cat([near, -near])

    def _edge(
        self, is_wrong: Callable[[Tensor], Tensor], high: float, low: float
    ) -> tuple[float, float]:
        """Two neighbours between a wrong and a right logit, of which the farther is wrong."""
        while len(probes := between(low, high, self.dtype, _PROBES)):
            wrong = is_wrong(probes)
            at = int(wrong.double().argmax())
            if not bool(wrong[at]):
                low = float(probes[-1])
                continue
            high = float(probes[at])
            if at:
                low = float(probes[at - 1])
        return high, low

    def _is_wrong(self, quantity: str, defect: str, probes: Tensor) -> Tensor:
        """Whether a defect is there, held to float64, of which ten digits are right."""
        second = quantity == "curvature"
        found = evaluate(self.subject, probes, self.target, self.gamma, second=second)
        computed = found.of(quantity)
        if computed is None or (defect != "nonfinite" and self.target not in (0, 1)):
            return torch.zeros_like(probes, dtype=torch.bool)
        if defect == "nonfinite":
            return ~computed.isfinite()
        if second:
            return torch.zeros_like(probes, dtype=torch.bool)
        u = probes.double() if self.target else -probes.double()
        fitted = Fit(self.factor, self.exponent)
        detached = self.definition is not None and self.definition.detached
        right = fitted.value(u) if quantity == "value" else fitted.slope(u, detached=detached)
        right = right if quantity == "value" or self.target else -right
        truth = Truth(right, torch.zeros_like(right), right.abs())
        return _DEFECTS[defect](self, quantity, computed, truth)

    def _shown(self, quantity: str, logit: float, before: float | None, truth: Truth) -> Cliff:
        """What comes out of a logit that is given alone."""
        computed = self._of_one(quantity, logit)
        error = ulp_error(computed, truth, of_scale=self.of_scale(quantity))
        return Cliff(logit, before, float(computed), float(truth.hi), float(error))

    def _of_one(self, quantity: str, logit: float) -> Tensor:
        x = torch.tensor([logit], dtype=torch.float64).to(self.dtype)
        second = quantity == "curvature"
        found = evaluate(self.subject, x, self.target, self.gamma, second=second).of(quantity)
        assert found is not None
        return found[:1]

    def of_scale(self, quantity: str) -> bool:
        """Whether terms of both signs meet."""
        return quantity == "curvature" or (quantity == "gradient" and self.target not in (0, 1))

    def magnitude(self, quantity: str, truth: Truth) -> Tensor:
        """What an error is counted against."""
        return truth.scale if self.of_scale(quantity) else truth.hi.abs()

    def is_normal(self, quantity: str, truth: Truth) -> Tensor:
        """Where the true result is a normal number of the dtype."""
        info = torch.finfo(self.dtype)
        return (self.magnitude(quantity, truth) >= info.tiny) & (truth.hi.abs() <= info.max)

    def _computed(self, quantity: str, probes: Tensor) -> Tensor:
        """At as many logits as there always are: a compiler of shapes has met them."""
        count = len(probes)
        if self.subject.reduced != "mean":
            probes = torch.cat([probes, probes[-1:].expand(_PROBES - count)])
        second = quantity == "curvature"
        found = evaluate(self.subject, probes, self.target, self.gamma, second=second)
        result = found.of(quantity)
        assert result is not None
        return result[:count]

    def of_itself(self, quantity: str, logits: Tensor) -> Truth | None:
        """What the loss gives in the widest dtype that it takes."""
        wide = logits.to(self.subject.widest)
        second = quantity == "curvature"
        found = evaluate(self.subject, wide, self.target, self.gamma, second=second).of(quantity)
        if found is None:
            return None
        found = found.double()
        return Truth(found, torch.zeros_like(found), found.abs())

    def _truth(self, quantity: str, logits: Sequence[float]) -> Truth:
        if self.definition is None:
            truth = self.of_itself(quantity, torch.tensor(logits, dtype=torch.float64))
            assert truth is not None
            return truth
        [entry] = derivatives(logits, self.target, [self.exponent], self.definition, bits=64)
        return _scaled(getattr(entry, quantity), self.factor)


def _nonfinite(judge: _Judge, quantity: str, computed: Tensor, truth: Truth) -> Tensor:
    """NaN or infinite, where the true result is neither; NaN is no result of any function."""
    largest = torch.finfo(judge.dtype).max
    return (~computed.isfinite() & (truth.hi.abs() <= largest)) | (
        computed.isnan() & truth.hi.isnan()
    )


def _dead(judge: _Judge, quantity: str, computed: Tensor, truth: Truth) -> Tensor:
    """0, where the true result is a normal number."""
    is_number = truth.hi.abs() >= torch.finfo(judge.dtype).tiny
    return (computed == 0) & is_number & judge.is_normal(quantity, truth)


def _off(judge: _Judge, quantity: str, computed: Tensor, truth: Truth) -> Tensor:
    """Wrong by more than a percent, and not dead."""
    error = (computed.double() - truth.hi).abs()
    off = computed.isfinite() & (error > ONE_PERCENT * judge.magnitude(quantity, truth))
    return off & judge.is_normal(quantity, truth) & ~_dead(judge, quantity, computed, truth)


def _flipped(judge: _Judge, quantity: str, computed: Tensor, truth: Truth) -> Tensor:
    """Of the other sign, and farther from the truth than 0 is."""
    wide = computed.double()
    is_far = (wide - truth.hi).abs() > judge.magnitude(quantity, truth)
    return _off(judge, quantity, computed, truth) & (wide * truth.hi < 0) & is_far


_DEFECTS: dict[str, Callable[[_Judge, str, Tensor, Truth], Tensor]] = {
    "nonfinite": _nonfinite,
    "dead": _dead,
    "off": _off,
    "flipped": _flipped,
}


# Numbers that are looked at in one step of a search, and of a look for scattered ones; and those
# that are tried alone.
_PROBES, _TRIED = 32, 24
_SCANNED, _SCANS = 1 << 15, 12


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
