"""The classifiers of the three libraries with a focal loss, as users of scikit-learn take them."""

import copy
import pickle

import catboost
import lightgbm
import numpy as np
import pytest
import xgboost
from sampled import sampled
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from parfocal.boosting import (
    FocalCatBoostClassifier,
    FocalLGBMClassifier,
    FocalObjective,
    FocalXGBClassifier,
    MulticlassFocalObjective,
)

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

NAMES = np.array(["amber", "blue", "coral"])

CLASSIFIERS = {
    "lightgbm": (
        FocalLGBMClassifier,
        lightgbm.LGBMClassifier,
        {"n_estimators": 12, "learning_rate": 0.3, "n_jobs": 1, "verbose": -1},
    ),
    "xgboost": (
        FocalXGBClassifier,
        xgboost.XGBClassifier,
        {"n_estimators": 12, "learning_rate": 0.3, "n_jobs": 1},
    ),
    "catboost": (
        FocalCatBoostClassifier,
        catboost.CatBoostClassifier,
        {
            "iterations": 12,
            "learning_rate": 0.3,
            "thread_count": 1,
            "verbose": False,
            "allow_writing_files": False,
        },
    ),
}

libraries = pytest.mark.parametrize("library", CLASSIFIERS)
class_counts = pytest.mark.parametrize("classes", [2, 3])


def make(library, **options):
    """A small model."""
    ours, _, settings = CLASSIFIERS[library]
    return ours(**{"gamma": 0.5, **settings, **options})


def data(classes, rows=400):
    """Rare classes, whose labels are text; 150 rows to test with."""
    x, y = make_classification(
        rows + 150, 8, n_informative=6, n_classes=classes, flip_y=0.02,
        weights=[0.85, 0.15] if classes == 2 else [0.6, 0.3, 0.1], random_state=1,
    )  # fmt: skip
    labels = NAMES[y]
    return (x[:rows], labels[:rows]), (x[rows:], labels[rows:])


