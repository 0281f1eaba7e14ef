"""Boosting: derivatives beside the oracle, and the three libraries trained on rare positives."""

import pickle

import catboost
import lightgbm
import numpy as np
import pytest
import torch
import xgboost
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score, train_test_split

from parfocal import softmax_focal_loss
from parfocal.audit.oracle import focal_truth
from parfocal.boosting import FocalObjective, MulticlassFocalObjective
from parfocal.floats import representable
from scan import worst_error

pytestmark = [
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
    pytest.mark.filterwarnings("ignore:Failed to import numba"),  # CatBoost, of any objective
]

GAMMAS = (0.0, 0.3, 0.5, 1.0, 2.0)
ROUNDS = {"n_estimators": 60, "learning_rate": 0.1, "n_jobs": 1}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Each test leaves it as empty as it was: CatBoost writes into it unless it is told not to."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(ValueError, match="one shape"):
        FocalObjective()(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="C > 1"):
        MulticlassFocalObjective()(np.zeros(3), np.zeros((2, 3)))


# In the libraries


@pytest.fixture(scope="module")
def rare():
    """5 of 100 are positive."""
    x, y = make_classification(
        3000, 20, n_informative=8, weights=[0.95], flip_y=0.01, class_sep=0.8, random_state=0
    )
    return train_test_split(x, y, stratify=y, random_state=0)


def fit_xgboost(objective, x, y, **rounds):
    """Probabilities come by themselves."""
    model = xgboost.XGBClassifier(
        **{**ROUNDS, **rounds}, objective=objective, base_score=objective.base_score(y)
    ).fit(x, y)
    return lambda z: model.predict(z, output_margin=True)


def fit_lightgbm(objective, x, y, **rounds):
    """The initial score is of the data, and is added again."""
    score = objective.initial_score(y)
    model = lightgbm.LGBMClassifier(**{**ROUNDS, **rounds}, verbose=-1, objective=objective)
    model.fit(x, y, init_score=np.full(len(y), score))
    return lambda z: model.predict(z, raw_score=True) + score


def fit_catboost(objective, x, y, n_estimators=60, leaf_steps=5):
    """The initial score is a baseline; its own loss takes ten steps a leaf, with backtracking."""
    score = objective.initial_score(y)
    model = catboost.CatBoostClassifier(
        iterations=n_estimators,
        learning_rate=0.1,
        thread_count=1,
        verbose=0,
        allow_writing_files=False,
        random_seed=0,
        loss_function=objective,
        eval_metric=objective.catboost_metric,
        leaf_estimation_iterations=leaf_steps,
    )
    model.fit(catboost.Pool(x, y, baseline=np.full(len(y), score)))
    return lambda z: model.predict(z, prediction_type="RawFormulaVal") + score


def built_in(library, x, y):
    """Probabilities of the library's own log loss with the same rounds."""
    if library == "xgboost":
        model = xgboost.XGBClassifier(**ROUNDS)
    elif library == "lightgbm":
        model = lightgbm.LGBMClassifier(**ROUNDS, verbose=-1)
    else:
        model = catboost.CatBoostClassifier(
            iterations=60,
            learning_rate=0.1,
            thread_count=1,
            verbose=0,
            allow_writing_files=False,
            random_seed=0,
        )
    model.fit(x, y)
    return lambda z: model.predict_proba(z)[:, 1]


FITS = {"xgboost": fit_xgboost, "lightgbm": fit_lightgbm, "catboost": fit_catboost}


@pytest.mark.parametrize("library", FITS)
def test_average_precision_is_not_below_log_loss(library, rare):
    """At the best gamma; at gamma 0 it is the built-in log loss, where the library lets it."""
    x, x_test, y, y_test = rare
    own = average_precision_score(y_test, built_in(library, x, y)(x_test))
    found = {
        gamma: average_precision_score(y_test, FITS[library](FocalObjective(gamma), x, y)(x_test))
        for gamma in GAMMAS
    }
    assert max(found.values()) >= own, (own, found)
    if library != "catboost":
        assert found[0.0] == pytest.approx(own, abs=0.01)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_finite_after_500_rounds(library, gamma, rare):
    """Far into saturation, on data that trees can learn by heart."""
    x, _, y, _ = rare
    score = FITS[library](FocalObjective(gamma), x[:1000], y[:1000], n_estimators=500)(x[:1000])
    assert np.isfinite(score).all()
    assert average_precision_score(y[:1000], score) > 0.99


@pytest.mark.parametrize("gamma", [0.1, 5.0])
def test_catboost_is_finite_after_500_rounds(gamma, rare):
    """As above, of a library that calls Python more often."""
    x, _, y, _ = rare
    x, y = x[:300], y[:300]
    score = fit_catboost(FocalObjective(gamma), x, y, n_estimators=500, leaf_steps=1)(x)
    assert np.isfinite(score).all()


