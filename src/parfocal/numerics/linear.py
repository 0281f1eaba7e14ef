"""The loss of class indices whose logits are a linear map, made over chunks of rows.

    x = input weight^T + bias        L = sum over rows of w_n FL(x_n) / divisor        G = dL/dx

    dL/dinput = G weight             dL/dweight = G^T input             dL/dbias = G^T 1

With 10^5 classes the logits (N, C) and G are larger than all else together, so there is never more
of them than a chunk of rows. Its part of the three gradients is made while its logits are there:
the three matrix products of the composition, each of them once.

Where the gradient of the weight is accumulated in two parts, see `products`, the logits of the
second part, a third of the classes, are made again. Of the others a row has kept one number:

    in a softmax the classes of a set A count as one, with the logit log(sum of exp(x_j) over A)
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.numerics.backends import backend_of
from parfocal.numerics.closed_form import (
    Gamma,
    finite,
    round_exponent,
    value_and_slope,
)
from parfocal.numerics.forms import ClassFocal, over_one_class, smoothed
from parfocal.numerics.margin import ALL_CLASSES, ONE_CLASS
from parfocal.numerics.products import Products, WideSum
from parfocal.numerics.tracing import is_readable

# Rows of a chunk. As a part of the features, since the logits are the same part of the weight's
# size; but not so few that the products are slow, nor so few logits that the calls are felt.
_PART, _PART_OF_16_BITS = 4, 24
_ROWS = 128
_LOGITS = 2**22

# Logits whose smoothed loss is made at once: it has two dozen temporaries of their size.
_SMOOTHED = 2**18

# Columns behind the logits of some classes, for all others; so many keep a GPU's rows aligned.
_BEHIND = 8


class LinearMap(NamedTuple):
    """input (N, D), weight (C, D) and bias (C), of one dtype unless autocast mixes them."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None


class WeightedRows(NamedTuple):
    """What is summed.

    labels: classes (N), int64.
    weight: of each row (N) in float32, 0 where a row doesn't count; None for 1.
    divisor: of the sum: a number, or a tensor of one.
    """

    labels: Tensor
    weight: Tensor | None
    divisor: float | Tensor


Needs = Sequence[bool]
"""Whether the gradient in input, weight and bias is asked for."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Those in input, weight and bias; of float16 in float32, until what comes in is known."""

Chunk = slice | Tensor
"""Some rows."""


def evaluate(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype, needs: Needs
) -> tuple[Tensor, Gradients]:
    """The sum over rows over the divisor, and its gradients in what needs them."""
    task = _Task.of(loss, linear, rows, dtype)
    needs_input, needs_weight, needs_bias = needs
    wide, device = task.products.wide, linear.input.device
    of_input = of_weight = of_bias = None
    if needs_input:
        kept = wide if linear.input.dtype == torch.float16 else linear.input.dtype
        of_input = torch.zeros(linear.input.shape, dtype=kept, device=device)
    if needs_weight:
        of_weight = WideSum(linear.weight, wide, is_whole=loss.smoothing > 0)
    if needs_bias:
        of_bias = torch.zeros(len(linear.weight), dtype=wide, device=device)
    first = len(linear.weight) if of_weight is None else of_weight.first
    remaining = _Remaining.of(task, first) if first < len(linear.weight) else None
    scale = _inverse(rows.divisor, wide)

    total = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else wide, device=device)
    for chunk in task.chunks():
        factors = task.factors(chunk)
        x = task.products.logits(factors, slice(0, len(linear.weight)))
        part, g = task.sum(x, chunk, needs_gradient=any(needs))
        total += part
        if g is None:
            continue
        g = g.to(task.products.dtype)
        if of_input is not None:
            of_input[chunk] = task.products.back(g).mul_(scale).to(of_input.dtype)
        if of_bias is not None:
            of_bias += g.sum(0, dtype=wide)
        if of_weight is not None:
            of_weight.add(g[:, :first], factors)
        if remaining is not None:
            remaining.keep(x, chunk)
        del x, g  # before those of the next chunk are there
    if of_weight is not None:
        of_weight.settle(scale)
        if remaining is not None:
            remaining.add_to(of_weight)
            of_weight.settle(scale)
    if of_bias is not None:
        of_bias *= scale
    gradients = (of_input, None if of_weight is None else of_weight.result(), of_bias)
    return (total / rows.divisor).to(wide), gradients


