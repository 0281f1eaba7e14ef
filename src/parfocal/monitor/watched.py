"""What the guard sees of a training: how the loss is called, and one pass of it."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from parfocal.numerics import margin

Kind = Literal["binary", "multiclass"]

# How libraries call the focusing exponent.
_GAMMA = ("gamma", "focal_gamma", "gamma_neg")


@dataclass(frozen=True)
class Call:
    """A loss and the arguments that it gets beside logits and targets.

    autocast: the dtype of the autocast that it runs under, None if it is off.
    """

    loss: Callable[..., Tensor] = field(repr=False)
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    autocast: torch.dtype | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, under its autocast."""
        with self.precision(logits.device.type):
            return self.loss(logits, targets, *self.arguments, **self.keywords)

    def precision(self, device: str) -> AbstractContextManager[Any]:
        """Its autocast."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device, self.autocast)

    def without_batch(self, logits: Tensor) -> "Call":
        """Without the arguments that have an entry for each sample of the batch."""

        def is_of_batch(value: Any) -> bool:
            return isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(logits) > 1

        if any(is_of_batch(value) for value in self.arguments):
            return self
        kept = {name: value for name, value in self.keywords.items() if not is_of_batch(value)}
        return Call(self.loss, self.arguments, kept, self.autocast)

    @property
    def gamma(self) -> float | None:
        """The focusing exponent, where its name tells it."""
        return next((g for name in _GAMMA if (g := self._option(name)) is not None), None)

    def _option(self, name: str) -> float | None:
        function, given = self.loss, dict(self.keywords)
        while isinstance(function, partial):
            given = {**function.keywords, **given}
            function = function.func
        found = given.get(name, getattr(function, name, None))
        if found is None:
            found = self._in_signature(function, name)
        if isinstance(found, Tensor) and found.numel() == 1:
            found = found.item()
        return float(found) if isinstance(found, int | float) else None

    def _in_signature(self, function: Callable[..., Any], name: str) -> Any:
        """A positional argument, or the default."""
        try:
            names = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return None
        place = list(names).index(name) - 2 if name in names else -1
        if 0 <= place < len(self.arguments):
            return self.arguments[place]
        default = names[name].default if name in names else None
        return None if default is inspect.Parameter.empty else default


@dataclass(frozen=True)
class Pass:
    """One call of a loss in a training.

    logits: without their graph.
    targets: as they were given.
    step: of the training, counted from 1. rank: of the process.
    samples: what the user calls the samples of the batch, if anything.
    """

    call: Call
    logits: Tensor
    targets: Tensor
    kind: Kind
    step: int = 0
    rank: int = 0
    samples: Tensor | None = None

    def margin(self) -> Tensor:
        """u of each position: of binary logits +-x by the target, of classes the true one's."""
        x = self.logits.detach()
        x = x if x.dtype == torch.float64 else x.float()
        if self.kind == "binary":
            return torch.where(self.targets > 0.5, x, -x)
        return class_margin(x, self.targets)


def kind_of(logits: Tensor, targets: Tensor) -> Kind:
    """Binary if there is a target for each logit, multiclass if there is one a row of logits."""
    return "binary" if logits.shape == targets.shape else "multiclass"


def class_margin(x: Tensor, targets: Tensor) -> Tensor:
    """The margin of the true class of each row (N, C, ...); that of an index out of range is 0."""
    counts = (targets >= 0) & (targets < x.shape[1])
    u = margin(x, torch.where(counts, targets, 0).long()).u
    return torch.where(counts, u, 0.0)


def constructed(target: str, options: Mapping[str, Any], is_class: bool) -> Callable[..., Tensor]:
    """The loss that `package.module:name` and its options make.

    It runs the code of the module that it is pointed at.
    """
    place, _, name = target.partition(":")
    found: Any = importlib.import_module(place)
    for part in name.split("."):
        found = getattr(found, part)
    made = found(**options) if is_class else partial(found, **options) if options else found
    assert callable(made)
    return made


def place_of(loss: Callable[..., Any]) -> tuple[str, dict[str, Any], bool] | None:
    """What `constructed` makes the loss of again; None for a lambda, a closure and the like."""
    options: dict[str, Any] = {}
    while isinstance(loss, partial):
        if loss.args:
            return None
        options, loss = {**loss.keywords, **options}, loss.func
    is_class = isinstance(loss, nn.Module)
    if is_class:
        known = inspect.signature(type(loss)).parameters
        options = {name: getattr(loss, name) for name in known if hasattr(loss, name)}
        loss = type(loss)
    plain = {name: _plain(value) for name, value in options.items()}
    name = getattr(loss, "__qualname__", "<")
    if "<" in name or not all(_is_told(value) for value in plain.values()):
        return None
    return f"{loss.__module__}:{name}", plain, is_class


def _is_told(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
