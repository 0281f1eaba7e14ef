"""Times that were taken in turn, and their ratios."""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple


class Rounds(NamedTuple):
    """Times of both sides, in any one unit, a round each."""

    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs, of each round."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def spread(ratios: Sequence[float], digits: int = 2) -> str:
    """Median and quartiles."""
    low, _, high = quantiles(ratios, n=4)
    return f"{median(ratios):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
