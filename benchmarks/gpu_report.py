"""The targets of benchmarks/gpu.py, and what is told of what was measured."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Size(NamedTuple):
    """How large what is measured is."""

    flat: tuple[int, ...] = (2**10, 2**20, 2**26)
    shapes: tuple[tuple[int, ...], ...] = (
        (65536, 1000),
        (4, 21, 512, 512),
        (8192, 32000),
        (2048, 128256),
    )
    rows: tuple[int, int] = (2**20, 80)
    copied: int = 2**28
    beyond_int32: int = 2**31 + 2**20
    linear: tuple[int, int, int] = (8192, 4096, 128256)
    linear_checked: tuple[int, int, int] = (512, 256, 2**16)


TINY = Size(
    (2**10, 2**12),
    ((64, 100), (2, 5, 8, 8)),
    (64, 80),
    2**12,
    2**14,
    (64, 16, 300),
    (200, 16, 300),
)


class Row(NamedTuple):
    """A line of the table: a ratio of two measured numbers, and what it is to be.

    kind: of the numbers, times or peaks of memory.
    """

    what: str
    ours: str
    theirs: str
    bound: float
    is_least: bool = False
    kind: str = "ms"


def rows(size: Size) -> Iterator[Row]:
    """The targets, with sizes as powers of two where they are read."""
    for row in _rows(size):
        what = row.what
        for n in size.flat:
            what = what.replace(f" {n} ", f" 2^{n.bit_length() - 1} ")
        yield row._replace(what=what)


def _rows(size: Size) -> Iterator[Row]:
    """The targets; keys of times are `whose loss dtype shape`."""
    small, large = f"{size.flat[0]}", f"{size.flat[-1]}"
    for dtype in ("float32", "bfloat16"):
        for gamma in (0.5, 2.0):
            name = f"sigmoid {dtype} {large} gamma {gamma:g}"
            yield Row(f"{name} / torchvision", f"parfocal {name}", f"torchvision {name}", 0.06)
    for dtype, gamma, bound in (
        ("float32", 0.5, 0.55),
        ("float32", 2.0, 0.75),
        ("float32", 0.3, 0.45),
        ("bfloat16", 0.5, 0.5),
        ("bfloat16", 2.0, 0.5),
    ):
        name = f"sigmoid {dtype} {large} gamma {gamma:g}"
        theirs = f"torchvision compiled {name}"
        yield Row(f"{name} / torchvision compiled", f"parfocal {name}", theirs, bound)
    name = f"sigmoid float32 {large} gamma 2"
    yield Row(f"{name} / BCE", f"parfocal {name}", f"BCE float32 {large}", 0.20)
    yield Row(f"{name} / BCE compiled", f"parfocal {name}", f"BCE compiled float32 {large}", 0.75)
    for dtype, width, bound in (("float32", 12, 0.8), ("bfloat16", 6, 0.7)):
        name = f"sigmoid {dtype} {large} gamma 2"
        what = f"{name}: share of the bandwidth of a copy, at {width} bytes an element"
        yield Row(what, f"copy {width}", f"parfocal {name}", bound, is_least=True)
    for shape, dtype, how, bound in (
        ((65536, 1000), "float32", "", 0.40),
        ((65536, 1000), "bfloat16", "", 0.45),
        ((65536, 1000), "float32", " compiled", 0.85),
        ((65536, 1000), "bfloat16", " compiled", 0.95),
        ((8192, 32000), "bfloat16", "", 0.45),
        ((2048, 128256), "bfloat16", "", 0.60),
        ((4, 21, 512, 512), "float32", "", 0.45),
    ):
        name = f"softmax {dtype} {shape}"
        theirs = f"cross_entropy{how} {dtype} {shape}"
        yield Row(f"{name} / F.cross_entropy{how}", f"parfocal {name}", theirs, bound)
    for dtype, bound in (("float32", 0.45), ("bfloat16", 0.6)):
        name = f"{dtype} (65536, 1000)"
        what = f"softmax {name}, label_smoothing 0.1 / F.cross_entropy, likewise"
        yield Row(what, f"parfocal smoothed {name}", f"cross_entropy smoothed {name}", bound)
    for shape in ((8192, 32000), (2048, 128256)):
        name = f"softmax bfloat16 {shape}"
        theirs = f"Liger cross_entropy bfloat16 {shape}"
        yield Row(
            f"{name} / Liger's cross-entropy and a copy of its logits, which it overwrites",
            f"parfocal {name}",
            theirs,
            1.1,
        )
    for dtype, how, bound in (
        ("float32", "torchvision", 0.06),
        ("float32", "parfocal", 1.0),
        ("bfloat16", "torchvision", 0.06),
        ("bfloat16", "parfocal", 1.0),
    ):
        name = f"sigmoid indices {dtype} {size.rows}"
        what = f"{name} / {how} of one-hot targets, which it makes"
        yield Row(what, f"parfocal {name}", f"one-hot {how} {name}", bound)
    name = f"sigmoid float32 {small} gamma 2"
    yield Row(f"{name} / torchvision", f"parfocal {name}", f"torchvision {name}", 0.5)
    name = f"linear bfloat16 {size.linear}"
    for theirs, how, time, memory in (
        ("composed", "softmax_focal_loss of all logits", 1.35, 0.4),
        ("cross_entropy", "F.cross_entropy of all logits", 1.35, 0.3),
        ("linear_cross_entropy", "F.linear_cross_entropy", 1.1, 1.35),
        ("Liger", "Liger's fused linear cross-entropy", 1.1, 1.35),
    ):
        for kind, what, bound in (("ms", name, time), ("peak", f"{name}, memory", memory)):
            yield Row(f"{what} / {how}", f"parfocal {name}", f"{theirs} {name}", bound, kind=kind)


def ratio(found: dict[str, dict[str, Any]], row: Row) -> float:
    """Ours over theirs; NaN where one of them is missing."""
    numbers = found.get(row.kind, {})
    return float(numbers.get(row.ours, math.nan)) / float(numbers.get(row.theirs, math.nan))


def _ours(found: dict[str, dict[str, Any]], kind: str) -> list[tuple[str, float]]:
    """What was measured of our losses."""
    return [(k, v) for k, v in found.get(kind, {}).items() if k.startswith("parfocal")]


def most(what: str, bound: float, numbers: list[float], least: float) -> str:
    """A line of the table for the largest of some numbers, none of which can be below the least."""
    if not numbers or min(numbers) < least:
        return f"| {what} | at most {bound:g} | unmeasured |  |"
    is_met = max(numbers) <= bound
    return f"| {what} | at most {bound:g} | {max(numbers):.3g} | {'yes' if is_met else '**no**'} |"


def report(found: dict[str, dict[str, Any]], size: Size) -> str:
    """gpu.md."""
    card = found.get("machine", {})
    if card.get("card"):
        versions = ", ".join(
            f"{k} {card.get(k)}" for k in ("torch", "triton", "torchvision", "python")
        )
        copied = card.get("copy, TB/s", math.nan)
        head = f"Measured on: {card['card']}, {versions}; a copy moves {copied:.2f} TB/s."
        if not card.get("kernels"):
            head += " **The kernels did not run**: ours is the composition."
    else:
        head = "Measured on a GPU: not yet."
    lines = ["| what | target | measured | met |", "|---|---|---|---|"]
    for row in rows(size):
        value = ratio(found, row)
        is_met = value >= row.bound if row.is_least else value <= row.bound
        cells = (
            ("unmeasured", "")
            if math.isnan(value)
            else (f"{value:.3g}", "yes" if is_met else "**no**")
        )
        sign = "at least" if row.is_least else "at most"
        lines.append(f"| {row.what} | {sign} {row.bound:g} | {' | '.join(cells)} |")
    what = "largest peak of a sum, above the inputs, in gradients"
    small = f" {size.flat[0]} "  # the allocator counts in pieces of 512 bytes
    peaks = [
        v
        for k, v in _ours(found, "peak")
        if " none " not in k and " linear " not in k and small not in f"{k} "
    ]
    lines.append(most(what, 1.05, peaks, 0.0))
    what = "peak of the loss of a linear map, above the inputs, in gradients"
    peaks = [v for k, v in _ours(found, "peak") if " linear " in k]
    # Of 1.12 GB: its weight's third more, and logits and gradient of 170 rows, 10 bytes a number.
    lines.append(most(what, 1.55, peaks, 1.0))
    lines.append(most("kernels of both passes", 4, [v for _, v in _ours(found, "kernels")], 1))
    checks = found.get("correct", {})
    right = [f"| {name} | {value} |" for name, value in checks.items()] or ["| all | unmeasured |"]
    failed = [f"- {name}: {text}" for name, text in found.get("failed", {}).items()] or ["- none"]
    table, correct, failures = ("\n".join(part) for part in (lines, right, failed))
    return f"""# What the losses cost on a GPU

Made by `make bench-gpu`, or `python benchmarks/gpu.py --report`. Ratios of times of one run,
forward and backward, means, medians; `gpu.json` has all of them.

{head}

{table}

## What was found to be right

| what | found |
|---|---|
{correct}

## What failed

{failures}
"""


def draw(found: dict[str, dict[str, Any]], size: Size, path: Path) -> None:
    """Each row's ratio beside its target, if any was measured."""
    measured = [(row, ratio(found, row)) for row in rows(size)]
    measured = [(row, value) for row, value in measured if not math.isnan(value)]
    if not measured:
        return
    try:
        import matplotlib as mpl
    except ImportError:
        print("Matplotlib is not installed: no figure")
        return

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "parfocal", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 0.32 * len(measured) + 1), layout="constrained")
    places = range(len(measured))
    axes.barh(places, [value for _, value in measured], color="tab:blue", label="measured")
    bounds = [row.bound for row, _ in measured]
    axes.plot(bounds, list(places), "|", color="black", markersize=12, label="target")
    axes.set_yticks(list(places), [row.what for row, _ in measured], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ratio")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
