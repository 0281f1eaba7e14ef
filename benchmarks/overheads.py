"""What the guard, the objectives of boosting and JAX cost: writes benchmarks/overheads.md.

    python benchmarks/overheads.py               everything
    python benchmarks/overheads.py --only jax    the lines of JAX; all others stay

Three minutes. Every ratio is of times that were taken in turn, in one process.
"""

import argparse
import platform
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import boosting
import catboost
import jax
import jax.numpy as jnp
import jax_formulas
import lightgbm
import optax
import torch
import xgboost
from losses import Case, measure, processor
from rounds import spread

import guard
import parfocal.jax

OUT = Path(__file__).parent / "overheads.md"

ROWS = 1_000_000

Row = tuple[str, str, str, str, str, str]


def of_guard() -> Iterator[Row]:
    """The guard's part of a step."""
    for name, attached in (("guard, by `check`", False), ("guard, attached", True)):
        taken = guard.cost(attached=attached)
        added, step = 1e6 * median(taken.ours), 1e3 * median(taken.theirs)
        ours, theirs = f"{added:.0f} us", f"{step:.2f} ms"
        yield _row(name, "a step of the MNIST network", 0.02, taken.ratios, ours, theirs)


def of_boosting() -> Iterator[Row]:
    """A training of 20 rounds in each library."""
    for library, taken in boosting.comparisons(ROWS):
        ours, theirs = (f"{median(times):.2f} s" for times in taken)
        most = 2.0 if library == "CatBoost" else 1.5
        yield _row(f"{library}, {ROWS} rows", "its own log loss", most, taken.ratios, ours, theirs)


def of_jax() -> Iterator[Row]:
    """Value and gradient of a mean, under jit."""
    logits = jax.random.normal(jax.random.key(0), (2**20,)) * 4
    rows = jax.random.normal(jax.random.key(1), (65_536, 1000)) * 4
    index = jax.random.randint(jax.random.key(2), (65_536,), 0, 1000)
    sigmoid = (partial(loss, gamma=0.5) for loss in _SIGMOID)
    softmax = partial(parfocal.jax.softmax_focal_loss, gamma=0.5)
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels

    def composed(x, t):
        ce = cross_entropy(x, t)
        return (1 - jnp.exp(-ce)) ** 0.5 * ce

    large, binary = "softmax, 65536 x 1000", (logits, logits > 0)
    pairs = [
        ("sigmoid, 2^20", "optax", 0.5, (*sigmoid,), binary),
        *(
            (f"{name}, 2^20", "its formula in jax.numpy", None, losses, binary)
            for name, *losses in jax_formulas.PAIRS
        ),
        (large, "optax's cross-entropy", 0.5, (softmax, cross_entropy), (rows, index)),
        (large, "focal of that", None, (softmax, composed), (rows, index)),
    ]
    cases = [
        (f"value and gradient under jit, {what}", against, most, partial(_steps, losses, arguments))
        for what, against, most, losses, arguments in pairs
    ]

    def doubled():
        double = jax.jit(lambda x: x * 2)
        theirs = _steps((cross_entropy,), (rows, index))
        return lambda: jax.block_until_ready(double(rows)), *theirs

    name = "`x * 2` under jit, 65536 x 1000"
    cases.append((name, "optax's cross-entropy, value and gradient", None, doubled))
    for what, against, most, prepare in cases:
        result = measure(Case(f"JAX, {what}", against, most, prepare), seconds=6.0, fewest=7)
        ours, theirs = (f"{median(times):.1f} ms" for times in (result.ours, result.theirs))
        yield _row(f"JAX, {what}", against, most, result.ratios, ours, theirs)


_SIGMOID = (parfocal.jax.sigmoid_focal_loss, optax.losses.sigmoid_focal_loss)


def _steps(losses, arguments):
    """A call of each loss, compiled."""
    x, y = arguments
    y = y.astype(x.dtype) if y.dtype == bool else y

    def step(loss):
        call = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y).mean()))
        return lambda: jax.block_until_ready(call(x, y))

    return tuple(step(loss) for loss in losses)


def _row(
    what: str, beside: str, most: float | None, ratios: list[float], ours: str, theirs: str
) -> Row:
    met = "" if most is None else "yes" if median(ratios) <= most else "**no**"
    aim = "" if most is None else f"{most:g}"
    found = spread(ratios, digits=4 if median(ratios) < 0.1 else 2)
    return what, beside, aim, found, f"{ours} / {theirs}", met


def _line(row: Row) -> str:
    """A line of the table."""
    return f"| {' | '.join(row)} |"


def with_jax(text: str, rows: list[Row]) -> str:
    """overheads.md with other lines of JAX, in the place of its own."""
    lines = text.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| JAX"))
    others = [line for line in lines if not line.startswith("| JAX")]
    return "\n".join([*others[:first], *map(_line, rows), *others[first:], ""])


def report(rows: list[Row], derivatives: float) -> str:
    """overheads.md."""
    table = "\n".join(map(_line, rows))
    return f"""# What the guard, boosting and JAX cost

Made by `python benchmarks/overheads.py`, the second part of `make bench`. Ratios of times that were
taken in turn: the median, and the quartiles. gamma is 2 for the guard and 0.5 elsewhere.

{processor()}, two threads (the guard's step: one), torch {torch.__version__},
XGBoost {xgboost.__version__}, LightGBM {lightgbm.__version__}, CatBoost {catboost.__version__},
JAX {jax.__version__}, optax {optax.__version__}, Python {platform.python_version()}.

| what | beside | at most | ratio | times | met |
|---|---|---|---|---|---|
{table}

The guard's time is what is spent in its calls without the loss, in its hooks in the backward pass
and before a step, readings included. Both derivatives
of {ROWS} rows take {1e3 * derivatives:.0f} ms. CatBoost asks an objective in Python for
500 rows at a time; with numba, as here, that is a compiled loop.
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="What the guard, boosting and JAX cost.")
    parser.add_argument("--only", choices=("jax",), help="measure these lines alone")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")  # of the libraries that are compared with
    rows = []
    for part in (of_jax,) if only else (of_guard, of_jax, of_boosting):
        torch.set_num_threads(2)
        for row in part():
            rows.append(row)
            print("  ".join(row), flush=True)
    if only:
        OUT.write_text(with_jax(OUT.read_text(), rows))
    else:
        OUT.write_text(report(rows, boosting.seconds_of_derivatives(ROWS)))


if __name__ == "__main__":
    main()
