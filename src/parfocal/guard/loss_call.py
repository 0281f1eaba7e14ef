"""One call of a loss during training, kept so that it can be repeated at other logits."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Loss = Callable[..., Any]

Place = int | str
"""Where an argument stands in a call: its position, or its keyword."""

# What libraries call the logits, the targets, and the focusing exponent of a loss.
_LOGITS = frozenset({
    "inputs", "input", "logits", "logit", "pred", "preds", "pred_logits", "prediction",
    "predictions", "y_pred", "y_hat", "yhat", "output", "outputs", "scores", "score", "cls_score",
    "x",
})  # fmt: skip
_TARGETS = frozenset({
    "targets", "target", "labels", "label", "y", "y_true", "gt", "gts", "gt_labels", "ground_truth",
    "true", "truth", "classes",
})  # fmt: skip
_OTHERS = frozenset({
    "weight", "weights", "mask", "masks", "pos_weight", "class_weight", "sample_weight",
})  # fmt: skip
_GAMMA = ("gamma", "focal_gamma", "gamma_neg", "gamma_pos")

# An exponent that changes has other limits when it reaches the next of so many steps of one.
_STEPS = 8

# Integers up to there may say how a loss is made, as well as what it is divided by.
_FEW = 4

# Exponents of a tensor that are looked at, at most.
_EXPONENTS = 64

# Logits of a call that may be held beside others until there is a reading or a step.
SMALL = 1 << 12


class Places(NamedTuple):
    """Where the logits and the targets stand in a call."""

    logits: Place
    targets: Place


class LossCall(NamedTuple):
    """A loss, what it was called with, and when; a tuple, since each pass creates one.

    arguments, keywords: those of the call, with None in place of logits and targets.
    autocast: the dtype of the autocast that it runs under, None if it is off.
    logits: without their graph. targets: as passed.
    samples: the user's names of the samples in the batch, if any.
    step: of the training, counted from 1. rank: of the process.
    """

    loss: Loss
    logits: Tensor
    targets: Tensor
    arguments: Sequence[Any] = (None, None)
    keywords: Mapping[str, Any] = {}  # never written to
    places: Places = Places(0, 1)
    autocast: torch.dtype | None = None
    samples: Tensor | None = None
    step: int = 0
    rank: int = 0

    def at(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss at other logits and targets.

        Raises:
            TypeError: the loss returns nothing that can be differentiated.
        """
        arguments, keywords = list(self.arguments), dict(self.keywords)
        for place, value in zip(self.places, (logits, targets), strict=True):
            if isinstance(place, int):
                arguments[place] = value
            else:
                keywords[place] = value
        with self._precision(logits.device.type):
            losses = loss_tensors(self.loss(*arguments, **keywords))
        if not losses:
            raise TypeError("the loss returns no tensor that requires a gradient")
        return losses[0] if len(losses) == 1 else torch.stack([x.sum() for x in losses]).sum()

    @property
    def is_large(self) -> bool:
        """Whether its tensors are too large to be held beside those of other calls."""
        size = self.logits.numel() + self.targets.numel()
        if self.keywords or len(self.arguments) > 2:
            every = (*self.arguments, *self.keywords.values())
            size += sum(value.numel() for value in every if isinstance(value, Tensor))
        return size > 2 * SMALL

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device, self.autocast)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> "LossCall":
        """The same call with other tensors among its arguments."""

        def changed(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) and value.ndim else value

        return self._replace(
            arguments=tuple([changed(value) for value in self.arguments]),
            keywords={name: changed(value) for name, value in self.keywords.items()},
        )

    def numbers(self) -> tuple[Any, ...]:
        """The numbers and words among the arguments beside the exponents, and the exponents.

        On these the limits of the loss depend; on a factor or a divisor only by its logarithm, of
        which the integer is told: one that is another at each step has few.
        """
        names = list(parameters(self.loss))
        places = {*_GAMMA, *(names.index(name) for name in _GAMMA if name in names)}
        named = [*enumerate(self.arguments), *sorted(self.keywords.items())]
        exponents = (g for name in _GAMMA for several in self._exponents(name) for g in several)
        return *map(_level, exponents), *(
            (name, _magnitude(value.item() if isinstance(value, Tensor) else value))
            for name, value in named
            if name not in places
            and (
                isinstance(value, str | int | float)
                or (isinstance(value, Tensor) and value.numel() == 1 and value.ndim == 0)
            )
        )

    @property
    def name(self) -> str:
        """What the loss is called."""
        function = self.loss
        while isinstance(function, partial):
            function = function.func
        return getattr(function, "__name__", None) or type(function).__name__

    @property
    def gamma(self) -> float | None:
        """The focusing exponent, where its name tells it."""
        exponents = (several for name in _GAMMA for several in self._exponents(name))
        return next((several[0] for several in exponents if len(several) == 1), None)

    def _exponents(self, name: str) -> Iterator[list[float]]:
        """The numbers that go by the name of an exponent, the nearest first.

        In the call, in partials, of the loss or of whose method it is, of modules within, which may
        have a tensor of that name that is none, and by default.
        """
        function, known = self.loss, parameters(self.loss)
        yield _numbers_of(self.keywords.get(name))
        place = list(known).index(name) if name in known else len(self.arguments)
        yield from map(_numbers_of, self.arguments[place : place + 1])
        while isinstance(function, partial):
            yield _numbers_of(function.keywords.get(name))
            function = function.func
        owner = getattr(function, "__self__", function)
        yield _numbers_of(getattr(owner, name, None))
        if isinstance(owner, nn.Module):
            inner = (_numbers_of(getattr(part, name, None)) for part in owner.modules())
            yield from (several for several in inner if len(several) == 1)
        yield _numbers_of(known[name].default if name in known else None)


