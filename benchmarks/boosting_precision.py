"""Whether a focal loss helps a booster: average precision on data that scikit-learn ships.

    python benchmarks/boosting_precision.py

Ten minutes on two cores; it goes on from where it was stopped. Each library is trained with its
own log loss, the same with balanced weights of classes, and the focal loss, whose gamma is chosen
of three by cross-validation within the training part. Each fold's result is a line of
`boosting_precision.csv`, from which `boosting_precision.md` is made.

Intervals are those of the difference from the library's own log loss, fold by fold. Folds share
training samples, which a t interval must not take for independent: its variance is the corrected
one of Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 2003.
"""

import csv
import math
import platform
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import sklearn
import xgboost
from scipy.stats import t as student
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, RepeatedStratifiedKFold

from parfocal.boosting import FocalCatBoostClassifier, FocalLGBMClassifier, FocalXGBClassifier

RECORD = Path(__file__).with_suffix(".csv")
PAGE = RECORD.with_suffix(".md")

FOLDS, REPEATS = 5, 5
GAMMAS = [0.5, 1.0, 2.0]
ROUNDS, RATE = 100, 0.1

Data = tuple[np.ndarray, np.ndarray]
Result = tuple[str, str, str, int]


def breast_cancer() -> Data:
    """Malignant tumours of 569: 212."""
    x, y = load_breast_cancer(return_X_y=True)
    return x, 1 - y


def digits() -> Data:
    """Eights of 1,797 digits: 174."""
    x, y = load_digits(return_X_y=True)
    return x, (y == 8).astype(int)


def diabetes() -> Data:
    """The tenth of 442 patients whose disease progressed most: 47."""
    x, y = load_diabetes(return_X_y=True)
    return x, (y >= np.quantile(y, 0.9)).astype(int)


SETS: dict[str, Callable[[], Data]] = {
    "breast cancer": breast_cancer,
    "digits, 8": digits,
    "diabetes, top tenth": diabetes,
}

SHARED = {"n_estimators": ROUNDS, "learning_rate": RATE, "n_jobs": 2, "random_state": 0}
OF_CATBOOST = {
    "iterations": ROUNDS,
    "learning_rate": RATE,
    "thread_count": 2,
    "random_seed": 0,
    "verbose": 0,
    "allow_writing_files": False,
}


def balanced(y: np.ndarray) -> dict[int, float]:
    """The weights by which both classes weigh the same."""
    positive = y.mean()
    return {0: 0.5 / (1 - positive), 1: 0.5 / positive}


def models(library: str, y: np.ndarray) -> dict[str, Any]:
    """A classifier a method; the labels say the weights."""
    weights = balanced(y)
    ratio = weights[1] / weights[0]
    if library == "XGBoost":
        own = {
            "log loss": xgboost.XGBClassifier(**SHARED),
            "class weights": xgboost.XGBClassifier(**SHARED, scale_pos_weight=ratio),
        }
        focal: Any = FocalXGBClassifier(**SHARED)
    elif library == "LightGBM":
        quiet = {**SHARED, "verbose": -1}
        own = {
            "log loss": lightgbm.LGBMClassifier(**quiet),
            "class weights": lightgbm.LGBMClassifier(**quiet, class_weight="balanced"),
        }
        focal = FocalLGBMClassifier(**quiet)
    else:
        own = {
            "log loss": catboost.CatBoostClassifier(**OF_CATBOOST),
            "class weights": catboost.CatBoostClassifier(
                **OF_CATBOOST, auto_class_weights="Balanced"
            ),
        }
        focal = FocalCatBoostClassifier(**OF_CATBOOST)
    search = GridSearchCV(focal, {"gamma": GAMMAS}, scoring="average_precision", cv=3)
    return {**own, "focal loss": search}


LIBRARIES = ("XGBoost", "LightGBM", "CatBoost")
METHODS = ("log loss", "class weights", "focal loss")