@libraries
@class_counts
def test_fit_predict_and_probabilities(library, classes):
    """Labels come as they went in, and a probability for each of them."""
    (x, y), (x_test, y_test) = data(classes)
    model = make(library).fit(x, y)
    assert model.classes_.tolist() == NAMES[:classes].tolist()
    labels, probabilities = np.ravel(model.predict(x_test)), model.predict_proba(x_test)
    assert probabilities.shape == (150, classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert (labels == model.classes_[probabilities.argmax(1)]).all()
    assert model.score(x_test, y_test) > (0.87 if classes == 2 else 0.68)
    shares = [(y_test == name).mean() for name in model.classes_]
    assert log_loss(y_test, probabilities) < -sum(s * np.log(s) for s in shares)


@libraries
@class_counts
def test_without_focus_it_is_the_library_s_own(library, classes):
    """The probabilities of its log loss: start, gradients, second derivatives and link at once.

    XGBoost's softmax has twice our second derivatives, LightGBM's one and a half times of three
    classes: half and two thirds of their rate take the same steps. CatBoost does not begin from the
    best constant, and looks before it leaps.
    """
    (x, y), (x_test, _) = data(classes)
    y = np.unique(y, return_inverse=True)[1]
    ours, options = {}, {}
    start = {}
    if library == "lightgbm" and classes == 3:  # its trees tell ties by the last bit, in time
        options = {"n_estimators": 2, "max_depth": 3, "min_child_samples": 0, "min_child_weight": 0}
        ours = {"learning_rate": 0.2}
    if library == "xgboost" and classes == 3:
        options = {"min_child_weight": 0}
        ours = {"learning_rate": 0.15, "reg_lambda": 0.5}
    if library == "catboost":
        options = {"bootstrap_type": "No", "leaf_estimation_iterations": 1}
        if classes == 3:
            scores = MulticlassFocalObjective(0.0).initial_score(y)
            start = {"baseline": np.tile(scores, (len(y), 1))}
        else:
            options |= {"boost_from_average": True}
            ours = {"boost_from_average": False}
    _, own, settings = CLASSIFIERS[library]
    theirs = own(**{**settings, **options}).fit(x, y, **start)
    found = make(library, gamma=0.0, **{**options, **ours}).fit(x, y)
    if start:
        scale, _ = theirs.get_scale_and_bias()
        theirs.set_scale_and_bias(scale, list(scores))
        assert np.ptp(found.get_scale_and_bias()[1]) > 1
    expected = theirs.predict_proba(x_test)
    np.testing.assert_allclose(found.predict_proba(x_test), expected, atol=1e-5)
    assert np.ptp(expected[:, 0]) > 0.3


@libraries
@class_counts
def test_before_the_first_step_it_gives_the_best_constant(library, classes):
    """Models of steps that are nothing, of raw scores, and as saved."""
    (x, y), (x_test, _) = data(classes)
    index = np.unique(y, return_inverse=True)[1]
    model = make(library, gamma=1.5, learning_rate=1e-6).fit(x, y)
    objective = FocalObjective(1.5) if classes == 2 else MulticlassFocalObjective(1.5)
    start = np.atleast_1d(objective.initial_score(index))
    expected = objective.probabilities(start if classes == 2 else start[None])
    found = model.predict_proba(x_test)
    np.testing.assert_allclose(found, np.tile(expected, (150, 1)), rtol=1e-4)


@libraries
@class_counts
def test_weights_of_classes_are_weights_of_samples(library, classes):
    """By name, balanced, and a sample at a time; not the same as without."""
    (x, y), (x_test, _) = data(classes)
    by_name = dict(zip(NAMES.tolist(), (0.5, 3.0, 7.0)[:classes], strict=False))
    name = "class_weights" if library == "catboost" else "class_weight"
    of_samples = np.array([by_name[label] for label in y])
    by_class = make(library, **{name: by_name}).fit(x, y).predict_proba(x_test)
    by_sample = make(library).fit(x, y, sample_weight=of_samples).predict_proba(x_test)
    np.testing.assert_allclose(by_class, by_sample, atol=1e-5)
    assert abs(make(library).fit(x, y).predict_proba(x_test) - by_class).max() > 0.05
    automatic = {"auto_class_weights": "Balanced"} if library == "catboost" else {name: "balanced"}
    balanced = make(library, **automatic, learning_rate=1e-6).fit(x, y).predict_proba(x_test)
    np.testing.assert_allclose(balanced, 1 / classes, rtol=1e-4)


@libraries
def test_alpha_is_the_weight_of_a_class(library):
    """A number for two classes, a factor each for three; where weights are of the loss alone.

    CatBoost's trees are chosen by weights, so that the start is compared.
    """
    unweighted = {
        "lightgbm": {},
        "xgboost": {"tree_method": "exact"},
        "catboost": {"learning_rate": 1e-6},
    }[library]
    for classes, alpha in ((2, 0.8), (3, (0.5, 1.0, 4.0))):
        (x, y), (x_test, _) = data(classes)
        factors = dict(zip(NAMES.tolist(), (0.2, 0.8) if classes == 2 else alpha, strict=False))
        weight = np.array([factors[label] for label in y])
        by_alpha = make(library, alpha=alpha, **unweighted).fit(x, y).predict_proba(x_test)
        by_weight = make(library, **unweighted).fit(x, y, sample_weight=weight)
        np.testing.assert_allclose(by_alpha, by_weight.predict_proba(x_test), atol=1e-4)
        wrong = (0.5, 0.5) if classes == 2 else 0.5
        with pytest.raises(ValueError, match=f"`alpha` for {'two' if classes == 2 else 'each'}"):
            make(library, alpha=wrong).fit(x, y)


@libraries
@class_counts
def test_early_stopping_by_the_focal_loss(library, classes):
    """It is what is recorded, from the start, and training ends where it rises."""
    (x, y), (x_test, y_test) = data(classes)
    x, y = x[:120], y[:120]
    many = "iterations" if library == "catboost" else "n_estimators"
    patience = {} if library == "lightgbm" else {"early_stopping_rounds": 5}
    model = make(library, **{many: 300}, **patience)
    if library == "lightgbm":
        stop = lightgbm.early_stopping(5, verbose=False)
        model.fit(x, y, eval_X=x_test, eval_y=y_test, callbacks=[stop])
        recorded = model.evals_result_["valid_0"]["focal_loss"]
    elif library == "xgboost":
        model.fit(x, y, eval_set=[(x_test, y_test)], verbose=False)
        recorded = model.evals_result()["validation_0"]["focal_loss"]
    else:
        model.fit(x, y, eval_set=(x_test, y_test))
        recorded = model.get_evals_result()["validation"]["MeanLoss"]
    assert 5 < len(recorded) < 300
    index = np.unique(y_test, return_inverse=True)[1]
    objective = FocalObjective(0.5) if classes == 2 else MulticlassFocalObjective(0.5)
    p = model.predict_proba(x_test)
    scores = np.log(p[:, 1] / p[:, 0]) if classes == 2 else np.log(p)
    assert min(recorded) == pytest.approx(objective.focal_loss(index, scores), rel=1e-4)


@libraries
@class_counts
def test_clones_and_pickles(library, classes):
    """A clone learns the same, a copy is the same."""
    (x, y), (x_test, _) = data(classes)
    alpha = 0.3 if classes == 2 else [1.0, 2.0, 3.0]
    model = make(library, alpha=alpha, hessian="absolute").fit(x, y)
    expected = model.predict_proba(x_test)
    for other in (clone(model).fit(x, y), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.predict_proba(x_test), expected)
        assert (np.ravel(other.predict(x_test)) == np.ravel(model.predict(x_test))).all()
        params = other.get_params()
        assert (params["gamma"], params["alpha"], params["hessian"]) == (0.5, alpha, "absolute")


@class_counts
def test_saved_and_loaded(classes, tmp_path):
    """Files of each library, with labels and start."""
    (x, y), (x_test, _) = data(classes)
    for library in CLASSIFIERS:
        model = make(library).fit(x, y)
        expected, file = model.predict_proba(x_test), tmp_path / f"{library}.json"
        if library == "lightgbm":
            model.booster_.save_model(file)
            scores = lightgbm.Booster(model_file=file).predict(x_test, raw_score=True)
            objective = FocalObjective() if classes == 2 else MulticlassFocalObjective()
            np.testing.assert_allclose(objective.probabilities(scores), expected, rtol=1e-12)
            continue
        model.save_model(file, **({"format": "json"} if library == "catboost" else {}))
        for loaded in (make(library), CLASSIFIERS[library][1]()):
            loaded.load_model(file, **({"format": "json"} if library == "catboost" else {}))
            np.testing.assert_allclose(loaded.predict_proba(x_test), expected, rtol=1e-6)
        loaded = make(library)
        loaded.load_model(file, **({"format": "json"} if library == "catboost" else {}))
        assert loaded.classes_.tolist() == NAMES[:classes].tolist()
        assert (loaded.predict(x_test) == model.predict(x_test)).all()


def test_a_random_forest_is_refused():
    """It isn't boosted: LightGBM has no scores to begin from there."""
    (x, y), _ = data(2)
    forest = {"bagging_freq": 1, "bagging_fraction": 0.5}
    with pytest.raises(ValueError, match="random forest"):
        make("lightgbm", boosting_type="rf", **forest).fit(x, y)


@libraries
def test_gamma_and_alpha_are_tuned_by_name(library):
    """By a score of probabilities, which are none with an objective alone in LightGBM."""
    (x, y), _ = data(2)
    grid = {"gamma": [0.0, 1.0], "alpha": [None, 0.7]}
    search = GridSearchCV(make(library), grid, scoring="neg_log_loss", cv=3).fit(x, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 4
    assert search.best_estimator_.get_params()["gamma"] == search.best_params_["gamma"]
    assert search.predict_proba(x).shape == (400, 2)
    assert np.isfinite(cross_val_score(make(library), *data(3)[0], scoring="neg_log_loss")).all()


@libraries
def test_what_was_set_is_not_changed_by_a_fit(library):
    """Nor by one that fails."""
    (x, y), _ = data(2)
    model = make(library)
    before = repr(model.get_params())
    model.fit(x, y)
    assert repr(model.get_params()) == before
    fails = make(library)
    with pytest.raises(ValueError, match="gamma"):
        fails.set_params(gamma=-1.0).fit(x, y)
    assert fails.get_params()["gamma"] == -1.0
    again = fails.set_params(gamma=0.5).fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("lightgbm", {"objective": "binary"}),
        ("lightgbm", {"application": "binary"}),
        ("lightgbm", {"is_unbalance": True}),
        ("lightgbm", {"unbalance": True}),
        ("lightgbm", {"pos_bagging_fraction": 0.5}),
        ("lightgbm", {"sigmoid": 2.0}),
        ("lightgbm", {"scale_pos_weight": 3.0}),
        ("xgboost", {"objective": "binary:hinge"}),
        ("xgboost", {"scale_pos_weight": 3.0}),
        ("catboost", {"loss_function": "Logloss"}),
        ("catboost", {"classes_count": 2}),
        ("catboost", {"boost_from_average": True}),
    ],
)
def test_what_would_be_dropped_in_silence_is_refused(library, options):
    """The error names it."""
    (x, y), _ = data(2)
    with pytest.raises(ValueError, match=next(iter(options))):
        make(library, **options).fit(x, y)


