"""What the losses cost beside what they replace: forward and backward, side by side.

    python benchmarks/losses.py            everything; writes results.csv, results.md, time.svg
    python benchmarks/losses.py --quick    fewer rounds, nothing compiled, nothing written
    python benchmarks/losses.py --only likelihood    the lines with this in their name; others stay

Both sides of a comparison take turns within one run on the same tensors; a ratio is the median of
the ratios of the rounds, with their quartiles. Extra memory is the growth of the resident set of a
fresh process.
"""

import argparse
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import originals
import results
import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from rich.progress import Progress
from rounds import Rounds
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as stock

import parfocal
from parfocal import sigmoid_focal_loss, softmax_focal_loss
from parfocal.numerics.cpu.memory import load_constants

HERE = Path(__file__).parent
Step = Callable[[], object]


class Case(NamedTuple):
    """One comparison; `prepare` makes the tensors, and gives our step and theirs.

    most: the ratio that is aimed at.
    """

    name: str
    against: str
    most: float
    prepare: Callable[[], tuple[Step, Step]]
    is_quick: bool = True


def binary(size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits of a trained network, hard targets."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(size).normal_(0, 4, generator=generator).to(dtype).requires_grad_()
    return x, torch.empty(size).bernoulli_(0.5, generator=generator).to(dtype)


def classes(*shape: int) -> tuple[Tensor, Tensor]:
    """Class logits, indices."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(shape).normal_(0, 3, generator=generator).requires_grad_()
    return x, torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)


def step(loss: Callable[..., Tensor], x: Tensor, *arguments: Tensor, **options: object) -> Step:
    """Forward and backward, into empty gradients."""

    def run() -> None:
        for tensor in (x, *arguments):
            tensor.grad = None
        value = loss(x, *arguments, **options)
        (value if value.ndim == 0 else value.sum()).backward()

    return run


def inference(loss: Callable[..., Tensor], *arguments: Tensor, **options: object) -> Step:
    """Forward alone, without gradients."""

    def run() -> Tensor:
        with torch.no_grad():
            return loss(*arguments, **options)

    return run


def both(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    draw: Callable[[], tuple[Tensor, ...]],
    how: Callable[..., Step] = step,
) -> Callable[[], tuple[Step, Step]]:
    """The two steps on the same tensors."""

    def prepare() -> tuple[Step, Step]:
        tensors = draw()
        return how(ours, *tensors), how(theirs, *tensors)

    return prepare


def mean_of(loss: Callable[..., Tensor], gamma: float = 0.5) -> Callable[..., Tensor]:
    """The mean of a binary focal loss, alpha 0.25."""
    return partial(loss, alpha=0.25, gamma=gamma, reduction="mean")


def sigmoid_cases() -> Iterator[Case]:
    """The binary loss."""
    draw = partial(binary, 2**24)
    for gamma in (0.3, 0.5, 2.0):
        ours = mean_of(sigmoid_focal_loss, gamma)
        name = f"sigmoid, float32, mean, 2^24, gamma {gamma:g}"
        yield Case(name, "torchvision", 0.17, both(ours, mean_of(stock, gamma), draw))
        bce = F.binary_cross_entropy_with_logits
        yield Case(name, "BCE with logits", 0.8, both(ours, bce, draw))
    for power, most in ((20, 0.5), (14, 0.9), (12, 0.9), (10, 0.9)):
        prepare = both(mean_of(sigmoid_focal_loss), mean_of(stock), partial(binary, 2**power))
        yield Case(f"sigmoid, float32, mean, 2^{power}", "torchvision", most, prepare)
    unreduced = [partial(loss, gamma=0.5) for loss in (sigmoid_focal_loss, stock)]
    yield Case("sigmoid, float32, none, 2^24", "torchvision", 0.5, both(*unreduced, draw))
    means = [mean_of(loss) for loss in (sigmoid_focal_loss, stock)]
    narrow = partial(binary, 2**24, torch.bfloat16)
    yield Case("sigmoid, bfloat16, mean, 2^24", "torchvision", 0.35, both(*means, narrow))
    yield Case("sigmoid, inference, 2^24", "torchvision", 0.15, both(*means, draw, inference))
    for power in (20, 24):
        compiled = [torch.compile(loss) for loss in means]
        prepare = both(*compiled, partial(binary, 2**power))
        yield Case(
            f"sigmoid, compiled, 2^{power}", "torchvision, compiled", 1.0, prepare, is_quick=False
        )


def softmax_cases() -> Iterator[Case]:
    """The multiclass loss."""
    ours = partial(softmax_focal_loss, gamma=0.5)
    for shape, most in (
        ((65536, 1000), 0.35),
        ((8192, 32000), 0.5),
        ((65536, 21), 1.0),
        ((4, 21, 512, 512), 1.0),
    ):
        name = f"softmax, mean, {shape}"
        yield Case(
            name, "F.cross_entropy", most, both(ours, F.cross_entropy, partial(classes, *shape))
        )
    for shape in ((65536, 21), (4, 21, 512, 512)):
        draw = partial(classes, *shape)
        name = f"softmax, mean, {shape}"
        yield Case(name, "MONAI", 0.2, both(ours, originals.monai_softmax_focal, draw))
        yield Case(name, "kornia", 0.2, both(ours, originals.kornia_softmax_focal, draw))


def family_cases() -> Iterator[Case]:
    """Each other loss, at 2 ** 22 logits."""
    mean = {"reduction": "mean"}

    def qualities() -> tuple[Tensor, Tensor]:
        x, y = binary(2**22)
        return x, y * torch.rand(y.shape, generator=torch.Generator().manual_seed(1))

    def hard() -> tuple[Tensor, Tensor]:
        return binary(2**22)

    def maps() -> tuple[Tensor, Tensor]:
        x, y = binary(2**22)
        return x.detach().view(16, 4, 256, 256).requires_grad_(), y.view(16, 4, 256, 256)

    def likelihoods() -> tuple[Tensor]:
        x, _ = binary(2**22)
        return (F.softplus(x.detach()).requires_grad_(),)

    def queries() -> tuple[Tensor, Tensor]:
        x, _ = classes(2**14, 256)
        return x, torch.arange(256)

    for ours, theirs, draw, against in (
        (parfocal.varifocal_loss, originals.varifocal, qualities, "the usual form"),
        (parfocal.gaussian_focal_loss, originals.gaussian, hard, "the usual form"),
        (parfocal.quality_focal_loss, originals.quality, qualities, "the usual form"),
        (parfocal.poly_focal_loss, originals.poly, hard, "the usual form"),
        (parfocal.asymmetric_loss, originals.asymmetric, hard, "timm"),
    ):
        yield Case(ours.__name__, against, 0.8, both(partial(ours, **mean), theirs, draw))
    for ours, theirs, draw, against in (
        (parfocal.likelihood_focal_loss, originals.likelihood, likelihoods, "the usual form"),
        (
            parfocal.softmax_asymmetric_loss,
            originals.single_label,
            partial(classes, 2**16, 64),
            "timm",
        ),
    ):
        yield Case(ours.__name__, against, 1.0, both(partial(ours, **mean), theirs, draw))
    for ours, theirs, draw in (
        (parfocal.sigmoid_tversky_loss, originals.tversky, maps),
        (parfocal.sigmoid_focal_tversky_loss, originals.focal_tversky, maps),
        (
            parfocal.softmax_tversky_loss,
            originals.softmax_tversky,
            partial(classes, 16, 4, 256, 256),
        ),
        (
            parfocal.softmax_asymmetric_unified_focal_loss,
            originals.unified,
            partial(classes, 32, 2, 256, 256),
        ),
    ):
        yield Case(ours.__name__, "MONAI", 0.8, both(ours, theirs, draw))
    prepare = both(parfocal.focal_matching_cost, originals.matching_cost, queries, inference)
    yield Case("focal_matching_cost", "the usual form", 0.8, prepare)


def linear_cases() -> Iterator[Case]:
    """The loss of a linear map, beside the same of all its logits and beside a cross-entropy."""

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        x, y = classes(1024, 256)
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(8192, 256, generator=generator) / 16
        return x, weight.requires_grad_(), torch.randint(0, 8192, y.shape, generator=generator)

    def composed(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        return softmax_focal_loss(F.linear(x, weight), y, gamma=0.5)

    ours = partial(parfocal.linear_softmax_focal_loss, gamma=0.5)
    name = "linear_softmax_focal_loss, (1024, 256) x 8192"
    yield Case(name, "softmax_focal_loss of F.linear", 1.3, both(ours, composed, draw))
    if hasattr(F, "linear_cross_entropy"):  # a newer torch has it
        theirs = partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())
        yield Case(name, "F.linear_cross_entropy", 1.3, both(ours, theirs, draw))


def measure(case: Case, seconds: float, fewest: int) -> Rounds:
    """Rounds of both sides in turn, for about so many seconds, after one that doesn't count."""
    ours, theirs = case.prepare()
    first = timed(ours) + timed(theirs)
    first = min(first, timed(ours) + timed(theirs))
    # Short steps are repeated, so that a round is long beside the clock.
    inner = max(1, int(2.0 / first))
    rounds = min(51, max(fewest, int(1000 * seconds / (first * inner))))
    pairs = [(timed(ours, inner), timed(theirs, inner)) for _ in range(rounds)]
    return Rounds(*(list(column) for column in zip(*pairs, strict=True)))


def timed(run: Step, inner: int = 1) -> float:
    """Milliseconds of one step."""
    start = time.perf_counter()
    for _ in range(inner):
        run()
    return (time.perf_counter() - start) * 1000 / inner


# What is run in a fresh process for its memory, and how large its gradient is.
PEAKS = {
    "sigmoid": (partial(binary, 2**24), mean_of(sigmoid_focal_loss)),
    "softmax": (partial(classes, 8192, 32000), partial(softmax_focal_loss, gamma=0.5)),
    "cross-entropy": (partial(classes, 8192, 32000), F.cross_entropy),
}


def print_peak(name: str) -> None:
    """The growth of the resident set during one step, in sizes of the gradient."""
    draw, loss = PEAKS[name]
    x, *rest = draw()
    small = x.detach()[:2].clone().requires_grad_()
    step(loss, small, *(given[:2] for given in rest))()  # what is loaded at the first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    step(loss, x, *rest)()
    print((resident("VmHWM") - before) / x.nbytes)


def resident(field: str) -> int:
    """Bytes of this process in memory, now or at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def extra_memory(name: str) -> float:
    """What `print_peak` prints in a process of its own."""
    command = [sys.executable, __file__, "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def time_against_size() -> dict[str, list[tuple[int, float]]]:
    """Medians of milliseconds from 2 ** 8 to 2 ** 26; the compiled loss after all others.

    Its code brings an OpenMP runtime of its own, whose threads wait for work on the same cores.
    """
    losses = {
        "parfocal": mean_of(sigmoid_focal_loss),
        "torchvision": mean_of(stock),
        "BCE with logits": F.binary_cross_entropy_with_logits,
    }
    compiled = {"torchvision, compiled": torch.compile(mean_of(stock), dynamic=True)}
    powers = range(8, 27, 2)
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in (*losses, *compiled)}
    for group in (losses, compiled):
        for power in powers:
            x, y = binary(2**power)
            steps = {name: step(loss, x, y) for name, loss in group.items()}
            for run in steps.values():
                run()
            inner, rounds = max(1, 2**14 >> power), 3 if power > 24 else 9
            times = [
                {name: timed(run, inner) for name, run in steps.items()} for _ in range(rounds)
            ]
            for name in group:
                curves[name].append((2**power, median(row[name] for row in times)))
    return curves


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """The figure."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "parfocal", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, curve), style in zip(curves.items(), ("-", "--", ":", "-."), strict=True):
        sizes, times = zip(*curve, strict=True)
        axes.plot(sizes, times, style, label=name, linewidth=2.5 if name == "parfocal" else 1.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("logits")
    axes.set_ylabel("forward and backward, ms")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def processor() -> str:
    """As the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def setting() -> str:
    """What times depend on."""
    return (
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    """Measure; write unless quick."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing written")
    parser.add_argument("--only", metavar="NAME", help="measure the lines with this alone")
    parser.add_argument("--peak", choices=PEAKS, help=argparse.SUPPRESS)
    parser.add_argument("--figure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak(arguments.peak)
        return
    warnings.simplefilter("ignore")  # of the libraries that are compared with
    torch.set_num_threads(2)
    load_constants()  # as ours do: nobody is to depend on who comes first
    if arguments.figure:
        draw(time_against_size(), HERE / "time.svg")
        return
    cases = [*sigmoid_cases(), *softmax_cases(), *family_cases(), *linear_cases()]
    cases.sort(key=lambda case: not case.is_quick)  # what is compiled comes last
    if arguments.quick:
        cases = [case for case in cases if case.is_quick]
    if arguments.only:
        cases = [case for case in cases if arguments.only in case.name]
    seconds, fewest = (0.3, 2) if arguments.quick else (6.0, 7)
    when = (str(date.today()), setting())
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.name} against {case.against}")
            rounds = measure(case, seconds, fewest)
            rows.append(results.compare(case.name, case.against, case.most, rounds, *when))
            print("  ".join(rows[-1].cells), flush=True)
            progress.advance(task)
        if arguments.only:
            if not arguments.quick:
                results.write(results.update(results.read(), rows))
            return
        sigmoid, softmax, theirs = (extra_memory(name) for name in PEAKS)
        for name, against, most, ratio in (
            ("extra memory, sigmoid, mean, 2^24", "size of the gradient", 1.3, sigmoid),
            ("extra memory, softmax, (8192, 32000)", "F.cross_entropy", 0.6, softmax / theirs),
        ):
            rows.append(results.Comparison(name, against, most, ratio, *[None] * 4, *when))
            print("  ".join(rows[-1].cells), flush=True)
        if not arguments.quick:
            progress.add_task("time against size", total=None)
            subprocess.run([sys.executable, __file__, "--figure"], check=True)
            results.write(rows)


if __name__ == "__main__":
    main()
