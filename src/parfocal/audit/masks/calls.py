"""Calls of a loss that leaves positions out: batches, ways to mask them, and what comes back."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.audit.evaluate import arguments, of_rows, tensor_of
from parfocal.audit.subject import Subject, SubjectError

# Names of the keyword of the target to ignore, and of arguments with one entry a position.
IGNORED = ("ignore_index", "ignore_label", "ignored_index")
MASKS = ("mask", "masks", "valid_mask", "padding_mask", "ignore_mask", "loss_mask")
WEIGHTS = ("sample_weight", "sample_weights", "weight", "weights", "position_weight")

# What users write for it, and a class, of which a mask inside of the range is made.
USUAL = (-100, 255, 1)


class Mask(NamedTuple):
    """One way to leave positions out.

    name: of the argument; empty where none is given.
    ignored: the target that is ignored; None of an argument with an entry a position.
    place: whether the class or function takes the argument, or the call of an instance.
    dtype: of an argument with an entry a position: "bool", or "float" for that of the logits.
    marks: whether an entry that is True leaves its position out.
    is_wide: whether the argument has the shape of the logits, and not that of the positions.
    """

    name: str = ""
    ignored: int | None = None
    place: str = "options"
    dtype: str = "bool"
    marks: bool = False
    is_wide: bool = False

    def entries(self, left_out: Tensor, x: Tensor) -> Tensor:
        """The argument itself, for logits in the shape that the loss takes."""
        kept = left_out if self.marks else ~left_out
        ones = x.ndim - 1
        entries = kept.reshape(-1, *(1,) * ones).expand(x.shape) if self.is_wide else kept
        if not self.is_wide and x.ndim > 2:  # maps: (N, H, W)
            entries = kept.reshape(-1, *(1,) * (ones - 1))
        return entries.detach().to(x.dtype) if self.dtype == "float" else entries.clone()

    def applied(self, subject: Subject, value: Any) -> Subject:
        """The subject with the argument."""
        if not self.name:
            return subject
        place = self.place if self.ignored is not None else "on_call"
        return subject.with_options(**{place: {**getattr(subject, place), self.name: value}})

    @property
    def state(self) -> str:
        """The entry that leaves a position out, in words."""
        return str(self.marks) if self.dtype == "bool" else str(int(self.marks))

    @property
    def is_weight(self) -> bool:
        """Whether the argument is a factor of each position."""
        return self.name in WEIGHTS


class Batch(NamedTuple):
    """Logits (N) of a binary loss or (N, C) of classes; classes (N); and who is left out (N)."""

    rows: Tensor
    classes: Tensor
    left_out: Tensor

    def to(self, dtype: torch.dtype) -> "Batch":
        """With logits of a dtype."""
        return self._replace(rows=self.rows.to(dtype))

    def only(self, positions: Tensor) -> "Batch":
        """Some positions of it, by their indices or by a mask."""
        return Batch(*(part[positions] for part in self))

    def beside(self, position: int) -> "Batch":
        """The first two positions and another, the third."""
        return self.only(torch.tensor([0, 1, position]))

    def quiet(self) -> "Batch":
        """The same with the logits of the first position at all that are left out."""
        rows = self.rows.clone()
        rows[self.left_out] = self.rows[0]
        return self._replace(rows=rows)

    def calmest(self, positions: Tensor) -> list[int]:
        """Positions of a mask, that of the smallest logits first."""
        size = self.rows.double().reshape(len(self.rows), -1).abs().amax(1).nan_to_num(math.inf)
        return [int(i) for i in size.argsort(stable=True) if bool(positions[i])]

    def targets(self, mask: Mask) -> Tensor:
        """The classes, and the ignored target where it stands in."""
        if mask.ignored is None:
            return self.classes
        return torch.where(self.left_out, mask.ignored, self.classes)


class Result(NamedTuple):
    """What a call gave.

    whole: the sum of what came back. values: of each position, (N, 1) or (N, C), if there are any.
    gradient: in what the loss was given, (N, 1) or (N, C).
    size: how many numbers came back.
    """

    whole: float
    values: Tensor | None
    gradient: Tensor
    size: int


def inputs(subject: Subject, mask: Mask, batch: Batch) -> tuple[Tensor, Tensor, Any]:
    """What the loss takes, with a gradient; targets; and the argument of a mask."""
    given = of_rows if subject.kind == "multiclass" else arguments
    x, y = given(subject, batch.rows, batch.targets(mask))
    x = x.detach().clone().requires_grad_()
    return x, y, mask.entries(batch.left_out, x) if mask.ignored is None else mask.ignored


def loss_of(subject: Subject, mask: Mask, batch: Batch, gamma: float) -> tuple[Tensor, Tensor]:
    """What the loss was given, with a gradient, and the loss itself.

    Raises:
        Exception: whatever the loss raises.
    """
    x, y, value = inputs(subject, mask, batch)
    loss = tensor_of(mask.applied(subject, value).at(gamma)(x, y))
    if loss is None:
        raise SubjectError("expected a tensor from the loss")
    return x, loss


def call(subject: Subject, mask: Mask, batch: Batch, gamma: float) -> Result:
    """The loss of a batch, and its gradient in what it was given, logits or probabilities.

    Raises:
        Exception: whatever the loss or its gradient raises.
    """
    x, loss = loss_of(subject, mask, batch, gamma)
    gradient = torch.zeros_like(x)
    if loss.requires_grad:
        found = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0]
        gradient = gradient if found is None else found
    count, values = len(batch.rows), None
    if loss.ndim and len(loss) == count and loss.numel() in (count, x.numel()):
        values = loss.detach().reshape(count, -1)
    whole = float(loss.detach().double().sum())
    return Result(whole, values, gradient.reshape(count, -1), loss.numel())


def masks_of(subject: Subject, classes: int) -> list[list[Mask]]:
    """What its signature offers, by argument; and the target -100, where no other is offered."""
    made = parameters(subject.loss)
    called = _called(subject.loss) if subject.is_class else made
    chosen = {**subject.options, **subject.on_call}
    found: list[list[Mask]] = []
    if subject.kind == "binary" or not subject.one_hot:  # no index stands in a one-hot target
        name = next((name for name in IGNORED if name in {**made, **called}), "")
        if name:
            place = "options" if name in made else "on_call"
            default = {**called, **made}[name].default
            values = (chosen[name],) if name in chosen else (default, *USUAL)
            indices = dict.fromkeys(v for v in values if type(v) is int)
            found = [[Mask(name, index, place) for index in indices]]
        elif subject.kind == "multiclass":
            found = [[Mask(ignored=-100)]]
    return [masks for masks in found if masks] + [
        [Mask(name)] for name in (*MASKS, *WEIGHTS) if name in called and name not in chosen
    ]


def _called(loss: Any) -> dict[str, inspect.Parameter]:
    """The parameters of the call of an instance."""
    found: dict[str, inspect.Parameter] = {}
    for name in ("__call__", "call", "forward"):
        found |= parameters(getattr(loss, name, None))
    return found


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Those that may be given by their names."""
    if isinstance(function, torch.nn.Module):
        function = function.forward
    try:
        named = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in named.items() if one.kind in kinds}


