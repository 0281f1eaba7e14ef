"""What bounds the losses: one pass over memory, the vector mathematics, the calls.

    python benchmarks/bounds.py        prints the table of docs/speed.md, in half a minute

All within one run, medians. A step of vector mathematics is timed on a block that is in the cache,
and counted for 2^24 logits.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from losses import binary, classes, mean_of, step
from torch import Tensor

from parfocal import sigmoid_focal_loss, softmax_focal_loss
from parfocal.numerics.cpu.memory import fresh, load_constants

LARGE, BLOCK, SMALL = 2**24, 2**18, 2**10


def milliseconds(run: Callable[[], object], rounds: int = 9, inner: int = 1) -> float:
    """The median of some rounds, after one that doesn't count."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(inner):
            run()
        times.append((time.perf_counter() - start) * 1000 / inner)
    return median(times)


class Nothing(torch.autograd.Function):
    """A Function of no arithmetic: what autograd asks for a gradient that is there already."""

    @staticmethod
    def forward(ctx: object, x: Tensor, gradient: Tensor) -> Tensor:
        """One number."""
        ctx.gradient = gradient  # type: ignore[attr-defined]
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient."""
        return ctx.gradient, None  # type: ignore[attr-defined]


def rows() -> list[tuple[str, float]]:
    """What is timed, and milliseconds."""
    x, y = binary(LARGE)
    plain, out = x.detach(), fresh(x.shape, x.dtype).fill_(0)
    block = plain[:BLOCK].clone()
    wide, share = block.double(), torch.rand(BLOCK)

    def for_all(run: Callable[[], object]) -> float:
        return milliseconds(run, inner=10) * LARGE / BLOCK

    small, few = x.detach()[:SMALL].clone().requires_grad_(), y[:SMALL].clone()
    given = torch.zeros_like(small)
    short, index = classes(65536, 21)
    flat, place = short.detach(), torch.empty_like(short)

    def touched() -> None:
        fresh(x.shape, x.dtype).fill_(0)

    return [
        (
            "2^24: logits, targets and gradient once through memory",
            milliseconds(lambda: torch.add(plain, y, out=out)),
        ),
        ("2^24: first touch of the gradient, in huge pages", milliseconds(touched)),
        ("2^24: exp in float32", for_all(block.exp)),
        (
            "2^24: exp in float64, with both conversions",
            for_all(lambda: block.double().exp_().float()),
        ),
        ("2^24: log1p in float32", for_all(share.log1p)),
        ("2^24: power 0.5", for_all(lambda: share.pow(0.5))),
        ("2^24: power 0.3", for_all(lambda: share.pow(0.3))),
        ("2^24: division in float64", for_all(lambda: wide / wide)),
        (
            "2^24: sigmoid_focal_loss, gamma 0.5",
            milliseconds(step(mean_of(sigmoid_focal_loss, 0.5), x, y)),
        ),
        (
            "2^24: sigmoid_focal_loss, gamma 0.3",
            milliseconds(step(mean_of(sigmoid_focal_loss, 0.3), x, y)),
        ),
        (
            "2^10: a Function that does nothing, and its backward pass",
            milliseconds(step(lambda z, w: Nothing.apply(z, given), small, few), inner=200),
        ),
        ("2^10: one product of two tensors", milliseconds(lambda: few * few, inner=2000)),
        (
            "2^10: sigmoid_focal_loss",
            milliseconds(step(mean_of(sigmoid_focal_loss, 0.5), small, few), inner=200),
        ),
        ("(65536, 21): exp", milliseconds(lambda: torch.exp(flat, out=place), inner=20)),
        ("(65536, 21): softmax", milliseconds(lambda: torch.softmax(flat, 1, out=place), inner=20)),
        ("(65536, 21): sum of each row", milliseconds(lambda: flat.sum(1), inner=20)),
        (
            "(65536, 21): softmax_focal_loss, gamma 0.5",
            milliseconds(
                step(lambda z, i: softmax_focal_loss(z, i, gamma=0.5), short, index), inner=20
            ),
        ),
    ]


if __name__ == "__main__":
    torch.set_num_threads(2)
    load_constants()
    print("| what | ms |\n|---|---|")
    for name, spent in rows():
        print(f"| {name} | {spent:.3g} |", flush=True)
