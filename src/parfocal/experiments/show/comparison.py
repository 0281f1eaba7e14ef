"""Runs beside the published ones: failure rates, ranks of first failures, losses."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from parfocal.experiments.run.record import Run
from parfocal.experiments.show.published import PublishedRun
from parfocal.experiments.show.tabulation import experiment_of
from parfocal.experiments.spec import LOSS_NAMES

# Of the confidence intervals, and the normal quantile that belongs to it.
CONFIDENCE = 0.95
_QUANTILE = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))


class Pair(NamedTuple):
    """A run and the published one with the same settings."""

    run: Run
    published: PublishedRun


class FailureRate(NamedTuple):
    """How many of an experiment's runs with one loss, noise and gamma failed, here and published.

    epochs: the length of the runs here. The paper's are counted over the same cells
        (`published_runs`), and failures of theirs within as many epochs (`published_failed`).
    """

    experiment: str
    loss: str
    noise: float
    gamma: float
    epochs: int
    runs: int
    failed: int
    published_runs: int
    published_failed: int


class RankCorrelation(NamedTuple):
    """Spearman's correlation of the first failures' epochs, over the cells that both have.

    cells: those in which both failed, or one outlived the other's first failure.
    low, high: of the interval by Fisher's z with the variance (1 + rho ** 2 / 2) / (cells - 3)
        (Bonett and Wright, Psychometrika 65, 2000).
    """

    experiment: str
    loss: str
    noise: float
    cells: int
    rho: float
    low: float
    high: float


class LossRatio(NamedTuple):
    """A loss here over the published one: median and extremes over cells."""

    experiment: str
    loss: str
    what: str
    cells: int
    low: float
    median: float
    high: float


def failure_rates(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[FailureRate]:
    """By experiment, loss, noise, gamma and length, in that order; of runs that have ended."""
    groups: dict[tuple[str, str, float, float, int], list[Run]] = {}
    for run in runs:
        if run.done:
            spec = run.spec
            key = (*_group(run), spec.objective.gamma, spec.training.epochs)
            groups.setdefault(key, []).append(run)
    beside = {pair.run.spec.digest: pair.published for pair in pairs}
    found = []
    for (experiment, loss, noise, gamma, epochs), members in _in_order(groups):
        theirs = [beside[r.spec.digest] for r in members if r.spec.digest in beside]
        found.append(
            FailureRate(
                experiment,
                loss,
                noise,
                gamma,
                epochs,
                len(members),
                sum(run.failure is not None for run in members),
                len(theirs),
                sum(_fails_within(p, epochs) for p in theirs),
            )
        )
    return found


def rank_correlations(pairs: Sequence[Pair]) -> list[RankCorrelation]:
    """By experiment, loss and noise, where four cells can be compared and not all are equal."""
    groups: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    for pair in pairs:
        ours, theirs = _first_failure(pair.run), pair.published.first_failure
        if pair.run.done and _comparable(pair):
            both = (_epoch_or_never(ours), _epoch_or_never(theirs))
            groups.setdefault(_group(pair.run), []).append(both)
    found = []
    for (experiment, loss, noise), cells in _in_order(groups):
        ours, theirs = np.array(cells).T
        if len(cells) >= 4 and len(set(ours)) > 1 and len(set(theirs)) > 1:
            found.append(
                RankCorrelation(experiment, loss, noise, len(cells), *_spearman(ours, theirs))
            )
    return found


def loss_ratios(pairs: Sequence[Pair]) -> list[LossRatio]:
    """First epochs' losses; and last finite ones, of runs that went as far as the published."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for run, published in pairs:
        if not run.epochs:
            continue
        experiment, loss, _ = _group(run)
        first = groups.setdefault((experiment, loss, "first epoch"), [])
        first.append(run.epochs[0].loss / published.first_loss)
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


def _spearman(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The correlation and its interval."""
    rho = float(stats.spearmanr(stats.rankdata(ours), stats.rankdata(theirs)).statistic)
    if abs(rho) >= 1:
        return rho, rho, rho
    width = _QUANTILE * math.sqrt((1 + rho**2 / 2) / (len(ours) - 3))
    z = math.atanh(rho)
    return rho, math.tanh(z - width), math.tanh(z + width)


def _group(run: Run) -> tuple[str, str, float]:
    """Experiment, loss and noise."""
    spec = run.spec
    return experiment_of(spec), spec.objective.loss, float(getattr(spec.data, "noise", 0.0))


def _in_order(groups: dict[Any, list[Any]]) -> list[tuple[Any, list[Any]]]:
    """By experiment, by loss in the order of LOSS_NAMES, and by the rest."""

    def key(item: tuple[Any, list[Any]]) -> tuple[Any, ...]:
        experiment, loss, *rest = item[0]
        rank = LOSS_NAMES.index(loss) if loss in LOSS_NAMES else len(LOSS_NAMES)
        return (experiment, rank, loss, *rest)

    return sorted(groups.items(), key=key)


def _first_failure(run: Run) -> int | None:
    return None if run.failure is None else run.failure.epoch


def _epoch_or_never(epoch: int | None) -> float:
    return math.inf if epoch is None else float(epoch)


def _fails_within(published: PublishedRun, epochs: int) -> bool:
    return published.first_failure is not None and published.first_failure < epochs


def _comparable(pair: Pair) -> bool:
    """A run that was stopped before the published one failed says nothing about the order."""
    return pair.run.failure is not None or pair.run.spec.training.epochs >= pair.published.epochs
