"""What the guard sees of a training: how the loss is called, and one pass of it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from parfocal.numerics import margin

Kind = Literal["binary", "multiclass"]

# How libraries call the focusing exponent.
_GAMMA = ("gamma", "focal_gamma", "gamma_neg")

# Logits of a pass that may be held beside others until there is a reading or a step.
SMALL = 1 << 12


# Both are made at each step of a training: tuples, which cost less than dataclasses.


class Call(NamedTuple):
    """A loss and the arguments that it gets beside logits and targets.

    autocast: the dtype of the autocast that it runs under, None if it is off.
    """

    loss: Callable[..., Tensor]
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = {}  # never written to
    autocast: torch.dtype | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, under its autocast."""
        with self._precision(logits.device.type):
            return self.loss(logits, targets, *self.arguments, **self.keywords)

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device, self.autocast)

    def without_batch(self, count: int) -> "Call":
        """Without the keywords that have an entry for each of the samples of a batch."""
        kept = {name: v for name, v in self.keywords.items() if not _is_of_batch(v, count)}
        return self._replace(keywords=kept)

    def of_samples(self, chosen: Tensor, count: int) -> "Call":
        """With the entries of some of the samples of a batch."""

        def part(value: Any) -> Any:
            return value[chosen] if _is_of_batch(value, count) else value

        return self._replace(
            arguments=tuple(part(value) for value in self.arguments),
            keywords={name: part(value) for name, value in self.keywords.items()},
        )

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


class Pass(NamedTuple):
    """One call of a loss in a training.

    logits: without their graph. targets: as they were given.
    samples: what the user calls the samples of the batch, if anything.
    step: of the training, counted from 1. rank: of the process.
    """

    call: Call
    logits: Tensor
    targets: Tensor
    samples: Tensor | None = None
    step: int = 0
    rank: int = 0

    @property
    def kind(self) -> Kind:
        """Of its targets."""
        return kind_of(self.logits, self.targets)

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


def _is_of_batch(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count > 1
