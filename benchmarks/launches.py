"""What the losses launch and move on a device without a kernel, counted without that device.

    python benchmarks/launches.py                   everything; writes benchmarks/launches.md
    python benchmarks/launches.py --each softmax    the operations of the rows that are named so

MPS, XPU, CUDA without Triton and float64 on CUDA run the losses as torch's own operations, of which
each is a launch that reads its inputs and writes its results. On meta tensors the same operations
run without numbers, and a dispatch mode sees them. That nothing fails there also shows that the
losses never wait for the device.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import sigmoid_focal_loss as stock

import parfocal
from parfocal import sigmoid_focal_loss, softmax_focal_loss

OUT = Path(__file__).with_suffix(".md")

Loss = Callable[..., Tensor]

# Another view of the same memory, or nothing but its shape.
VIEWS = {
    "_unsafe_view",
    "alias",
    "as_strided",
    "detach",
    "expand",
    "is_same_size",
    "permute",
    "select",
    "slice",
    "squeeze",
    "t",
    "transpose",
    "unsqueeze",
    "view",
}
# Memory without contents.
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
# Their inputs are shapes, and never read.
ONLY_WRITTEN = {
    "arange",
    "fill_",
    "full",
    "full_like",
    "new_full",
    "new_ones",
    "new_zeros",
    "ones",
    "ones_like",
    "scalar_tensor",
    "zero_",
    "zeros",
    "zeros_like",
}


class Operation(NamedTuple):
    """One launch: in which pass, of what, and the bytes that it reads and writes."""

    phase: str
    name: str
    moved: int


class Count(TorchDispatchMode):
    """The launches of what runs inside, and the most memory that their results take.

    Operations that ATen composes of others on a GPU, and doesn't on meta tensors, are unfolded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "forward"
        self.operations: list[Operation] = []
        self.peak = 0
        self._storages: dict[StorageWeakRef, int] = {}

    def in_use(self) -> int:
        """Bytes of all results that still exist."""
        self._storages = {s: size for s, size in self._storages.items() if not s.expired()}
        return sum(self._storages.values())

    def total(self, phase: str) -> tuple[int, int]:
        """Launches and bytes of a pass."""
        moved = [operation.moved for operation in self.operations if operation.phase == phase]
        return len(moved), sum(moved)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, function._schema.name.partition("::")[2]
        if name == "binary_cross_entropy_with_logits":
            with self:
                return bce_with_logits(*args, **kwargs)
        if name == "masked_fill":
            with self:
                return args[0].clone().masked_fill_(*args[1:], **kwargs)
        result = function(*args, **kwargs)
        if name not in VIEWS:
            results = tensors(result)
            self._watch(results)
            if name not in EMPTY:
                self._launch(name, args, tensors((args, kwargs)), results)
        return result

    def _watch(self, results: Iterable[Tensor]) -> None:
        for storage in (result.untyped_storage() for result in results):
            self._storages.setdefault(StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.in_use())

    def _launch(self, name: str, args: Any, inputs: list[Tensor], results: list[Tensor]) -> None:
        """What an operation moves: all of its inputs and results, but for those that index."""
        reads, writes = inputs, results
        if name in ONLY_WRITTEN:
            reads = []
        elif name == "gather":
            reads = [args[2], *results]
        elif name in ("index", "index_select"):
            reads = [*inputs[1:], *results]
        elif name in ("scatter", "scatter_add"):
            self._move("clone", [args[0]], results)
            reads, writes = scattered(args)
        elif name in ("scatter_", "scatter_add_"):
            reads, writes = scattered(args)
        elif name in ("nll_loss_forward", "nll_loss2d_forward"):  # an index and a number a row
            reads, writes = [args[1], args[1]], results[:1]
        elif name in ("nll_loss_backward", "nll_loss2d_backward"):
            self._move("zero", [], results)
            reads, writes = [args[2]], [args[2]]
        elif name == "log_sigmoid_forward":  # its buffer is empty but on a CPU
            writes = results[:1]
        self._move(name, reads, writes)

    def _move(self, name: str, reads: Iterable[Tensor], writes: Iterable[Tensor]) -> None:
        read = {id(tensor): tensor for tensor in reads}.values()
        moved = sum(map(size, read)) + sum(map(size, writes))
        self.operations.append(Operation(self.phase, name, moved))


def bce_with_logits(
    x: Tensor, y: Tensor, weight: None = None, pos_weight: None = None, reduction: int = 1
) -> Tensor:
    """As ATen composes it: (1 - y) x - logsigmoid(x)."""
    loss = (1 - y).mul_(x).sub_(F.logsigmoid(x))
    return (lambda loss: loss, torch.mean, torch.sum)[reduction](loss)


