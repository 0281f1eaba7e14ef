"""What chooses alpha, gamma and the learning rate: counts, weights, the size of gradients."""

import math
from collections import namedtuple
from functools import partial

import mpmath
import numpy as np
import optax
import pytest
import torch
from rank_cases import counts_of_a_share
from ranks import run_ranks
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import parfocal
from parfocal import (
    GammaSchedule,
    SigmoidFocalLoss,
    alpha_from_counts,
    gradient_scale,
    label_counts,
    target_margins,
)
from parfocal.guard import FocalGuard

COUNTS = torch.tensor([9000.0, 500.0, 30.0, 1.0])

# Counts


def labels(*shape, high=4, seed=0):
    """Random indices."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def test_counts_of_a_loader_are_those_of_all_labels():
    y = labels(50, 3)
    y[4] = -100
    expected = [int((y == c).sum()) for c in range(4)]
    loader = DataLoader(TensorDataset(torch.zeros(50, 2), y), batch_size=7)
    batches = [{"input_ids": None, "labels": part} for part in y.split(9)]
    others = [("unlike", part, "others") for part in y.split(9)]
    bundle = namedtuple("bundle", "labels lengths")  # whose last field is something else
    bundles = [bundle(part, torch.ones(9)) for part in y.split(9)]
    for counts in (
        label_counts(y, 4),
        label_counts(bundles, 4),
        label_counts(y.to(torch.int8), 4),
        label_counts(loader, 4),
        label_counts(batches, 4),
        label_counts(others, 4, labels_of=lambda batch: batch[1]),
    ):
        assert counts.dtype == torch.float64
        assert counts.tolist() == expected
    assert label_counts(y, 5, ignore_index=(-100, 2)).tolist() == [*expected[:2], 0, expected[3], 0]


def test_counts_of_several_labels_are_those_of_each_column():
    y = labels(20, 3, 5, high=2)
    y[0, 1, 2] = 255
    counts = label_counts(y.split(6), ignore_index=255)
    for column in range(3):
        assert counts[0, column] == (y[:, column] == 0).sum()
        assert counts[1, column] == (y[:, column] == 1).sum()
    soft = torch.tensor([0.25, 0.5, 1.0])
    assert label_counts(soft).tolist() == [1.25, 1.75]
    assert label_counts(soft > 0.3).tolist() == [1, 2]
    assert label_counts(torch.tensor(1.0)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: label_counts(labels(5), 3), IndexError, "indices of 3 classes, got 3"),
        (lambda: label_counts(labels(5)), ValueError, r"in \[0, 1\], got [23]; .*`classes`"),
        (lambda: label_counts(torch.tensor([math.nan])), ValueError, "got nan"),
        (lambda: label_counts(torch.zeros(3), 2), TypeError, "indices of 2 classes, .*float32"),
        (lambda: label_counts([]), ValueError, "got no batch"),
        (lambda: label_counts([torch.zeros(2), torch.zeros(2, 3)]), ValueError, "1 labels each"),
        (lambda: label_counts([{"a": 1}]), TypeError, "got a; `labels_of`"),
        (lambda: label_counts([(1, [2])]), TypeError, "got list; `labels_of`"),
        (lambda: label_counts(labels(2), 0), ValueError, "positive, got 0"),
        (lambda: label_counts(torch.eye(3).long(), 3), ValueError, r"one-hot.*argmax\(1\)"),
        (lambda: label_counts(torch.zeros(3, 0)), ValueError, r"got the shape \(3, 0\)"),
        (lambda: alpha_from_counts({1: 3, 0: 1}), TypeError, "order of the classes"),
        (lambda: alpha_from_counts([3, 0]), ValueError, r"above 0, got 0 at \(1,\); `counts.clamp"),
        (lambda: alpha_from_counts([3, math.inf]), ValueError, "got inf"),
        (lambda: alpha_from_counts([[3, 1]]), ValueError, r"shape \(C,\), got \(1, 2\)"),
        (lambda: alpha_from_counts([3, 1, 2], head="sigmoid"), ValueError, r"got \(3,\)"),
        (lambda: alpha_from_counts([3, 1], "inverse"), ValueError, "'balanced' or 'effective'"),
        (lambda: alpha_from_counts([3, 1], "effective", beta=1.5), ValueError, r"`beta` in \[0, 1"),
        (lambda: gradient_scale(-1, torch.zeros(1)), ValueError, "`gamma` to be finite and >= 0"),
        (lambda: gradient_scale(1, torch.tensor([math.nan])), ValueError, "without NaN"),
        (lambda: gradient_scale(1, torch.zeros(0)), ValueError, "at least one"),
        (lambda: gradient_scale(1, torch.zeros(2), weight=torch.ones(3)), ValueError, "`weight`"),
        (lambda: gradient_scale(1, torch.zeros(2), weight=2.0), ValueError, "`weight`.*got 2.0"),
        (lambda: gradient_scale([], torch.zeros(2)), ValueError, "`gamma`, got none"),
        (lambda: gradient_scale(1, torch.full((2,), 1e4)), ValueError, "with a gradient, got none"),
        (lambda: target_margins(torch.zeros(2), torch.tensor([0, 0.5])), ValueError, "of 0 and 1"),
        (
            lambda: target_margins(torch.zeros(2, 3), labels(2) + 3),
            IndexError,
            r"in \[0, 3\), or -100 to be ignored, got",
        ),
        (lambda: GammaSchedule({}), ValueError, "at least one"),
        (lambda: GammaSchedule({3: 1, 2: 1}), ValueError, r"ascending order, got \[3.0, 2.0\]"),
        (lambda: GammaSchedule([0, 1]), TypeError, "mapping from steps to gammas, or pairs"),
        (lambda: GammaSchedule({0: 1})(math.nan), ValueError, "`step`"),
        (
            lambda: GammaSchedule({0: 1}).set_gamma(SigmoidFocalLoss(gamma=torch.tensor(0)), 0),
            TypeError,
            "a tensor of a floating dtype",
        ),
        (
            lambda: GammaSchedule({0: 1}).set_gamma(SigmoidFocalLoss(gamma=torch.ones(3)), 0),
            TypeError,
            "with one `gamma`",
        ),
        (lambda: GammaSchedule({0: -1}), ValueError, "`gamma` to be finite and >= 0"),
        (
            lambda: GammaSchedule({0: 1}, "steps"),
            ValueError,
            "`shape` to be .linear., .cosine. or .constant.",
        ),
        (
            lambda: GammaSchedule({0: 1}).set_gamma(partial(max, gamma=1), 0),
            TypeError,
            "a module with one `gamma`",
        ),
    ],
)
def test_what_makes_no_sense_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_counts_are_those_of_all_ranks(tmp_path):
    run_ranks(counts_of_a_share, 2, tmp_path)


# Weights


def test_balanced_weights_are_those_of_scikit_learn():
    y = np.repeat(np.arange(4), COUNTS.int().numpy())
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=y)
    torch.testing.assert_close(alpha_from_counts(COUNTS).double(), torch.from_numpy(theirs))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1 - 2.0**-40, 1.0])
def test_effective_weights_are_those_of_the_paper(beta):
    """In 60 digits; at beta 1 its limit, 1 / n."""
    with mpmath.workdps(60):
        exact = [
            1 / mpmath.mpf(n) if beta == 1 else (1 - mpmath.mpf(beta)) / (1 - mpmath.mpf(beta) ** n)
            for n in map(int, COUNTS)
        ]
        of_two = [float(exact[i] / (exact[0] + exact[i])) for i in (1, 3)]
        expected = torch.tensor([float(4 * w / sum(exact)) for w in exact])
    alpha = alpha_from_counts(COUNTS, "effective", beta=beta)
    torch.testing.assert_close(alpha, expected, rtol=2.0**-22, atol=0)
    columns = torch.stack([COUNTS[[0, 0]], COUNTS[[1, 3]]])
    of_labels = alpha_from_counts(columns, "effective", beta=beta, head="sigmoid")
    torch.testing.assert_close(of_labels, torch.tensor(of_two), rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_with_balanced_weights_the_best_constant_is_even(gamma):
    """The gradient in a bias of 0 vanishes, of a sigmoid and of a softmax."""
    y = torch.arange(4).repeat_interleave(COUNTS.int())
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    logits = bias.expand(len(y), 4)
    parfocal.softmax_focal_loss(logits, y, alpha_from_counts(COUNTS), gamma).backward()
    assert bias.grad.abs().max() < 1e-6
    is_last = (y == 1).double()
    alpha = alpha_from_counts(label_counts(is_last), head="sigmoid")
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    logits = bias.expand(len(y))
    parfocal.sigmoid_focal_loss(logits, is_last, float(alpha), gamma, "mean").backward()
    assert bias.grad.abs() < 1e-6


# The size of gradients


def textbook(ce, gamma):
    """The focal loss of a cross-entropy, as it is written most often."""
    return (-torch.expm1(-ce)) ** gamma * ce


def norm(loss, x):
    """Of the gradient in the logits."""
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return gradient.norm()


def test_scale_is_the_ratio_of_the_norms_of_gradients():
    """By autograd through the textbook's formula, in float64, far from its cliff."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    y = (torch.rand(400, generator=generator) < 0.3).double()
    gammas = torch.tensor([[0.0, 0.3], [1.0, 5.0]])
    for weight in (None, 0.25 + y / 2):
        factor = 1.0 if weight is None else weight

        def ce(factor=factor):
            return binary_cross_entropy_with_logits(x, y, reduction="none"), factor

        scales = gradient_scale(gammas, target_margins(x, y), weight=weight)
        assert scales.shape == gammas.shape
        for gamma, scale in zip(gammas.flatten(), scales.flatten(), strict=True):
            focal = norm(textbook(ce()[0], gamma.double()) * factor, x)
            expected = focal / norm(ce()[0] * factor, x)
            torch.testing.assert_close(scale, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_scale_of_a_softmax_is_that_of_its_margin(gamma):
    """Of one answer, whatever the other classes are."""
    x = torch.randn(1, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_()
    y = torch.tensor([3])
    expected = norm(textbook(cross_entropy(x, y), gamma), x) / norm(cross_entropy(x, y), x)
    scale = gradient_scale(gamma, target_margins(x, y))
    torch.testing.assert_close(scale, expected, rtol=1e-12, atol=0)


def test_scale_reaches_as_far_as_float64():
    """At a margin of 300 the gradient is e ** -150 of the cross-entropy's at gamma 1 / 2."""
    with mpmath.workdps(200):
        u = mpmath.mpf(300)
        q, p = 1 / (1 + mpmath.exp(u)), 1 / (1 + mpmath.exp(-u))
        expected = mpmath.sqrt(q) - mpmath.mpf("0.5") * p * mpmath.log(p) / mpmath.sqrt(q)
        scale = gradient_scale(0.5, torch.tensor([300.0]))
        assert abs(mpmath.mpf(scale.item()) / expected - 1) < 1e-14
    limits = torch.tensor([math.inf, -math.inf, 0.0])  # no gradient, that of the cross-entropy, q
    assert gradient_scale(0.0, limits) == 1
    torch.testing.assert_close(
        gradient_scale(0.5, limits), gradient_scale(0.5, torch.tensor([60.0, -1e5, 0.0]))
    )


def test_margins_are_the_logits_of_p_t():
    x = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = labels(6, 2)
    p_t = x.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(target_margins(x, y), p_t.logit())
    one_hot = torch.nn.functional.one_hot(y, 4).movedim(-1, 1)
    p_t = torch.where(one_hot == 1, x.sigmoid(), (-x).sigmoid())
    torch.testing.assert_close(target_margins(x, one_hot).sigmoid(), p_t)
    assert target_margins(x.bfloat16(), y).dtype == torch.float32
    ignored = y.index_fill(0, torch.tensor([1, 2]), -100)
    margins = target_margins(x, ignored)
    assert torch.equal(margins.isinf(), ignored == -100)
    assert gradient_scale(2.0, margins) == gradient_scale(2.0, target_margins(x, y)[[0, 3, 4, 5]])


# A schedule


def test_schedule_is_that_of_numpy_and_optax():
    steps = [-5, 0, 1, 7, 10, 11.5, 39, 40, 1000]
    milestones = {0: 0.0, 10: 2.0, 40: 0.5}
    linear = GammaSchedule(milestones)
    expected = np.interp(steps, list(milestones), list(milestones.values()))
    np.testing.assert_allclose([linear(step) for step in steps], expected, rtol=1e-14)
    for shape, interpolation in (("cosine", "cosine"), ("linear", "linear")):
        theirs = optax.piecewise_interpolate_schedule(interpolation, 3.0, {10: 0.5, 40: 2.0})
        ours = GammaSchedule([(0, 3.0), (10, 1.5), (40, 3.0)], shape)
        for step in (0, 3, 10, 22, 40, 50):
            assert ours(step) == pytest.approx(float(theirs(step)), rel=1e-5)
    stairs = GammaSchedule(milestones, "constant")
    assert [stairs(step) for step in steps] == [0, 0, 0, 0, 2, 2, 2, 0.5, 0.5]
    assert repr(stairs) == "GammaSchedule({0.0: 0.0, 10.0: 2.0, 40.0: 0.5}, 'constant')"


def test_a_loss_gets_the_gamma_of_a_step():
    """A number is replaced, a tensor written into, a guard hands it to its loss."""
    schedule = GammaSchedule({0: 0.0, 10: 2.0})
    number, tensor = SigmoidFocalLoss(), SigmoidFocalLoss(gamma=torch.tensor(2.0))
    guarded, buffer = FocalGuard(SigmoidFocalLoss()), tensor.gamma
    for loss in (number, tensor, guarded):
        assert schedule.set_gamma(loss, 5) == 1.0
        assert loss.gamma == 1.0
    assert tensor.gamma is buffer
    assert guarded.loss.gamma == 1.0
    x = torch.tensor([0.3, -2.0])
    expected = parfocal.sigmoid_focal_loss(x, torch.ones(2), gamma=1.0, reduction="mean")
    for loss in (number, tensor, guarded):
        assert loss(x, torch.ones(2)) == expected