def test_classes():
    """Digits, by estimators and by the native calls."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x[:900], y[:900], random_state=0)
    objective = MulticlassFocalObjective(1.0)
    few = {"n_estimators": 15, "n_jobs": 1}
    model = xgboost.XGBClassifier(**few, objective=objective).fit(x, y)
    assert model.score(x_test, y_test) > 0.85
    model = lightgbm.LGBMClassifier(**few, verbose=-1, objective=objective, num_class=10)
    scores = model.fit(x, y).predict(x_test, raw_score=True)
    assert (scores.argmax(1) == y_test).mean() > 0.85
    booster = xgboost.train({"num_class": 10}, xgboost.DMatrix(x, y), 15, obj=objective.xgboost)
    scores = booster.predict(xgboost.DMatrix(x_test), output_margin=True)
    assert (scores.argmax(1) == y_test).mean() > 0.85
    settings = {"objective": objective.lightgbm, "num_class": 10, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 15)
    assert (booster.predict(x_test).argmax(1) == y_test).mean() > 0.85
    np.testing.assert_allclose(objective.probabilities(scores).sum(1), 1)


def test_classes_in_catboost():
    """Three of them, a call of Python a sample."""
    x, y = load_digits(n_class=3, return_X_y=True)
    few = slice(150)
    objective = MulticlassFocalObjective(1.0)
    model = catboost.CatBoostClassifier(
        iterations=4,
        learning_rate=0.5,
        thread_count=1,
        verbose=0,
        allow_writing_files=False,
        loss_function=objective,
        classes_count=3,
        eval_metric=objective.catboost_metric,
    ).fit(x[few], y[few])
    scores = model.predict(x[300:], prediction_type="RawFormulaVal")
    assert (scores.argmax(1) == y[300:]).mean() > 0.9


def test_estimators_and_metrics_take_it(rare):
    """clone, cross-validation, pickle; metrics are those of the raw scores."""
    x, x_test, y, y_test = rare
    objective = FocalObjective(0.5)
    assert repr(objective) == repr(pickle.loads(pickle.dumps(objective)))
    model = xgboost.XGBClassifier(n_estimators=10, n_jobs=1, objective=objective)
    assert cross_val_score(clone(model), x, y, cv=3, scoring="average_precision").min() > 0.1
    model.set_params(eval_metric=objective.focal_loss)
    model.fit(x, y, eval_set=[(x_test, y_test)], verbose=False)
    told = model.evals_result()["validation_0"]["focal_loss"][-1]
    scores = model.predict(x_test, output_margin=True)
    assert told == pytest.approx(objective.focal_loss(y_test, scores), rel=1e-5)
    np.testing.assert_allclose(
        model.predict_proba(x_test), objective.probabilities(scores), rtol=1e-5
    )


def test_sample_weights_reach_the_objective(rare):
    """A weight of 2 is the sample twice."""
    x, _, y, _ = rare
    x, y = x[:400], y[:400]
    objective = FocalObjective(0.5)
    twice = np.concatenate([np.arange(400), np.arange(100)])
    weight = np.where(np.arange(400) < 100, 2.0, 1.0)
    settings = {"n_estimators": 5, "n_jobs": 1, "tree_method": "exact", "max_depth": 3}
    one = xgboost.XGBClassifier(objective=objective, **settings).fit(x, y, sample_weight=weight)
    two = xgboost.XGBClassifier(objective=objective, **settings).fit(x[twice], y[twice])
    scores = (model.predict(x, output_margin=True) for model in (one, two))
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)


def test_gamma_may_be_a_number_of_numpy():
    """float32 as well, which is no float of Python's; a bool is refused."""
    assert FocalObjective(gamma=np.float32(0.5)).gamma == 0.5
    with pytest.raises(ValueError, match="expected `gamma` >= 0, got True"):
        FocalObjective(gamma=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [([1, 2], "got 2"), ([0, np.nan], "got nan"), ([0, 0.7], "got 0.7"), ([-1, 1], "got -1")],
)
def test_labels_that_are_none_are_refused(labels, words):
    """1 and 2, NaN and 0.7 would be taken for positives."""
    objective, score = FocalObjective(), np.zeros(2)
    for call in (objective, objective.loss, objective.focal_loss):
        with pytest.raises(ValueError, match=f"expected labels 0 or 1, {words}"):
            call(np.array(labels), score)
    with pytest.raises(ValueError, match=words):
        objective.initial_score(np.array(labels))


@pytest.mark.parametrize("label", [3, -1, 0.5, np.nan, np.inf])
def test_classes_that_are_none_are_refused(label):
    objective = MulticlassFocalObjective()
    with pytest.raises(ValueError, match="expected labels 0 to 2, got"):
        objective(np.array([0, label]), np.zeros((2, 3)))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_object_itself_is_the_objective_of_native_training(weighted):
    """The same trees as of the methods that are named after the libraries."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3))
    y = (x[:, 0] + generator.normal(size=200) > 1).astype(float)
    weight = generator.uniform(0.5, 2, 200) if weighted else None
    objective = FocalObjective(gamma=1.5)
    data = xgboost.DMatrix(x, y, weight=weight)
    start = {"base_score": 0.0, "nthread": 1}
    ours, named = (
        xgboost.train(start, data, 5, obj=obj).predict(data, output_margin=True)
        for obj in (objective, objective.xgboost)
    )
    np.testing.assert_array_equal(ours, named)
    assert np.ptp(ours) > 0.1
    ours, named = (
        lightgbm.train(
            {"objective": obj, "num_threads": 1, "verbose": -1},
            lightgbm.Dataset(x, y, weight=weight), 5,
        ).predict(x)
        for obj in (objective, objective.lightgbm)
    )  # fmt: skip
    np.testing.assert_array_equal(ours, named)
    assert np.ptp(ours) > 0.1
