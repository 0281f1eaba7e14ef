"""The conclusion of a report in plain words, composed from its numbers."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from parfocal.experiments.run.states import RunStatus
from parfocal.experiments.show.comparison import (
    FailureComparison,
    FailureRate,
    RangeRate,
    SeedAgreement,
)
from parfocal.experiments.show.naming import experiment_of
from parfocal.experiments.show.report import Report, Row, plural
from parfocal.experiments.show.tabulation import text

_STATES: dict[RunStatus, str] = {
    "running": "under way",
    "waiting": "not begun",
    "interrupted": "interrupted",
    "lost": "without a sign of life",
}

_DIFFER = "the paper's runs differ from ours in more than the seed"


def headline(report: Report) -> str:
    """The conclusion in one sentence, without its full stop."""
    counts: dict[str, tuple[int, int]] = {}
    for rate in report.ranges:
        failed, runs = counts.get(rate.loss, (0, 0))
        counts[rate.loss] = (failed + rate.failed, runs + rate.runs)
    if not counts:
        return "No run has ended yet"
    fails = {loss: count for loss, count in counts.items() if count[0]}
    holds = {loss: count for loss, count in counts.items() if not count[0]}
    total = sum(runs for _, runs in holds.values())
    survivors = (
        f"in none of {plural(total, 'run')} with the {joined(holds, 'or')} loss" if holds else ""
    )
    if not fails:
        return f"Training failed {survivors}"
    words = joined(
        f"{failed} of {plural(runs, 'run')} with the {loss} loss"
        for loss, (failed, runs) in fails.items()
    )
    return f"Training failed in {words}" + f", and {survivors}" * bool(holds)


def sentences(report: Report) -> list[str]:
    """The conclusion: how many failed, when and of what, how far it agrees, and what is missing."""
    return [
        *_rates(report),
        *_first_failures(report),
        *(_comparison(c) for c in report.comparisons),
        *(_agreement(a) for a in report.agreements),
        *_unfinished(report),
    ]


def agreement_text(agreement: SeedAgreement) -> str:
    """Whether two seeds agree with each other any better than with the paper."""
    seeds, beside = agreement.seeds, agreement.with_published
    a, b = seeds.between
    if not beside:
        return f"{a.capitalize()} and {b} were not compared with published runs over the same cells"
    rhos = [c.rho for c in beside]
    if seeds.rho <= max(rhos):
        how = "no better" if seeds.rho <= min(rhos) else "neither better nor worse"
        how, verdict = f"{how} than with the paper", "the reproduction is as good as it can be"
    elif all(c.rho >= seeds.low for c in beside):
        how = "a little better than with the paper, but within the interval"
        verdict = "these runs don't tell the reproduction from another seed"
    else:
        how, verdict = "better than with the paper", _DIFFER
    shift = _common_shift(beside)
    if shift:
        how, verdict = f"{how}, and both {shift}", _DIFFER
    return f"{a.capitalize()} and {b} agree with each other in rank {how}: {verdict}"


def _common_shift(comparisons: Sequence[FailureComparison]) -> str:
    """`fail later than published in 29 of 43 and 31 of 40 unequal cells`, or nothing.

    A shift of one seed alone is no sign of more than the seed.
    """
    mostly_later = [2 * c.later > c.unequal for c in comparisons]
    if len(set(mostly_later)) > 1 or not all(c.is_shifted for c in comparisons):
        return ""
    word = "later" if all(mostly_later) else "earlier"
    counts = [c.later if word == "later" else c.unequal - c.later for c in comparisons]
    cells = joined(f"{n} of {c.unequal}" for n, c in zip(counts, comparisons, strict=True))
    return f"fail {word} than published in {cells} unequal cells"


def rate_text(rate: RangeRate) -> str:
    """`48 of 49 runs with 0 < gamma < 1`."""
    words = range_text(rate) if rate.below_one else f"gamma {range_text(rate)}"
    return f"{rate.failed} of {plural(rate.runs, 'run')} with {words}"


def range_text(rate: RangeRate) -> str:
    """The range of gamma."""
    return "0 < gamma < 1" if rate.below_one else "0 or at least 1"


def interval_text(rate: FailureRate | RangeRate) -> str:
    """The interval of its share."""
    return percent_text(rate.low, rate.high)


def percent_text(low: float, high: float) -> str:
    """`89.1 to 99.9 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def published_rate_text(rate: RangeRate) -> str:
    """The published failures in the same settings and as many epochs."""
    if not rate.published_runs:
        return "not published"
    return f"{rate.published_failed} of {rate.published_runs}"


def joined(words: Iterable[str], by: str = "and") -> str:
    """A list in a sentence.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = words
    return f"{', '.join(most)} {by} {last}" if most else last


def _rates(report: Report) -> Iterator[str]:
    """A sentence a loss."""
    losses = dict.fromkeys(rate.loss for rate in report.ranges)
    for loss in losses:
        parts = []
        for rate in report.ranges:
            if rate.loss == loss:
                beside = f"; {_published(rate)}" * report.compared
                parts.append(f"{rate_text(rate)} (95 % interval {interval_text(rate)}{beside})")
        yield f"The {loss} loss failed in {joined(parts)}."


def _published(rate: RangeRate) -> str:
    words = published_rate_text(rate)
    return f"published: {words}" if rate.published_runs else words


def _first_failures(report: Report) -> Iterator[str]:
    """A sentence an experiment and loss: when, which quantity, at which |logit|."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        if row.status == "failed":
            spec = row.run.spec
            groups.setdefault((experiment_of(spec), spec.objective.loss), []).append(row)
    order = [section.heading for section in report.sections]
    for (experiment, loss), rows in sorted(groups.items(), key=lambda g: order.index(g[0][0])):
        failures = [row.run.failure for row in rows if row.run.failure is not None]
        epochs = [failure.epoch for failure in failures]
        logits = [f.largest_logit for f in failures if math.isfinite(f.largest_logit)]
        quantities = Counter(failure.quantity for failure in failures)
        what = joined(
            f"the {quantity}" + f" ({count} times)" * (len(quantities) > 1)
            for quantity, count in quantities.most_common()
        )
        yield (
            f"{experiment}: the {loss} loss failed first in {_span(epochs, 'epoch', '{:g}')}"
            + f" (median {median(epochs):g})" * (len(epochs) > 1)
            + f"; what was not finite first was {what}"
            + (f", at a largest |logit| of {_span(logits, '', '{:.2f}')}." if logits else ".")
        )


def _span(values: Sequence[float], noun: str, form: str) -> str:
    """`epochs 4 to 68`, or `epoch 4`."""
    low, high = form.format(min(values)), form.format(max(values))
    span = low if low == high else f"{low} to {high}"
    return f"{noun}{'s' * (low != high)} {span}" if noun else span


def _comparison(c: FailureComparison) -> str:
    return (
        f"{c.experiment}, noise {text(c.noise)}: the epochs of the {c.loss} loss's first failures "
        f"({c.between[0]}) correlate in rank with the published ones by Spearman's rho "
        f"{rho_text(c)}. They are later than published in {later_text(c)}, and the numbers of "
        f"epochs differ by a factor of {factor_text(c)} in the median."
    )


def rho_text(c: FailureComparison) -> str:
    """`0.899 over 45 cells, 95 % interval 0.803 to 0.949`."""
    return f"{c.rho:.3f} over {c.cells} cells, 95 % interval {c.low:.3f} to {c.high:.3f}"


def later_text(c: FailureComparison) -> str:
    """`24 of 38 unequal cells (46.0 to 78.2 %)`."""
    return f"{c.later} of {c.unequal} unequal cells ({percent_text(c.later_low, c.later_high)})"


def factor_text(c: FailureComparison) -> str:
    """`1.25`, or a word where one of the two doesn't fail in most cells."""
    return f"{c.factor:.2f}" if math.isfinite(c.factor) else "infinity"


def _agreement(agreement: SeedAgreement) -> str:
    c = agreement.seeds
    beside = (
        joined(
            f"{s.between[0]} {s.rho:.3f} (factor {factor_text(s)})"
            for s in agreement.with_published
        )
        if agreement.with_published
        else ""
    )
    return (
        f"{c.experiment}, noise {text(c.noise)}, {c.loss}: between {joined(c.between)} rho is "
        f"{rho_text(c)}, and their numbers of epochs differ by a factor of {factor_text(c)} in the "
        "median"
        + f"; with the paper, over the same cells: {beside}" * bool(beside)
        + f". {agreement_text(agreement)}."
    )


def _unfinished(report: Report) -> Iterator[str]:
    counts = Counter(row.status for row in report.rows)
    rest = [f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state]]
    ended = counts["finished"] + counts["failed"]
    if rest:
        yield f"{ended} of {plural(len(report.rows), 'run')} have ended; {joined(rest)}."
    if report.problems:
        unread = plural(len(report.problems), "record")
        yield f"Not counted, since it can't be read: {unread}, named below."
