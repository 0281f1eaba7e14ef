"""What the loss of a linear map takes in memory and time, beside all logits at once.

    python benchmarks/linear.py                                       # the table, into linear.md
    python benchmarks/linear.py ours 8192 4096 128256 bfloat16        # one line, printed

A way runs in a process of its own, forward and backward. Its peak is what the process had in memory
at most (VmHWM of Linux) beyond what it had before the inputs were made.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import parfocal

PAGE = Path(__file__).with_name("linear.md")
ROWS, FEATURES = 2048, 512
VOCABULARIES = (8192, 32768, 131072)
HEAD = f"""# The loss of a linear map

Made by `python benchmarks/linear.py`: forward and backward of {ROWS} rows of {FEATURES} features in
float32, gamma 2 where there is one. Peak memory beyond what the process had before, as a
multiple of inputs and gradients together, in brackets; seconds of one call, with whatever else
the machine did. Liger's kernels need a GPU.

"""


def textbook(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The focal loss as it is written most often."""
    ce = cross_entropy(linear(x, weight), targets, reduction="none")
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


def chunked(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """PyTorch's own cross-entropy of a linear map, in chunks."""
    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(x, weight, targets, options=options)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": parfocal.linear_softmax_focal_loss,
    "softmax_focal_loss": lambda x, w, y: parfocal.softmax_focal_loss(linear(x, w), y),
    "textbook": textbook,
    "F.cross_entropy": lambda x, w, y: cross_entropy(linear(x, w), y),
    "F.linear_cross_entropy": chunked,
}


def memory(what: str) -> int:
    """A line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def draw(rows: int, features: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Features, a weight that keeps logits moderate, and classes."""
    torch.manual_seed(0)
    x = torch.randn(rows, features, dtype=dtype)
    weight = torch.randn(classes, features, dtype=dtype) * features**-0.5
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(classes, (rows,))


def measure(way: str, *shape: int, dtype: torch.dtype) -> tuple[float, float, float]:
    """Peak memory in bytes, as a multiple of inputs and gradients, and seconds; in this process."""
    loss = WAYS[way]
    loss(*draw(64, 64, 1000, dtype)).backward()  # what is loaded once
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = memory("VmRSS")
    x, weight, targets = draw(*shape, dtype)
    start = time.perf_counter()
    loss(x, weight, targets).backward()
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") - before
    return peak, peak / (2 * (x.nbytes + weight.nbytes)), seconds


def in_a_process(way: str, classes: int) -> str:
    """A cell of the table."""
    command = [sys.executable, __file__, way, str(ROWS), str(FEATURES), str(classes), "float32"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """The table, or one line of it."""
    if len(sys.argv) > 1:
        way, *shape, name = sys.argv[1:]
        peak, ratio, seconds = measure(way, *map(int, shape), dtype=getattr(torch, name))
        print(f"{peak / 1e6:.0f} MB ({ratio:.2f}), {seconds:.1f} s")
        return
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads.", ""]
    lines.append(f"| way | {' | '.join(f'{c} classes' for c in VOCABULARIES)} |")
    lines.append("|---" * (len(VOCABULARIES) + 1) + "|")
    for way in WAYS:
        cells = [in_a_process(way, classes) for classes in VOCABULARIES]
        lines.append(f"| {way} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
