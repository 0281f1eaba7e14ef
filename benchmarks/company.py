"""What the losses cost beside other work on the same processor: forward and backward.

    python benchmarks/company.py            everything; writes benchmarks/company.md
    python benchmarks/company.py --quick    fewer cases and rounds, nothing written

Two trainings on a machine, or one that is fed by worker processes, are the normal case. There a
thread waits for its processor, and whoever waits for that thread waits as long. All sides of a
comparison take turns within each round, on the same tensors and beside the same neighbours; the
worst round is printed beside the median.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from losses import Step, binary, classes, mean_of, processor, step, timed
from rounds import Rounds, spread
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as stock

import parfocal
from parfocal import sigmoid_focal_loss, softmax_focal_loss
from parfocal.numerics.cpu.memory import load_constants

HERE = Path(__file__).parent

# A neighbour says when it has begun. It ends when its standard input does: also when this process
# was killed.
_NEIGHBOUR = """
import os, sys, threading
def leave():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=leave, daemon=True).start()
{prepare}
print("ready", flush=True)
while True:
    {work}
"""
BUSY = _NEIGHBOUR.format(prepare="", work="sum(range(10000))")
PRODUCTS = _NEIGHBOUR.format(
    prepare="import torch; torch.set_num_threads(2); x = torch.randn(1024, 1024)", work="x @ x"
)
COMPANY: dict[str, tuple[str, ...]] = {
    "quiet": (),
    "two busy processes": (BUSY, BUSY),
    "products on two threads": (PRODUCTS,),
}


@contextmanager
def company(programs: Sequence[str]) -> Iterator[None]:
    """Processes that run these programs, from their first work to the end of the block."""
    with ExitStack() as stack:
        neighbours = [stack.enter_context(neighbour(program)) for program in programs]
        for process in neighbours:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a neighbour ended before it began")
        yield


@contextmanager
def neighbour(program: str) -> Iterator[subprocess.Popen[str]]:
    """One process, which ends with the block however that is left."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Case(NamedTuple):
    """One loss and what it is compared with.

    prepare: makes the tensors, and gives our step and each of theirs, by name.
    most: the ratios that are aimed at beside a neighbour, by the same names.
    """

    name: str
    prepare: Callable[[], tuple[Step, dict[str, Step]]]
    most: dict[str, float]
    is_quick: bool = False


