"""Calls of every public loss, drawn at random and compared with float64 values of the formulas.

A call is drawn from a seed and an index, and from nothing else: `python tests/fuzz.py --seed S
--call I` draws it again, and prints it as a program with what was found and what was expected.
What must be refused is drawn as well: the error, in the name of the call, is what is expected then.
"""

import argparse
import contextlib
import inspect
import math
import multiprocessing
import os
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import parfocal
from expected_losses import Expected, expected

LOSSES = tuple(sorted(n for n in parfocal.__all__ if n.endswith("_loss"))) + (
    "focal_matching_cost",
)
LOGITS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
WAYS = ("grad", "backward", "twice", "create_graph", "no_grad", "frozen", "autocast", "two threads")
LAYOUTS = ("contiguous", "transposed", "stepped", "expanded", "offset", "channels_last")
LOGIT_KINDS = ("mild", "wide", "saturated", "right", "infinite", "NaN")

_BINARY = frozenset(
    {
        "asymmetric_loss",
        "gaussian_focal_loss",
        "poly_focal_loss",
        "quality_focal_loss",
        "sigmoid_focal_loss",
        "varifocal_loss",
    }
)
# What is drawn in turn: the losses with most ways of their own more often.
_ROUND = LOSSES + 4 * ("softmax_focal_loss",) + 2 * ("sigmoid_focal_loss",) + ("poly_focal_loss",)
_HAS_ALPHA_TENSOR = ("sigmoid_focal_loss", "poly_focal_loss")


class Call(NamedTuple):
    """One call.

    arguments: by the names of the parameters, in their order.
    positional: how many of them are given by position.
    is_module: whether options that are no data go to the constructor of the loss's Module.
    way: how the gradient is asked for, one of WAYS.
    incoming: the seed of the gradient that comes in.
    wrong: what has to be refused, in words; "" for a call that is right.
    features: what it is an example of.
    """

    name: str
    arguments: dict[str, Any]
    positional: int
    is_module: bool
    way: str
    incoming: int
    wrong: str
    features: frozenset[str]


# What the package takes.


@cache
def parameters(name: str) -> tuple[str, ...]:
    """The names of a loss's parameters."""
    return tuple(inspect.signature(getattr(parfocal, name)).parameters)


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


# Drawing.


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
        fixed = self.pick(0.0, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
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

    def gamma(self, shape: Sequence[int]) -> Any:
        """An exponent: a number, or a tensor that broadcasts."""
        if self.chance(0.7):
            return self.number(self.exponent())
        self.note("gamma a tensor")
        values = self.uniform(self.broadcast(shape)) * 5
        return self.parameter(values * (values > 0.7))

    def alpha(self, shape: Sequence[int]) -> Any:
        """alpha as the losses with tensors take it."""
        if self.chance(0.3):
            self.note("alpha off")
            return self.pick(None, -1, self.number(-0.5))
        if self.chance(0.6):
            return self.number(self.share())
        self.note("alpha a tensor")
        return self.parameter(self.uniform(self.broadcast(shape)))

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
        kind = self.pick("mild", "mild", "mild", "wide", "wide", "saturated", "right")
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


def draw(seed: int, index: int) -> Call:
    """The call of a seed and an index."""
    d = Draw(seed, index)
    name = _ROUND[index % len(_ROUND)]
    if name == "focal_matching_cost":
        arguments = _matching(d)
    elif name in _BINARY:
        arguments = _binary(d, name)
    elif name == "softmax_focal_loss":
        arguments = _classes(d)
    else:
        arguments = _regions(d, name)
    way = d.pick(*WAYS)
    positional = d.pick(2, 2, len(arguments))
    wrong = ""
    if d.chance(0.1):
        wrong = _spoil(d, name, arguments)
    arguments = {n: arguments[n] for n in parameters(name) if n in arguments}
    is_module = not wrong and module_of(name) is not None and d.chance(0.25)
    if is_module:
        d.note(f"module {module_of(name).__name__}")
    names = list(arguments)
    while positional > 2 and names[:positional] != list(parameters(name)[:positional]):
        positional -= 1
    positional = min(positional, _most_positional(name))
    inputs, targets = (arguments[n] for n in parameters(name)[:2])
    if not wrong:
        d.note(f"way {way}", f"logits {inputs.dtype}", f"targets {targets.dtype}")
        d.note(*(f"{name}({n}=)" for n in names))
    d.note(f"wrong {wrong}" if wrong else "right")
    return Call(
        name,
        arguments,
        positional,
        is_module,
        way,
        d.random.getrandbits(62),
        wrong,
        frozenset(d.features),
    )


@cache
def _most_positional(name: str) -> int:
    kinds = [p.kind for p in inspect.signature(getattr(parfocal, name)).parameters.values()]
    return sum(kind == inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)


def _poisoned(d: Draw, given: Tensor, mask: Tensor | None) -> Tensor:
    """Garbage where a position doesn't count."""
    if mask is None:
        return given
    if given.is_floating_point():
        garbage = d.pick(
            torch.nan, torch.inf, -torch.inf, 1e30 if given.element_size() > 2 else 6e4
        )
    elif given.dtype == torch.bool:
        return given
    else:
        garbage = d.pick(77, 120)
    return torch.where((mask != 0).expand(given.shape), given, garbage).to(given.dtype)


def _options(d: Draw, **of: Callable[[], Any]) -> dict[str, Any]:
    """Some of the options."""
    return {name: make() for name, make in of.items() if d.chance(0.45)}


def _reduction(d: Draw, arguments: dict[str, Any], *, normalizer: bool) -> None:
    if d.chance(0.75):
        arguments["reduction"] = d.pick("none", "mean", "sum")
        d.note(f"reduction {arguments['reduction']}")
    if normalizer and arguments.get("reduction") == "sum" and d.chance(0.5):
        arguments["normalizer"] = d.normalizer()


_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (0,),
    (7,),
    (3, 0),
    (4, 5),
    (1, 1),
    (64, 3),
    (2, 3, 4, 5),
    (2, 1, 3, 3),
    (300,),
    (3000,),
)


