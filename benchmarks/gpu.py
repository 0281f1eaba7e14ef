"""What the losses cost on a GPU, and whether they are right there: forward and backward.

    python benchmarks/gpu.py            on a GPU; writes gpu.json as it goes, gpu.md and gpu.svg
    python benchmarks/gpu.py --tiny     a dry run on a CPU, without kernels; writes nothing
    python benchmarks/gpu.py --report   gpu.md and gpu.svg of the gpu.json that is there

It needs torch, and takes what it finds of torchvision, Liger-Kernel and Matplotlib. It ends within
400 seconds: after 330 nothing new is begun. What fails is recorded, and the rest goes on. All sides
of a ratio are measured in one run; a time is the median of Triton's `do_bench`. Files are written
to the folder that the environment variable OUT names, beside this one if there is none.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_checks
import gpu_linear
import torch
import torch.nn.functional as F
from gpu_report import TINY, Size, draw, report
from gpu_session import (
    Session,
    binary,
    classes,
    compiled,
    indices,
    liger,
    likelihood,
    measure,
    milliseconds,
    one_hot,
    sigmoid,
    softmax,
    softmax_asymmetric,
    torchvision,
    usual_likelihood,
)

from parfocal.numerics import backends


def machine(session: Session) -> None:
    """The card, the versions, and the time of a copy."""
    for name in ("torch", "triton", "torchvision", "liger_kernel", "numpy", "parfocal"):
        try:
            version = getattr(importlib.import_module(name), "__version__", "?")
        except Exception as error:  # of a package that is broken, whatever it raises
            version = None if isinstance(error, ImportError) else str(error)
        session.note("machine", name, version)
    session.note("machine", "python", sys.version.split()[0])
    if session.device == "cuda":
        session.note("machine", "card", torch.cuda.get_device_name())
        session.note("machine", "clocks", clocks())
        has_kernels = backends.has_kernels(torch.device("cuda", torch.cuda.current_device()))
        session.note("machine", "kernels", has_kernels)
        if not has_kernels:  # or what is measured is the composition
            session.note("failed", "kernels", "they don't run: see the log above")
    n = session.size.copied
    source, target = torch.ones(n, device=session.device), torch.empty(n, device=session.device)
    ms = milliseconds(session.device, lambda: target.copy_(source))
    session.note("machine", "copy, TB/s", 8 * n / ms / 1e9)
    for width in (12, 6):  # as long as a copy of so many bytes an element would take
        session.note("ms", f"copy {width}", ms / (8 * n) * width * session.size.flat[-1])


def clocks() -> str:
    """What nvidia-smi says of the card."""
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return f"{fields}: {done.stdout.strip()}"


def sigmoid_times(session: Session) -> None:
    """Eager, of all sizes."""
    for dtype in (torch.float32, torch.bfloat16):
        for n in session.size.flat:
            x, y = binary(session.device, n, dtype)
            for gamma in (0.5, 2.0, 0.3):
                name = f"sigmoid {dtype} {n} gamma {gamma:g}".replace("torch.", "")
                measure(session, f"parfocal {name}", sigmoid, x, y, gamma=gamma)
                measure(session, f"torchvision {name}", torchvision, x, y, gamma=gamma)
            name = f"BCE {dtype} {n}".replace("torch.", "")
            measure(session, name, F.binary_cross_entropy_with_logits, x, y)


def softmax_times(session: Session) -> None:
    """Eager, rows and maps."""
    for shape in session.size.shapes:
        for dtype in (torch.float32, torch.bfloat16):
            x, index = classes(session.device, shape, dtype)
            name = f"{dtype} {shape}".replace("torch.", "")
            measure(session, f"parfocal softmax {name}", softmax, x, index)
            measure(session, f"cross_entropy {name}", F.cross_entropy, x, index)
            if shape == session.size.shapes[0]:
                ours, theirs = f"parfocal smoothed {name}", f"cross_entropy smoothed {name}"
                measure(session, ours, softmax, x, index, smoothing=0.1)
                measure(session, theirs, F.cross_entropy, x, index, label_smoothing=0.1)


def option_times(session: Session) -> None:
    """An incoming gradient other than 1, no reduction, narrow targets."""
    for dtype in (torch.float32, torch.bfloat16):
        x, y = binary(session.device, session.size.flat[-1], dtype)
        name = f"{dtype} {session.size.flat[-1]}".replace("torch.", "")
        three = torch.tensor(3.0, device=session.device, dtype=dtype)
        measure(session, f"parfocal incoming 3 {name}", sigmoid, x, y, incoming=three)
        measure(session, f"parfocal none {name}", sigmoid, x, y, reduction="none")
        measure(session, f"torchvision none {name}", torchvision, x, y, reduction="none")
        for targets in (torch.uint8, torch.bool):
            kind = f"{targets} targets {name}".replace("torch.", "")
            measure(session, f"parfocal {kind}", sigmoid, x, y.to(targets))
            measure(session, f"torchvision {kind}", torchvision, x, y.to(targets))


def index_times(session: Session) -> None:
    """A class index a row, and its one-hot targets."""
    for dtype in (torch.float32, torch.bfloat16):
        data = indices(session.device, session.size.rows, dtype)
        name = f"sigmoid indices {dtype} {session.size.rows}".replace("torch.", "")
        measure(session, f"parfocal {name}", sigmoid, *data)
        measure(session, f"one-hot parfocal {name}", one_hot(sigmoid), *data)
        measure(session, f"one-hot torchvision {name}", one_hot(torchvision), *data)


def composition_times(session: Session) -> None:
    """Losses without a kernel of their own, beside what they replace."""
    n, shape = session.size.flat[-1], session.size.shapes[0]
    nll = F.softplus(binary(session.device, n, torch.float32)[0].detach()).requires_grad_()
    measure(session, f"parfocal likelihood float32 {n}", likelihood, nll)
    measure(session, f"usual likelihood float32 {n}", usual_likelihood, nll)
    data = classes(session.device, shape, torch.float32)
    measure(session, f"parfocal softmax asymmetric float32 {shape}", softmax_asymmetric, *data)


def compiled_times(session: Session) -> None:
    """What others gain by torch.compile."""
    n = session.size.flat[-1]
    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        x, y = binary(session.device, n, dtype)
        for gamma in (0.5, 2.0, 0.3):
            name = f"torchvision compiled sigmoid {short} {n} gamma {gamma:g}"
            measure(session, name, compiled(torchvision), x, y, gamma=gamma)
        loss = compiled(F.binary_cross_entropy_with_logits)
        measure(session, f"BCE compiled {short} {n}", loss, x, y)
        for shape in session.size.shapes:
            data = classes(session.device, shape, dtype)
            name = f"cross_entropy compiled {short} {shape}"
            measure(session, name, compiled(F.cross_entropy), *data)


def our_compiled_times(session: Session) -> None:
    """Ours, inside a user's torch.compile."""
    n, shape = session.size.flat[-1], session.size.shapes[0]
    for dtype in (torch.float32, torch.bfloat16):
        short = str(dtype).removeprefix("torch.")
        flat, rows_ = binary(session.device, n, dtype), classes(session.device, shape, dtype)
        measure(session, f"parfocal compiled sigmoid {short} {n} gamma 2", compiled(sigmoid), *flat)
        measure(session, f"parfocal compiled softmax {short} {shape}", compiled(softmax), *rows_)


