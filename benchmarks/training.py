"""What a training costs beside a bare loop, and two trainings beside one.

    python benchmarks/training.py

The bare loop has the same network, batches and loss, floats in memory, and PyTorch's optimizer over
the layers; the training adds noise, conversion from bytes, the looks at loss, gradient and
parameters, metrics, record and display. Both take turns of 40 steps in one process on one thread;
the ratio of each pair of turns is taken, and the median quoted.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from parfocal.experiments.compared import LOSS_NAMES, LossName, compared_loss
from parfocal.experiments.data import Images, mnist5k
from parfocal.experiments.display import Pace, TrainingDisplay
from parfocal.experiments.models import digit_cnn
from parfocal.experiments.record import Recorder
from parfocal.experiments.spec import MnistSpec
from parfocal.experiments.trainer import Epoch, Step, train

TURN = 40
TURNS = 60


def bare_loop(spec: MnistSpec, data: Images) -> Iterator[None]:
    """Nothing but the training; one item a step."""
    model = digit_cnn(spec.seed_of("parameters"))
    optimizer = torch.optim.SGD(model.parameters(), spec.learning_rate, spec.momentum)
    loss_function = compared_loss(spec.loss, alpha=spec.alpha, gamma=spec.gamma, reduction="mean")
    inputs = data.pixels.unsqueeze(1).float() / 255
    targets = (data.labels <= spec.threshold).float()
    while True:
        for indices in torch.randperm(len(targets)).split(spec.batch_size):
            loss = loss_function(model(inputs[indices]), targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def whole_training(spec: MnistSpec, data: Images, directory: Path) -> Iterator[None]:
    """As the command runs it, on a terminal that nobody sees; one item a step."""
    with (
        open(os.devnull, "w") as nowhere,
        Recorder(directory, spec, overwrite=True) as recorder,
        TrainingDisplay(Console(file=nowhere, force_terminal=True, width=120), [spec]) as display,
    ):
        pace = Pace()
        for event in train(spec, data):
            match event:
                case Step():
                    recorder.step = event.step
                    if (images_per_second := pace.add(event.images)) is not None:
                        display.step(0, event, images_per_second)
                    yield
                case Epoch():
                    recorder.epoch(event)


def seconds(steps: Iterator[None], count: int) -> float:
    """How long the next steps take."""
    begin = time.perf_counter()
    for _ in range(count):
        next(steps)
    return time.perf_counter() - begin


def overhead(loss: LossName, noise: float, data: Images) -> list[float]:
    """Time of the whole training over that of the bare loop, turn by turn."""
    spec = MnistSpec(loss=loss, gamma=0.5, noise=noise, epochs=10_000)
    with tempfile.TemporaryDirectory() as directory:
        bare, whole = bare_loop(spec, data), whole_training(spec, data, Path(directory))
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
        whole.close()
    return ratios


def _work(barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    spec = MnistSpec(loss="exact", epochs=10_000)
    with tempfile.TemporaryDirectory() as directory:
        steps = whole_training(spec, mnist5k(), Path(directory))
        seconds(steps, TURN)
        barrier.wait()
        results.put(seconds(steps, 15 * TURN))
        barrier.wait()
        steps.close()


def together(processes: int) -> float:
    """Median time of 600 steps in each of some processes that run at once."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_work, args=(barrier, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    times = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return statistics.median(times)


def main() -> None:
    """Print both comparisons."""
    torch.set_num_threads(1)
    data = mnist5k()
    for loss in LOSS_NAMES:
        for noise in (0.0, 0.5):
            ratios = overhead(loss, noise, data)
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{loss:<8} noise {noise}: whole training / bare loop, median {middle:.3f} "
                f"(quartiles {low:.3f} to {high:.3f}, {TURNS} turns of {TURN} steps)",
                flush=True,
            )
    pairs = [(together(1), together(2)) for _ in range(5)]
    ratio = statistics.median(two / one for one, two in pairs)
    print(f"two at once / one alone: median {ratio:.3f} of {len(pairs)} pairs")


if __name__ == "__main__":
    sys.exit(main())
