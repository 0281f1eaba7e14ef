"""How a loss is called, whatever its signature."""

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from parfocal import places

Framework = Literal["torch", "jax", "numpy"]
Kind = Literal["binary", "multiclass"]
Takes = Literal["logits", "probabilities", "log-probabilities"]
Reduced = Literal["none", "sum", "mean"]


class SubjectError(Exception):
    """A loss that can't be found, called or understood."""


class NoGradientError(SubjectError):
    """A loss that can be called, and doesn't depend on its logits."""

    def __init__(self) -> None:
        super().__init__("its gradient in the logits is 0 everywhere")


def in_a_line(error: Exception) -> str:
    """An error by its name and its first line; one of this package by its line alone."""
    first = (str(error).splitlines() or [""])[0].strip()
    return first if isinstance(error, SubjectError) else f"{type(error).__name__}: {first}"


@dataclass(frozen=True)
class Subject:
    """A loss, and how it is called.

    Attributes:
        name: its name in a report.
        target: where it is, `package.module:name` or `path/file.py:name`.
        loss: the function; or the class, which is first constructed with its options.
        framework: whose arrays it takes. Keras on its torch backend is torch; a loss of NumPy
            arrays returns its gradient and second derivative, like a booster's objective.
        kind: binary (logits and targets of the same shape) or multiclass (logits (N, C), indices).
        takes: logits, their probabilities, or the logarithms of these.
        gamma: the keyword of the focusing exponent; None if there is none.
        gamma_on_call: whether the call of an instance takes gamma, not the class.
        whole_gamma: whether a whole gamma is passed as an int.
        options: the other keyword arguments.
        on_call: keyword arguments for the call of an instance.
        is_class: whether it is constructed first.
        targets_first: whether targets come before logits.
        column: whether binary logits are (N, 1).
        maps: whether logits are maps, (N, 1, 1, 1) or (N, C, 1, 1).
        long: whether binary targets are integers.
        one_hot: whether multiclass targets are one-hot.
        classes: how many there are; those from the third on have a probability of 0.
        reduced: whether the result is one number, and of which kind.
        fixed_gamma: the exponent of a loss without a keyword for it.
        refused: dtypes of logits that it refuses, and why.
        default_factors: of both classes, where `options` turns them off.
        companion: whether a mean over positives isn't finite without one: then a lone negative is
            passed with a confident positive, whose loss is 0.
        device: of its arguments.
    """

    name: str
    target: str
    loss: Callable[..., Any] = field(repr=False)
    framework: Framework = "torch"
    kind: Kind = "binary"
    takes: Takes = "logits"
    gamma: str | None = "gamma"
    gamma_on_call: bool = False
    whole_gamma: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    on_call: Mapping[str, Any] = field(default_factory=dict)
    is_class: bool = False
    targets_first: bool = False
    column: bool = False
    maps: bool = False
    long: bool = False
    one_hot: bool = False
    classes: int = 2
    reduced: Reduced = "none"
    fixed_gamma: float = 2.0
    refused: Mapping[str, str] = field(default_factory=dict)
    default_factors: tuple[float, float] | None = None
    companion: bool = False
    device: str = "cpu"

    @property
    def widest(self) -> torch.dtype:
        """The widest dtype of logits that it takes."""
        return torch.float32 if "float64" in self.refused else torch.float64

    @property
    def is_pair(self) -> bool:
        """Whether it returns a gradient and a second derivative, as a booster needs."""
        return self.framework == "numpy"

    def at(self, gamma: float) -> Callable[[Any, Any], Any]:
        """The loss of (logits, targets), at an exponent."""
        options, on_call = self._keywords(gamma)
        call = self.loss(**options) if self.is_class else self.loss
        if self.device != "cpu" and isinstance(call, torch.nn.Module):
            call = copy.deepcopy(call).to(self.device)
        given = on_call if self.is_class else {**options, **on_call}
        if self.targets_first:
            return lambda x, y: call(y, x, **given)
        return lambda x, y: call(x, y, **given)

    def _keywords(self, gamma: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those of the class, or of the function, and those of the call of an instance."""
        options, on_call = dict(self.options), dict(self.on_call)
        if self.gamma is not None:
            number = int(gamma) if self.whole_gamma and float(gamma).is_integer() else gamma
            (on_call if self.gamma_on_call else options)[self.gamma] = number
        return options, on_call

    def with_options(self, **changes: Any) -> "Subject":
        """Another way to call it."""
        return replace(self, **changes)

    def import_line(self) -> str:
        """A line of Python after which the loss has its name."""
        place, _, name = self.target.partition(":")
        if place.endswith(".py"):
            return f"from runpy import run_path; {name} = run_path({place!r})[{name!r}]"
        return f"from {place} import {name}"

    def source(self, gamma: float) -> str:
        """The call in Python, of x and y."""
        name = self.target.partition(":")[2]
        options, on_call = self._keywords(gamma)
        words = ", ".join(f"{key}={value!r}" for key, value in options.items())
        order = "y, x" if self.targets_first else "x, y"
        extra = "".join(f", {key}={value!r}" for key, value in on_call.items())
        if self.is_class:
            return f"{name}({words})({order}{extra})"
        return f"{name}({order}{', ' if words else ''}{words}{extra})"


def load(target: str) -> Any:
    """The object that a target names.

    It runs the code of the module that it is pointed at.
    """
    if target.partition(":")[0].partition(".")[0] == "keras":  # read at its import
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        return places.load(target)
    except places.PlaceError as error:
        raise SubjectError(str(error)) from error
