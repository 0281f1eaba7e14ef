"""Random values: numbers, tensors and logits as the losses may get them, and what they show."""

import inspect
import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parfocal
from fuzzing import elementwise

# No logits and targets to begin with.
_OTHER_ARGUMENTS = ("likelihood", "linear")

# All losses of logits and targets, and the cost of a matcher.
LOSSES = (
    *sorted(
        n for n in parfocal.__all__ if n.endswith("_loss") and not n.startswith(_OTHER_ARGUMENTS)
    ),
    "focal_matching_cost",
)
LOGITS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "transposed", "stepped", "expanded", "offset", "channels_last")
LOGIT_KINDS = ("mild", "wide", "saturated", "right", "shifted", "infinite", "NaN")

# What takes one logit and one target.
BINARY = frozenset(n for n in LOSSES if n.endswith("_loss") and hasattr(elementwise, n))
# Those whose targets may be class indices, C for no class.
TAKES_INDICES = ("sigmoid_focal_loss", "poly_focal_loss", "asymmetric_loss")
OF_CLASSES = ("softmax_focal_loss", "softmax_asymmetric_loss")
HAS_ALPHA_TENSOR = ("sigmoid_focal_loss", "poly_focal_loss")


@cache
def parameters(name: str) -> tuple[str, ...]:
    """The names of a loss's parameters; those of F.cross_entropy are other names of two."""
    names = inspect.signature(getattr(parfocal, name)).parameters
    others = {"input": "inputs", "target": "targets"}
    return tuple(dict.fromkeys(others.get(n, n) for n in names))


@cache
def module_of(name: str) -> Any:
    """The Module of a loss, or None."""
    return getattr(parfocal, "".join(map(str.capitalize, name.split("_"))), None)


@cache
def takes(what: str) -> bool:
    """Whether softmax_focal_loss takes a mask of integers, or several indices to ignore."""
    x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    options = {"integer mask": {"mask": y + 1}, "several ignore_index": {"ignore_index": (-1, -2)}}
    try:
        parfocal.softmax_focal_loss(x, y, **options[what])
    except TypeError:
        return False
    return True


