"""How a loss is called, whatever its signature."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from parfocal import places

Framework = Literal["torch", "jax", "numpy"]
Kind = Literal["binary", "multiclass"]
Takes = Literal["logits", "probabilities"]
Reduced = Literal["none", "sum", "mean"]


class SubjectError(Exception):
    """A loss that can't be found, called or understood."""


@dataclass(frozen=True)
class Subject:
    """A loss, and how it is called.

    name: what a report calls it.
    target: where it is, `package.module:name` or `path/file.py:name`.
    loss: the function; or the class, which is called with its options first.
    framework: whose arrays it takes. Keras on its torch backend is torch; a loss of NumPy arrays
        gives the pair of its gradient and second derivative, as a booster's objective does.
    kind: binary (logits and targets of one shape) or multiclass (logits (N, C), indices).
    takes: logits or their probabilities.
    gamma: the keyword of the focusing exponent; None if there is none.
    options: the other keyword arguments.
    on_call: keyword arguments of the call of an instance of a class.
    is_class: whether it is constructed first.
    targets_first: whether targets come before logits.
    column: whether binary logits are (N, 1).
    one_hot: whether multiclass targets are one-hot.
    reduced: whether the result is one number, and of which kind.
    fixed_gamma: the exponent of a loss without a keyword for it.
    """

    name: str
    target: str
    loss: Callable[..., Any] = field(repr=False)
    framework: Framework = "torch"
    kind: Kind = "binary"
    takes: Takes = "logits"
    gamma: str | None = "gamma"
    options: Mapping[str, Any] = field(default_factory=dict)
    on_call: Mapping[str, Any] = field(default_factory=dict)
    is_class: bool = False
    targets_first: bool = False
    column: bool = False
    one_hot: bool = False
    reduced: Reduced = "none"
    fixed_gamma: float = 2.0

    def at(self, gamma: float) -> Callable[[Any, Any], Any]:
        """The loss of (logits, targets), at an exponent."""
        options = dict(self.options)
        if self.gamma is not None:
            options[self.gamma] = gamma
        if self.is_class:
            call, given = self.loss(**options), dict(self.on_call)
        else:
            call, given = self.loss, {**options, **self.on_call}
        if self.targets_first:
            return lambda x, y: call(y, x, **given)
        return lambda x, y: call(x, y, **given)

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
        options = dict(self.options)
        if self.gamma is not None:
            options[self.gamma] = gamma
        words = ", ".join(f"{key}={value!r}" for key, value in options.items())
        order = "y, x" if self.targets_first else "x, y"
        extra = "".join(f", {key}={value!r}" for key, value in self.on_call.items())
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
