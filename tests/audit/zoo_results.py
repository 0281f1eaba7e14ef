"""What a loss of the zoo gives, what is true there, and a scan of where it is wrong."""

import functools
import math
import warnings
from typing import Any, NamedTuple

import mpmath
import torch

from audit.zoo import ENTRIES, Entry
from audit.zoo_truth import QUANTITIES, truth, truths


class Results(NamedTuple):
    """At some logits, in their dtype; None where there is none. dtype: of the value."""

    value: torch.Tensor | None
    gradient: torch.Tensor | None
    curvature: torch.Tensor | None
    dtype: str = ""


def call(entry: Entry, x: torch.Tensor, y: float, gamma: float, *, second: bool = True) -> Results:
    """The loss of an entry and its derivatives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry.framework == "numpy":
            gradient, curvature = entry.loss(x.numpy(), torch.full_like(x, y).numpy(), gamma)
            return Results(None, torch.as_tensor(gradient), torch.as_tensor(curvature))
        if entry.framework == "jax":
            return _jax(entry, x, y, gamma)
        x = x.detach().clone().requires_grad_()
        loss = entry.call(x, y, gamma)
        value = loss.detach().to(x.dtype) if loss.numel() == x.numel() else None
        name = str(loss.dtype).removeprefix("torch.")
        (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=second)
        curvature = None
        if second and gradient.requires_grad:
            try:
                (curvature,) = torch.autograd.grad(gradient.sum(), x)
            except RuntimeError:
                curvature = None
        return Results(value, gradient.detach(), curvature, name)


def _jax(entry: Entry, x: torch.Tensor, y: float, gamma: float) -> Results:
    """The same of JAX arrays."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    name = str(x.dtype).removeprefix("torch.")
    logits = jnp.asarray(x.double().tolist()).astype(name)
    targets = jnp.full_like(logits, y)

    def loss(logits: Any) -> Any:
        arguments = (targets, logits) if entry.targets_first else (logits, targets)
        return entry.loss(*arguments, gamma)

    def slope(logits: Any) -> Any:
        return jax.grad(lambda x: loss(x).sum())(logits)

    bend = jax.grad(lambda x: slope(x).sum())
    parts = (f(logits).astype("float64") for f in (loss, slope, bend))
    return Results(*(torch.tensor(part.tolist(), dtype=x.dtype) for part in parts), name)


@functools.lru_cache(maxsize=100_000)
def computed(name: str, dtype: str, x: float, y: float, gamma: float) -> tuple[float, ...]:
    """Value, gradient and curvature at one logit; NaN where there is none."""
    logit = torch.tensor([x], dtype=getattr(torch, dtype))
    found = call(ENTRIES[name], logit, y, gamma)
    parts = (getattr(found, quantity) for quantity in QUANTITIES)
    return tuple(math.nan if part is None else float(part) for part in parts)


def true(entry: Entry, quantity: str, x: float, y: float, gamma: float) -> Any:
    """What a result should be, as a number of mpmath."""
    soft = entry.soft if entry.soft in ("mixture", "margin", "entropy") else "linear"
    exponent = entry.exponent_of(gamma, y)
    jet = truth(x, y, exponent, soft=soft or "linear", detached=entry.detached)
    return getattr(jet.times(entry.factor(y, gamma)), quantity)


def spacing(number: float, dtype: str) -> float:
    """The distance of neighbouring numbers of a dtype."""
    info = torch.finfo(getattr(torch, dtype))
    magnitude = min(max(abs(number), info.tiny), info.max)
    return math.ldexp(info.eps, math.frexp(magnitude)[1] - 1)


# Brute force


class Scan(NamedTuple):
    """Logits, and by quantity and defect at which of them it is wrong."""

    x: torch.Tensor
    wrong: dict[str, dict[str, torch.Tensor]]


@functools.lru_cache(maxsize=4096)
def scan(name: str, dtype: str, y: float, gamma: float) -> Scan:
    """All logits of 16 bits up to 120, and 20,000 of wider dtypes."""
    x = grid(dtype)
    return Scan(x, defects(ENTRIES[name], x, y, gamma))


def felt(entry: Entry, quantity: str, dtype: str, y: float, gamma: float, right: float) -> float:
    """The error that a training feels: a percent, or 8 eps, of the largest slope or of a value."""
    part = max(0.01, 8 * torch.finfo(getattr(torch, dtype)).eps)
    if quantity == "value":
        return part * max(abs(right), abs(entry.factor(y, gamma)))
    return part * _largest_slope(entry.name, y, gamma)


@functools.cache
def _largest_slope(name: str, y: float, gamma: float) -> float:
    entry, x = ENTRIES[name], torch.linspace(-2_000, 2_000, 8_001, dtype=torch.float64)
    slopes = truths(x, y, entry.exponent_of(gamma, y), detached=entry.detached)["gradient"]
    return abs(entry.factor(y, gamma)) * float(slopes.abs().max())


@functools.cache
def grid(dtype: str) -> torch.Tensor:
    """Logits up to 120."""
    kind = getattr(torch, dtype)
    if kind.itemsize == 2:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
        return every[every.abs() <= 120].contiguous()
    side = torch.cat([torch.linspace(0.01, 120, 7_001, dtype=torch.float64),
                      torch.linspace(3, 40, 3_001, dtype=torch.float64)])  # fmt: skip
    return torch.cat([side, -side]).to(kind).unique()


def defects(
    entry: Entry, x: torch.Tensor, y: float, gamma: float, margin: float = 0.0
) -> dict[str, dict[str, torch.Tensor]]:
    """What is wrong at each logit and a hard target, against the formula in float64."""
    found = call(entry, x, y, gamma, second=False)
    right = truths(x, y, entry.exponent_of(gamma, y), detached=entry.detached)
    wrong = {}
    for quantity in ("value", "gradient"):
        got = getattr(found, quantity)
        if got is not None and not (entry.shifted and quantity == "value"):
            wrong[quantity] = _wrongs(got, right[quantity] * entry.factor(y, gamma), margin)
    return wrong


def defects_at(
    entry: Entry, quantity: str, x: float, dtype: str, y: float, gamma: float, count: int
) -> dict[str, bool]:
    """The same of so many copies of one logit, against mpmath: for what is wrong by a hair."""
    logits = torch.full((count,), x, dtype=torch.float64).to(getattr(torch, dtype))
    got = getattr(call(entry, logits, y, gamma, second=False), quantity)[:1]
    right = true(entry, quantity, x, y, gamma)
    wrong = _wrongs(got, torch.tensor([float(right)], dtype=torch.float64), 0.0)
    off = abs(mpmath.mpf(float(got)) - right) > abs(right) / 100 if got.isfinite() else False
    return {name: bool(found) for name, found in wrong.items()} | {
        "off": bool(off) and not bool(wrong["dead"])
    }


def _wrongs(got: torch.Tensor, right: torch.Tensor, margin: float) -> dict[str, torch.Tensor]:
    info, wide = torch.finfo(got.dtype), got.double()
    normal = (right.abs() >= info.tiny) & (right.abs() <= info.max)
    finite = got.isfinite()
    dead = (got == 0) & normal
    off = finite & normal & ~dead & ((wide - right).abs() > 0.01 * (1 + margin) * right.abs())
    return {
        "nonfinite": ~finite & (right.abs() <= info.max),
        "dead": dead,
        "off": off,
        "flipped": off & (wide * right < 0) & ((wide - right).abs() > right.abs()),
    }