@libraries
@pytest.mark.parametrize(
    ("labels", "words"), [([0.5, 1.7], "continuous"), ([1.0, np.nan], "NaN"), (None, "y to be")]
)
def test_labels_that_are_no_classes_are_refused(library, labels, words):
    """Encoded they would be classes like any others."""
    (x, y), _ = data(2)
    y = labels if labels is None else np.array(labels)[(y == "blue").astype(int)]
    with pytest.raises(ValueError, match=words):
        make(library).fit(x, y)


@libraries
def test_metrics_that_take_probabilities(library):
    """The library's log loss beside our objective is that of the probabilities."""
    (x, y), (x_test, y_test) = data(2)
    name = {"lightgbm": "binary_logloss", "xgboost": "logloss", "catboost": "Logloss"}[library]
    if library == "lightgbm":
        model = make(library, metric="auc")
        model.fit(x, y, eval_X=(x_test,), eval_y=(y_test,), eval_metric=[name, "error"])
        recorded = model.evals_result_["valid_0"]
        assert set(recorded) == {"auc", "binary_logloss", "error"}
        assert recorded["error"][-1] == pytest.approx(1 - model.score(x_test, y_test))
        recorded = recorded[name]
    elif library == "xgboost":
        model = make(library, eval_metric=name)
        model.fit(x, y, eval_set=[(x_test, y_test)], verbose=False)
        recorded = model.evals_result()["validation_0"][name]
    else:
        model = make(library, eval_metric=name, use_best_model=False)
        model.fit(x, y, eval_set=[(x_test, y_test)])
        recorded = model.get_evals_result()["validation"][name]
    assert recorded[-1] == pytest.approx(log_loss(y_test, model.predict_proba(x_test)), rel=1e-5)


