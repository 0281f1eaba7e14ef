"""The objectives: derivatives beside the oracle and autograd, best constants, labels."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from parfocal import softmax_focal_loss
from parfocal.audit.oracle import focal_truth
from parfocal.boosting import FocalObjective, MulticlassFocalObjective, rows
from parfocal.floats import representable
from scan import worst_error

POLICIES = ("gauss_newton", "exact", "absolute", "floor")


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("label", [0, 1])
def test_derivatives_meet_the_oracle(gamma, label):
    """Loss, gradient and exact second derivative, at scores of every size."""
    x = representable(torch.float64, 400, smallest=2.0**-20, largest=700.0)
    truth = focal_truth(x.tolist(), float(label), gamma)
    objective = FocalObjective(gamma, hessian="exact")
    y = np.full(len(x), label)
    gradient, second = objective(y, x.numpy())
    bound = 4 + 2 * gamma
    for computed, exact, of_scale, allowed in (
        (objective.loss(y, x.numpy()), truth.value, False, bound),
        (gradient, truth.gradient, False, bound),
        (second, truth.curvature, True, 1.5 * bound),
    ):
        worst = worst_error(x, torch.from_numpy(computed), exact, of_scale=of_scale)
        assert worst.ulp <= allowed
        assert worst.points > 300


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_derivatives_of_classes_meet_autograd(gamma):
    """Of the PyTorch loss in float64, which meets an oracle of its own."""
    x = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    y = torch.arange(50) % 4
    objective = MulticlassFocalObjective(gamma, hessian="exact")
    gradient, second = objective(y.numpy(), x.numpy())

    def total(x):
        return softmax_focal_loss(x, y, gamma=gamma, reduction="sum")

    x.requires_grad_()
    (expected,) = torch.autograd.grad(total(x), x, create_graph=True)
    diagonal = torch.stack(
        [
            torch.autograd.grad(expected[:, j].sum(), x, retain_graph=True)[0][:, j]
            for j in range(4)
        ],
        1,
    )
    np.testing.assert_allclose(gradient, expected.detach().numpy(), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(second, diagonal.numpy(), rtol=1e-9, atol=1e-13)
    losses = softmax_focal_loss(x.detach(), y, gamma=gamma, reduction="none")
    np.testing.assert_allclose(objective.loss(y.numpy(), x.detach().numpy()), losses, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0, 5.0])
def test_policies(gamma):
    """Each is what its name says, from the definition of Gauss-Newton by differences."""
    x = np.linspace(-20, 20, 201)
    y = np.ones_like(x)
    of = {name: FocalObjective(gamma, hessian=name)(y, x) for name in ("exact", "absolute")}
    exact = of["exact"][1]
    np.testing.assert_array_equal(of["absolute"][1], np.abs(exact))
    gradient, positive = FocalObjective(gamma)(y, x)
    # dL/dce ce'' with dL/dce = L' / ce' of the log loss.
    log_gradient, log_second = FocalObjective(0.0, hessian="exact")(y, x)
    np.testing.assert_allclose(positive, gradient / log_gradient * log_second, rtol=1e-12)
    assert (positive > 0).all()
    _, floored = FocalObjective(gamma, hessian="floor")(y, x)
    np.testing.assert_array_equal(floored, np.maximum(exact, 0.01 * positive))
    if gamma == 0:
        np.testing.assert_allclose(positive, exact, rtol=1e-14)
    else:
        assert (exact < 0).any()


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_gauss_newton_of_classes(gamma):
    """p_j (1 - p_j), the second derivative of the cross-entropy, times dL/dce of the sample."""
    x = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4
    y = torch.arange(60) % 4
    gradient, second = MulticlassFocalObjective(gamma)(y.numpy(), x.numpy())
    p = x.softmax(1)
    own = torch.arange(60), y
    weight = torch.from_numpy(gradient)[own] / (p[own] - 1)
    expected = weight.unsqueeze(1) * p * (1 - p)
    np.testing.assert_allclose(second, expected.numpy(), rtol=1e-9)


def test_weights_and_alpha_scale_both():
    """By sample, and by class."""
    y, x, w = np.array([1, 0]), np.array([0.3, 0.4]), np.array([2.0, 3.0])
    plain = FocalObjective()(y, x)
    weighted = FocalObjective(alpha=0.25)(y, x, w)
    for one, other in zip(plain, weighted, strict=True):
        np.testing.assert_allclose(other, one * w * [0.25, 0.75], rtol=1e-15)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.8])
def test_the_initial_score_has_the_smallest_loss(gamma, alpha):
    """Among its neighbours; at gamma 0 it is the log odds."""
    y = np.array([1.0] * 3 + [0.0] * 97)
    objective = FocalObjective(gamma, alpha)
    best = objective.initial_score(y)
    losses = [objective.focal_loss(y, np.full(100, best + d)) for d in (-1e-3, 0.0, 1e-3)]
    assert losses[1] < min(losses[0], losses[2])
    if gamma == 0 and alpha is None:
        assert best == pytest.approx(np.log(3 / 97), rel=1e-12)
        assert objective.base_score(y) == pytest.approx(0.03)
    with pytest.raises(ValueError, match="both classes"):
        objective.initial_score(np.ones(4))


def test_wrong_arguments():
    """Each says what was expected."""
    with pytest.raises(ValueError, match="gamma"):
        FocalObjective(-1.0)
    with pytest.raises(ValueError, match="alpha"):
        FocalObjective(alpha=2.0)
    with pytest.raises(ValueError, match="gauss_newton, exact, absolute, floor"):
        FocalObjective(hessian="newton")
    with pytest.raises(ValueError, match="same shape"):
        FocalObjective()(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="C > 1"):
        MulticlassFocalObjective()(np.zeros(3), np.zeros((2, 3)))


# Labels between 0 and 1


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("label", [1e-6, 0.3, 0.5, 0.999])
def test_soft_labels_meet_the_oracle(gamma, label):
    """Loss, gradient and exact second derivative, of the sum of their terms."""
    x = representable(torch.float64, 300, smallest=2.0**-20, largest=700.0)
    truth = focal_truth(x.tolist(), label, gamma)
    y = np.full(len(x), label)
    gradient, second = FocalObjective(gamma, hessian="exact")(y, x.numpy())
    value = FocalObjective(gamma).loss(y, x.numpy())
    for computed, exact in (
        (value, truth.value),
        (gradient, truth.gradient),
        (second, truth.curvature),
    ):
        worst = worst_error(x, torch.from_numpy(computed), exact, of_scale=True)
        assert worst.ulp <= 2 * (4 + 2 * gamma)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_soft_labels_of_0_and_1_are_hard_ones(policy, gamma):
    """Beside one that is soft, which takes all of an array the other way."""
    x = np.linspace(-30, 30, 121)
    objective = FocalObjective(gamma, 0.3, policy)
    for label in (0.0, 1.0):
        y = np.full_like(x, label)
        hard = objective(y, x)
        soft = objective(np.append(y, 0.5), np.append(x, 0.0))
        for one, other in zip(hard, soft, strict=True):
            np.testing.assert_allclose(other[:-1], one, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0, 5.0])
def test_gauss_newton_of_soft_labels_is_never_negative(gamma):
    """The true second derivative is, somewhere, at every gamma > 0."""
    x = np.tile(np.linspace(-30, 30, 601), 5)
    y = np.repeat([0.01, 0.2, 0.5, 0.8, 0.99], 601)
    assert (FocalObjective(gamma)(y, x)[1] > 0).all()
    assert gamma == 0 or (FocalObjective(gamma, hessian="exact")(y, x)[1] < 0).any()


def test_soft_labels_without_focus_are_those_of_the_log_loss():
    """s(x) - y and s(x) s(-x)."""
    x, y = np.array([0.3, -2.0, 5.0]), np.array([0.1, 0.9, 0.5])
    s = 1 / (1 + np.exp(-x))
    gradient, second = FocalObjective(0.0)(y, x)
    np.testing.assert_allclose(gradient, s - y, rtol=1e-13)
    np.testing.assert_allclose(second, s * (1 - s), rtol=1e-13)


def test_several_labels_a_sample():
    """(N, K) is K binary losses of N samples, with the weights of the samples."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(20, 3)), generator.integers(0, 2, (20, 3)).astype(float)
    weight = generator.uniform(0.5, 2, 20)
    objective = FocalObjective(0.5, 0.3)
    together = objective(y, x, weight)
    for k in range(3):
        for one, all_of_them in zip(objective(y[:, k], x[:, k], weight), together, strict=True):
            np.testing.assert_array_equal(one, all_of_them[:, k])
    mean = np.average(objective.loss(y, x).mean(1), weights=weight)
    assert objective.focal_loss(y, x, weight) == pytest.approx(mean)


