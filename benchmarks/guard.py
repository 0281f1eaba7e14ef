"""How early the guard warns, in real trainings, and what it costs.

    python benchmarks/guard.py runs DATA_DIR [--out docs/guard/runs.csv]
    python benchmarks/guard.py table
    python benchmarks/guard.py cost

runs: the paper's MNIST runs with the original loss at gamma 0.1 to 0.5, every threshold, without
noise, to their first failure, and runs that don't fail; two at once. A run that is in the file
already is left out, so that the command can be stopped and given again.
table: the file as the tables of docs/guard.md.
cost: the guard's part of a step of the MNIST network, on one thread.
"""

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from rounds import Rounds

from parfocal.experiments.data import Sources, load, mnist5k
from parfocal.experiments.losses import compared_loss
from parfocal.experiments.models import network
from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.trainer import Trainer
from parfocal.experiments.spec import RunSpec
from parfocal.guard import FocalGuard, FocalGuardWarning
from parfocal.guard.checks import Incoming, Outgoing

OUT = Path(__file__).parents[1] / "docs" / "guard" / "runs.csv"
FIELDS = (
    "loss", "gamma", "threshold", "logits", "steps", "failed", "cause", "margin", "warned",
    "distance", "estimate", "early", "captured",
)  # fmt: skip

TURN = 20
TURNS = 100


def runs() -> Iterator[RunSpec]:
    """Unbalanced thresholds, then runs that don't fail, then the other thresholds."""
    base = read_grid("mnist").base
    thresholds = (0, 8, 4, 2, 6, 1, 7, 3, 5)
    for threshold in thresholds[:2]:
        for gamma in (0.1, 0.2, 0.3, 0.4, 0.5):
            yield _run(base, "original", gamma, threshold, 100)
    for loss, gamma in (("exact", 0.1), ("original", 1.0), ("exact", 0.5), ("original", 2.0)):
        yield _run(base, loss, gamma, 0, 12)
    for gamma in (0.1, 0.5):
        yield _run(base, "original", gamma, 0, 100, logits="bfloat16")
    for threshold in thresholds[2:]:
        for gamma in (0.1, 0.2, 0.3, 0.4, 0.5):
            yield _run(base, "original", gamma, threshold, 100)


def _run(
    base: RunSpec, loss: str, gamma: float, threshold: int, epochs: int, logits: str = "float32"
) -> RunSpec:
    return base.with_settings(
        {
            "loss": loss, "gamma": gamma, "threshold": threshold, "noise": 0.0,
            "epochs": epochs, "logits": logits,
        }
    )  # fmt: skip


def watched(spec: RunSpec, data: Path) -> dict[str, object]:
    """One run to its end, as a line of the table."""
    torch.set_num_threads(1)
    captures = Path("runs") / "guard" / spec.digest
    trainer = Trainer(
        spec,
        load(spec.data, Sources(data_dir=data)),
        watch=lambda loss: FocalGuard(loss, action="record", capture=captures),
    )
    assert trainer.guard is not None
    failure = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FocalGuardWarning)
        for event in trainer.events():
            match event:
                case Failure():
                    failure = event
                case Epoch():
                    print(spec.digest[:8], event, flush=True)
    return line_of(spec, trainer, failure, captures)


def line_of(
    spec: RunSpec, trainer: Trainer, failure: Failure | None, captures: Path
) -> dict[str, object]:
    """What the table says of a run."""
    guard = trainer.guard
    assert guard is not None
    ahead = next((notice for notice in guard.warnings if notice.is_ahead), None)
    found = guard.failures[0] if guard.failures else None
    files = list(captures.glob("*.safetensors"))
    return {
        "loss": spec.value("loss"),
        "gamma": spec.value("gamma"),
        "threshold": spec.value("threshold"),
        "logits": spec.value("logits"),
        "steps": trainer.step,
        "failed": "" if failure is None else failure.step,
        "cause": "" if found is None else found.cause,
        "margin": "" if found is None else f"{found.margin:.4f}",
        "warned": "" if ahead is None else ahead.step,
        "distance": "" if ahead is None else f"{ahead.distance:.3g}",
        "estimate": "" if ahead is None else f"{ahead.steps_left:.0f}",
        "early": "" if failure is None or ahead is None else failure.step - ahead.step,
        "captured": sum(file.stat().st_size for file in files),
    }


