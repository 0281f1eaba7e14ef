"""A training with our objective beside one with the library's own log loss, on 10^6 rows.

    python benchmarks/boosting.py [ROWS]

20 rounds on two threads, in turns, three times; the ratio is the median of the rounds' ratios.
CatBoost asks for 500 rows at a time, in a loop that numba compiles.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median

import catboost
import lightgbm
import numpy as np
import xgboost
from rounds import Rounds

from parfocal.boosting import FocalObjective

ROUNDS = 20
TURNS = 3


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, 3 of 100 positive."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 10)).astype(np.float32)
    score = x[:, :3].sum(1) + generator.normal(size=rows)
    return x, (score > np.quantile(score, 0.97)).astype(np.float64)


def fits(objective: FocalObjective | None) -> dict[str, Callable[..., object]]:
    """Of each library, with an objective, or its own for None."""
    settings = {"n_estimators": ROUNDS, "n_jobs": 2}
    own = {} if objective is None else {"objective": objective}
    cat = {"iterations": ROUNDS, "thread_count": 2, "verbose": 0, "allow_writing_files": False}
    if objective is not None:
        cat |= {"loss_function": objective, "eval_metric": objective.catboost_metric}
    return {
        "XGBoost": xgboost.XGBClassifier(**settings, **own).fit,
        "LightGBM": lightgbm.LGBMClassifier(**settings, **own, verbose=-1).fit,
        "CatBoost": catboost.CatBoostClassifier(**cat).fit,
    }


def seconds(call: Callable[..., object], *arguments: object) -> float:
    """How long it takes."""
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def comparisons(rows: int) -> Iterator[tuple[str, Rounds]]:
    """Of each library seconds with our objective and with its own log loss."""
    x, y = data(rows)
    objective = FocalObjective(0.5)
    fits(objective)["CatBoost"](x[:1000], y[:1000])  # compiles
    for name in fits(None):
        pairs = [[seconds(fits(o)[name], x, y) for o in (objective, None)] for _ in range(TURNS)]
        yield name, Rounds(*zip(*pairs, strict=True))


def seconds_of_derivatives(rows: int) -> float:
    """Both derivatives of so many rows, the median of five times."""
    y = data(rows)[1]
    objective = FocalObjective(0.5)
    return median(seconds(objective.derivatives, y, np.zeros(rows)) for _ in range(5))


def main() -> None:
    """A line a library."""
    warnings.simplefilter("ignore")
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"both derivatives of {rows} rows: {1e3 * seconds_of_derivatives(rows):.0f} ms")
    for library, taken in comparisons(rows):
        print(
            f"{library}: {median(taken.ratios):.2f} "
            f"({median(taken.ours):.1f} s beside {median(taken.theirs):.1f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