def elementwise(
    loss: Callable[..., Tensor],
    gamma: float,
    power: int,
    dtype: torch.dtype = torch.float32,
    *,
    is_soft: bool = False,
) -> tuple[Step, dict[str, Step]]:
    """A mean beside torchvision's focal loss and the cross-entropy, of the same tensors."""
    x, y = binary(2**power, dtype)
    targets = y
    if is_soft:
        targets = y * torch.rand(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return step(loss, x, targets, reduction="mean"), {
        "torchvision": step(mean_of(stock, gamma), x, y),
        "BCE with logits": step(F.binary_cross_entropy_with_logits, x, y),
    }


def rows(loss: Callable[..., Tensor], *shape: int) -> tuple[Step, dict[str, Step]]:
    """A loss of class indices beside the cross-entropy."""
    x, index = classes(*shape)
    return step(loss, x, index), {"F.cross_entropy": step(F.cross_entropy, x, index)}


def maps(loss: Callable[..., Tensor]) -> tuple[Step, dict[str, Step]]:
    """A loss of binary maps beside torchvision's focal loss and the cross-entropy."""
    x, y = binary(2**22)
    shape = (16, 4, 256, 256)
    x, y = x.detach().view(shape).requires_grad_(), y.view(shape)
    return step(loss, x, y), {
        "torchvision": step(mean_of(stock), x, y),
        "BCE with logits": step(F.binary_cross_entropy_with_logits, x, y),
    }


def cases() -> Iterator[Case]:
    """All of them."""
    most = {"torchvision": 0.5, "BCE with logits": 1.5}
    for gamma, dtype in (
        (0.5, torch.float32),
        (2.0, torch.float32),
        (0.3, torch.float32),
        (0.5, torch.bfloat16),
    ):
        loss = partial(sigmoid_focal_loss, gamma=gamma)
        name = f"sigmoid, {str(dtype).removeprefix('torch.')}, 2^24, gamma {gamma:g}"
        prepare = partial(elementwise, loss, gamma, 24, dtype)
        yield Case(name, prepare, most, is_quick=(gamma, dtype) == (0.5, torch.float32))
    for power in (20, 18, 16):
        loss = partial(sigmoid_focal_loss, gamma=0.5)
        prepare = partial(elementwise, loss, 0.5, power)
        yield Case(f"sigmoid, float32, 2^{power}", prepare, most, is_quick=power == 20)
    for loss, is_soft in (
        (parfocal.poly_focal_loss, False),
        (parfocal.gaussian_focal_loss, False),
        (parfocal.asymmetric_loss, False),
        (parfocal.varifocal_loss, True),
        (parfocal.quality_focal_loss, True),
    ):
        prepare = partial(elementwise, loss, 2.0, 22, is_soft=is_soft)
        yield Case(f"{loss.__name__}, 2^22", prepare, most)
    for shape in ((65536, 21), (65536, 1000), (8192, 32000), (4, 21, 512, 512)):
        prepare = partial(rows, partial(softmax_focal_loss, gamma=0.5), *shape)
        yield Case(f"softmax, {shape}", prepare, {"F.cross_entropy": 1.5}, len(shape) == 4)
    prepare = partial(maps, parfocal.sigmoid_tversky_loss)
    yield Case("sigmoid_tversky_loss, 2^22", prepare, most)
    prepare = partial(rows, parfocal.softmax_tversky_loss, 16, 4, 256, 256)
    yield Case("softmax_tversky_loss, 2^22", prepare, {"F.cross_entropy": 1.5})


def measure(case: Case, count: int) -> dict[str, Rounds]:
    """So many rounds of all sides in turn, after one that doesn't count, by whom we are against."""
    ours, theirs = case.prepare()
    first = sum(timed(run) for run in (ours, *theirs.values()))
    inner = max(1, int(20.0 / first))
    columns: dict[str, list[float]] = {name: [] for name in ("", *theirs)}
    for _ in range(count):
        for name, run in {"": ours, **theirs}.items():
            columns[name].append(timed(run, inner))
    return {name: Rounds(columns[""], columns[name]) for name in theirs}


def lines(quick: bool = False) -> Iterator[tuple[str, ...]]:
    """A row of the table for each case, neighbour and opponent, as soon as it is measured."""
    chosen = [case for case in cases() if case.is_quick or not quick]
    for neighbours, programs in COMPANY.items():
        with company(programs):
            for case in chosen:
                for against, result in measure(case, 3 if quick else 9).items():
                    most = case.most[against] if programs else None
                    yield line(case.name, neighbours, against, most, result)


def line(
    name: str, neighbours: str, against: str, most: float | None, result: Rounds
) -> tuple[str, ...]:
    """One row."""
    ratio = median(result.ratios)
    return (
        name,
        neighbours,
        against,
        "" if most is None else f"{most:g}",
        spread(result.ratios),
        f"{max(result.ratios):.2f}",
        f"{median(result.ours):.3g} ({max(result.ours):.3g})",
        f"{median(result.theirs):.3g} ({max(result.theirs):.3g})",
        "" if most is None else "yes" if ratio <= most else "**no**",
    )


def report(table: Sequence[tuple[str, ...]]) -> str:
    """company.md."""
    body = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"""# What the losses cost in company

Made by `make bench`. Ratios of times, forward and backward, of means, all sides in turn within one
run on the same tensors: the median of the rounds, and their quartiles; the ratio of the worst
round; and milliseconds, with those of the worst round.

{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}.

| what | beside | against | at most | ratio | worst | ours, ms | theirs, ms | met |
|---|---|---|---|---|---|---|---|---|
{body}
"""


def main() -> None:
    """Measure; write unless quick."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(2)
    load_constants()  # as ours do: nobody is to depend on who comes first
    table = []
    for row in lines(quick):
        table.append(row)
        print("  ".join(row), flush=True)
    if not quick:
        HERE.joinpath("company.md").write_text(report(table))


if __name__ == "__main__":
    main()
