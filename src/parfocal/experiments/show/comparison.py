"""Runs beside the published ones, and beside those of another seed: rates, ranks, losses."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from parfocal.experiments.run.record import Run
from parfocal.experiments.show.naming import experiment_of
from parfocal.experiments.show.published import PublishedRun
from parfocal.experiments.spec import LOSS_NAMES, RunSpec

# Of the confidence intervals, and the normal quantile that belongs to it.
CONFIDENCE = 0.95
_QUANTILE = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))

# Fisher's z needs more than three cells.
_FEWEST_CELLS = 4

PUBLISHED = "published"


class Pair(NamedTuple):
    """A run and the published one with the same settings."""

    run: Run
    published: PublishedRun


class FailureRate(NamedTuple):
    """How many of an experiment's runs with one loss, noise and gamma failed, here and published.

    epochs: the length of the runs here. The paper's are counted over the same cells, each once
        (`published_runs`), and failures of theirs within as many epochs (`published_failed`).
    seeds: whose runs are counted together.
    low, high: the interval of Clopper and Pearson for the share that failed.
    """

    experiment: str
    loss: str
    noise: float
    gamma: float
    epochs: int
    seeds: tuple[int, ...]
    runs: int
    failed: int
    low: float
    high: float
    published_runs: int
    published_failed: int


class RangeRate(NamedTuple):
    """The same of one loss over all experiments, for exponents in one of two ranges.

    below_one: 0 < gamma < 1, where the usual gradient can be NaN; else gamma is 0 or at least 1.
    """

    loss: str
    below_one: bool
    runs: int
    failed: int
    low: float
    high: float
    published_runs: int
    published_failed: int


class FailureComparison(NamedTuple):
    """How the epochs of two series' first failures compare: their ranks, and which are later.

    between: the two series: `seed 0`, `published`.
    cells: those in which both failed, or one that didn't fail was meant to last as long as the
        other.
    rho, low, high: Spearman's correlation, with the interval by Fisher's z and the variance
        (1 + rho ** 2 / 2) / (cells - 3) (Bonett and Wright, Psychometrika 65, 2000).
    later, unequal: the cells in which the first series fails later, of those in which one does.
    later_low, later_high: the interval of Clopper and Pearson for that share: a sign test, which
        finds neither series later where the interval holds a half.
    factor: the later one's number of epochs, that of the failure included, over the earlier one's;
        the median over the cells.
    """

    experiment: str
    loss: str
    noise: float
    between: tuple[str, str]
    cells: int
    rho: float
    low: float
    high: float
    later: int
    unequal: int
    later_low: float
    later_high: float
    factor: float

    @property
    def is_shifted(self) -> bool:
        """Whether one series fails later than the other in more cells than by chance.

        Cells of one seed begin with the same parameters, and see the images in the same order: the
        shift may be that seed's.
        """
        return not self.later_low <= 1 / 2 <= self.later_high


class SeedAgreement(NamedTuple):
    """How well two seeds agree with each other, and over the same cells each with the paper.

    with_published: one a seed; empty where nothing was published.
    """

    seeds: FailureComparison
    with_published: tuple[FailureComparison, ...]


class LossRatio(NamedTuple):
    """A loss here over the published one: median and extremes over runs."""

    experiment: str
    loss: str
    what: str
    cells: int
    low: float
    median: float
    high: float


class _Ending(NamedTuple):
    """When a run failed first, if it did, and how many epochs it was meant to have."""

    failure: int | None
    epochs: int


# Experiment, loss and noise; the settings but seed and length; how a run of a series ended there.
_Group = tuple[str, str, float]
_Cell = str
_Series = dict[_Cell, _Ending]


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """The exact interval for a proportion, by Clopper and Pearson (Biometrika 26, 1934).

    Its ends are the proportions p at which `count` or more, and `count` or fewer, out of `total`
    have the probability (1 - 0.95) / 2: quantiles of the beta distribution.

    Example:
        >>> [round(end, 3) for end in proportion_interval(0, 10)]
        [0.0, 0.308]
    """
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(stats.beta.isf(tail, count + 1, total - count)) if count < total else 1.0
    return low, high


def failure_rates(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[FailureRate]:
    """By experiment, loss, noise, gamma and length, in that order; of runs that have ended."""
    groups: dict[tuple[str, str, float, float, int], list[Run]] = {}
    for run in _ended(runs):
        key = (*_group(run), run.spec.objective.gamma, run.spec.training.epochs)
        groups.setdefault(key, []).append(run)
    beside = {_cell(pair.run.spec): pair.published for pair in pairs}
    rates = []
    for (experiment, loss, noise, gamma, epochs), members in _in_order(groups):
        cells = {_cell(run.spec) for run in members}
        theirs = [beside[cell] for cell in cells if cell in beside]
        failed = sum(run.failure is not None for run in members)
        rates.append(
            FailureRate(
                experiment=experiment,
                loss=loss,
                noise=noise,
                gamma=gamma,
                epochs=epochs,
                seeds=tuple(sorted({run.spec.training.seed for run in members})),
                runs=len(members),
                failed=failed,
                **_interval(failed, len(members)),
                published_runs=len(theirs),
                published_failed=sum(_fails_within(p, epochs) for p in theirs),
            )
        )
    return rates


def range_rates(rates: Sequence[FailureRate]) -> list[RangeRate]:
    """By loss, and by 0 < gamma < 1 before all other gammas."""
    groups: dict[tuple[str, str, bool], list[FailureRate]] = {}
    for rate in rates:
        groups.setdefault(("", rate.loss, not 0 < rate.gamma < 1), []).append(rate)
    found = []
    for (_, loss, other), members in _in_order(groups):
        failed, runs = sum(r.failed for r in members), sum(r.runs for r in members)
        found.append(
            RangeRate(
                loss=loss,
                below_one=not other,
                runs=runs,
                failed=failed,
                **_interval(failed, runs),
                published_runs=sum(r.published_runs for r in members),
                published_failed=sum(r.published_failed for r in members),
            )
        )
    return found


def failure_comparisons(pairs: Sequence[Pair]) -> list[FailureComparison]:
    """Of each seed with the published runs, by experiment, loss and noise.

    Where four cells can be compared, and not all are equal.
    """
    comparisons = []
    for group, series in _series([pair.run for pair in pairs], pairs):
        published = series.get(PUBLISHED, {})
        seeds = [name for name in series if name != PUBLISHED]
        found = [
            _compared(group, (seed, PUBLISHED), series[seed], published, set(published))
            for seed in seeds
        ]
        comparisons += [comparison for comparison in found if comparison is not None]
    return comparisons


def seed_agreements(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[SeedAgreement]:
    """Of each two seeds, by experiment, loss and noise, over the cells that all compared have."""
    agreements = []
    for group, series in _series(runs, pairs):
        published = series.pop(PUBLISHED, {})
        for a, b in combinations(series, 2):
            common = _comparable(series[a], series[b])
            three = common & _comparable(series[a], published) & _comparable(series[b], published)
            over = three if len(three) >= _FEWEST_CELLS else common
            seeds = _compared(group, (a, b), series[a], series[b], over)
            if seeds is not None:
                beside = [
                    _compared(group, (seed, PUBLISHED), series[seed], published, three)
                    for seed in (a, b)
                ]
                known = tuple(c for c in beside if c is not None)
                agreements.append(SeedAgreement(seeds, known if len(known) == 2 else ()))
    return agreements


def loss_ratios(pairs: Sequence[Pair]) -> list[LossRatio]:
    """First epochs' losses; and last finite ones, of runs that went as far as the published."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for run, published in pairs:
        if not run.epochs:
            continue
        experiment, loss, _ = _group(run)
        if published.first_loss:
            first = groups.setdefault((experiment, loss, "first epoch"), [])
            first.append(run.epochs[0].loss / published.first_loss)
        if not published.last_loss:
            continue
        if run.failure is not None and published.first_failure is not None:
            last = groups.setdefault((experiment, loss, "last before the failure"), [])
            last.append(run.epochs[-1].loss / published.last_loss)
        elif len(run.epochs) == published.epochs and published.first_failure is None:
            last = groups.setdefault((experiment, loss, "last of all epochs"), [])
            last.append(run.epochs[-1].loss / published.last_loss)
    return [
        LossRatio(
            experiment, loss, what, len(ratios), min(ratios), float(np.median(ratios)), max(ratios)
        )
        for (experiment, loss, what), ratios in _in_order(groups)
    ]