def test_training_goes_on_from_a_model():
    """The start isn't added twice: the second model has the first one's scores in it."""
    (x, y), (x_test, _) = data(2)
    first = make("lightgbm").fit(x, y)
    second = make("lightgbm").fit(x, y, init_model=first)
    whole = make("lightgbm", n_estimators=24).fit(x, y)
    np.testing.assert_allclose(second.predict_proba(x_test), whole.predict_proba(x_test), rtol=1e-6)
    first = make("xgboost").fit(x, y)
    second = make("xgboost").fit(x, y, xgb_model=first.get_booster())
    whole = make("xgboost", n_estimators=24).fit(x, y)
    np.testing.assert_allclose(second.predict_proba(x_test), whole.predict_proba(x_test), rtol=1e-4)


def test_pools_and_categories_of_catboost():
    """A pool is what it was afterwards; features of text, and an order of classes of one's own."""
    (x, y), _ = data(2)
    color = np.where(x[:, 0] > 0, "red", "green").astype(object)[:, None]
    x = np.hstack([color, x.astype(object)])
    pool = catboost.Pool(x, y, cat_features=[0], weight=np.linspace(1, 2, 400))
    evaluated = catboost.Pool(x[:99], y[:99], cat_features=[0])
    of_pool = make("catboost").fit(pool, eval_set=evaluated)
    assert not np.size(pool.get_baseline())
    weight = np.linspace(1, 2, 400)
    of_arrays = make("catboost", cat_features=[0]).fit(
        x, y, sample_weight=weight, eval_set=(x[:99], y[:99])
    )
    np.testing.assert_allclose(of_pool.predict_proba(pool), of_arrays.predict_proba(x), rtol=1e-7)
    reverse = make("catboost", class_names=["blue", "amber"]).fit(pool)
    assert reverse.classes_.tolist() == ["blue", "amber"]
    straight = make("catboost").fit(pool)
    np.testing.assert_allclose(
        reverse.predict_proba(pool)[:, ::-1], straight.predict_proba(pool), atol=0.05
    )


def test_several_labels_a_sample_of_xgboost():
    """Columns of their own, as the library has them."""
    (x, y), (x_test, _) = data(2)
    labels = np.stack([y == "blue", x[:, 0] > 0], 1).astype(int)
    model = make("xgboost", n_estimators=30).fit(x, labels)
    assert model.predict_proba(x_test).shape == (150, 2)
    assert model.predict(x).shape == labels.shape
    assert (model.predict(x) == labels).mean() > 0.95


