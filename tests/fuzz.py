"""Calls of every public loss, drawn at random and compared with float64 values of the formulas.

A call is drawn from a seed and an index, and from nothing else: `python tests/fuzz.py --seed S
--call I` draws it again, and prints it as a program with what was found and what was expected.
What must be refused is drawn as well: the error, in the name of the call, is what is expected then.
"""

import argparse
import contextlib
import inspect
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import parfocal
from fuzzing.calls import WAYS, Call, draw
from fuzzing.chance import (
    INTEGERS,
    LAYOUTS,
    LOGIT_KINDS,
    LOGITS,
    LOSSES,
    module_of,
    parameters,
    takes,
)
from fuzzing.expected import expected
from fuzzing.nonsense import NONSENSE

# Running.


class Found(NamedTuple):
    """What a call gave: a result and a gradient, or an error."""

    value: Tensor | None = None
    gradient: Tensor | None = None
    error: Exception | None = None


def incoming_gradient(call: Call, dtype: torch.dtype) -> Callable[[tuple[int, ...]], Tensor]:
    """What comes into the backward pass of a result of a shape, exact in dtype."""

    def of_shape(shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(call.incoming)
        choices = torch.tensor([1.0, 1.0, -1.0, 0.5, 2.0, 64.0], dtype=dtype)
        if not shape:
            choices = torch.tensor([1.0, 1.0, 1.0, 0.25, 1024.0], dtype=dtype)
        return choices[torch.randint(0, len(choices), shape, generator=generator)]

    return of_shape


def invoke(call: Call, inputs: Tensor) -> Tensor:
    """The call itself, with these logits."""
    arguments = {**call.arguments, "inputs": inputs}
    names = list(arguments)
    if call.is_module:
        module = module_of(call.name)
        made = set(inspect.signature(module).parameters)
        options = {n: v for n, v in arguments.items() if n in made}
        if "reduction" in parameters(call.name):
            default = (
                inspect.signature(getattr(parfocal, call.name)).parameters["reduction"].default
            )
            options.setdefault("reduction", default)
        data = {n: v for n, v in arguments.items() if n not in made}
        first = [data.pop(n) for n in names[:2]]
        return module(**options)(*first, **data)
    first = [arguments.pop(n) for n in names[: call.positional]]
    return getattr(parfocal, call.name)(*first, **arguments)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(call: Call) -> Found:
    """Result and gradient, or the error."""
    x = call.arguments["inputs"]
    wants_gradient = call.way not in ("no_grad", "frozen") and call.name != "focal_matching_cost"
    if x.is_floating_point():
        x = x.detach().requires_grad_(wants_gradient or call.way == "no_grad")
    contexts = {
        "no_grad": torch.no_grad,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "two threads": lambda: _threads(2),
    }
    try:
        with contexts.get(call.way, contextlib.nullcontext)():
            value = invoke(call, x)
            if not wants_gradient or call.wrong:
                return Found(value.detach())
            if call.way != "autocast":
                return Found(value.detach(), _gradient(call, value, x))
        return Found(value.detach(), _gradient(call, value, x))
    except Exception as error:
        return Found(error=error)


def _gradient(call: Call, value: Tensor, x: Tensor) -> Tensor:
    came = incoming_gradient(call, value.dtype)(tuple(value.shape))
    if call.way == "backward":
        value.backward(came)
        assert x.grad is not None
        return x.grad
    if call.way == "twice":
        torch.autograd.grad(value, x, came, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x, came, create_graph=call.way == "create_graph")
    return gradient.detach()


# Judging.


def disagreements(call: Call) -> list[str]:
    """What is wrong with what the call gives; nothing if it is right."""
    found = run(call)
    if call.wrong:
        return _misjudged(call, found.error)
    if found.error is not None:
        return [f"raised {type(found.error).__name__}: {_line(found.error)}"]
    if "unified" in call.name and call.arguments.get("reduction", "mean") != "mean":
        return _inconsistent(call)
    value, x = found.value, call.arguments["inputs"]
    assert value is not None
    autocast = call.way == "autocast"
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    dtype = wide if autocast else x.dtype
    if value.dtype != dtype:
        return [f"a result in {value.dtype}, expected {dtype}"]
    truth = expected(call.name, call.arguments, incoming_gradient(call, dtype), autocast=autocast)
    faults = _differences("value", value, truth.value, truth.value_tolerance)
    if found.gradient is not None and not faults:
        if found.gradient.dtype != x.dtype:
            return [f"a gradient in {found.gradient.dtype}, expected {x.dtype}"]
        faults = _differences("gradient", found.gradient, *truth[2:])
    return faults


def _misjudged(call: Call, error: Exception | None) -> list[str]:
    if error is None:
        return ["was accepted, expected a refusal"]
    if not isinstance(error, (TypeError, ValueError, RuntimeError, IndexError)):
        return [f"raised {type(error).__name__}: {_line(error)}, expected a refusal"]
    if not str(error).startswith(f"{call.name}: "):
        return [f"raised {type(error).__name__}: {_line(error)}, expected '{call.name}: ...'"]
    return []


def _line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:160]


