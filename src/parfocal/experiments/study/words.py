"""What a comparison says, in sentences that are made from its numbers."""

import math
from collections.abc import Iterator, Sequence

from parfocal.experiments.study.bootstrap import Interval
from parfocal.experiments.study.comparison import Comparison
from parfocal.experiments.study.spec import Objective

AP = "average_precision"

# Of an interval that holds 95 of 100: each side is beyond 0 by chance.
_CHANCE = 0.025


def conclusion(comparison: Comparison) -> list[str]:
    """The first paragraphs of a page: average precision, calibration, and the original loss."""
    choices = _choices(comparison)
    found = {
        kind: {
            label: one
            for label, name in named.items()
            if (one := overall(comparison, name)) is not None
        }
        for kind, named in choices.items()
    }
    precision = [
        _opening(comparison, [one for labelled in found.values() for one in labelled.values()]),
        _without_the_largest(comparison, [n for named in choices.values() for n in named.values()]),
        *(_verdict(kind, intervals) for kind, intervals in found.items() if intervals),
        _counted(comparison),
    ]
    paragraphs = [precision, [_calibration(comparison)], *([pair] for pair in _pairs(comparison))]
    texts = [" ".join(filter(None, sentences)) for sentences in paragraphs]
    return [text for text in texts if text]


def points(value: float) -> str:
    """A metric, or a difference of two, in points: hundredths of it.

    >>> points(-0.01234)
    '-1.23'
    """
    text = f"{100 * value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_bounds(found: Interval) -> str:
    """A difference in points with its interval.

    >>> with_bounds(Interval(0.0123, -0.002, 0.03))
    '+1.23 [-0.20, 3.00]'
    """
    sign = "+" if float(points(found.value)) > 0 else ""
    return f"{sign}{points(found.value)} [{points(found.low)}, {points(found.high)}]"


def listed(words: Sequence[str]) -> str:
    """Words in a row.

    >>> listed(["0.1", "1", "2"])
    '0.1, 1 and 2'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def focal_objectives(comparison: Comparison, weights: str) -> dict[str, Objective]:
    """The exact focal losses with these weights, in float32, by name."""
    return {
        name: objective
        for name, objective in comparison.study.objectives.items()
        if objective.loss == "exact"
        and objective.gamma > 0
        and objective.weights == weights
        and objective.logits == "float32"
    }


def overall(comparison: Comparison, objective: str, metric: str = AP) -> Interval | None:
    """The difference from the first reference, on average over the data sets."""
    return comparison.difference(None, objective, comparison.study.references[0], metric)


def _choices(comparison: Comparison) -> dict[str, dict[str, str]]:
    """The choices of gamma and weights beside the first reference: by kind, names by label."""

    def focal(weights: str) -> dict[str, str]:
        objectives = focal_objectives(comparison, weights)
        return {f"gamma {objective.gamma:g}": name for name, objective in objectives.items()}

    return {
        "Focal loss without alpha": focal("none"),
        "With alpha": focal("usual"),
        "Weights of the classes at gamma 0": {
            name: name
            for name, objective in comparison.study.objectives.items()
            if objective.gamma == 0 and objective.weights != "none"
        },
    }


def _opening(comparison: Comparison, intervals: Sequence[Interval]) -> str:
    """Of how many choices average precision is shown to differ from the first reference's."""
    study = comparison.study
    reference, names = study.references[0], list(study.datasets)
    over = f"Averaged over {len(names)} data sets" if study.has_several else f"On {names[0]}"
    higher = sum(one.is_above for one in intervals)
    lower = sum(one.is_below for one in intervals)
    rest = [one for one in intervals if not (one.is_above or one.is_below)]
    text = (
        f"{over}, {len(intervals)} choices of gamma and class weights were compared with the "
        f"{reference}: average precision is higher with {higher or 'none'}, lower with "
        f"{lower or 'none'}"
    )
    if not rest:
        return f"{text}."
    spread = _spread([one.value for one in rest])
    return f"{text}, and can't be told apart with {len(rest)} ({spread} points)."


