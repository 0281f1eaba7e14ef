"""What a training costs beside a bare loop, what its record costs, and two jobs beside one.

    python benchmarks/training.py [loop] [record] [jobs] [mnist DATA_DIR]

loop: the bare loop has the same network, batches and loss, floats in memory, and PyTorch's
optimizer over the layers; the training adds noise, conversion from bytes, and the looks at loss,
gradient and parameters. Both take turns of 40 steps in one process on one thread.
record: a whole run with progress, metrics, display, and a checkpoint a second, 60 times as often
as by default, over the time in which it draws its events; and the share of a core that the
display's own thread takes, which draws ten times a second.
jobs: six runs on one worker and on two, on both engines, with the workers warm.
mnist: epochs of the whole MNIST, two runs at once on two workers, in model-epochs a second.

Ratios are of neighbours in time; medians are quoted, with quartiles.
"""

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from parfocal.experiments.data import Images, Sources, mnist5k
from parfocal.experiments.losses import LOSS_NAMES, compared_loss
from parfocal.experiments.models import network
from parfocal.experiments.run.engines import Engine, Processes, Ray
from parfocal.experiments.run.events import Event, Step
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.progress import RunProgress
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.sweep import sweep
from parfocal.experiments.run.trainer import Trainer
from parfocal.experiments.run.training import RunOptions, run_training
from parfocal.experiments.show.display import TrainingDisplay
from parfocal.experiments.spec import RunSpec

TURN = 40
TURNS = 30
PAIRS = 12
EPOCHS = 20
ROUNDS = 4

# Seconds an epoch of the authors' published script on two cores: the lower end of 35 to 40.
PUBLISHED_SCRIPT = 35.0


def spec_of(**settings: object) -> RunSpec:
    """Digits up to 0 of the 5,000, exact, for longer than any measurement."""
    base = read_grid("mnist-quick").base
    return base.with_settings({"loss": "exact", "gamma": 0.5, "epochs": 10_000, **settings})