def _numbers_of(value: Any) -> list[float]:
    """The numbers of an exponent, none if it is none."""
    if isinstance(value, Tensor):
        is_readable = 0 < value.numel() <= _EXPONENTS and value.device.type != "meta"
        return value.detach().flatten().double().tolist() if is_readable else []
    is_number = isinstance(value, Real) or getattr(value, "shape", None) == ()
    return [float(value)] if is_number and not isinstance(value, bool) else []


def _level(gamma: float) -> tuple[float, bool]:
    """Exponents whose limits are nearly the same; 0 and 1, where cliffs end, are levels alone."""
    return (gamma * _STEPS // 1, gamma in (0, 1)) if math.isfinite(gamma) else (gamma, False)


def _magnitude(value: Any) -> Any:
    """A word or a small integer as it is; of other numbers the power of two and the sign."""
    is_large = isinstance(value, float) or (isinstance(value, int) and abs(value) > _FEW)
    if not is_large or not math.isfinite(value) or value in (0, 1):
        return value
    return math.frexp(value)[1], value > 0, "a power of two"


def parameters(loss: Loss) -> Mapping[str, inspect.Parameter]:
    """The parameters of a loss by their names; none if it doesn't tell them."""
    try:
        function = loss.forward if isinstance(loss, nn.Module) else loss
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def places_of(loss: Loss, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Places | None:
    """Where logits and targets stand, by their names, and else by which has a gradient.

    None where there are none, as in a loss of boxes and embeddings.
    """
    positional = [
        name
        for name, parameter in parameters(loss).items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = dict(enumerate(positional))
    every: dict[Place, Any] = dict([*enumerate(arguments), *keywords.items()])
    tensors = {place: value for place, value in every.items() if isinstance(value, Tensor)}

    def first(candidates: list[Place], known: frozenset[str]) -> Place | None:
        named = [p for p in candidates if (names.get(p, "") if isinstance(p, int) else p) in known]
        return next(iter([*named, *candidates]), None)

    varying = [p for p, v in tensors.items() if v.requires_grad and v.is_floating_point()]
    logits = first(varying, _LOGITS)
    others = [p for p in tensors if p != logits]
    targets = first(
        [p for p in others if (names.get(p, "") if isinstance(p, int) else p) not in _OTHERS],
        _TARGETS,
    )
    return None if logits is None or targets is None else Places(logits, targets)


def usual_places(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Places | None:
    """Where most calls have logits and targets, for a compiler, which can't look at signatures."""
    if len(arguments) >= 2:
        return Places(0, 1)
    logits = 0 if arguments else next((name for name in keywords if name in _LOGITS), None)
    targets = next((name for name in keywords if name in _TARGETS), None)
    return None if logits is None or targets is None else Places(logits, targets)


def loss_tensors(result: Any) -> list[Tensor]:
    """The losses in what a loss returned, those that have a gradient.

    Of a mapping all that are called losses, which a training adds up; else the first number.
    """
    if isinstance(result, Tensor):
        return [result] if result.requires_grad else []
    named = [v for name, v in _named(result) if name.lower().endswith("loss") or
             name.lower().startswith("loss")]  # fmt: skip
    losses = [v for v in named if v.requires_grad and v.ndim == 0]
    if losses:
        return losses
    every = [*named, *(v for _, v in _named(result))]
    tensors = [v for v in every if v.requires_grad]
    return [*(v for v in tensors if v.ndim == 0), *tensors][:1]


def _named(result: Any, name: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a collection of collections, with the last name on the way to each."""
    if isinstance(result, Tensor):
        yield name, result
    elif depth and isinstance(result, Mapping):
        for key, value in result.items():
            is_inner = name.lower().startswith("loss") and not isinstance(value, Mapping)
            yield from _named(value, name if is_inner else str(key), depth - 1)
    elif depth and isinstance(result, tuple | list):
        for value in result:
            yield from _named(value, name, depth - 1)
    elif depth and hasattr(result, "loss"):
        yield from _named(result.loss, "loss", 1)