def run_training(data: Path, out: Path) -> None:
    """All runs that aren't in the file yet, two at once."""
    done = read(out) if out.exists() else []
    names = ("loss", "gamma", "threshold", "logits")
    known = {tuple(row[name] for name in names) for row in done}
    wanted = [s for s in runs() if tuple(str(s.value(name)) for name in names) not in known]
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        out.open("a", newline="") as file,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for future in as_completed([pool.submit(watched, spec, data) for spec in wanted]):
            writer.writerow(future.result())
            file.flush()


def read(path: Path) -> list[dict[str, str]]:
    """The lines of the table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """A line a threshold, of the runs in float32 that failed; then the others, a line each."""
    grid = {
        (row["threshold"], row["gamma"]): f"{row['failed']} ({row['early']})"
        for row in rows
        if row["failed"] and row["logits"] == "float32"
    }
    gammas = sorted({gamma for _, gamma in grid})
    lines = [_line("digits up to", *(f"gamma {gamma}" for gamma in gammas)), "|---" * 6 + "|"]
    for threshold in sorted({threshold for threshold, _ in grid}):
        lines.append(_line(threshold, *(grid.get((threshold, gamma), "") for gamma in gammas)))
    lines += [
        "",
        _line("loss", "logits", "gamma", "failed at step", "warned at step"),
        "|---" * 5 + "|",
    ]
    for row in rows:
        failed = row["failed"] or f"never in {row['steps']}"
        if not row["failed"] or row["logits"] != "float32":
            warned = row["warned"] or "never"
            lines.append(_line(row["loss"], row["logits"], row["gamma"], failed, warned))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


class Stopwatch:
    """Adds up the seconds that the calls of functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls count."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def cost(*, attached: bool) -> Rounds:
    """Seconds of a step in the guard and not in the loss, and of the whole step; means of a turn.

    The guard's are those of its calls, of its hooks in the backward pass, and of `check` or, where
    it is attached to the optimizer, of what that calls before its step. A turn has as many steps as
    there are from one reading to the next.

    Two trainings side by side, with and without, differ by more than the guard takes, in either
    direction: where the allocator puts things is enough.
    """
    torch.set_num_threads(1)
    spec = read_grid("mnist-quick").base
    model, images = network(spec), mnist5k()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    inputs, targets = images.pixels.float() / 255, (images.labels <= 4).float()
    loss, guards = Stopwatch(), Stopwatch()
    guard = FocalGuard(
        loss.timed(compared_loss("original", gamma=2.0, alpha=0.25, reduction="mean")),
        action="record",
    )
    for name in ("forward", "check", "_before_step"):
        guard.__dict__[name] = guards.timed(getattr(guard, name))
    if attached:
        guard.attach(optimizer)

    def step(batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        logits = model(inputs[batch])
        guard(logits, targets[batch]).backward()
        if not attached:
            guard.check()
        optimizer.step()

    added, steps = [], []
    with ExitStack() as stack:
        for hook in (Incoming, Outgoing):
            stack.enter_context(patch.object(hook, "__call__", guards.timed(hook.__call__)))
        for _ in range(TURNS):
            batches = torch.randint(len(targets), (TURN, spec.training.batch_size))
            loss.seconds = guards.seconds = 0.0
            started = time.perf_counter()
            for batch in batches:
                step(batch)
            steps.append((time.perf_counter() - started) / TURN)
            added.append((guards.seconds - loss.seconds) / TURN)
    return Rounds(added, steps)


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("runs")
    training.add_argument("data", type=Path)
    training.add_argument("--out", type=Path, default=OUT)
    commands.add_parser("table").add_argument("--out", type=Path, default=OUT)
    commands.add_parser("cost")
    given = parser.parse_args(arguments)
    if given.command == "runs":
        run_training(given.data, given.out)
    elif given.command == "table":
        print(table(read(given.out)))
    else:
        for attached in (False, True):
            taken = cost(attached=attached)
            print(
                f"{'attached' if attached else 'by check'}: a step of the MNIST network takes "
                f"{1e3 * median(taken.theirs):.2f} ms, of which the guard has "
                f"{1e6 * median(taken.ours):.0f} us, {median(taken.ratios):.1%}"
            )


if __name__ == "__main__":
    main()