def _binary(d: Draw, name: str) -> dict[str, Any]:
    """A loss of one logit and one target."""
    shape = d.random.choice(_SHAPES)
    if d.chance(0.01):
        shape = d.pick((2**18 + 1000,), (2, 3, 210, 211))
        d.note("several blocks")
    d.note(f"{len(shape)} dimensions", *(["empty"] if 0 in shape else []))
    dtype = d.pick(*LOGITS)
    hard = d.uniform(shape) < d.pick(0.1, 0.5)
    if d.chance(0.45):
        targets = hard.to(d.pick(torch.bool, *INTEGERS))
    else:
        y = hard.double()
        if d.chance(0.5):
            kind = d.uniform(shape)
            soft = d.uniform(shape) ** d.pick(1, 1, 4)
            y = torch.where(kind < 0.6, soft, y)
            d.note("soft targets")
        targets = d.expanded(y.to(d.pick(*LOGITS)))
    right = targets.double().mul(2).sub(1).sign()
    x = d.expanded(d.logits(right, infinite=True).to(dtype))
    arguments: dict[str, Any] = {}
    options: dict[str, Callable[[], Any]] = {
        "gamma": lambda: d.gamma(shape),
        "weight": lambda: d.weight(d.broadcast(shape)),
        "mask": lambda: d.mask(shape),
    }
    if name in _HAS_ALPHA_TENSOR:
        options["alpha"] = lambda: d.alpha(shape)
    elif name == "varifocal_loss":
        options["alpha"] = lambda: d.number(d.share())
    if name == "sigmoid_focal_loss":
        options["epsilon"] = lambda: d.number(d.pick(0.0, 1e-3, 0.1, 1.0))
    if name == "poly_focal_loss":
        options["epsilon_1"] = lambda: d.number(d.pick(1.0, 0.0, -0.5, 2.5, -1.0))
    if name == "gaussian_focal_loss":
        options["beta"] = lambda: d.number(d.exponent())
    if name == "quality_focal_loss":
        least = 1.0 if targets.is_floating_point() else 0.0
        options["beta"] = lambda: d.number(max(least, d.exponent()))
    if name == "asymmetric_loss":
        options["margin"] = lambda: d.number(d.pick(0.0, 0.05, 0.25, 0.5))
        options["gamma_neg"] = lambda: d.gamma(shape)
        options["gamma_pos"] = lambda: d.gamma(shape)
    arguments = _options(d, **{n: make for n, make in options.items() if n in parameters(name)})
    if name == "asymmetric_loss":
        _keep_from_the_cusp(d, arguments)
    _reduction(d, arguments, normalizer=True)
    mask = arguments.get("mask")
    x, targets = d.layout(_poisoned(d, x, mask)), d.layout(_poisoned(d, targets, mask))
    weight = arguments.get("weight")
    if weight is not None and mask is not None and d.chance(0.5):
        arguments["weight"] = _poisoned(d, weight.expand(shape), mask)
    return {"inputs": x, "targets": targets, **arguments}