def evaluate_rows(
    loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
) -> Tensor:
    """weight L of each row, 0 where it doesn't count."""
    task = _Task.of(loss, linear, rows, dtype)
    losses = torch.zeros(len(linear.input), dtype=task.products.wide, device=linear.input.device)
    for chunk in task.chunks():
        x = task.products.logits(task.factors(chunk), slice(0, len(linear.weight)))
        losses[chunk] = task.losses(x, chunk)
    return losses


class _Task(NamedTuple):
    """One pass over the rows of a map; counting: the places of rows that count, None for all."""

    loss: ClassFocal
    products: Products
    input: Tensor
    rows: WeightedRows
    counting: Tensor | None

    @classmethod
    def of(
        cls, loss: ClassFocal, linear: LinearMap, rows: WeightedRows, dtype: torch.dtype
    ) -> "_Task":
        """The pass, in the dtype that its products have on this device."""
        input, weight, bias = (None if t is None else t.detach() for t in linear)
        assert input is not None
        assert weight is not None
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if input.is_cpu:
            dtype = wide
        elif weight.dtype != dtype:
            weight = weight.to(dtype)
        counting = None
        if rows.weight is not None and is_readable(rows.weight):
            places = rows.weight.nonzero().squeeze(1)
            counting = places if len(places) < len(input) else None
        return cls(loss, Products(weight, bias, dtype, wide), input, rows, counting)

    def chunks(self) -> Iterator[Chunk]:
        """The rows that count, some at a time."""
        classes, features = self.products.weight.shape
        part = _PART_OF_16_BITS if self.products.weight.dtype.itemsize == 2 else _PART
        step = max(features // part, _ROWS, _LOGITS // classes)
        count = len(self.input) if self.counting is None else len(self.counting)
        for start in range(0, count, step):
            places = slice(start, min(start + step, count))
            yield places if self.counting is None else self.counting[places]

    def factors(self, chunk: Chunk) -> Tensor:
        """The input of some rows, 0 where one doesn't count."""
        input = self.input[chunk].to(self.products.dtype)
        weight = self.row_weight(chunk)
        if weight is None or self.counting is not None:
            return input
        return torch.where((weight != 0).unsqueeze(1), input, 0.0)

    def row_weight(self, chunk: Chunk) -> Tensor | None:
        """The weights of some rows."""
        return None if self.rows.weight is None else self.rows.weight[chunk]

    def sum(
        self, x: Tensor, chunk: Chunk, *, needs_gradient: bool, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The sum over a chunk of logits, and its gradient in them."""
        index = self.rows.labels[chunk] if index is None else index
        weight, loss = self.row_weight(chunk), _of_rows(self.loss, chunk)
        backend = backend_of(x, index, weight, loss.gamma, loss.class_weight)
        if backend is not None:
            evaluation = backend.class_sum(loss, x, index, weight, 1.0, needs_gradient)
            if evaluation is not None:
                return evaluation  # type: ignore[no-any-return]
        losses, gradient = _closed_rows(loss, x, index, weight, needs_gradient)
        return losses.sum(), gradient

    def losses(self, x: Tensor, chunk: Chunk) -> Tensor:
        """The loss of each row of a chunk of logits."""
        index, weight = self.rows.labels[chunk], self.row_weight(chunk)
        return _closed_rows(_of_rows(self.loss, chunk), x, index, weight, needs_gradient=False)[0]


class _Remaining(NamedTuple):
    """The classes from `first` on, whose part of the weight's gradient is made last.

    own: the logit of the class of each row. others: the one logit of all classes before `first`,
    without that of the row.
    """

    task: _Task
    first: int
    own: Tensor
    others: Tensor

    @classmethod
    def of(cls, task: _Task, first: int) -> "_Remaining":
        """The same before any logits are known."""
        numbers = torch.zeros(
            2, len(task.input), dtype=task.products.wide, device=task.input.device
        )
        return cls(task, first, *numbers)

    def keep(self, x: Tensor, chunk: Chunk) -> None:
        """Keep what is needed of some logits, whose memory is used up."""
        index = self.task.rows.labels[chunk].unsqueeze(1)
        self.own[chunk] = x.gather(1, index).squeeze(1)
        before = x.scatter_(1, index, -math.inf)[:, : self.first]
        top = finite(before.amax(1, keepdim=True))
        terms = before.sub_(top).exp_()
        self.others[chunk] = terms.sum(1).log_().add_(top.squeeze(1))

    def add_to(self, of_weight: WideSum) -> None:
        """Add the products of these classes, of logits that are made again."""
        task, classes = self.task, slice(self.first, len(self.task.products.weight))
        count = classes.stop - classes.start
        for chunk in task.chunks():
            factors = task.factors(chunk)
            x = task.products.logits(factors, classes, behind=_BEHIND)
            index = task.rows.labels[chunk]
            is_before = index < self.first
            x[:, count:] = -math.inf
            x[:, count] = torch.where(is_before, self.own[chunk], -math.inf)
            x[:, count + 1] = self.others[chunk]
            index = torch.where(is_before, count, index - self.first)
            _, g = task.sum(x, chunk, needs_gradient=True, index=index)
            assert g is not None
            of_weight.add(g[:, :count].to(task.products.dtype), factors)


def _of_rows(loss: ClassFocal, chunk: Chunk) -> ClassFocal:
    """The loss of some rows, which may have a gamma each."""
    gamma = loss.gamma
    return loss._replace(gamma=gamma[chunk]) if isinstance(gamma, Tensor) else loss


def _closed_rows(
    loss: ClassFocal, x: Tensor, index: Tensor, weight: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """weight L of each row, and the gradient of its sum, in closed form from the margins."""
    if loss.smoothing:
        return _closed_distributions_in_blocks(loss, x, index, weight, needs_gradient)
    (u, t), kept = ONE_CLASS.evaluate(x, index.unsqueeze(1))
    value, slope = _value_and_slope(u, t, loss.gamma, needs_gradient)
    if weight is not None:
        value = torch.where(weight == 0, 0.0, value * weight)
    if slope is None:
        return value, None
    if weight is not None:
        slope = torch.where(weight == 0, 0.0, slope * weight)
    return value, ONE_CLASS.slope(x, index.unsqueeze(1), kept, slope)


def _closed_distributions_in_blocks(
    loss: ClassFocal, x: Tensor, index: Tensor, weight: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The same with smoothed labels, a few rows at a time."""
    losses, gradient = x.new_empty(len(x)), torch.empty_like(x) if needs_gradient else None
    step = max(1, _SMOOTHED // x.shape[1])
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        row_weight = None if weight is None else weight[rows]
        losses[rows], part = _closed_distributions(
            _of_rows(loss, rows), x[rows], index[rows], row_weight, needs_gradient
        )
        if gradient is not None and part is not None:
            gradient[rows] = part
    return losses, gradient


def _closed_distributions(
    loss: ClassFocal, x: Tensor, index: Tensor, weight: Tensor | None, needs_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Of smoothed labels: a sum over the classes, each from its own margin."""
    (u, t), kept = ALL_CLASSES.evaluate(x, None)
    value, slope = _value_and_slope(u, t, over_one_class(loss.gamma), needs_gradient)
    y = smoothed(torch.zeros_like(x).scatter_(1, index.unsqueeze(1), 1.0), loss.smoothing)
    if loss.class_weight is not None:
        y *= loss.class_weight.to(y.dtype)
    if weight is not None:
        y *= weight.to(y.dtype).unsqueeze(1)
    total = torch.where(y == 0, 0.0, value.mul_(y)).sum(1)
    gradient = None
    if slope is not None:
        gradient = ALL_CLASSES.slope(x, None, kept, torch.where(y == 0, 0.0, slope.mul_(y)))
    return total, gradient


def _value_and_slope(
    u: Tensor, t: Tensor, gamma: Gamma, needs_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """FL of a margin, and its slope."""
    one, gamma = torch.ones_like(u), round_exponent(gamma, u.dtype)
    return value_and_slope(u, one, gamma, 0.0, t=t, needs_slope=needs_slope, ordinary=False)


def needed(linear: LinearMap) -> tuple[bool, bool, bool]:
    """Which gradients autograd will ask for."""
    input, weight, bias = linear
    is_on = torch.is_grad_enabled()
    return (
        is_on and input.requires_grad,
        is_on and weight.requires_grad,
        is_on and bias is not None and bias.requires_grad,
    )


def _inverse(divisor: float | Tensor, wide: torch.dtype) -> float | Tensor:
    """1 / divisor, and 0 of 0, where no row counts."""
    if isinstance(divisor, Tensor):
        return torch.where(divisor == 0, 0.0, divisor.to(wide).reciprocal())
    return 1 / divisor if divisor else 0.0