# Best constants


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, (1.0, 2.0, 0.5, 4.0)])
def test_the_initial_scores_of_classes_have_the_smallest_loss(gamma, alpha):
    """As SciPy finds it, and the gradient of all samples is 0 there."""
    y = np.repeat(np.arange(4), [5, 60, 300, 3])
    objective = MulticlassFocalObjective(gamma, alpha)
    start = objective.initial_score(y)

    def mean(scores):
        return objective.focal_loss(y, np.tile(scores, (len(y), 1)))

    assert mean(start) <= minimize(mean, np.zeros(4), tol=1e-12).fun + 1e-15
    gradient, _ = objective(y, np.tile(start, (len(y), 1)))
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-11)
    assert start.sum() == pytest.approx(0, abs=1e-12)
    if gamma == 0 and alpha is None:
        shares = np.log([5, 60, 300, 3])
        np.testing.assert_allclose(start, shares - shares.mean(), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 300.0])
def test_two_classes_begin_as_the_binary_loss(gamma):
    """Two ways to one number."""
    y = np.repeat([0, 1], [95, 5])
    low, high = MulticlassFocalObjective(gamma).initial_score(y)
    assert high - low == pytest.approx(FocalObjective(gamma).initial_score(y), rel=1e-11)


def test_weights_of_another_number_are_refused():
    """By the objectives and their starts."""
    for objective, scores in (
        (FocalObjective(), np.zeros(2)),
        (MulticlassFocalObjective(), np.zeros((2, 3))),
    ):
        words = r"expected `sample_weight` of shape \(2,\), got \(3,\)"
        with pytest.raises(ValueError, match=words):
            objective(np.array([0, 1]), scores, np.ones(3))
        with pytest.raises(ValueError, match=words):
            objective.initial_score(np.array([0, 1]), np.ones(3))
    with pytest.raises(ValueError, match="expected samples, got none"):
        MulticlassFocalObjective().initial_score(np.array([]))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_initial_score_of_soft_labels_has_the_smallest_loss(gamma):
    """At gamma 0 it is the log odds of their mean."""
    y = np.random.default_rng(0).uniform(0, 0.4, 50)
    objective = FocalObjective(gamma)
    best = objective.initial_score(y)
    losses = [objective.focal_loss(y, np.full(50, best + d)) for d in (-1e-3, 0.0, 1e-3)]
    assert losses[1] < min(losses[0], losses[2])
    if gamma == 0:
        assert best == pytest.approx(np.log(y.mean() / (1 - y.mean())), rel=1e-12)


