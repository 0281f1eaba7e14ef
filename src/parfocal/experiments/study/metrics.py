"""How good predictions are, for many draws of the samples at once.

A draw says how often each sample counts: `counts` of shape (draws, samples), all 1 for what was
seen. A sample may have several predictions, as an image has pixels, or a scene detections.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

Array = np.ndarray[Any, np.dtype[Any]]

METRICS = ("average_precision", "balanced_accuracy", "ece", "ece_scaled")

BINS = 15
# Predictions times draws that are looked at at once, so that a cache holds them.
_AT_ONCE = 2**18
_TEMPERATURES = (1e-2, 1e2)


class Predictions(NamedTuple):
    """Logits and what was true, a row each.

    logits: (N,) of a sigmoid or of detections, or (N, C) of a softmax.
    targets: (N,) labels, classes, or which detections are right.
    samples: (N,) the sample of each row, from 0.
    classes, truths: of detections alone: the class of each, and how many objects of each class each
        sample has, of shape (samples, C).
    """

    logits: Array
    targets: Array
    samples: Array
    classes: Array | None = None
    truths: Array | None = None

    @property
    def size(self) -> int:
        """How many samples there are."""
        return int(self.samples.max()) + 1 if self.truths is None else len(self.truths)


def once(predictions: Predictions) -> Array:
    """The draw that takes each sample once."""
    return np.ones((1, predictions.size), dtype=np.float32)


def measure(predictions: Predictions, temperature: float, counts: Array) -> dict[str, Array]:
    """Each of METRICS for each draw; of detections there is no balanced accuracy.

    Args:
        predictions: of N rows.
        temperature: that the logits are divided by for `ece_scaled`.
        counts: (draws, samples).
    """
    found = {
        "average_precision": mean_average_precision(predictions, counts),
        "balanced_accuracy": balanced_accuracy(predictions, counts),
        "ece": calibration_error(predictions, counts),
        "ece_scaled": calibration_error(_scaled(predictions, temperature), counts),
    }
    if predictions.truths is not None:
        found["balanced_accuracy"] = np.full(len(counts), np.nan)
    return found


def mean_average_precision(predictions: Predictions, counts: Array) -> Array:
    """Average precision; of several classes the mean of each against the rest."""
    logits, targets, samples, classes, truths = predictions
    if truths is not None:
        parts = [
            average_precision(
                logits[classes == c], targets[classes == c], samples[classes == c], counts,
                counts @ truths[:, c].astype(counts.dtype),
            )
            for c in range(truths.shape[1])
        ]  # fmt: skip
    elif logits.ndim > 1:
        # The margin over the other classes: the logarithm of the odds of the class.
        scores = log_softmax(logits.astype(np.float64), axis=1)
        odds = scores - _log1mexp(scores)
        parts = [
            average_precision(odds[:, c], targets == c, samples, counts)
            for c in range(logits.shape[1])
        ]
    else:
        parts = [average_precision(logits, targets, samples, counts)]
    mean: Array = np.mean(parts, axis=0)
    return mean


def average_precision(
    scores: Array, hits: Array, samples: Array, counts: Array, positives: Array | None = None
) -> Array:
    """The sum over thresholds of precision times the growth of recall; equal scores are one.

    Args:
        scores, hits, samples: a row each: the larger the surer, 1 if right, and the sample.
        counts: (draws, samples).
        positives: how many there are to be found in each draw; if None all are among the rows.

    Recall grows where there is a hit. So the rows are cut behind each tie that has one, and of each
    piece two numbers are needed: how many rows are drawn from it, and how many hits.
    """
    order = np.argsort(-scores, kind="stable")
    scores, hits, samples = scores[order], hits[order].astype(bool), samples[order]
    if not hits.any():
        return np.zeros(len(counts))
    ends = np.append(scores[1:] != scores[:-1], True)  # of ties
    tie = np.cumsum(ends) - ends
    has_hit = np.bincount(tie, hits)[tie] > 0
    cuts = np.flatnonzero(ends & has_hit) + 1  # ends of pieces
    starts = np.concatenate([[0], cuts[:-1]])
    last = cuts[-1]
    of_hits = samples[:last][hits[:last]]
    hit_starts = np.cumsum(np.concatenate([[0], np.add.reduceat(hits[:last], starts, dtype=int)]))
    precise = np.empty(len(counts))
    for part in _chunks(len(counts), last):
        some = counts[part]
        rows = np.add.reduceat(some[:, samples[:last]], starts, axis=1).cumsum(1, dtype=np.float64)
        right = np.add.reduceat(some[:, of_hits], hit_starts[:-1], axis=1)
        found = right.cumsum(1, dtype=np.float64)
        precise[part] = (right * found / np.maximum(rows, 1)).sum(1)
    if positives is None:
        positives = _drawn(counts, samples[hits])
    return precise / np.maximum(positives, 1)


def balanced_accuracy(predictions: Predictions, counts: Array) -> Array:
    """The mean over the classes of the part of each that is answered right.

    The answer is the largest logit, or of a sigmoid the positive class if its logit is above 0.
    """
    logits, targets, samples = predictions[:3]
    answers = logits.argmax(1) if logits.ndim > 1 else logits > 0
    right = answers == targets
    parts = []
    for c in np.unique(targets):
        of_class = targets == c
        found = _drawn(counts, samples[of_class & right])
        parts.append(found / np.maximum(_drawn(counts, samples[of_class]), 1))
    mean: Array = np.mean(parts, axis=0)
    return mean


def calibration_error(predictions: Predictions, counts: Array) -> Array:
    """Expected calibration error of 15 bins with as many predictions each.

    Of a sigmoid the probability of a positive, of a softmax that of the answer. The bins are those
    of all samples, whatever is drawn.
    """
    logits, targets, samples = predictions[:3]
    if logits.ndim > 1:
        probability = softmax(logits.astype(np.float64), axis=1).max(1)
        right = logits.argmax(1) == targets
    else:
        probability, right = expit(logits.astype(np.float64)), targets
    order = np.argsort(probability, kind="stable")
    bins = np.empty(len(order), dtype=int)
    for number, part in enumerate(np.array_split(order, BINS)):
        bins[part] = number
    excess = np.zeros((counts.shape[1], BINS))
    np.add.at(excess, (samples, bins), probability - right)
    drawn = np.maximum(_drawn(counts, samples), 1)
    error: Array = np.abs(counts @ excess.astype(counts.dtype)).sum(1) / drawn
    return error


def fitted_temperature(predictions: Predictions) -> float:
    """The temperature at which the negative log likelihood is smallest, in [0.01, 100].

    The likelihood is convex in 1 / T, and so has one minimum.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    logits = predictions.logits.astype(np.float64)
    targets = predictions.targets

    def likelihood(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if logits.ndim > 1:
            chosen = log_softmax(scaled, axis=1)[np.arange(len(targets)), targets.astype(int)]
            return float(-chosen.mean())
        return float(-log_expit(np.where(targets > 0, scaled, -scaled)).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    best = minimize_scalar(likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def _scaled(predictions: Predictions, temperature: float) -> Predictions:
    return predictions._replace(logits=predictions.logits / temperature)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x <= 0, without cancellation on either side of log(1 / 2)."""
    with np.errstate(divide="ignore"):
        result: Array = np.where(
            x > -np.log(2), np.log(-np.expm1(x)), np.log1p(-np.exp(np.minimum(x, -np.log(2))))
        )
    return result


def _drawn(counts: Array, samples: Array) -> Array:
    """How many rows each draw has, of those with these samples; whole numbers below 2 ** 24."""
    rows = np.bincount(samples, minlength=counts.shape[1]).astype(counts.dtype)
    drawn: Array = (counts @ rows).astype(np.float64)
    return drawn


def _chunks(draws: int, rows: int) -> list[slice]:
    size = max(1, _AT_ONCE // rows)
    return [slice(begin, begin + size) for begin in range(0, draws, size)]