@pytest.mark.parametrize("library", sampled(CLASSIFIERS, "xgboost".__eq__))
@pytest.mark.filterwarnings(
    "ignore:Estimator .* does not inherit from `sklearn.base.BaseEstimator`"
)
def test_scikit_learn_s_checks(library):
    """No check fails that doesn't fail of the library's own classifier."""
    ours, own, settings = CLASSIFIERS[library]
    few = {**settings, "iterations" if library == "catboost" else "n_estimators": 3}

    def failed(estimator):
        results = check_estimator(estimator, on_fail=None, on_skip=None)
        assert len(results) > 50
        return {r["check_name"] for r in results if r["status"] == "failed"}

    assert not failed(ours(**few)) - failed(own(**few))


def test_catboost_does_not_go_on_from_a_model():
    """It would without the model's bias, which is where all scores begin."""
    (x, y), _ = data(2)
    first = make("catboost").fit(x, y)
    with pytest.raises(ValueError, match="expected no `init_model`"):
        make("catboost").fit(x, y, init_model=first)


def test_linear_trees_of_lightgbm():
    """Their leaves are no constants: they begin from 0, as LightGBM without its start."""
    (x, y), (x_test, _) = data(2)
    y = (y == "blue").astype(int)
    _, own, settings = CLASSIFIERS["lightgbm"]
    options = {"linear_tree": True, "boost_from_average": False}
    theirs = own(**settings, **options).fit(x, y).predict_proba(x_test)
    for ours in (options, {"linear_tree": True}):
        found = make("lightgbm", gamma=0.0, **ours).fit(x, y).predict_proba(x_test)
        np.testing.assert_allclose(found, theirs, atol=1e-12)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("lone", ["weight", "label"])
def test_a_class_alone_is_certain(library, lone):
    """As with the libraries' own losses."""
    (x, y), (x_test, _) = data(2)
    if lone == "weight":
        model = make(library, gamma=1.0).fit(x, y, sample_weight=np.where(y == "blue", 0.0, 1.0))
    else:
        model = make(library, gamma=1.0).fit(x, np.full(len(y), "amber"))
    assert model.predict_proba(x_test)[:, 0].min() > 0.999


@pytest.mark.parametrize(
    "names", ["auc,binary_logloss", ["auc", "binary_logloss"], {"auc", "binary_logloss"}]
)
@pytest.mark.parametrize("place", ["eval_metric", "metric", "metrics", "metric_types"])
def test_metrics_of_lightgbm_by_any_name(names, place):
    """The log loss is that of the probabilities wherever it is asked for."""
    (x, y), (x_test, y_test) = data(2)
    options = {} if place == "eval_metric" else {place: names}
    asked = {place: names} if place == "eval_metric" else {}
    model = make("lightgbm", **options)
    model.fit(x, y, eval_X=x_test, eval_y=y_test, **asked)
    recorded = model.evals_result_["valid_0"]
    assert set(recorded) == {"auc", "binary_logloss"}
    expected = log_loss(y_test, model.predict_proba(x_test))
    assert recorded["binary_logloss"][-1] == pytest.approx(expected, rel=1e-6)


def test_a_loaded_catboost_model_is_fitted_again(tmp_path):
    """With the gamma that it was made with; the file has none."""
    (x, y), (x_test, _) = data(2)
    make("catboost").fit(x, y).save_model(tmp_path / "model.cbm")
    model = make("catboost", gamma=3.0)
    model.load_model(tmp_path / "model.cbm")
    assert model.get_params()["gamma"] == 3.0
    again = clone(model).fit(x, y)
    expected = make("catboost", gamma=3.0).fit(x, y).predict_proba(x_test)
    np.testing.assert_allclose(again.predict_proba(x_test), expected, atol=1e-6)
    with pytest.raises(NotImplementedError, match="GridSearchCV"):
        again.grid_search({"depth": [2, 4]}, x, y)


def test_evaluation_sets_of_catboost_have_the_features_of_the_pool():
    """Categories of text are none by themselves."""
    (x, y), _ = data(2)
    color = np.where(x[:, 0] > 0, "red", "green").astype(object)[:, None]
    x = np.hstack([color, x.astype(object)])
    model = make("catboost").fit(catboost.Pool(x, y, cat_features=[0]), eval_set=(x[:99], y[:99]))
    assert len(model.get_evals_result()["validation"]["MeanLoss"]) == 12


def test_labels_of_whole_numbers_in_a_column_of_objects():
    """As pandas has them."""
    (x, y), _ = data(2)
    index = (y == "blue").astype(int).astype(object)
    for library in ("xgboost", "catboost"):
        assert make(library).fit(x, index).classes_.tolist() == [0, 1]
