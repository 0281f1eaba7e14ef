"""One cell of an audit's grid: what came out at a quantity, a dtype, a target and a gamma."""

import math
from dataclasses import dataclass
from typing import NamedTuple

# Beyond this error in ULP a result is called inaccurate: 3e-5 of it in float32, 2e-13 in float64
# (an exponential of gamma log q loses that much), more than the last bit in 16.
LIMITS = {"float64": 1024.0, "float32": 256.0, "float16": 2.0, "bfloat16": 2.0}

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
    cliff: of what is not finite; `percent`: of what is wrong by more than 1 %; `dead_from`,
        `flipped_from`: of those.
    largest: the largest error that is a number, and where.
    harm: the largest that a training feels: more than a percent, or eight times eps, of the
        largest gradient of the cell or of the value. What is lost of a tiny gradient isn't.
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
    flipped_from: Cliff | None
    largest: Cliff | None
    harm: Cliff | None
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


def edges() -> tuple[float, ...]:
    """The upper edges of the columns of a heat map, ascending in the logit."""
    return (*(-bound for bound in reversed(BINS)), 0.0, *BINS, math.inf)
