"""Failure rates, first failures and loss ratios are those of the textbooks."""

import math

import pytest
from scipy import stats

from experiments.made_up import CELLS, run_of, spec_of
from parfocal.experiments.show.comparison import (
    Pair,
    failure_comparisons,
    failure_rates,
    loss_ratios,
    proportion_interval,
    range_rates,
    seed_agreements,
)
from parfocal.experiments.show.conclusion import factor_text
from parfocal.experiments.show.published import PublishedRun


@pytest.fixture(scope="module")
def runs():
    return [run_of(spec_of(*place), ours) for place, (ours, _) in CELLS.items()]


@pytest.fixture(scope="module")
def pairs(runs):
    published = [PublishedRun(theirs, 0.1, 0.01, 100) for _, theirs in CELLS.values()]
    return [Pair(run, beside) for run, beside in zip(runs, published, strict=True)]


def _at_least(count, total, p):
    """The probability of `count` or more out of `total`, term by term."""
    terms = (math.comb(total, n) * p**n * (1 - p) ** (total - n) for n in range(count, total + 1))
    return math.fsum(terms)


@pytest.mark.parametrize(
    ("count", "total"), [(0, 1), (1, 1), (0, 20), (3, 17), (48, 49), (45, 45), (1, 405)]
)
def test_interval_of_a_proportion_leaves_a_fortieth_on_either_side(count, total):
    """Clopper and Pearson's definition, by sums of binomial terms."""
    low, high = proportion_interval(count, total)
    if count:
        assert _at_least(count, total, low) == pytest.approx(0.025, rel=1e-9)
    else:
        assert low == 0
    if count < total:
        assert 1 - _at_least(count + 1, total, high) == pytest.approx(0.025, rel=1e-9)
    else:
        assert high == 1


def test_rank_correlation_is_spearmans(pairs):
    """A run without a failure ranks last; the interval is that of the textbook."""
    (found,) = failure_comparisons(pairs)
    ours, theirs = zip(
        *((a if a is not None else 101, b if b is not None else 101) for a, b in CELLS.values()),
        strict=True,
    )
    assert found.rho == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    assert (found.loss, found.noise, found.cells) == ("original", 0.0, 8)
    assert found.between == ("seed 0", "published")
    half = 1.959964 * math.sqrt((1 + found.rho**2 / 2) / 5)
    expected = [math.tanh(math.atanh(found.rho) + sign * half) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-6)
    assert failure_comparisons(pairs[:2]) == []


def test_later_failures_are_counted_where_epochs_differ():
    """A run that never fails is later than any; a factor is of epochs begun, not of their index."""
    ours, theirs = (4, 9, 19, 6, None), (4, 4, 24, 0, 99)
    pairs = [
        Pair(run_of(spec_of(0.5, threshold), a), PublishedRun(b, 0.1, 0.01, 100))
        for threshold, (a, b) in enumerate(zip(ours, theirs, strict=True))
    ]
    (found,) = failure_comparisons(pairs)
    assert (found.cells, found.later, found.unequal) == (5, 3, 4)
    assert found.factor == 10 / 5  # among 1, 25 / 20, 7 and infinity
    assert (found.later_low, found.later_high) == proportion_interval(3, 4)
    assert not found.is_shifted


@pytest.mark.parametrize(("later", "is_shifted"), [(5, False), (6, True)])
def test_a_shift_is_one_that_a_sign_test_finds(later, is_shifted):
    """Six of six heads have the probability 1 / 64 < 0.025, five of five don't."""
    pairs = [
        Pair(run_of(spec_of(0.5, t), 10 * (t + 1) + 1), PublishedRun(10 * (t + 1), 0.1, 0.01, 100))
        for t in range(later)
    ]
    (found,) = failure_comparisons(pairs)
    assert found.is_shifted is is_shifted


def test_a_factor_is_infinite_where_most_never_fail_in_one():
    """A word says so; the cells in which neither fails count as equal."""
    ours, theirs = (None, None, None, 4, None), (10, 20, 30, 4, None)
    pairs = [
        Pair(run_of(spec_of(0.5, threshold), a), PublishedRun(b, 0.1, 0.01, 100))
        for threshold, (a, b) in enumerate(zip(ours, theirs, strict=True))
    ]
    (found,) = failure_comparisons(pairs)
    assert (found.later, found.unequal, factor_text(found)) == (3, 3, "infinity")


def test_run_that_was_stopped_early_says_nothing_about_the_order(pairs):
    """30 epochs without a failure don't tell where the failure would have been."""
    early = run_of(spec_of(0.3, 0, epochs=30), None)
    more = [*pairs, Pair(early, PublishedRun(42, 0.1, 0.01, 100))]
    assert failure_comparisons(more) == failure_comparisons(pairs)