def _without_the_largest(comparison: Comparison, choices: Sequence[str]) -> str:
    """The differences without the data set that moves them most; empty for fewer than three."""
    if len(comparison.study.datasets) < 3 or not choices:
        return ""
    pairs = [(choice, comparison.study.references[0]) for choice in choices]
    largest = _largest(comparison, pairs)
    means = [_mean_without(comparison, largest, pair) for pair in pairs]
    others = len(comparison.study.datasets) - 1
    return (
        f"{largest} moves the average most: over the other {others} the same choices differ by "
        f"{_spread(means)} points."
    )


def _change(comparison: Comparison, dataset: str, pair: tuple[str, str]) -> float:
    """The average precision of the first of two objectives less that of the second."""
    first, second = (comparison.row(dataset, name).means[AP] for name in pair)
    return first - second


def _largest(comparison: Comparison, pairs: Sequence[tuple[str, str]]) -> str:
    """The data set on which some pairs differ most."""

    def moved(dataset: str) -> float:
        return math.fsum(abs(_change(comparison, dataset, pair)) for pair in pairs)

    return max(comparison.study.datasets, key=moved)


def _mean_without(comparison: Comparison, largest: str, pair: tuple[str, str]) -> float:
    """The mean difference of a pair over all data sets but one."""
    rest = [name for name in comparison.study.datasets if name != largest]
    return math.fsum(_change(comparison, name, pair) for name in rest) / len(rest)


def _verdict(begin: str, intervals: dict[str, Interval]) -> str:
    """Where average precision is higher than the first reference's, lower, or neither is shown."""
    kinds = {
        "higher with": [name for name, one in intervals.items() if one.is_above],
        "lower with": [name for name, one in intervals.items() if one.is_below],
    }
    shown = [name for names in kinds.values() for name in names]
    kinds["not told apart with"] = [name for name in intervals if name not in shown]
    parts = []
    for word, names in kinds.items():
        values = [
            f"{name} ({with_bounds(intervals[name])})" if name in shown else name for name in names
        ]
        if values:
            parts.append(f"{word} {listed(_once(values))}")
    return f"{begin}: {'; '.join(parts)}."


def _once(names: Sequence[str]) -> list[str]:
    """Names in a row, of which only the first says what it is a value of.

    >>> _once(["gamma 0.5", "gamma 1"])
    ['gamma 0.5', '1']
    """
    return [*names[:1], *(name.removeprefix("gamma ") for name in names[1:])]


def _spread(differences: Sequence[float]) -> str:
    """The smallest and the largest difference, in points.

    >>> _spread([0.01, -0.002, 0.005])
    '-0.20 to +1.00'
    """
    ends = (min(differences), max(differences))
    return " to ".join(dict.fromkeys(f"{100 * value:+.2f}" for value in ends))


def _counted(comparison: Comparison) -> str:
    """How many single comparisons are beyond 0, and how many would be by chance."""
    reference = comparison.study.references[0]
    single = [
        one.interval
        for one in comparison.differences
        if one.dataset is not None and one.reference == reference and one.metric == AP
    ]
    above = sum(one.is_above for one in single)
    below = sum(one.is_below for one in single)
    chance = _CHANCE * len(single)
    return (
        f"Of {len(single)} comparisons of an objective with the {reference} on a single data set, "
        f"the interval lies above 0 in {above} and below in {below}; by chance alone it would in "
        f"about {chance:{'.0f' if chance >= 1 else '.1f'}} on either side."
    )