class Draw:
    """Random choices of one call, and what they are examples of."""

    def __init__(self, seed: int, index: int) -> None:
        self.random = random.Random(f"{seed}:{index}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))
        self.features: set[str] = set()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def pick(self, *values: Any) -> Any:
        """One of the values."""
        return self.random.choice(values)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """In [0, 1), float64."""
        return torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Of variance 1, float64."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)

    def integers(self, shape: Sequence[int], end: int) -> Tensor:
        """In [0, end), int64."""
        return torch.randint(0, end, tuple(shape), generator=self.generator)

    def note(self, *features: str) -> None:
        """The call is an example of these."""
        self.features.update(features)

    # Numbers and tensors of options.

    def number(self, value: float) -> Any:
        """A number in one of the types that a number may have."""
        kinds: list[Callable[[float], Any]] = [float] * 6 + [
            np.float64,
            np.float32,
            np.float16,
            lambda v: np.asarray(v, dtype=np.float32),
            Fraction,
        ]
        if value == int(value):
            kinds += [int, int, np.int64]
        kind = self.random.choice(kinds)
        made = kind(value)
        self.note(f"number {type(made).__name__}")
        return made

    def exponent(self) -> float:
        """A focusing exponent."""
        fixed = self.pick(0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 20.0)
        return fixed if self.chance(0.7) else 6.0 * self.random.random() + 58.0 * self.chance(0.03)

    def share(self) -> float:
        """A number in [0, 1]."""
        return self.pick(0.0, 1.0, 0.25, 0.5, 0.75, self.random.uniform(0.01, 0.99))

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to this one."""
        kept = list(shape)[self.random.randint(0, len(shape)) :] if self.chance(0.5) else shape
        return tuple(1 if self.chance(0.3) else n for n in kept)

    def parameter(self, values: Tensor) -> Tensor:
        """A tensor for an option, in one of the dtypes that it may have."""
        return self.layout(values.to(self.pick(*LOGITS)))

    def learned(self, given: Tensor) -> Tensor:
        """Now and then one that requires a gradient, which rules a sum in one pass out."""
        if not given.is_floating_point() or not self.chance(0.15):
            return given
        self.note("learned option")
        return given.detach().requires_grad_()

    def gamma(self, shape: Sequence[int]) -> Any:
        """An exponent: a number, or a tensor that broadcasts."""
        if self.chance(0.7):
            return self.number(self.exponent())
        self.note("gamma a tensor")
        values = self.uniform(self.broadcast(shape)) * 5
        return self.learned(self.parameter(values * (values > 0.7)))

    def alpha(self, shape: Sequence[int]) -> Any:
        """alpha as the losses with tensors take it."""
        if self.chance(0.3):
            self.note("alpha off")
            return self.pick(None, -1, self.number(-0.5))
        if self.chance(0.6):
            return self.number(self.share())
        self.note("alpha a tensor")
        return self.learned(self.parameter(self.uniform(self.broadcast(shape))))

    def mask(self, shape: Sequence[int]) -> Tensor:
        """Where positions count; all, none or some."""
        kind = self.random.random()
        drawn = self.uniform(self.broadcast(shape))
        mask = drawn < (0.7 if kind < 0.8 else 2.0 if kind < 0.9 else -1.0)
        if kind >= 0.9 and math.prod(shape):
            self.note("nothing counts")
        if takes("integer mask") and self.chance(0.3):
            self.note("integer mask")
            mask = mask.to(self.pick(*INTEGERS)) * self.pick(1, 1, 2, 100)
        else:
            self.note("boolean mask")
        return self.layout(mask)

    def weight(self, shape: Sequence[int]) -> Tensor:
        """Factors, some of which are 0."""
        values = self.uniform(shape) * 3
        values = values * (self.uniform(shape) > 0.2)
        if self.chance(0.15):
            return self.layout(values.round().to(self.pick(*INTEGERS)))
        return self.parameter(values)

    def normalizer(self) -> Any:
        """A positive number, or a tensor of one."""
        value = self.pick(1.0, 3.0, 0.5, 128.0)
        if self.chance(0.5):
            self.note("normalizer a number")
            return self.number(value)
        self.note("normalizer a tensor")
        shape = self.pick((), (1,), (1, 1))
        return torch.full(shape, value).to(self.pick(*LOGITS, torch.int64)).clamp(min=1)

    # Layouts of memory.

    def layout(self, values: Tensor) -> Tensor:
        """The same values, in memory in another way."""
        kind = self.pick(*LAYOUTS, "contiguous", "contiguous")
        if kind == "transposed" and values.ndim >= 2:
            values = values.transpose(0, -1).contiguous().transpose(0, -1)
        elif kind == "stepped" and values.ndim >= 1:
            values = values.repeat_interleave(2, -1)[..., ::2]
        elif kind == "offset" and values.ndim >= 1:
            flat = torch.cat([values.new_zeros(1), values.reshape(-1)])
            values = flat[1:].view(values.shape)
        elif kind == "channels_last" and values.ndim == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        else:
            kind = "contiguous"
        self.note(f"layout {kind}")
        return values

    def expanded(self, values: Tensor) -> Tensor:
        """Now and then the same along the first dimension, and once in memory."""
        if values.ndim == 0 or values.shape[0] < 2 or not self.chance(0.07):
            return values
        self.note("layout expanded")
        return values[:1].expand(values.shape)

    # Logits.

    def logits(self, right: Tensor, *, infinite: bool) -> Tensor:
        """Logits in float64; `right` is 1 where a logit should be high, -1 where low, or 0."""
        kind = self.pick(*3 * ("mild",), *2 * ("wide",), "saturated", "right", "shifted")
        if infinite and self.chance(0.06):
            kind = "infinite"
        elif infinite and self.chance(0.03):
            kind = "NaN"
        shape = right.shape
        self.note(f"logits {kind}")
        x = self.normal(shape)
        if kind in ("mild", "infinite", "NaN"):
            x = x * 2
        elif kind == "wide":
            x = x * 30
        elif kind == "shifted":
            x = x * self.pick(0.01, 2, 12) + self.pick(-1, 1) * self.pick(10, 30, 60, 88, 700, 5000)
        else:
            size = torch.exp(self.uniform(shape) * math.log(1e4))
            if kind == "right" and self.chance(0.5):
                size = torch.full(shape, self.pick(20.0, 110.0, 300.0, 740.0, 5e3)).double()
            x = size * (right if kind == "right" else x.sign())
        if self.chance(0.2):
            x = (x * 2).round() / 2
        if kind == "infinite":
            x = torch.where(self.uniform(shape) < 0.15, x.sign() * torch.inf, x)
        if kind == "NaN":
            x = torch.where(self.uniform(shape) < 0.15, torch.nan, x)
        return x