def _inconsistent(call: Call) -> list[str]:
    """Reductions of a unified loss against each other: their mean is compared with the formula."""
    values = {}
    for reduction in ("none", "sum", "mean"):
        other = call._replace(
            arguments={**call.arguments, "reduction": reduction}, way="frozen", is_module=False
        )
        value = run(other).value
        if value is None:
            return [f"reduction={reduction!r} raised"]
        values[reduction] = value.double()
    near = 64 * torch.finfo(call.arguments["inputs"].dtype).eps
    total, none = values["sum"], values["none"]
    if not torch.allclose(total, none.sum(), near, near, equal_nan=True):
        return [f"sum {total.item()!r}, expected that of none, {none.sum().item()!r}"]
    return []


def _differences(what: str, found: Tensor, truth: Tensor, tolerance: Tensor) -> list[str]:
    """The worst position at which a result differs by more than the tolerance."""
    if found.shape != truth.shape:
        return [f"{what} of shape {tuple(found.shape)}, expected {tuple(truth.shape)}"]
    if truth.numel() == 0:
        return []
    largest = torch.finfo(found.dtype).max
    number = found.double()
    is_nan = truth.isnan()
    near = (number - truth).abs() <= tolerance
    beyond = (truth.abs() + tolerance >= largest) & (number == truth.sign() * torch.inf)
    huge = truth.abs() > 1e200
    good = torch.where(
        is_nan, number.isnan(), torch.where(huge, number == truth.sign() * torch.inf, near | beyond)
    )
    good = good | (tolerance == torch.inf)
    if good.all():
        return []
    excess = torch.where(good, 0.0, (number - truth).abs() / (tolerance + 1e-320))
    excess = torch.where(~good & ~excess.isfinite(), torch.inf, excess)
    place = int(excess.reshape(-1).argmax())
    where = tuple(int(i) for i in np.unravel_index(place, found.shape)) if found.ndim else ()
    at = f"[{', '.join(map(str, where))}]" if where else ""
    number_here, truth_here, off = (float(t.reshape(-1)[place]) for t in (number, truth, tolerance))
    times = float(excess.reshape(-1)[place])
    text = f"{what}{at} {number_here:.9g}, expected {truth_here:.9g} within {off:.2g}"
    return [f"{text} ({times:.3g} times that; {int((~good).sum())} of {found.numel()} positions)"]


# Printing.


def program(call: Call) -> str:
    """The call as Python, in full if its tensors are small."""
    lines = [
        "import numpy as np",
        "import torch",
        "import parfocal",
        "from fractions import Fraction",
    ]
    lines.append("nan, inf = float('nan'), float('inf')")
    parts = []
    for position, (name, value) in enumerate(call.arguments.items()):
        text = _code(value)
        if isinstance(value, Tensor) and len(text) > 60:
            lines.append(f"{name} = {text}")
            text = name
        parts.append(text if position < max(2, call.positional) else f"{name}={text}")
    lines.append(f"# asked for by: {call.way}{', through the Module' if call.is_module else ''}")
    lines.append(f"print(parfocal.{call.name}({', '.join(parts)}))")
    return "\n".join(lines)


def _code(value: Any) -> str:
    """A value as Python."""
    if isinstance(value, Tensor):
        if value.numel() > 4000:
            return f"...  # {value.dtype} {tuple(value.shape)}: fuzz.draw(seed, call).arguments"
        text = f"torch.tensor({value.tolist()}, dtype={value.dtype})"
        if value.numel() == 0:
            return f"torch.zeros({tuple(value.shape)}, dtype={value.dtype})"
        text = text if value.is_contiguous() else _strided(value)
        return f"{text}.requires_grad_()" if value.requires_grad else text
    if isinstance(value, np.ndarray):
        return f"np.array({value.item()!r}, dtype=np.{value.dtype})"
    return repr(value)