def _calibration(comparison: Comparison) -> str:
    """Where the calibration error is smallest, before and after temperature scaling."""
    reference = comparison.study.references[0]
    candidates = [reference, *focal_objectives(comparison, "none")]
    parts = []
    for metric, words in (("ece", "as trained"), ("ece_scaled", "after temperature scaling")):
        means = {name: comparison.mean(name, metric) for name in candidates}
        best = min(means, key=lambda name: means[name])
        text = f"{points(means[reference])} points {words}"
        if best == reference:
            parts.append(f"{text}, and no gamma has less")
        else:
            change = overall(comparison, best, metric)
            differs = "" if change is None else f", a difference of {with_bounds(change)}"
            parts.append(f"{text}, and least with {best}: {points(means[best])}{differs}")
    return (
        f"Of the {reference} and the focal losses without alpha in float32, the expected "
        f"calibration error of the {reference} is {'; '.join(parts)}."
    )


def _pairs(comparison: Comparison) -> Iterator[str]:
    """What the exact loss changes where the original is used, with NaN steps skipped."""
    study = comparison.study
    for words, logits, has_nan in (
        ("At gamma below 1 in float32", "float32", True),
        ("With bfloat16 logits at gamma below 1", "bfloat16", True),
        ("With bfloat16 logits at gamma 1 and above, where nothing is NaN", "bfloat16", False),
    ):
        found = [
            (first, second)
            for first, second in study.pairs
            if study.objectives[first].loss == "original"
            and study.objectives[second].loss == "exact"
            and study.objectives[first].logits == logits
            and (study.objectives[first].gamma < 1) == has_nan
        ]
        if found:
            yield _beside_exact(comparison, words, found)


def _beside_exact(comparison: Comparison, words: str, pairs: list[tuple[str, str]]) -> str:
    """The original loss beside the exact one: steps, logits without a gradient, differences."""
    rows = [row for row in comparison.rows if row.objective in {first for first, _ in pairs}]
    skipped, steps = sum(row.skipped_steps for row in rows), sum(row.steps for row in rows)
    dead = max((row.dead_share for row in rows), default=0.0)
    finiteness = (
        f"{skipped:,} of {steps:,} steps without a finite gradient, which were skipped"
        if skipped
        else f"a finite gradient in all {steps:,} steps"
    )
    share = f"up to {100 * dead:.1f} %" if dead >= 5e-4 else "less than 0.1 %"
    return (
        f"{words}, the original loss had {finiteness}, and at the end {share} of a data set's "
        f"logits with no gradient. "
        f"Its average precision {_apart(comparison, AP, pairs)}; "
        f"its calibration error {_apart(comparison, 'ece', pairs)}."
    )


def _apart(comparison: Comparison, metric: str, pairs: list[tuple[str, str]]) -> str:
    """Where a metric is shown to differ between the two of a pair, or that it isn't anywhere."""
    found = {
        first: one
        for first, second in pairs
        if (one := comparison.difference(None, first, second, metric)) is not None
    }
    shown = {name: one for name, one in found.items() if one.is_above or one.is_below}
    if shown:
        seconds = dict(pairs)
        several = [
            f"{with_bounds(one)} points with {name}"
            + (_where(comparison, (name, seconds[name])) if metric == AP else "")
            for name, one in shown.items()
        ]
        return f"less the exact loss's is {listed(several)}"
    largest = max((abs(one.value) for one in found.values()), default=math.nan)
    return (
        f"can't be told from the exact loss's (up to {points(largest)} points apart, every "
        "interval holds 0)"
    )


def _where(comparison: Comparison, pair: tuple[str, str]) -> str:
    """The difference of a pair without the data set that moves it most, and its rates there."""
    largest = _largest(comparison, [pair])
    rates = [f"{comparison.row(largest, name).rate:g}" for name in pair]
    parts = []
    if len(comparison.study.datasets) > 2:
        parts.append(f"{100 * _mean_without(comparison, largest, pair):+.2f} without {largest}")
    if rates[0] != rates[1]:
        parts.append(f"{'where ' * bool(parts)}the searches chose the rates {' and '.join(rates)}")
    return f" ({', '.join(parts)})" if parts else ""