# Epochs of first failures with two seeds and in the paper; no two of a series are equal.
SEEDS = {0: (4, 7, 6, 21, 9), 1: (5, 6, 7, 22, 30)}
PAPER = (3, 5, 8, 20, 9)


def _spearman(a, b):
    """1 - 6 sum d^2 / (n (n^2 - 1)), which holds where no two are equal."""
    squares = sum((sorted(a).index(x) - sorted(b).index(y)) ** 2 for x, y in zip(a, b, strict=True))
    return 1 - 6 * squares / (len(a) * (len(a) ** 2 - 1))


def _of_seeds():
    runs = {
        seed: [run_of(spec_of(0.5, t, seed=seed), epoch) for t, epoch in enumerate(epochs)]
        for seed, epochs in SEEDS.items()
    }
    published = [PublishedRun(epoch, 0.1, 0.01, 100) for epoch in PAPER]
    pairs = [Pair(r, p) for of in runs.values() for r, p in zip(of, published, strict=True)]
    return [*runs[0], *runs[1]], pairs


def test_seeds_are_compared_with_each_other_and_each_with_the_paper():
    """Over the cells that all three have, and over those of both seeds without the paper."""
    runs, pairs = _of_seeds()
    (found,) = seed_agreements(runs, pairs)
    assert found.seeds.between == ("seed 0", "seed 1")
    assert found.seeds.rho == pytest.approx(_spearman(*SEEDS.values()))
    assert [c.between for c in found.with_published] == [
        ("seed 0", "published"), ("seed 1", "published"),
    ]  # fmt: skip
    expected = [_spearman(epochs, PAPER) for epochs in SEEDS.values()]
    assert [c.rho for c in found.with_published] == pytest.approx(expected)
    # A cell that was not published counts for none of the three.
    (found,) = seed_agreements(runs, [p for p in pairs if p.run.spec.data.threshold != 1])
    assert {c.cells for c in (found.seeds, *found.with_published)} == {4}
    without = [[e for i, e in enumerate(epochs) if i != 1] for epochs in SEEDS.values()]
    assert found.seeds.rho == pytest.approx(_spearman(*without))
    (found,) = seed_agreements(runs, [])
    assert (found.seeds.cells, found.with_published) == (5, ())
    assert seed_agreements(runs[:5], pairs) == []


def test_failure_rates_count_the_same_cells(runs, pairs):
    """By gamma; where the runs were shorter than the paper's, its failures in as many epochs."""
    low, high = failure_rates(runs, pairs)
    assert (low.gamma, low.runs, low.failed) == (0.1, 4, 4)
    assert (low.published_runs, low.published_failed) == (4, 4)
    assert (high.gamma, high.runs, high.failed) == (0.5, 4, 3)
    assert (high.low, high.high) == proportion_interval(3, 4)
    assert (high.published_runs, high.published_failed) == (4, 3)
    short = run_of(spec_of(0.3, 3, epochs=30), None)
    (rate,) = failure_rates([short], [Pair(short, PublishedRun(42, 0.1, 0.01, 100))])
    assert (rate.epochs, rate.failed, rate.published_failed) == (30, 0, 0)
    (rate,) = failure_rates([short], [])
    assert rate.published_runs == 0


def test_seeds_count_together_and_what_was_published_once():
    """A run that is recorded twice is one run."""
    runs, pairs = _of_seeds()
    (rate,) = failure_rates([*runs, runs[0]], [*pairs, pairs[0]])
    assert (rate.runs, rate.failed, rate.seeds) == (10, 10, (0, 1))
    assert (rate.published_runs, rate.published_failed) == (5, 5)


def test_range_is_open_at_zero_and_one(runs, pairs):
    """Gamma 0 and 1 are on the safe side."""
    safe = [run_of(spec_of(gamma, 0, epochs=30), None) for gamma in (0.0, 1.0, 2.0)]
    exact = run_of(spec_of(0.9, 0, loss="exact", epochs=30), None)
    below, other, of_exact = range_rates(failure_rates([*runs, *safe, exact], pairs))
    assert (below.loss, below.below_one, below.failed, below.runs) == ("original", True, 7, 8)
    assert (below.published_failed, below.published_runs) == (7, 8)
    assert (below.low, below.high) == proportion_interval(7, 8)
    assert (other.loss, other.below_one, other.failed, other.runs) == ("original", False, 0, 3)
    assert (of_exact.loss, of_exact.below_one, of_exact.runs) == ("exact", True, 1)


def test_loss_ratios_compare_like_with_like(pairs):
    """First epochs always; last ones of runs that both failed, or both went to the end."""
    found = {(r.what): r for r in loss_ratios(pairs)}
    assert found["first epoch"].median == pytest.approx(2.0)
    assert found["first epoch"].cells == 8
    assert found["last before the failure"].cells == 6
    assert found["last before the failure"].high == pytest.approx(0.2 / 4 / 0.01)
    assert "last of all epochs" not in found