def kept_positions(subject: Subject, classes: int, ignored: int | None) -> Batch:
    """Five calm positions that count, none of the class that is ignored."""
    generator = torch.Generator().manual_seed(0)
    shape = (5, classes) if subject.kind == "multiclass" else (5,)
    rows = torch.randn(shape, generator=generator, dtype=torch.float64).mul(1.5)
    rows = rows.to(torch.bfloat16).double()  # the same numbers in every dtype
    allowed = [c for c in range(classes) if c != ignored]
    index = torch.tensor([allowed[i % len(allowed)] for i in range(5)])
    return Batch(rows, index, torch.zeros(5, dtype=torch.bool))


def with_left_out(batch: Batch, sizes: Sequence[float], dtype: torch.dtype) -> Batch:
    """The batch, and positions to leave out, of each of two classes.

    Each class in turn has a logit of each size and sign, and the others 0; of a size that is NaN or
    infinite there is a position too at which all classes have it.
    """
    rows, index = [], []
    count = batch.rows.shape[1] if batch.rows.ndim == 2 else 1
    classes = max(count, 2)
    for size in (sign * size for size in sizes for sign in (1.0, -1.0)):
        spikes = [torch.zeros(count).index_fill(0, torch.tensor(c), size) for c in range(count)]
        if not math.isfinite(size):
            spikes.append(torch.full((count,), size))
        for c, row in enumerate(spikes):
            rows += [row, row]
            index += [c % classes, (c + 1) % classes]
    extra = torch.stack(rows).double()
    extra = extra if batch.rows.ndim == 2 else extra[:, 0]
    left_out = torch.arange(len(batch.rows) + len(extra)) >= len(batch.rows)
    return Batch(
        torch.cat([batch.rows, extra]).to(dtype),
        torch.cat([batch.classes, torch.tensor(index)]),
        left_out,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Batches of some dozens: threads would only wait for each other."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