def _strided(value: Tensor) -> str:
    """A tensor in its own layout: what lies in memory, and the strides over it."""
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    memory = value.detach().as_strided((reach,), (1,)).tolist()
    view = f"as_strided({tuple(value.shape)}, {value.stride()})"
    return f"torch.tensor({memory}, dtype={value.dtype}).{view}"


# Many calls.


class Tally(NamedTuple):
    """What came of some calls: a line for each failure, and how often each feature came up."""

    failures: list[str]
    features: Counter[str]


def one(seed: int, index: int) -> tuple[list[str], frozenset[str]]:
    """A line for each fault of one call, and its features."""
    call = draw(seed, index)
    again = f"python tests/fuzz.py --seed {seed} --call {index}"
    wrong = f" ({call.wrong})" if call.wrong else ""
    lines = [f"{call.name}{wrong}: {fault}; {again}" for fault in disagreements(call)]
    return lines, call.features


def many(seed: int, indices: Sequence[int]) -> Tally:
    """One call after the other, in this process, with one thread."""
    tally = Tally([], Counter())
    with warnings.catch_warnings(), _threads(1):
        warnings.simplefilter("ignore")
        for index in indices:
            lines, features = one(seed, index)
            tally.failures.extend(lines)
            tally.features.update(features)
    return tally


def _part(given: tuple[int, range]) -> Tally:
    return many(*given)


def in_processes(seed: int, calls: int) -> Iterator[Tally]:
    """The calls in parts, by as many processes as there are cores."""
    parts = [(seed, range(start, min(start + 500, calls))) for start in range(0, calls, 500)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count()) as pool:
        yield from pool.imap(_part, parts)


def missing(features: Counter[str]) -> list[str]:
    """What never came up, of all that has to."""
    wanted = {f"{name}({p}=)" for name in LOSSES for p in parameters(name)}
    wanted |= {f"way {way}" for way in WAYS} | {f"layout {layout}" for layout in LAYOUTS}
    wanted |= {f"logits {kind}" for kind in LOGIT_KINDS} | {f"logits {d}" for d in LOGITS}
    wanted |= {f"targets {d}" for d in (torch.bool, *INTEGERS, *LOGITS)}
    wanted |= {f"wrong {wrong}" for wrong in NONSENSE}
    wanted |= {f"reduction {r}" for r in ("none", "mean", "sum")}
    wanted |= {
        f"number {k}"
        for k in ("int", "float", "float64", "float32", "float16", "ndarray", "Fraction", "int64")
    }
    wanted |= {f"module {module_of(n).__name__}" for n in LOSSES if module_of(n)}
    wanted |= {f"{n} dimensions" for n in (0, 1, 2, 4)}
    wanted |= {w for w in ("integer mask", "several ignore_index") if takes(w)}
    wanted |= {
        "alpha a tensor",
        "alpha off",
        "gamma a tensor",
        "boolean mask",
        "nothing counts",
        "normalizer a number",
        "normalizer a tensor",
        "several blocks",
        "empty",
        "empty regions",
        "no rows",
        "hundreds of classes",
        "class indices",
        "class indices of a sigmoid",
        "class probabilities",
        "soft targets",
        "soft regions",
        "learned option",
        "garbage where nothing counts",
        "right",
    }
    return sorted(wanted - set(features))


def main() -> int:
    """Many calls, or one that is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--call", type=int, help="the index of one call, which is printed")
    options = parser.parse_args()
    if options.call is not None:
        call = draw(options.seed, options.call)
        print(program(call))
        with warnings.catch_warnings(), _threads(1):
            warnings.simplefilter("ignore")
            faults = disagreements(call)
        print("\n".join(f"# {fault}" for fault in faults) or "# right")
        return bool(faults)
    began, features, failures, done = time.perf_counter(), Counter[str](), 0, 0
    for tally in in_processes(options.seed, options.calls):
        features.update(tally.features)
        failures += len(tally.failures)
        done = min(done + 500, options.calls)
        for line in tally.failures:
            print(line, flush=True)
        spent = time.perf_counter() - began
        print(f"{done} calls, {failures} faults, {spent:.0f} s", file=sys.stderr, flush=True)
    print(f"seed {options.seed}: {options.calls} calls, {failures} faults, {spent:.0f} s")
    never = missing(features) if options.calls >= 2000 else []
    for feature in never:
        print(f"never drawn: {feature}")
    return bool(failures or never)


if __name__ == "__main__":
    sys.exit(main())