def _interval(failed: int, runs: int) -> dict[str, float]:
    low, high = proportion_interval(failed, runs)
    return {"low": low, "high": high}


def _ended(runs: Sequence[Run]) -> list[Run]:
    """Those that have ended: of records of one spec, which aren't independent, the first."""
    return list({run.spec.digest: run for run in reversed(runs) if run.done}.values())[::-1]


def _series(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[tuple[_Group, dict[str, _Series]]]:
    """How the runs of each seed ended, in the order of the seeds, and the published ones.

    Of 0 < gamma < 1 alone: where nothing can fail, neither does, which raises any correlation.
    Where runs of one seed differ in their length alone, the longest is taken.
    """
    ended = [run for run in _ended(runs) if 0 < run.spec.objective.gamma < 1]
    groups: dict[_Group, dict[str, _Series]] = {}
    for run in sorted(ended, key=lambda r: (r.spec.training.seed, r.spec.training.epochs)):
        series = groups.setdefault(_group(run), {}).setdefault(f"seed {run.spec.training.seed}", {})
        failure = None if run.failure is None else run.failure.epoch
        series[_cell(run.spec)] = _Ending(failure, run.spec.training.epochs)
    for run, published in pairs:
        if _group(run) in groups and 0 < run.spec.objective.gamma < 1:
            series = groups[_group(run)].setdefault(PUBLISHED, {})
            series[_cell(run.spec)] = _Ending(published.first_failure, published.epochs)
    return [(group, series) for group, series in _in_order(groups)]


def _comparable(a: _Series, b: _Series) -> set[_Cell]:
    """The cells of both; a run that was meant to end before the other says nothing of the order.

    Unless it failed before that.
    """
    return {
        cell
        for cell in a.keys() & b.keys()
        if (a[cell].failure is not None or a[cell].epochs >= b[cell].epochs)
        and (b[cell].failure is not None or b[cell].epochs >= a[cell].epochs)
    }


def _compared(
    group: _Group, between: tuple[str, str], a: _Series, b: _Series, cells: set[_Cell]
) -> FailureComparison | None:
    """Over those of the cells that can be compared; None if they are too few, or all equal."""
    compared = sorted(_comparable(a, b) & cells)
    first, second = (np.array([_epochs(series[cell]) for cell in compared]) for series in (a, b))
    if len(compared) < _FEWEST_CELLS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    unequal, later = first != second, int((first > second).sum())
    factors = np.ones(len(compared))
    np.divide(np.maximum(first, second), np.minimum(first, second), out=factors, where=unequal)
    later_low, later_high = proportion_interval(later, int(unequal.sum()))
    return FailureComparison(
        *group,
        between,
        len(compared),
        *_spearman(first, second),
        later=later,
        unequal=int(unequal.sum()),
        later_low=later_low,
        later_high=later_high,
        factor=float(np.median(factors)),
    )


def _spearman(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """The correlation and its interval."""
    rho = float(stats.spearmanr(stats.rankdata(first), stats.rankdata(second)).statistic)
    if abs(rho) >= 1:
        return rho, rho, rho
    width = _QUANTILE * math.sqrt((1 + rho**2 / 2) / (len(first) - 3))
    z = math.atanh(rho)
    return rho, math.tanh(z - width), math.tanh(z + width)


def _group(run: Run) -> _Group:
    """Experiment, loss and noise."""
    spec = run.spec
    return experiment_of(spec), spec.objective.loss, float(getattr(spec.data, "noise", 0.0))


def _cell(spec: RunSpec) -> _Cell:
    """All settings but the seed and the number of epochs."""
    return spec.with_settings({"seed": 0, "epochs": 1}).digest


def _in_order(groups: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """By experiment, by loss in the order of LOSS_NAMES, and by the rest."""

    def key(item: tuple[Any, Any]) -> tuple[Any, ...]:
        experiment, loss, *rest = item[0]
        rank = LOSS_NAMES.index(loss) if loss in LOSS_NAMES else len(LOSS_NAMES)
        return (experiment, rank, loss, *rest)

    return sorted(groups.items(), key=key)


def _epochs(ending: _Ending) -> float:
    """How many there were until the first failure, that of it included."""
    return math.inf if ending.failure is None else ending.failure + 1.0


def _fails_within(published: PublishedRun, epochs: int) -> bool:
    return published.first_failure is not None and published.first_failure < epochs
