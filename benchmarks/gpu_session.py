"""A run of benchmarks/gpu.py: its device, its clock, what is measured and how."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu_report import Size
from torch import Tensor

import parfocal

# Seconds after which nothing new is begun; a compilation may take thirty more.
PATIENCE = 330.0

# Seconds of a step that is timed once, and not by Triton's `do_bench`, which takes seven at least.
LONG = 1.0

Loss = Callable[..., Tensor]


class Session:
    """A run: its device, its clock, and what has been found, which is written as it is found."""

    def __init__(self, device: str, size: Size, record: Path | None) -> None:
        self.device, self.size, self.record = device, size, record
        self.begun = time.monotonic()
        self.end = self.begun + PATIENCE
        self.found: dict[str, dict[str, Any]] = {
            kind: {} for kind in ("machine", "correct", "ms", "peak", "kernels", "failed")
        }

    @property
    def is_over(self) -> bool:
        """Whether nothing new is to be begun."""
        return time.monotonic() > self.end

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """After so many seconds nothing new is begun in this block."""
        end, self.end = self.end, min(self.end, time.monotonic() + seconds)
        try:
            yield
        finally:
            self.end = end

    def note(self, kind: str, name: str, value: Any) -> None:
        """Record and print."""
        self.found[kind][name] = value
        print(f"{time.monotonic() - self.begun:5.0f} s  {kind}  {name}: {value}", flush=True)
        if self.record is not None:
            self.record.write_text(json.dumps(self.found, indent=1) + "\n")

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """What fails is a result."""
        try:
            yield
        except Exception as error:
            self.note("failed", name, f"{type(error).__name__}: {str(error)[:300]}")

    def run(self, part: Callable[["Session"], None]) -> None:
        """One part, unless time is over, and nothing of its memory is left."""
        if self.is_over:
            self.note("failed", part.__name__, "no time was left")
            return
        with self.trying(part.__name__):
            part(self)
        gc.collect()
        if self.device == "cuda":
            with self.trying(f"after {part.__name__}"):
                torch.cuda.empty_cache()


def binary(device: str, n: int, dtype: torch.dtype, targets: torch.dtype | None = None) -> Any:
    """Logits, and targets of which one in ten is positive."""
    x = (torch.randn(n, device=device) * 4).to(dtype).requires_grad_()
    return x, (torch.rand(n, device=device) < 0.1).to(targets or dtype)


def classes(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Logits of classes in dimension 1, and indices."""
    x = torch.empty(shape, device=device, dtype=dtype).normal_(0, 2).requires_grad_()
    return x, torch.randint(0, shape[1], (shape[0], *shape[2:]), device=device)


def indices(device: str, shape: tuple[int, int], dtype: torch.dtype) -> Any:
    """Logits (N, C), and a class index a row: nine in ten are C, the background."""
    x = (torch.randn(shape, device=device) * 4).to(dtype).requires_grad_()
    index = torch.randint(0, 10 * shape[1], shape[:1], device=device)
    return x, index.clamp(max=shape[1])


def one_hot(loss: Loss) -> Loss:
    """A loss of indices by way of its one-hot targets, as detectors make them."""

    def of_indices(x: Tensor, index: Tensor, **options: Any) -> Tensor:
        classes = torch.arange(x.shape[1], device=x.device)
        return loss(x, index.unsqueeze(1) == classes, **options)

    return of_indices


def sigmoid(x: Tensor, y: Tensor, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """Ours."""
    return parfocal.sigmoid_focal_loss(x, y, gamma=gamma, reduction=reduction)


def softmax(x: Tensor, index: Tensor, smoothing: float = 0.0) -> Tensor:
    """Ours."""
    return parfocal.softmax_focal_loss(x, index, gamma=2.0, label_smoothing=smoothing)


def softmax_asymmetric(x: Tensor, index: Tensor) -> Tensor:
    """Ours."""
    return parfocal.softmax_asymmetric_loss(x, index)


def likelihood(nll: Tensor) -> Tensor:
    """Ours."""
    return parfocal.likelihood_focal_loss(nll, reduction="mean")


def usual_likelihood(nll: Tensor) -> Tensor:
    """What ours replaces."""
    return ((1 - torch.exp(-nll)) ** 2 * nll).mean()


def torchvision(x: Tensor, y: Tensor, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """What ours replaces."""
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(x, y.to(x.dtype), gamma=gamma, reduction=reduction)


def liger(x: Tensor, index: Tensor) -> Tensor:
    """Liger-Kernel's cross-entropy, which writes into its logits."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy(x.clone(), index)


def compiled(loss: Loss) -> Loss:
    """By torch.compile; without the reset the ninth variant would run uncompiled."""
    torch.compiler.reset()
    return torch.compile(loss, dynamic=False)


def measure(
    session: Session, name: str, loss: Loss, x: Tensor, *data: Tensor, **options: Any
) -> None:
    """Milliseconds of both passes, the peak of memory above the inputs, and how many kernels.

    The peak is a multiple of the gradients.
    """
    if session.is_over:
        session.note("failed", name, "no time was left")
        return
    incoming = options.pop("incoming", None)
    leaves = [tensor for tensor in (x, *data) if tensor.requires_grad]

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def step() -> None:
        clear()
        value = loss(x, *data, **options)
        value.backward(torch.ones_like(value) if incoming is None and value.ndim else incoming)

    with session.trying(name):
        step()
        taken = 0.0
        if session.device == "cuda":
            clear()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, start = torch.cuda.memory_allocated(), time.perf_counter()
            step()
            torch.cuda.synchronize()
            taken = time.perf_counter() - start
            peak = torch.cuda.max_memory_allocated() - before
            session.note("peak", name, round(peak / sum(leaf.nbytes for leaf in leaves), 3))
        is_long = taken > LONG
        session.note("ms", name, 1e3 * taken if is_long else milliseconds(session.device, step))
        if session.device == "cuda" and x.numel() <= 2**10:
            session.note("kernels", name, count_kernels(step))
    clear()


def milliseconds(device: str, step: Callable[[], Any]) -> float:
    """The median of a step."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(step, warmup=50, rep=150, return_mode="median"))
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def count_kernels(step: Callable[[], Any]) -> int:
    """How many kernels a step launches."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    return sum(e.count for e in profile.key_averages() if e.device_type.name == "CUDA")