def test_a_class_without_samples_has_no_initial_score():
    """The error names it."""
    with pytest.raises(ValueError, match="expected samples of each class, got none of 1"):
        MulticlassFocalObjective().initial_score(np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="got none of 2"):
        MulticlassFocalObjective(alpha=[1, 1, 1]).initial_score(np.array([0, 1]))


# A sample at a time


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("gamma", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_rows_of_catboost_are_those_of_arrays(policy, gamma, alpha):
    """The compiled loop beside the closed forms, of hard and soft labels, with weights."""
    generator = np.random.default_rng(0)
    x = generator.normal(0, 20, 2000)
    y = np.where(generator.random(2000) < 0.5, generator.random(2000), x > 0)
    weight = generator.uniform(0.5, 2, 2000)
    objective = FocalObjective(gamma, alpha, policy)
    pairs = objective.calc_ders_range(x, y, weight)
    gradient, second = objective(y, x, weight)
    np.testing.assert_allclose(-pairs[:, 0], gradient, rtol=1e-11)
    np.testing.assert_allclose(-pairs[:, 1], second, rtol=1e-9, atol=1e-13)
    plain = objective.calc_ders_range(x, y, None)
    np.testing.assert_allclose(plain * weight[:, None], pairs, rtol=1e-14)


def test_rows_without_numba_are_the_same(monkeypatch):
    """Where it isn't installed."""
    x, y = np.linspace(-5, 5, 50), np.tile([0.0, 1.0], 25)
    objective = FocalObjective(0.5, 0.3)
    compiled = objective.calc_ders_range(x, y, None)
    monkeypatch.setattr(rows, "IS_COMPILED", False)
    np.testing.assert_allclose(objective.calc_ders_range(x, y, None), compiled, rtol=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_matrix_of_a_sample(policy, gamma):
    """Its diagonal is that of arrays; the whole is autograd's, or the weighted log loss's."""
    x = np.random.default_rng(0).normal(0, 4, (12, 3))
    y, alpha = np.arange(12) % 3, (0.5, 1.0, 2.0)
    objective = MulticlassFocalObjective(gamma, alpha, policy)
    gradient, diagonal = objective(y, x)
    for i, label in enumerate(y):
        slope, matrix = objective.calc_ders_multi(x[i], float(label), None)
        np.testing.assert_allclose(-slope, gradient[i], rtol=1e-11)
        np.testing.assert_allclose(-np.diag(matrix), diagonal[i], rtol=1e-9, atol=1e-13)
        if policy == "exact":
            expected = torch.autograd.functional.hessian(
                lambda z, label=label: softmax_focal_loss(
                    z[None], torch.tensor([label]), gamma=gamma, reduction="sum"
                ),
                torch.tensor(x[i]),
            )
            np.testing.assert_allclose(-matrix, alpha[label] * expected.numpy(), atol=1e-12)
        elif policy == "gauss_newton":
            p = np.exp(x[i]) / np.exp(x[i]).sum()
            weight = gradient[i, label] / (p[label] - 1)
            expected = weight * (np.diag(p) - np.outer(p, p))
            np.testing.assert_allclose(-matrix, expected, rtol=1e-9, atol=1e-15)
        else:
            assert np.count_nonzero(matrix) == 3


# What is refused


def test_gamma_may_be_a_number_of_numpy():
    """float32 as well, which is no float of Python's; a bool is refused."""
    assert FocalObjective(gamma=np.float32(0.5)).gamma == 0.5
    with pytest.raises(ValueError, match="expected `gamma` >= 0, got True"):
        FocalObjective(gamma=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [([1, 2], "got 2"), ([0, np.nan], "got nan"), ([-1, 1], "got -1")],
)
def test_labels_that_are_none_are_refused(labels, words):
    """1 and 2 or NaN would be taken for positives."""
    objective, score = FocalObjective(), np.zeros(2)

    def catboost_rows(y, x):
        return objective.calc_ders_range(x, y.astype(np.float32), None)

    for call in (objective, objective.loss, objective.focal_loss, catboost_rows):
        with pytest.raises(ValueError, match=f"expected labels in \\[0, 1\\], {words}"):
            call(np.array(labels), score)
    with pytest.raises(ValueError, match=words):
        objective.initial_score(np.array(labels))


@pytest.mark.parametrize("label", [3, -1, 0.5, np.nan, np.inf])
def test_classes_that_are_none_are_refused(label):
    objective = MulticlassFocalObjective()
    with pytest.raises(ValueError, match="expected labels 0 to 2, got"):
        objective(np.array([0, label]), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected labels 0 to 2, got"):
        objective.calc_ders_multi(np.zeros(3), label, None)


@pytest.mark.parametrize(
    "alpha", [0.5, [0.5], [1, -1], [1, np.nan], "ab", [[1, 2]], [True, False], [1, np.inf]]
)
def test_alphas_that_are_none_are_refused(alpha):
    """Classes have a factor each."""
    with pytest.raises(ValueError, match=r"MulticlassFocalObjective: expected .*`alpha`"):
        MulticlassFocalObjective(alpha=alpha)
    with pytest.raises(ValueError, match="expected `alpha` for 3 classes, got 2"):
        MulticlassFocalObjective(alpha=[1, 2])(np.zeros(1), np.zeros((1, 3)))
