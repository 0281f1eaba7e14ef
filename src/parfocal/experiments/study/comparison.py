"""What a study found, from record and predictions: means, and differences with intervals."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parfocal.experiments.errors import ExperimentError
from parfocal.experiments.run.engines import Engine
from parfocal.experiments.study.bootstrap import (
    Interval,
    drawn_means,
    interval,
    sample_counts,
    seed_draws,
)
from parfocal.experiments.study.conduct import Folder, Line, chosen_rate, read_trainings
from parfocal.experiments.study.metrics import METRICS, measure
from parfocal.experiments.study.problems import load_problem
from parfocal.experiments.study.spec import Study, Training
from parfocal.experiments.study.training import read_predictions

Array = np.ndarray[Any, np.dtype[Any]]

_DRAWS_SEED = 0


class Row(NamedTuple):
    """An objective on a data set.

    searched: average precision on the validation split, by the rates of the search.
    means: of each metric over the seeds.
    skipped_steps, steps: over all seeds; largest_logit: of all; dead_share: the mean.
    """

    dataset: str
    objective: str
    rate: float
    searched: dict[float, float]
    means: dict[str, float]
    skipped_steps: int
    steps: int
    largest_logit: float
    dead_share: float

    @property
    def edge(self) -> str:
        """Whether the rate is the lowest or the highest of the search; else, or alone, empty."""
        return edge(self.rate, [*self.searched])


class Difference(NamedTuple):
    """An objective less another, of one metric; on one data set, or on average over all."""

    dataset: str | None
    objective: str
    reference: str
    metric: str
    interval: Interval


class Comparison(NamedTuple):
    """All of a study."""

    study: Study
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]

    @property
    def places(self) -> tuple[str | None, ...]:
        """The data sets, and of several None, which is their average, at the end."""
        names = tuple(self.study.datasets)
        return (*names, None) if self.study.has_several else names

    def row(self, dataset: str, objective: str) -> Row:
        """The row of an objective on a data set."""
        return self._index()[dataset, objective]

    def _index(self) -> dict[tuple[str, str], Row]:
        return {(row.dataset, row.objective): row for row in self.rows}

    def mean(self, objective: str, metric: str) -> float:
        """The mean of a metric over the data sets that have it; NaN if none has."""
        values = [row.means[metric] for row in self.rows if row.objective == objective]
        known = [value for value in values if not math.isnan(value)]
        return math.fsum(known) / len(known) if known else math.nan

    def difference(
        self, dataset: str | None, objective: str, reference: str, metric: str
    ) -> Interval | None:
        """A difference, if it was asked for; None for the average over the data sets."""
        wanted = (dataset, objective, reference, metric)
        found = [one.interval for one in self.differences if one[:4] == wanted]
        return found[0] if found else None


class _Values(NamedTuple):
    """The metrics of an objective on a data set: at each seed, and at each seed and draw."""

    point: dict[str, Array]
    drawn: dict[str, Array]


def compare(study: Study, folder: Folder, engine: Engine) -> Comparison:
    """Compare all objectives of a study that is done.

    Raises:
        ExperimentError: a training or its predictions are missing.
    """
    lines = read_trainings(folder)
    rates = {
        (dataset, objective): _rate(study, dataset, objective, lines, folder)
        for dataset in study.datasets
        for objective in study.objectives
    }
    futures = {
        name: engine.submit(_evaluate, study, name, folder, lines, _of(rates, name))
        for name in study.datasets
    }
    values = {name: future.result() for name, future in futures.items()}
    rows = [
        _row(study, dataset, objective, rate, lines, values[dataset][objective])
        for (dataset, objective), rate in rates.items()
    ]
    return Comparison(study, tuple(rows), tuple(_differences(study, values)))


def _of(rates: dict[tuple[str, str], float], dataset: str) -> dict[str, float]:
    return {objective: rate for (name, objective), rate in rates.items() if name == dataset}


def _rate(
    study: Study, dataset: str, objective: str, lines: dict[str, Line], folder: Folder
) -> float:
    rate = chosen_rate(study, dataset, objective, lines)
    missing = rate is None or any(
        training.digest not in lines or not folder.predictions(training).exists()
        for training in study.trainings(dataset, objective, rate)
    )
    if rate is None or missing:
        raise ExperimentError(
            f"{folder.path} lacks training runs or predictions of {objective} on {dataset}; the "
            "same command without --report makes them"
        )
    return rate


def _evaluate(
    study: Study, dataset: str, folder: Folder, lines: dict[str, Line], rates: dict[str, float]
) -> dict[str, _Values]:
    """All objectives of a data set, with the same draws of its samples."""
    problem = load_problem(folder.data(study.datasets[dataset]))
    samples = int(problem.test.groups.max()) + 1
    seen = np.ones((1, samples), dtype=np.float32)
    counts = np.concatenate([seen, sample_counts(samples, study.draws, _DRAWS_SEED)])

    def measured(training: Training) -> dict[str, Array]:
        predictions = read_predictions(folder.predictions(training), problem.test, problem.head)
        return measure(predictions, lines[training.digest]["temperature"], counts)

    found = {}
    for objective, rate in rates.items():
        values = [measured(one) for one in study.trainings(dataset, objective, rate)]
        whole = {metric: np.stack([value[metric] for value in values]) for metric in METRICS}
        found[objective] = _Values(
            {metric: value[:, 0] for metric, value in whole.items()},
            {metric: value[:, 1:] for metric, value in whole.items()},
        )
    return found


def _row(
    study: Study,
    dataset: str,
    objective: str,
    rate: float,
    lines: dict[str, Line],
    values: _Values,
) -> Row:
    search = study.search(dataset, objective)
    of_seeds = [lines[one.digest] for one in study.trainings(dataset, objective, rate)]
    return Row(
        dataset=dataset,
        objective=objective,
        rate=rate,
        searched={one.rate: lines[one.digest]["validation_average_precision"] for one in search},
        means={metric: float(value.mean()) for metric, value in values.point.items()},
        skipped_steps=sum(line["skipped_steps"] for line in of_seeds),
        steps=sum(line["steps"] for line in of_seeds),
        largest_logit=max(line["largest_logit"] for line in of_seeds),
        dead_share=sum(line["dead_share"] for line in of_seeds) / len(of_seeds),
    )


def edge(rate: float, rates: Sequence[float]) -> str:
    """Whether a rate is the lowest or the highest of several; else empty."""
    ends = {min(rates): "lowest", max(rates): "highest"}
    return ends.get(rate, "") if len(rates) > 1 else ""


def comparisons(study: Study) -> list[tuple[str, str]]:
    """Which objective is compared with which, none twice."""
    pairs = [
        (objective, reference)
        for reference in study.references
        for objective in study.objectives
        if objective != reference
    ]
    return list(dict.fromkeys([*pairs, *study.pairs]))


def _differences(study: Study, values: dict[str, dict[str, _Values]]) -> list[Difference]:
    """On each data set, and on average over those that have the metric.

    Data sets are drawn independently of each other; all have the same seeds, but nothing else of a
    training, and so the seeds of each are drawn anew.
    """
    chosen = {
        name: seed_draws(len(study.seeds), study.draws, 1 + place)
        for place, name in enumerate(study.datasets)
    }
    found = []
    for objective, reference in comparisons(study):
        for metric in METRICS:
            points, draws = [], []
            for dataset, of_objectives in values.items():
                one, other = of_objectives[objective], of_objectives[reference]
                point = float((one.point[metric] - other.point[metric]).mean())
                if np.isnan(point):
                    continue
                drawn = drawn_means(one.drawn[metric] - other.drawn[metric], chosen[dataset])
                points.append(point)
                draws.append(drawn)
                found.append(
                    Difference(dataset, objective, reference, metric, interval(point, drawn))
                )
            if points:
                average = interval(float(np.mean(points)), np.mean(draws, axis=0))
                found.append(Difference(None, objective, reference, metric, average))
    return found