def scattered(args: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """What a scatter reads and writes: an index and, if it has one, a number for each."""
    values = tensors(args[2:])
    return values, values[1:] or values


def size(tensor: Tensor) -> int:
    """Bytes of its own elements: a dimension that was expanded counts once."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride else 1
    return elements * tensor.element_size()


def tensors(tree: object) -> list[Tensor]:
    """All of them in arguments or results."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Case(NamedTuple):
    """A loss by the name of its row, with its logits and targets; what is counted is per logit."""

    name: str
    whose: str
    loss: Loss
    x: Tensor
    y: Tensor

    def count(self) -> tuple[Count, int]:
        """Forward and backward of one call, and the bytes that are saved in between.

        The losses take a dispatch mode for a tracer, which they give plain operations to record.
        A GPU's call isn't traced: there the closed gradients are what runs, and what is counted.
        And torch refuses to say whether meta tensors have an autocast.
        """
        x = self.x.detach().requires_grad_()
        with (
            patch.object(torch._C, "_len_torch_dispatch_stack", return_value=0),
            patch.object(torch, "is_autocast_enabled", return_value=False),
            Count() as count,
        ):
            value = self.loss(x, self.y)
            saved, count.phase = count.in_use(), "backward"
            value.backward(torch.ones_like(value))
        return count, saved


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without contents."""
    return torch.empty(shape, dtype=dtype, device="meta")


def cases() -> Iterator[Case]:
    """All rows."""
    for dtype in (torch.float32, torch.bfloat16):
        yield from elementwise(dtype)
        yield from of_classes(dtype)
    yield from of_maps()


def elementwise(dtype: torch.dtype) -> Iterator[Case]:
    """The binary loss, gamma 2, of targets like the logits."""
    x = meta(2**24, dtype=dtype)
    for reduction in ("mean", "none"):
        name = f"sigmoid, {short(dtype)}, {reduction}"
        for whose, loss in (("parfocal", sigmoid_focal_loss), ("torchvision", stock)):
            yield Case(name, whose, partial(loss, gamma=2.0, reduction=reduction), x, x)
        bce = partial(F.binary_cross_entropy_with_logits, reduction=reduction)
        yield Case(name, "BCE with logits", bce, x, x)


def of_classes(dtype: torch.dtype) -> Iterator[Case]:
    """The multiclass loss, gamma 2, of class indices."""
    ours, theirs = partial(softmax_focal_loss, gamma=2.0), F.cross_entropy
    for shape, how, options in (
        ((65536, 1000), "", {}),
        ((4, 21, 512, 512), "", {}),
        ((8192, 32000), "", {}),
        ((65536, 1000), ", none", {"reduction": "none"}),
        ((65536, 1000), ", smoothed labels", {"label_smoothing": 0.1}),
    ):
        x, index = meta(*shape, dtype=dtype), meta(shape[0], *shape[2:], dtype=torch.int64)
        name = f"softmax, {short(dtype)}, {shape}{how}"
        for whose, loss in (("parfocal", ours), ("F.cross_entropy", theirs)):
            yield Case(name, whose, partial(loss, **options), x, index)


def of_maps() -> Iterator[Case]:
    """Segmentations, beside the cross-entropy of the same maps."""
    x, index = meta(4, 21, 512, 512), meta(4, 512, 512, dtype=torch.int64)
    name = f"maps, float32, {tuple(x.shape)}"
    for loss in (
        parfocal.sigmoid_tversky_loss,
        parfocal.sigmoid_unified_focal_loss,
    ):
        yield Case(name, loss.__name__, loss, x, x)
    yield Case(name, "BCE with logits", F.binary_cross_entropy_with_logits, x, x)
    for loss in (
        parfocal.softmax_tversky_loss,
        parfocal.softmax_unified_focal_loss,
        F.cross_entropy,
    ):
        whose = "F.cross_entropy" if loss is F.cross_entropy else loss.__name__
        yield Case(name, whose, loss, x, index)


def short(dtype: torch.dtype) -> str:
    """Its name without torch's."""
    return str(dtype).removeprefix("torch.")


def line(case: Case, count: Count, saved: int) -> tuple[str, ...]:
    """One row."""
    (forward, read), (backward, gradient) = count.total("forward"), count.total("backward")
    n = case.x.numel()
    return (
        case.name,
        case.whose,
        f"{forward} + {backward}",
        f"{read / n:.1f} + {gradient / n:.1f} = {(read + gradient) / n:.1f}",
        f"{count.peak / n:.1f}",
        f"{saved / n:.1f}",
    )


def report(table: Iterable[tuple[str, ...]]) -> str:
    """launches.md."""
    body = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"""# What the losses launch on a device without a kernel

Made by `make bench`. Counted, not measured: the launches of forward and backward on MPS, XPU, CUDA
without Triton or in float64, and the bytes that they read and write, for each logit; the most bytes
for each logit that exist at once beside logits and targets, and those that wait for the backward
pass. A float32 tensor of the size of the logits is 4 bytes.

torch {torch.__version__}, torchvision {torchvision.__version__}.

| what | whose | launches | bytes moved | peak | saved |
|---|---|---|---|---|---|
{body}
"""


def main() -> None:
    """Count; write, unless the operations of some rows are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", metavar="NAME", help="each operation of the rows of this name")
    each = parser.parse_args().each
    table = []
    for case in cases():
        if each is not None and each not in f"{case.name}, {case.whose}":
            continue
        count, saved = case.count()
        table.append(line(case, count, saved))
        print("  ".join(table[-1]), flush=True)
        for phase, name, moved in count.operations if each is not None else ():
            print(f"    {phase:8} {name:32} {moved / case.x.numel():6.2f}")
    if each is None:
        OUT.write_text(report(table))


if __name__ == "__main__":
    main()
