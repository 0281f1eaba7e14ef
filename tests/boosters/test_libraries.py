"""Boosting: derivatives beside the oracle, and the three libraries trained on rare positives."""

import pickle

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score, train_test_split

from parfocal.boosting import FocalObjective, MulticlassFocalObjective

pytestmark = [
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
]

GAMMAS = (0.0, 0.3, 0.5, 1.0, 2.0)
ROUNDS = {"n_estimators": 60, "learning_rate": 0.1, "n_jobs": 1}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """Each test leaves it as empty as it was: CatBoost writes into it unless it is told not to."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


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


CATBOOST = {
    "iterations": 8,
    "learning_rate": 0.5,
    "thread_count": 1,
    "verbose": 0,
    "allow_writing_files": False,
}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_catboost_as_documented(classes, text):
    """Labels, probabilities and weights of classes, which it learns from a metric of its own."""
    x, y = load_digits(n_class=classes, return_X_y=True)
    y = np.array(["none", "one", "two"])[y] if text else y
    objective = (FocalObjective if classes == 2 else MulticlassFocalObjective)(1.0)
    options = {**CATBOOST, "loss_function": objective, "eval_metric": objective.catboost_metric}
    model = catboost.CatBoostClassifier(**options).fit(x[::2], y[::2])
    assert model.classes_.tolist() == np.unique(y).tolist()
    assert (np.ravel(model.predict(x[1::2])) == y[1::2]).mean() > 0.9
    assert model.predict_proba(x[1::2]).shape == (len(x[1::2]), classes)
    weights = [1.0, 5.0, 9.0][:classes]
    by_class = catboost.CatBoostClassifier(**options, class_weights=weights).fit(x, y)
    by_sample = catboost.CatBoostClassifier(**options)
    by_sample.fit(x, y, sample_weight=np.array(weights)[np.unique(y, return_inverse=True)[1]])
    probabilities = by_class.predict_proba(x)
    np.testing.assert_allclose(probabilities, by_sample.predict_proba(x), atol=1e-6)
    unweighted = catboost.CatBoostClassifier(**options).fit(x, y).predict_proba(x)
    assert abs(probabilities - unweighted).max() > 0.01


@pytest.mark.parametrize("classes", [2, 3])
def test_the_mean_loss_as_metric_of_catboost(classes):
    """With names for the classes it learns the labels by this one too."""
    x, y = load_digits(n_class=classes, return_X_y=True)
    objective = (FocalObjective if classes == 2 else MulticlassFocalObjective)(1.0)
    model = catboost.CatBoostClassifier(
        **CATBOOST,
        loss_function=objective,
        eval_metric=objective.catboost_focal_loss,
        class_names=list(range(classes)),
    ).fit(x, y)
    assert (np.ravel(model.predict(x)) == y).mean() > 0.9
    scores = model.predict(x, prediction_type="RawFormulaVal")
    told = model.get_evals_result()["learn"]["MeanLoss"][-1]
    assert told == pytest.approx(objective.focal_loss(y, scores), rel=1e-6)


def test_soft_labels_in_native_training():
    """At gamma 0 the trees of the libraries' own losses of probabilities, where they have one."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3)).astype(np.float32)
    y = 1 / (1 + np.exp(-2 * x[:, 0])) * generator.uniform(0.5, 1, 300)
    objective = FocalObjective(gamma=0.0)
    data = xgboost.DMatrix(x, y)
    settings = {"base_score": 0.5, "nthread": 1}
    own = xgboost.train({**settings, "objective": "binary:logistic"}, data, 5)
    ours = xgboost.train({**settings, "base_score": 0.0}, data, 5, obj=objective)
    expected = own.predict(data, output_margin=True)
    np.testing.assert_allclose(ours.predict(data, output_margin=True), expected, atol=1e-5)
    settings = {"num_threads": 1, "verbose": -1, "boost_from_average": False}
    own = lightgbm.train({**settings, "objective": "cross_entropy"}, lightgbm.Dataset(x, y), 5)
    ours = lightgbm.train({**settings, "objective": objective}, lightgbm.Dataset(x, y), 5)
    expected = own.predict(x, raw_score=True)
    np.testing.assert_allclose(ours.predict(x, raw_score=True), expected, atol=1e-5)
    assert np.ptp(expected) > 0.5
    pool = catboost.Pool(x, y)
    settings = {**CATBOOST, "bootstrap_type": "No", "leaf_estimation_iterations": 1}
    settings["leaf_estimation_backtracking"] = "No"
    own = catboost.CatBoost({**settings, "loss_function": "CrossEntropy"}).fit(pool)
    of_ours = {"loss_function": objective, "eval_metric": objective.catboost_focal_loss}
    ours = catboost.CatBoost({**settings, **of_ours}).fit(pool)
    np.testing.assert_allclose(ours.predict(pool), own.predict(pool), atol=1e-6)


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


@pytest.mark.parametrize("classes", [2, 3])
def test_early_stopping_of_native_training(classes):
    """By the mean loss of the objective, with weights, at its smallest."""
    x, y = load_digits(n_class=classes, return_X_y=True)
    x = x + np.random.default_rng(0).normal(0, 12, x.shape)
    train, test = slice(0, 100), slice(100, None)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(y))
    objective = (FocalObjective if classes == 2 else MulticlassFocalObjective)(1.0)
    of_classes = {} if classes == 2 else {"num_class": classes}

    told = {}
    data = [xgboost.DMatrix(x[part], y[part], weight=weight[part]) for part in (train, test)]
    booster = xgboost.train(
        {"nthread": 1, "disable_default_eval_metric": 1, **of_classes}, data[0], 200,
        obj=objective, custom_metric=objective.xgboost_metric, evals=[(data[1], "test")],
        early_stopping_rounds=5, evals_result=told, verbose_eval=False,
    )  # fmt: skip
    losses = told["test"]["focal_loss"]
    best = booster[: booster.best_iteration + 1].predict(data[1], output_margin=True)
    assert len(losses) < 200
    assert min(losses) == pytest.approx(objective.focal_loss(y[test], best, weight[test]), rel=1e-5)

    told = {}
    data = [lightgbm.Dataset(x[part], y[part], weight=weight[part]) for part in (train, test)]
    booster = lightgbm.train(
        {"objective": objective, "metric": "None", "num_threads": 1, "verbose": -1, **of_classes},
        data[0], 200, valid_sets=[data[1]], feval=objective.lightgbm_metric,
        callbacks=[lightgbm.early_stopping(5, verbose=False), lightgbm.record_evaluation(told)],
    )  # fmt: skip
    losses = told["valid_0"]["focal_loss"]
    best = booster.predict(x[test], raw_score=True)
    assert len(losses) < 200
    assert min(losses) == pytest.approx(objective.focal_loss(y[test], best, weight[test]), rel=1e-5)