def _keep_from_the_cusp(d: Draw, arguments: dict[str, Any]) -> None:
    """An exponent of the negatives that is 0 or at least 1, where there is a margin."""
    gamma = arguments.get("gamma_neg")
    if gamma is None or float(arguments.get("margin", 0.05)) == 0:
        return
    if isinstance(gamma, Tensor):
        arguments["gamma_neg"] = torch.where(gamma < 1, torch.zeros_like(gamma), gamma)
    elif 0 < float(gamma) < 1:
        arguments["gamma_neg"] = d.number(1.0 + float(gamma))


def _matching(d: Draw) -> dict[str, Any]:
    """Queries and the classes of objects."""
    classes = d.pick(1, 2, 5, 40)
    shape = (*d.pick((), (2,), (0,)), d.pick(0, 1, 30), classes)
    dtype = d.pick(*LOGITS)
    x = d.logits(d.normal(shape).sign(), infinite=False).to(dtype)
    labels = d.integers((d.pick(0, 1, 4, 60),), classes).to(d.pick(*INTEGERS))
    options = _options(d, alpha=lambda: d.number(d.share()), gamma=lambda: d.number(d.exponent()))
    return {"inputs": d.layout(x), "labels": d.layout(labels), **options}


def _class_targets(
    d: Draw, shape: Sequence[int], classes: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Targets, the classes that are right (N, ...), and `ignore_index` if it is used."""
    labels = d.integers(shape, classes)
    if d.chance(0.25):
        whole = (*shape[:1], classes, *shape[1:]) if shape else (classes,)
        y = d.uniform(whole) ** 3
        dim = 1 if shape else 0
        y = y / y.sum(dim, keepdim=True) if d.chance(0.8) else y
        if d.chance(0.3):
            y = torch.nn.functional.one_hot(labels, classes).double().movedim(-1, dim)
        d.note("class probabilities")
        return d.expanded(y.to(d.pick(*LOGITS))), labels, {}
    d.note("class indices")
    kinds = [k for k in INTEGERS if classes - 1 <= torch.iinfo(k).max]
    targets = labels.to(d.random.choice(kinds))
    if not d.chance(0.5):
        return targets, labels, {}
    limits = torch.iinfo(targets.dtype)
    index = d.pick(-100, -1, 255, classes - 1, 0)
    options: dict[str, Any] = {"ignore_index": index}
    if takes("several ignore_index") and d.chance(0.4):
        options["ignore_index"] = d.pick(tuple, list)((index, d.pick(-2, 254, 0)))
        d.note("several ignore_index")
    if limits.min <= index <= limits.max:
        targets = torch.where(d.uniform(shape) < 0.3, index, targets).to(targets.dtype)
    return targets, labels, options


def _ignored(targets: Tensor, arguments: dict[str, Any], shape: Sequence[int]) -> Tensor:
    """Where positions count."""
    counts = torch.ones(tuple(shape), dtype=torch.bool)
    if not targets.is_floating_point():
        index = arguments.get("ignore_index", -100)
        for one in [index] if isinstance(index, int) else index:
            counts = counts & (targets.long() != one)
    mask = arguments.get("mask")
    return counts if mask is None else counts & (mask != 0)


def _class_logits(d: Draw, labels: Tensor, classes: int, *, infinite: bool) -> Tensor:
    """Logits (N, C, ...) in float64; the truth of two infinite ones in a row is not known."""
    dim = 1 if labels.ndim else 0
    is_own = torch.nn.functional.one_hot(labels, classes).movedim(-1, dim)
    x = d.logits(is_own.double(), infinite=infinite)
    if x.isinf().any():
        first = x.isinf() & (x.isinf().cumsum(dim) == 1)
        x = torch.where(x.isinf() & ~first, 0.0, x)
    return x


def _poisoned_rows(d: Draw, x: Tensor, targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Garbage where a position doesn't count, also labels that are no class."""
    if not d.chance(0.6) or counts.all():
        return x, targets
    d.note("garbage where nothing counts")
    rows = counts.unsqueeze(1 if counts.ndim else 0)
    x = _poisoned(d, x, rows)
    if targets.is_floating_point():
        targets = _poisoned(d, targets, rows)
    return x, targets


def _classes(d: Draw) -> dict[str, Any]:
    """softmax_focal_loss."""
    classes = d.pick(1, 2, 3, 3, 5, 10, 21)
    shape = d.pick((), (0,), (1,), (8,), (40,), (2, 0), (2, 5), (2, 4, 3), (3, 2, 2, 2), (400,))
    if d.chance(0.05):
        classes, shape = d.pick(200, 256, 300), (5,)
        d.note("hundreds of classes")
    elif d.chance(0.015):
        classes, shape = d.pick((3, (2**17,)), (2, (2, 300, 301)))
        d.note("several blocks")
    whole = (*shape[:1], classes, *shape[1:]) if shape else (classes,)
    d.note(f"{len(whole)} dimensions of classes", *(["no rows"] if 0 in shape else []))
    targets, labels, arguments = _class_targets(d, shape, classes)
    x = d.expanded(_class_logits(d, labels, classes, infinite=True).to(d.pick(*LOGITS)))
    options: dict[str, Callable[[], Any]] = {
        "weight": lambda: d.weight((classes,)),
        "gamma": lambda: d.gamma(whole),
        "label_smoothing": lambda: d.number(d.pick(0.0, 0.1, 0.5, 1.0)),
        "epsilon": lambda: d.number(d.pick(0.0, 1e-3, 0.1)),
        "mask": lambda: d.mask(shape),
        "position_weight": lambda: d.weight(d.broadcast(shape)),
    }
    rare = {"label_smoothing", "epsilon"}
    for option, make in options.items():
        if option in parameters("softmax_focal_loss") and d.chance(0.2 if option in rare else 0.4):
            arguments[option] = make()
    _reduction(d, arguments, normalizer=True)
    counts = _ignored(targets, arguments, shape)
    x, targets = _poisoned_rows(d, x, targets, counts)
    mask = arguments.get("mask")
    if mask is not None and not targets.is_floating_point():
        targets = _poisoned(d, targets, mask) if d.chance(0.4) else targets
    return {"inputs": d.layout(x), "targets": d.layout(targets), **arguments}


def _regions(d: Draw, name: str) -> dict[str, Any]:
    """Tversky and unified losses."""
    classes = d.pick(1, 2, 3, 4)
    maps = d.pick((1,), (5,), (4, 3), (7, 8), (2, 3, 2), (0, 4), (16, 16))
    shape = (d.pick(1, 2, 2, 3, 0), classes, *maps)
    if d.chance(0.01):
        shape = (1, 2, 370, 371)
        d.note("several blocks")
    classes = shape[1]
    d.note(*(["empty regions"] if 0 in shape else []))
    is_sigmoid = name.startswith("sigmoid")
    positions = (*shape[:1], *shape[2:])
    arguments: dict[str, Any] = {}
    if is_sigmoid:
        hard = d.uniform(shape) < d.pick(0.0, 0.1, 0.5, 1.0)
        y = hard.double()
        if d.chance(0.4):
            y = torch.where(d.uniform(shape) < 0.5, d.uniform(shape), y)
            d.note("soft regions")
            targets = y.to(d.pick(*LOGITS))
        else:
            targets = y.to(d.pick(torch.bool, *INTEGERS, *LOGITS))
        x = d.logits(targets.double() * 2 - 1, infinite=False)
    else:
        targets, labels, arguments = _class_targets(d, positions, classes)
        x = _class_logits(d, labels, classes, infinite=False)
    x = d.expanded(x.to(d.pick(*LOGITS)))
    options: dict[str, Callable[[], Any]] = {
        "smooth": lambda: d.number(d.pick(1.0, 0.0, 1e-5, 100.0)),
        "per_image": lambda: d.chance(0.5),
        "weight": lambda: d.weight((classes,)),
        "mask": lambda: d.mask(shape if is_sigmoid else positions),
    }
    if "unified" in name:
        options["delta"] = lambda: d.number(d.share())
        options["gamma"] = lambda: d.number(d.pick(0.0, 0.5, 0.75, 0.3 * d.random.random()))
        options["balance"] = lambda: d.number(d.share())
        options["background"] = lambda: d.random.randrange(classes)
    else:
        options["alpha"] = lambda: d.number(d.pick(0.7, 0.5, 0.0, 1.0, 2.0))
        options["beta"] = lambda: d.number(d.pick(0.3, 0.5, 0.0, 1.0))
        options["gamma"] = lambda: d.number(d.pick(4 / 3, 1.0, 0.5, 2.0, 3.0))
    for option, make in options.items():
        if option in parameters(name) and d.chance(0.35):
            arguments[option] = make()
    if "reduction" in parameters(name):
        _reduction(d, arguments, normalizer=False)
    if is_sigmoid:
        mask = arguments.get("mask")
        x, targets = _poisoned(d, x, mask), _poisoned(d, targets, mask)
    else:
        x, targets = _poisoned_rows(d, x, targets, _ignored(targets, arguments, positions))
    return {"inputs": d.layout(x), "targets": d.layout(targets), **arguments}


# What must be refused.


def _spoil(d: Draw, name: str, arguments: dict[str, Any]) -> str:
    """Change the arguments to nonsense, and say which."""
    ways = [wrong for wrong, (fits, _) in _NONSENSE.items() if fits(name, arguments)]
    wrong = d.random.choice(ways)
    _NONSENSE[wrong][1](d, name, arguments)
    return wrong


def _exponent_of(name: str) -> str:
    known = [p for p in ("gamma", "beta", "gamma_neg") if p in parameters(name)]
    return known[0] if known else ""


def _set(option: str, *values: Any) -> Callable[[Draw, str, dict[str, Any]], None]:
    def change(d: Draw, name: str, arguments: dict[str, Any]) -> None:
        arguments[option] = d.pick(*values)

    return change


def _set_exponent(*values: Any) -> Callable[[Draw, str, dict[str, Any]], None]:
    def change(d: Draw, name: str, arguments: dict[str, Any]) -> None:
        arguments[_exponent_of(name)] = d.pick(*values)

    return change


def _has(option: str) -> Callable[[str, dict[str, Any]], bool]:
    return lambda name, arguments: option in parameters(name)


def _is_plain_sum(name: str, arguments: dict[str, Any]) -> bool:
    """A sum whose values are read anyway, of positions that all count."""
    is_sum = arguments.get("reduction") in ("mean", "sum")
    return name in _BINARY and is_sum and not {"mask", "epsilon"} & set(arguments)


def _alpha_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    x = arguments["inputs"]
    alpha = torch.full(x.shape[-1:], 0.5)
    alpha[d.random.randrange(max(1, alpha.numel())) if alpha.ndim else ...] = d.pick(
        2.0, 10.0, -1.0
    )
    arguments["alpha"] = alpha


def _targets_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    y = arguments["targets"].to(d.pick(torch.int64, torch.float32)).clone(memory_format=torch.contiguous_format)
    y.view(-1)[d.random.randrange(y.numel())] = d.pick(-1, 255, 2)
    arguments["targets"] = y


def _labels_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    key = parameters(name)[1]
    y = arguments[key].long().clone(memory_format=torch.contiguous_format)
    classes = arguments["inputs"].shape[-1 if key == "labels" else 1]
    y.view(-1)[d.random.randrange(y.numel())] = d.pick(classes, classes + 100, -3)
    arguments[key] = y


def _has_labels(name: str, arguments: dict[str, Any]) -> bool:
    x, y = arguments["inputs"], arguments[parameters(name)[1]]
    is_index = name.startswith(("softmax", "focal_matching")) and not y.is_floating_point()
    return is_index and y.numel() > 0 and x.ndim > 1 and x.numel() > 0 and "mask" not in arguments


def _other_shape(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    key = parameters(name)[1]
    arguments[key] = arguments[key].unsqueeze(-1).expand(*arguments[key].shape, 2)


_Fits = Callable[[str, dict[str, Any]], bool]
_Change = Callable[[Draw, str, dict[str, Any]], None]

_NONSENSE: dict[str, tuple[_Fits, _Change]] = {
    "exponent beyond float64's use": (
        lambda name, arguments: bool(_exponent_of(name)) and "unified" not in name,
        _set_exponent(1e300, 1e308, np.float64(1e300)),
    ),
    "negative exponent": (
        lambda name, arguments: bool(_exponent_of(name)),
        _set_exponent(-0.5, -1, np.float32(-2)),
    ),
    "exponent no number": (
        lambda name, arguments: bool(_exponent_of(name)),
        _set_exponent(math.nan, math.inf, "2", True, None, [2.0]),
    ),
    "alpha above 1": (
        lambda name, arguments: "alpha" in parameters(name) and "tversky" not in name,
        _set("alpha", 1.5, 2, np.float32(10), math.nan),
    ),
    "alpha tensor out of [0, 1]": (
        lambda name, arguments: (
            name in _HAS_ALPHA_TENSOR
            and _is_plain_sum(name, arguments)
            and arguments["inputs"].numel() > 0
        ),
        _alpha_beyond,
    ),
    "targets out of [0, 1]": (
        lambda name, arguments: _is_plain_sum(name, arguments) and arguments["inputs"].numel() > 0,
        _targets_beyond,
    ),
    "index that is no class": (_has_labels, _labels_beyond),
    "negative smooth": (_has("smooth"), _set("smooth", -1.0, math.nan, "1")),
    "negative epsilon": (_has("epsilon"), _set("epsilon", -1e-3, math.inf, True)),
    "epsilon_1 below -1": (_has("epsilon_1"), _set("epsilon_1", -1.5, math.nan, math.inf, "1")),
    "label_smoothing out of [0, 1]": (
        _has("label_smoothing"),
        _set("label_smoothing", -0.1, 1.1, math.nan, True),
    ),
    "unknown reduction": (
        _has("reduction"),
        _set("reduction", "avg", "batchmean", None, "Mean"),
    ),
    "share out of [0, 1]": (_has("delta"), _set("delta", -0.1, 1.5, math.nan)),
    "balance out of [0, 1]": (_has("balance"), _set("balance", -0.1, 1.5, math.nan)),
    "background that is no class": (_has("background"), _set("background", -1, 400, 0.5, True)),
    "margin out of [0, 1)": (_has("margin"), _set("margin", -0.1, 1.0, math.nan)),
    "mask of floats": (_has("mask"), _set("mask", torch.ones(()), torch.ones(1, dtype=torch.half))),
    "weight no tensor": (_has("weight"), _set("weight", 2.0, [1.0], "a")),
    "normalizer not positive": (
        lambda name, arguments: (
            "normalizer" in parameters(name) and arguments.get("reduction") == "sum"
        ),
        _set("normalizer", 0.0, -1, math.nan, "3", torch.ones(2)),
    ),
    "normalizer of a mean": (
        lambda name, arguments: (
            "normalizer" in parameters(name) and arguments.get("reduction") in ("none", "mean")
        ),
        _set("normalizer", 3.0),
    ),
    "ignore_index no integer": (_has("ignore_index"), _set("ignore_index", 0.5, "1", True)),
    "integer logits": (
        lambda name, arguments: True,
        lambda d, name, arguments: arguments.update(
            inputs=torch.zeros_like(arguments["inputs"], dtype=d.pick(*INTEGERS, torch.bool))
        ),
    ),
    "targets of another shape": (
        lambda name, arguments: name != "focal_matching_cost",
        _other_shape,
    ),
}


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
        if value.is_contiguous():
            return text
        return f"{text}.as_strided_layout{value.stride()}" if False else _strided(value)
    if isinstance(value, np.ndarray):
        return f"np.array({value.item()!r}, dtype=np.{value.dtype})"
    return repr(value)


def _strided(value: Tensor) -> str:
    """A tensor in its own layout: what lies in memory, and the strides over it."""
    reach = 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    memory = value.as_strided((reach,), (1,)).tolist()
    return f"torch.tensor({memory}, dtype={value.dtype}).as_strided({tuple(value.shape)}, {value.stride()})"


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
    wanted |= {f"wrong {wrong}" for wrong in _NONSENSE}
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
        "class probabilities",
        "soft targets",
        "soft regions",
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
    never = missing(features)
    print(f"seed {options.seed}: {options.calls} calls, {failures} faults", *never, sep="\nnever: ")
    return bool(failures or never)


if __name__ == "__main__":
    sys.exit(main())