def liger_times(session: Session) -> None:
    """Liger-Kernel's cross-entropy of rows, where it is installed."""
    if session.found["machine"].get("liger_kernel") is None:
        return
    for shape in session.size.shapes:
        if len(shape) == 2:
            data = classes(session.device, shape, torch.bfloat16)
            measure(session, f"Liger cross_entropy bfloat16 {shape}", liger, *data)


PARTS = (
    machine,
    gpu_checks.values_are_right,
    gpu_checks.rows_are_right,
    gpu_checks.compositions_are_right,
    gpu_linear.linear_is_right,
    gpu_checks.passes_are_right,
    gpu_checks.the_device_is_not_waited_for,
    sigmoid_times,
    softmax_times,
    option_times,
    index_times,
    composition_times,
    gpu_linear.linear_times,
    gpu_checks.more_than_int32,
    gpu_checks.compiled_code_is_right,
    compiled_times,
    liger_times,
    our_compiled_times,
)


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a dry run on a CPU")
    parser.add_argument("--report", action="store_true", help="of the gpu.json that is there")
    options = parser.parse_args()
    folder = Path(os.environ.get("OUT") or Path(__file__).parent)
    record = folder / "gpu.json"
    if not options.report:
        device = "cpu" if options.tiny else "cuda"
        if device == "cuda" and not torch.cuda.is_available():
            parser.error("there is no GPU here that torch can use; --tiny is a dry run")
        torch.manual_seed(0)
        size = TINY if options.tiny else Size()
        session = Session(device, size, None if options.tiny else record)
        for part in PARTS:
            session.run(part)
        if options.tiny:
            print(report(session.found, size))
            return
    found = json.loads(record.read_text()) if record.exists() else {}
    (folder / "gpu.md").write_text(report(found, Size()))
    draw(found, Size(), folder / "gpu.svg")


if __name__ == "__main__":
    main()
