"""Intervals of paired differences, over seeds and samples.

All objectives are trained at the same seeds and judged on the same samples. A draw takes as many
seeds and as many samples as there are, with replacement, each sample for all seeds: seeds and
samples are crossed.

Five seeds are few: the percentile interval of a bootstrap over n values is too narrow by
`sqrt((n - 1) / n)`, and by the normal distribution's quantile in place of Student's. Both are
known, so the part of a draw that its seeds make is stretched by

    k = sqrt(n / (n - 1)) t / z,    t, z: the 0.975 quantiles of Student's t_{n - 1}, the normal

as Hesterberg's expanded percentile interval is ("What Teachers Should Know About the Bootstrap",
The American Statistician 2015). That of the samples, of which there are hundreds, stays.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, t

Array = np.ndarray[Any, np.dtype[Any]]

LEVEL = 0.95


class Interval(NamedTuple):
    """A number with the bounds that hold it in 95 of 100 studies."""

    value: float
    low: float
    high: float

    @property
    def is_above(self) -> bool:
        """Whether 0 is below it."""
        return self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether 0 is above it."""
        return self.high < 0


def sample_counts(samples: int, draws: int, seed: int) -> Array:
    """How often each draw takes each sample: (draws, samples)."""
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, samples), dtype=np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(samples, size=samples), minlength=samples)
    return counts


def seed_draws(seeds: int, draws: int, seed: int) -> Array:
    """Which seeds each draw takes: (draws, seeds)."""
    return np.random.default_rng(seed).integers(seeds, size=(draws, seeds))


def drawn_means(values: Array, chosen: Array) -> Array:
    """The mean over the seeds that each draw takes, with its distance from that over all stretched.

    Args:
        values: (seeds, draws): a difference at each seed, with the samples of each draw.
        chosen: (draws, seeds).
    """
    n = len(values)
    whole = values.mean(axis=0)
    drawn = np.take_along_axis(values.T, chosen, axis=1).mean(axis=1)
    stretched: Array = whole + _stretch(n) * (drawn - whole)
    return stretched


def interval(value: float, draws: Array) -> Interval:
    """The bounds that hold LEVEL of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def _stretch(n: int) -> float:
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(n / (n - 1)) * t.ppf(tail, n - 1) / norm.ppf(tail))
