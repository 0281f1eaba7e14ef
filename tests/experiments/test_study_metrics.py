"""The metrics of a study beside scikit-learn's, and its intervals beside what is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from parfocal.experiments.study.bootstrap import (
    drawn_means,
    interval,
    sample_counts,
    seed_draws,
)
from parfocal.experiments.study.metrics import (
    Predictions,
    average_precision,
    balanced_accuracy,
    calibration_error,
    fitted_temperature,
    mean_average_precision,
    measure,
    once,
)


@pytest.fixture
def random(request):
    """A generator of the test's own."""
    return np.random.default_rng(sum(map(ord, request.node.name)))


def binary(random, rows=300, samples=None):
    """Logits with many ties, labels that follow them, and a sample a row or several."""
    logits = np.round(2 * random.standard_normal(rows), 1).astype(np.float32)
    targets = (random.random(rows) < expit(logits - 1)).astype(np.float32)
    groups = np.arange(rows) if samples is None else np.arange(rows) % samples
    return Predictions(logits, targets, groups)


@pytest.mark.parametrize("samples", [None, 40])
def test_average_precision_is_scikit_learns_in_each_draw(random, samples):
    """A draw counts rows as weights do."""
    p = binary(random, samples=samples)
    counts = sample_counts(p.size, 20, seed=1)
    truths = [
        average_precision_score(p.targets, p.logits, sample_weight=draw[p.samples])
        for draw in counts
    ]
    found = average_precision(p.logits, p.targets, p.samples, counts)
    np.testing.assert_allclose(found, truths, rtol=1e-12)


def test_average_precision_of_classes_is_the_mean_of_each_against_the_rest(random):
    """Also where the logits are so sure that probabilities round to 1."""
    logits = (8 * random.standard_normal((200, 4))).astype(np.float32)
    targets = random.integers(4, size=200)
    log_p = log_softmax(logits.astype(np.longdouble), axis=1)
    truth = np.mean(
        [
            # log(1 - p) is summed over the others, and so orders what is nearly 1.
            average_precision_score(
                targets == c,
                (log_p[:, c] - np.log(np.exp(np.delete(log_p, c, 1)).sum(1))).astype(float),
            )
            for c in range(4)
        ]
    )
    found = mean_average_precision(p := Predictions(logits, targets, np.arange(200)), once(p))
    assert found[0] == pytest.approx(truth, rel=1e-12)


def test_average_precision_of_detections_counts_what_was_not_found(random):
    """Two objects of class 0, of which one is found second; the one of class 1 comes first."""
    p = Predictions(
        logits=np.array([3.0, 1.0, 2.0, -1.0]),
        targets=np.array([False, True, True, False]),
        samples=np.array([0, 0, 1, 1]),
        classes=np.array([0, 0, 1, 1]),
        truths=np.array([[1, 0], [1, 1]]),
    )
    # Class 0: precision 1/2 at recall 1/2; class 1: precision 1 at recall 1.
    assert mean_average_precision(p, once(p))[0] == (0.25 + 1) / 2
    # Of the first scene alone, twice: class 0 has both of its objects there, class 1 none.
    assert mean_average_precision(p, np.array([[2.0, 0.0]]))[0] == 0.5 / 2


def test_balanced_accuracy_is_scikit_learns(random):
    """Of a sigmoid and of a softmax, in each draw."""
    p = binary(random)
    logits = random.standard_normal((300, 3))
    classes = Predictions(logits, random.integers(3, size=300), p.samples)
    counts = sample_counts(300, 5, seed=2)
    for predictions, answers in ((p, p.logits > 0), (classes, logits.argmax(1))):
        truths = [
            balanced_accuracy_score(predictions.targets, answers, sample_weight=draw)
            for draw in counts
        ]
        np.testing.assert_allclose(balanced_accuracy(predictions, counts), truths, rtol=1e-6)


def test_calibration_error_is_the_sum_of_its_definition(random):
    """|confidence - frequency| of 15 bins of 20, weighed by their size; of answers of a softmax."""
    p = binary(random)
    logits = random.standard_normal((300, 3))
    classes = Predictions(logits, random.integers(3, size=300), p.samples)
    sure = softmax(logits, axis=1).max(1)
    for predictions, probability, right in (
        (p, expit(p.logits.astype(float)), p.targets),
        (classes, sure, logits.argmax(1) == classes.targets),
    ):
        bins = np.array_split(np.argsort(probability, kind="stable"), 15)
        truth = sum(len(b) / 300 * abs(probability[b].mean() - right[b].mean()) for b in bins)
        found = calibration_error(predictions, once(predictions))
        assert found[0] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
def test_temperature_is_where_torch_finds_the_smallest_likelihood(random, classes):
    """By LBFGS in 1 / T, from the loss of PyTorch."""
    logits = 5 * random.standard_normal((400, classes))
    if classes == 1:
        logits = logits[:, 0]
        targets = (random.random(400) < expit(logits / 3)).astype(np.float32)
    else:
        targets = (logits / 3 + random.gumbel(size=logits.shape)).argmax(1)
    x, y = torch.from_numpy(logits), torch.from_numpy(targets)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        if classes == 1:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(inverse * x, y.double())
        else:
            loss = torch.nn.functional.cross_entropy(inverse * x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = fitted_temperature(Predictions(logits, targets, np.arange(400)))
    assert found == pytest.approx(1 / inverse.item(), rel=1e-3)
    assert 2 < found < 4.5


def test_scaled_error_is_that_of_scaled_logits(random):
    """And of detections there is no balanced accuracy."""
    p = binary(random)
    found = measure(p, 2.0, once(p))
    halved = p._replace(logits=p.logits / 2)
    assert found["ece_scaled"][0] == calibration_error(halved, once(p))[0] != found["ece"][0]


def test_interval_over_samples_is_the_known_one(random):
    """Of a mean of 400 numbers: 1.96 standard errors on either side; seeds that agree add none."""
    values = random.standard_normal(400)
    draws = sample_counts(400, 4000, seed=3) @ values / 400
    means = drawn_means(np.tile(draws, (5, 1)), seed_draws(5, 4000, seed=4))
    found = interval(values.mean(), means)
    error = values.std() / 20
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.06)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.06)


def test_intervals_hold_the_truth_as_often_as_they_say(random):
    """5 seeds and 100 samples, either of which varies more, or both as much."""
    n, m, studies, draws = 5, 100, 600, 400
    counts, chosen = sample_counts(m, draws, seed=5), seed_draws(n, draws, seed=6)
    for of_seeds, of_samples in ((1.0, 0.5), (0.3, 10.0), (1.0, 10.0)):
        held = 0
        for _ in range(studies):
            seeds = of_seeds * random.standard_normal((n, 1))
            values = seeds + of_samples * random.standard_normal(m)
            means = values @ counts.T / m
            found = interval(values.mean(), drawn_means(means, chosen))
            held += found.low <= 0 <= found.high
        # Three standard errors of a share of 0.95 in 600 are 0.027.
        assert 0.92 <= held / studies <= 0.985, (of_seeds, of_samples)
