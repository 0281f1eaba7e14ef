"""What an elementwise loss is summed over, and the numbers and tensors that make it that loss."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from parfocal.numerics.tracing import is_readable, replicate_beside

Number = float | Tensor
"""A hyper-parameter: one number, or a tensor of the shape of the logits."""


class Data(NamedTuple):
    """Tensors of the shape of the logits, whole or a block of them; none is differentiated.

    y: targets in [0, 1]; or, of all logits (N, C, ...), class indices (N, ...) in [0, C]: a class
        has the target 1 where the index is its own, and at C no class has.
    weight: a factor of each position.
    mask: True where a position counts.
    """

    y: Tensor
    weight: Tensor | None = None
    mask: Tensor | None = None


class Evaluation(NamedTuple):
    """Values of a loss and, where they were asked for, its slopes; of the positions of a block."""

    value: Tensor
    slope: Tensor | None


class Form(Protocol):
    """A closed form of a loss for plain tensors on the CPU, in the dtype of the computation.

    None for logits or targets of which it isn't right.
    """

    def __call__(
        self, x: Tensor, y: Tensor, *, weight: Tensor | None, needs_slope: bool
    ) -> Evaluation | None:
        """Of a block: weight L, and its slope if it is needed."""


class Kernel(NamedTuple):
    """How a backend that has loops of its own, compiled ahead, is told of a loss.

    name: of its loop.
    gamma: its exponent.
    alpha: the weight of a positive, beside 1 - alpha of a negative; 1 for both where it is None.
    number: what else there is: a smoothing constant, for one.
    second: another exponent.
    is_general: whether no target may take the short form of hard ones.
    """

    name: str
    gamma: float
    alpha: float | None = None
    number: float | None = 0.0
    second: float = 0.0
    is_general: bool = False


class ClassKernel(NamedTuple):
    """How a backend is told of the focal loss of class indices.

    gamma: a number, or one a row.
    smoothing: s; a class c of the row of class t counts (1 - s) [c = t] + s / C.
    class_weight: a factor of each class (C); without smoothing it is a part of that of the row.
    """

    gamma: Number
    smoothing: float = 0.0
    class_weight: Tensor | None = None


class AsymmetricKernel(NamedTuple):
    """How a backend is told of the asymmetric loss of class indices.

    gamma_neg, gamma_pos: exponents of the wrong classes and of the true one; numbers, or tensors of
        the shape of the logits.
    smoothing: s; the true class counts 1 - s + s / C, each other one s / C.
    class_weight: a factor of each class (C).
    """

    gamma_neg: Number
    gamma_pos: Number
    smoothing: float
    class_weight: Tensor | None = None

    def shares(self, x: Tensor) -> tuple[Number, Number]:
        """What each class of logits x counts as the true one, and as a wrong one."""
        share = self.smoothing / x.shape[1]
        of_true, of_wrong = 1 - self.smoothing + share, share
        if self.class_weight is None:
            return of_true, of_wrong
        weight = self.class_weight.to(x.dtype).view(-1, *(1,) * (x.ndim - 2)).unsqueeze(0)
        return of_true * weight, of_wrong * weight


class Loss(Protocol):
    """An elementwise loss: a record of numbers and tensors."""

    def kernel(self) -> Kernel | None:
        """The loop of a backend that has one for it."""

    def composition(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each position, differentiable any number of times."""

    def forms(self, dtype: torch.dtype) -> tuple[Form, ...]:
        """What is tried in turn for a sum in this dtype; one is taken for the whole of it."""

    def __iter__(self) -> Any: ...


AnyLoss = TypeVar("AnyLoss", bound=Iterable[Any])


def computation(x: Tensor) -> torch.dtype:
    """The dtype in which logits are computed with: float32 for 16 bits."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def tensors_of(loss: Iterable[Any]) -> tuple[Tensor | None, ...]:
    """The fields of a record that are tensors, each in its place; () where none is."""
    fields = tuple([field if isinstance(field, Tensor) else None for field in loss])
    for field in fields:
        if field is not None:
            return fields
    return ()


def with_tensors(loss: AnyLoss, tensors: Sequence[Tensor | None]) -> AnyLoss:
    """The record with other tensors in these places."""
    if not tensors:
        return loss
    fields = (f if t is None else t for f, t in zip(loss, tensors, strict=True))
    return type(loss)(*fields)


def over_classes(x: Tensor, data: Data) -> Data:
    """The same with a target of each class, True at the index; other targets stay as they are.

    An index outside of [0, C] has the weight NaN, unless values can be looked at: they were then.
    """
    y, weight, mask = data
    if y.ndim == x.ndim:
        return data
    index, classes = y.long().unsqueeze(1), x.shape[1]
    each = torch.arange(classes, device=x.device).view(-1, *(1,) * (x.ndim - 2))
    if not is_readable(x, y, weight, mask):
        is_known = (index >= 0) & (index <= classes)
        factor = 1.0 if weight is None else weight.to(computation(x))
        weight = torch.where(is_known, factor, torch.nan).expand_as(x)
    return Data(index == replicate_beside(x, each), weight, mask)


def prepare(
    loss: AnyLoss, fields: Sequence[Tensor | None], x: Tensor, data: Data
) -> tuple[AnyLoss, Tensor, Data]:
    """All in the dtype of the computation, and 0 where the mask is False, the weight as well.

    fields: the tensors of the loss, in their places.

    What stood there, be it NaN, has no part in anything then.
    """
    y, weight, mask = over_classes(x, data)
    dtype = computation(x)
    if mask is None and weight is None and not fields:
        return loss, x.to(dtype), Data(y.to(dtype))
    columns = [
        column if column is None or column.dtype == dtype else column.to(dtype)
        for column in (x, y, weight, *fields)
    ]
    if mask is not None:
        columns = [None if column is None else torch.where(mask, column, 0.0) for column in columns]
    x, y, weight, *wide = columns  # type: ignore[assignment]
    return with_tensors(loss, wide), x, Data(y, weight, mask)