def results(done: set[Result]) -> Iterator[tuple[Result, float, float]]:
    """What isn't done: which, its average precision, and the gamma of the focal loss."""
    for name, load in SETS.items():
        x, y = load()
        folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=0)
        for fold, (train, test) in enumerate(folds.split(x, y)):
            for library in LIBRARIES:
                for method, model in models(library, y[train]).items():
                    result = (name, library, method, fold)
                    if result in done:
                        continue
                    model.fit(x[train], y[train])
                    score = model.predict_proba(x[test])[:, 1]
                    gamma = getattr(model, "best_params_", {}).get("gamma", math.nan)
                    yield result, average_precision_score(y[test], score), gamma


def read() -> dict[Result, tuple[float, float]]:
    """The lines of the record."""
    if not RECORD.exists():
        return {}
    with RECORD.open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    return {(a, b, c, int(d)): (float(e), float(f)) for a, b, c, d, e, f in lines}


def measure() -> None:
    """Adds the lines that are missing."""
    done = set(read())
    if not done:
        RECORD.write_text("data,library,method,fold,average precision,gamma\n")
    with RECORD.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for result, precision, gamma in results(done):
            writer.writerow([*result, f"{precision:.6f}", gamma])
            file.flush()


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean, and the ends of its corrected 95 % interval."""
    count = len(differences)
    variance = differences.var(ddof=1) * (1 / count + 1 / (FOLDS - 1))
    reach = student.ppf(0.975, count - 1) * math.sqrt(variance)
    mean = differences.mean()
    return mean, mean - reach, mean + reach


def verdict(low: float, high: float) -> str:
    """What an interval says."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def rows(record: dict[Result, tuple[float, float]]) -> Iterator[str]:
    """A line a data set and library."""
    for name in SETS:
        for library in LIBRARIES:
            of = {
                method: np.array(
                    [record[name, library, method, fold][0] for fold in range(FOLDS * REPEATS)]
                )
                for method in METHODS
            }
            cells = [name, library, f"{of['log loss'].mean():.3f}"]
            for method in METHODS[1:]:
                mean, low, high = interval(of[method] - of["log loss"])
                cells.append(
                    f"{of[method].mean():.3f} ({mean:+.3f}, {low:+.3f} to {high:+.3f}): "
                    f"{verdict(low, high)}"
                )
            chosen: dict[float, int] = defaultdict(int)
            for fold in range(FOLDS * REPEATS):
                chosen[record[name, library, "focal loss", fold][1]] += 1
            cells.append(", ".join(f"{gamma:g}: {chosen[gamma]}" for gamma in GAMMAS))
            yield "| " + " | ".join(cells) + " |"


def page(record: dict[Result, tuple[float, float]]) -> str:
    """The table, and how it was made."""
    return f"""# Does a focal loss help a booster?

From `python benchmarks/boosting_precision.py`, whose results are in [boosting_precision.csv](boosting_precision.csv): {FOLDS} folds, {REPEATS} times;
{ROUNDS} rounds at a rate of {RATE}, all else as the library has it; the focal loss with one gamma of {", ".join(f"{g:g}" for g in GAMMAS)}, chosen by three folds within the training part.
In brackets the difference from the library's own log loss on the same folds, with a 95 % interval whose variance is corrected for folds that share samples (Nadeau and Bengio, 2003).

| data | library | own log loss | with class weights | focal loss | gammas chosen |
|---|---|---|---|---|---|
{chr(10).join(rows(record))}

The data are scikit-learn's: malignant tumours (212 of 569), the digit 8 (174 of 1,797), the tenth of 442 patients with the fastest progression (47).
XGBoost {xgboost.__version__}, LightGBM {lightgbm.__version__}, CatBoost {catboost.__version__}, scikit-learn {sklearn.__version__}, Python {platform.python_version()}.
"""


def main() -> None:
    """Measures what is missing, and writes the page."""
    warnings.simplefilter("ignore")
    measure()
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