def bare_loop(spec: RunSpec, data: Images) -> Iterator[None]:
    """Nothing but the training; one item a step."""
    model = network(spec)
    training, objective = spec.training, spec.objective
    optimizer = torch.optim.SGD(model.parameters(), training.learning_rate, training.momentum)
    loss_function = compared_loss(
        objective.loss, alpha=objective.alpha, gamma=objective.gamma, reduction="mean"
    )
    inputs = data.pixels.float() / 255
    targets = (data.labels <= spec.value("threshold")).float()
    while True:
        for indices in torch.randperm(len(targets)).split(training.batch_size):
            loss = loss_function(model(inputs[indices]), targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def seconds(steps: Iterator[object], count: int) -> float:
    """How long the next steps take."""
    begin = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - begin


def loop() -> None:
    """The training over the bare loop, turn by turn."""
    data = mnist5k()
    for loss in LOSS_NAMES:
        for noise in (0.0, 0.5):
            spec = spec_of(loss=loss, noise=noise)
            bare, whole = bare_loop(spec, data), Trainer(spec, data, look=1).events()
            seconds(bare, TURN)
            seconds(whole, TURN)
            ratios = []
            for turn in range(TURNS):
                # Which goes first alternates, so that a drift of the machine cancels.
                if turn % 2:
                    b, w = seconds(bare, TURN), seconds(whole, TURN)
                else:
                    w, b = seconds(whole, TURN), seconds(bare, TURN)
                ratios.append(w / b)
            show(f"{loss} noise {noise}: training / bare loop", ratios)


def _show_progress(display: TrainingDisplay, progress: RunProgress) -> None:
    display.step(0, progress, progress.images_per_second)


def record() -> None:
    """A whole run over the time in which it draws its events; both within one run."""
    mnist5k()  # read once, before any measurement
    spec = spec_of(epochs=EPOCHS)
    settings = RunOptions(checkpoint_seconds=1.0)
    ratios = []
    for _ in range(PAIRS):
        with (
            tempfile.TemporaryDirectory() as directory,
            open(os.devnull, "w") as nowhere,
            TrainingDisplay(Console(file=nowhere, force_terminal=True, width=120), [spec]) as live,
            _drawing_timed() as drawing,
        ):
            show_progress = functools.partial(_show_progress, live)
            begin = time.perf_counter()
            run_training(spec, Path(directory), settings, Session(), watch=show_progress)
            ratios.append((time.perf_counter() - begin) / sum(drawing))
    show("record, display and a checkpoint a second / events alone", ratios)
    show(
        "share of a core that the display's thread takes", [_refresh_share() for _ in range(PAIRS)]
    )


def _refresh_share() -> float:
    with (
        open(os.devnull, "w") as nowhere,
        TrainingDisplay(Console(file=nowhere, force_terminal=True, width=120), [spec_of()]) as live,
    ):
        live.step(0, Step(0, 1, 100, 50, 0.1, 0.5, 2.0), 5000.0)
        begin = time.process_time()
        time.sleep(1)
        return time.process_time() - begin


@contextmanager
def _drawing_timed() -> Iterator[list[float]]:
    """The seconds that each event of a training takes, while the context lasts."""
    seconds_of_events: list[float] = []
    events = Trainer.events

    def timed(self: Trainer) -> Iterator[Event]:
        drawn = events(self)
        while True:
            begin = time.perf_counter()
            event = next(drawn, None)
            seconds_of_events.append(time.perf_counter() - begin)
            if event is None:
                return
            yield event

    Trainer.events = timed  # type: ignore[method-assign]
    try:
        yield seconds_of_events
    finally:
        Trainer.events = events  # type: ignore[method-assign]


@contextmanager
def warm(engine: Engine, workers: int) -> Iterator[Engine]:
    """An engine whose workers have imported everything."""
    with engine, tempfile.TemporaryDirectory() as directory:
        runs = [spec_of(epochs=2, seed=seed) for seed in range(workers)]
        sweep(runs, Path(directory), engine, RunOptions(), Session())
        yield engine


def sweep_seconds(engine: Engine, runs: Sequence[RunSpec], settings: RunOptions) -> float:
    """How long a sweep takes."""
    with tempfile.TemporaryDirectory() as directory:
        begin = time.perf_counter()
        sweep(runs, Path(directory), engine, settings, Session())
        return time.perf_counter() - begin


def jobs() -> None:
    """Throughput of two workers over that of one, on both engines."""
    runs = [spec_of(epochs=5, seed=seed) for seed in range(6)]

    engines: dict[str, Callable[[int], Engine]] = {
        "processes": Processes,
        "ray": lambda workers: Ray("local", jobs=workers),
    }
    for name, engine in engines.items():
        ratios = []
        for _ in range(ROUNDS):
            alone, together = (warm_seconds(engine(n), n, runs) for n in (1, 2))
            ratios.append(alone / together)
        show(f"{name}: throughput of two jobs / of one", ratios)


def warm_seconds(engine: Engine, workers: int, runs: Sequence[RunSpec]) -> float:
    """How long a sweep takes at an engine whose workers have imported everything."""
    with warm(engine, workers):
        return min(sweep_seconds(engine, runs, RunOptions()) for _ in range(2))


def mnist(data_dir: str) -> None:
    """Model-epochs a second of two runs at once on the whole MNIST."""
    runs = [spec_of(source="mnist", epochs=2, seed=seed) for seed in (1, 2)]
    settings = RunOptions(sources=Sources(data_dir=Path(data_dir).resolve()))
    with warm(Processes(2), 2) as engine:
        rates = [4 / sweep_seconds(engine, runs, settings) for _ in range(3)]
    rate = statistics.median(rates)
    print(
        f"whole MNIST, two runs at once: {rate:.3f} model-epochs/s, {2 / rate:.1f} s an epoch of "
        f"each; {rate * PUBLISHED_SCRIPT:.1f} times one in {PUBLISHED_SCRIPT:g} s"
    )


def show(what: str, ratios: Sequence[float]) -> None:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{what}: median {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {len(ratios)} pairs)")


def main(arguments: Sequence[str]) -> None:
    """What was asked for, or all that needs no data set."""
    torch.set_num_threads(1)
    chosen = list(arguments) or ["loop", "record", "jobs"]
    while chosen:
        match chosen.pop(0):
            case "loop":
                loop()
            case "record":
                record()
            case "jobs":
                jobs()
            case "mnist":
                mnist(chosen.pop(0))
            case other:
                sys.exit(f"expected loop, record, jobs or mnist DATA_DIR, got {other!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
