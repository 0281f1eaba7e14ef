"""The multiclass focal loss of logits, with the interface of PyTorch's cross-entropy."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.losses import checks, numbers, values
from parfocal.losses.reduction import reduce, result_dtype, select, to_input_dtype
from parfocal.losses.rows import Rows, rows
from parfocal.numerics import class_sum, class_values, focal, margin, varies
from parfocal.numerics.forms import ClassFocal, of_distribution, smoothed


def softmax_focal_loss(
    input: Tensor | None = None,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    gamma: float | Tensor = 2,
    *,
    ignore_index: int | Sequence[int] = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    epsilon: float = 0.0,
    mask: Tensor | None = None,
    position_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    r"""Multiclass focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = softmax(inputs)`` over the classes, class weights ``w`` and class ``t``::

        FL_c = -(1 - p_c + epsilon) ** gamma log p_c
        L    = w_t FL_t                                     for a class index t
        L    = sum over c of w_c y_c FL_c                   for class probabilities y

    At ``gamma=0`` this is ``F.cross_entropy`` with the same options. Label smoothing s takes
    ``(1 - s) y + s / C`` for y, as there.

    Args:
        input: Logits of shape (C), (N, C) or (N, C, d1, ...); float64, float32, float16 or
            bfloat16. NaN gives NaN; an infinity gives the limit of the loss, and no gradient flows
            to it.
        target: Class indices of an integer dtype, shape (), (N) or (N, d1, ...), in [0, C) or
            `ignore_index`; or class probabilities of a floating dtype, shape of `input`.
        weight: One factor per class, of shape (C).
        gamma: Focusing exponent, >= 0. May be a tensor that broadcasts against `input`, with one
            for each class of each sample: shape (C) with inputs (N, C), (C, 1, 1) with images,
            (N, 1) for one per sample.
        ignore_index: Index of positions that don't count, or several: their loss and gradients are
            exactly 0, whatever `input` holds there. For class indices only.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. A mean divides by the sum of the weights
            ``w_t`` of the positions that count if targets are indices, by the number of these
            positions if they are probabilities, as in ``F.cross_entropy``.
        label_smoothing: In [0, 1].
        epsilon: Smoothing constant of van Leeuwen et al., >= 0; 0 is the exact loss.
        mask: Boolean, or integers with 0 for False; broadcasts against the positions, shape (), (N)
            or (N, d1, ...); True where a position counts. Also for probabilities, which have no
            `ignore_index`.
        position_weight: One factor per position, broadcasts against them. It doesn't change what a
            mean divides by. Where it or the weight of the class is 0, a GPU kernel leaves out the
            position, whatever `input` holds; elsewhere 0 times NaN is NaN.
        normalizer: Positive number, or tensor of one element, that the sum is divided by; with
            ``reduction="sum"`` only.
        inputs, targets: Aliases of `input` and `target`, as in this package's other losses.

    Returns:
        The loss: shape (), (N) or (N, d1, ...) for ``reduction="none"``, else a scalar; in the
        dtype of `input`, under autocast in float32 at least.

    Raises:
        TypeError: logits, targets, mask or `ignore_index` of the wrong type.
        ValueError: shapes or devices that don't fit, numbers out of their range, `ignore_index`
            with probabilities, a normalizer without ``reduction="sum"``.
        IndexError: an index that is no class, where checking is free: on a CPU.

    If no position counts, a mean is NaN, as in PyTorch; for 0 instead use ``reduction="sum"`` with
    a normalizer of at least 1.

    `input`, probabilities, `gamma` and the weights may require gradients. Derivatives of every
    order in `input` and `gamma` are finite. Reverse and forward mode, ``torch.func`` and
    ``torch.compile(fullgraph=True)`` work.

    Accuracy: for class indices, value and gradient are within (1 + gamma)(8 + d + log2(C) / 2) ULP
    in float64 and float32, d the spread of a row of C logits, and within 1 ULP of that of float32
    in float16 and bfloat16. The exponential of a difference of logits inherits its rounding error,
    up to d / 2 units of 2 ** -23, which is d ULP of a result just below a power of two. A search
    over 10^6 rows of up to 40 classes found at most 0.93 of the bound (``ledger/search.py``).

    Example:
        >>> import torch
        >>> from parfocal import softmax_focal_loss
        >>> logits = torch.tensor([[20.0, 0.0, 1.0], [0.0, 2.0, 0.0]], requires_grad=True)
        >>> loss = softmax_focal_loss(logits, torch.tensor([0, 2]), gamma=0.5)
        >>> loss.backward()
        >>> logits.grad
        tensor([[-5.0320e-13,  1.3533e-13,  3.6787e-13],
                [ 5.7057e-02,  4.2160e-01, -4.7865e-01]])

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, with the
    softmax for p; epsilon: van Leeuwen et al., "A Note On The Stability Of The Focal Loss", TMLR
    2025.
    """
    call = "softmax_focal_loss"
    inputs = checks.one_of(call, "input", input, "inputs", inputs)
    targets = checks.one_of(call, "target", target, "targets", targets)
    checks.class_logits_and_targets(call, inputs, targets)
    checks.class_weight(call, weight, inputs)
    gamma = checks.gamma(call, gamma, inputs)
    ignored = checks.ignore_index(call, ignore_index, targets)
    label_smoothing = numbers.fraction(call, "label_smoothing", label_smoothing)
    epsilon = numbers.smoothing(call, epsilon, gamma)
    checks.position_weight(call, position_weight, inputs)
    mask = checks.position_mask(call, mask, inputs)
    checks.reduction(call, reduction)
    normalizer = checks.normalizer(call, normalizer, reduction)

    shape = inputs.shape
    if position_weight is not None:
        position_weight = position_weight.expand(checks.positions_of(inputs))
    if inputs.ndim == 1:
        inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
        mask = None if mask is None else mask.view(1)
        position_weight = None if position_weight is None else position_weight.view(1)
    r = rows(call, inputs, targets, ignored, mask)
    weights = Weights(weight, position_weight, reduction, normalizer)
    is_plain = not (epsilon or len(shape) == 1)
    if is_plain and not isinstance(gamma, Tensor) and r.labels is not None:
        result = weights.evaluate(r, r.labels, gamma, label_smoothing)
        if result is not None:
            return to_input_dtype(result, inputs)

    r = r.prepare()
    gamma = r.exponent(call, "gamma", gamma, shape)
    if r.probabilities is not None:
        values.probabilities(call, r.probabilities)
    loss = _losses(r, weight, gamma, epsilon, label_smoothing)
    loss = weights.reduce(r, loss)
    if len(shape) == 1 and reduction == "none":
        loss = loss.squeeze(0)
    return to_input_dtype(loss, inputs)


def _losses(
    r: Rows,
    weight: Tensor | None,
    gamma: float | Tensor,
    epsilon: float,
    label_smoothing: float,
) -> Tensor:
    """The loss of each row, weighed by its class."""
    if r.labels is not None and label_smoothing == 0:
        return _of_index(r.x, r.labels, weight, gamma, epsilon)
    y = r.distribution()
    if label_smoothing:
        y = smoothed(y, label_smoothing)
    return of_distribution(r.x, y, weight, gamma, epsilon)


class Weights(NamedTuple):
    """How rows are weighed and reduced; the options of the same names, one factor a class first."""

    of_classes: Tensor | None
    of_positions: Tensor | None
    reduction: str
    normalizer: float | Tensor | None

    def evaluate(
        self, r: Rows, labels: Tensor, gamma: float, label_smoothing: float
    ) -> Tensor | None:
        """What was asked for in one pass over the logits; None where there is no such pass."""
        if varies(self.of_classes, self.of_positions, self.normalizer):
            return None
        loss = self.record(gamma, label_smoothing)
        factor, divisor = self.of_rows(r, labels, loss, torch.float32)
        if self.reduction == "none":
            return class_values(loss, r.x, labels, factor, result_dtype(r.x))
        return class_sum(loss, r.x, labels, factor, divisor)

    def record(self, gamma: float | Tensor, label_smoothing: float) -> ClassFocal:
        """The loss of rows; with smoothed labels each class has the weight of its own term."""
        if not label_smoothing:
            return ClassFocal(gamma)
        return ClassFocal(gamma, label_smoothing, self.of_classes)

    def of_rows(
        self, r: Rows, labels: Tensor, loss: ClassFocal, dtype: torch.dtype
    ) -> tuple[Tensor | None, float | Tensor]:
        """The weight of each row, beside those of the loss, and what a sum is divided by."""
        factor = self._class_weights(r, dtype)
        divisor: float | Tensor = 1.0 if self.normalizer is None else self.normalizer
        if self.reduction == "mean":
            divisor = _count(r.mask, labels) if factor is None else _exact_sum(factor)
        if loss.smoothing:
            factor = None
        if self.of_positions is not None:
            others = select(r.mask, self.of_positions.to(dtype))
            factor = others if factor is None else factor * others
        if factor is None and r.mask is not None:
            factor = r.mask.to(dtype)
        return factor, divisor

    def reduce(self, r: Rows, loss: Tensor) -> Tensor:
        """The losses of rows, weighed by their positions, as they were asked for."""
        if self.of_positions is not None:
            loss = select(r.mask, self.of_positions.to(loss.dtype)) * loss
        shares = self._class_weights(r, loss.dtype)
        return reduce(select(r.mask, loss), self.reduction, r.mask, self.normalizer, shares)

    def _class_weights(self, r: Rows, dtype: torch.dtype) -> Tensor | None:
        """That of the class of each row, 0 where a row doesn't count; what a mean divides by."""
        if self.of_classes is None or r.labels is None:
            return None
        return select(r.mask, self.of_classes.to(dtype)[r.labels])


def _count(mask: Tensor | None, labels: Tensor) -> float | Tensor:
    """How many rows count."""
    return labels.numel() if mask is None else mask.sum()


def _exact_sum(factor: Tensor) -> Tensor:
    """The sum, in float64 on a CPU; other devices may have none."""
    return factor.sum(dtype=torch.float64 if factor.is_cpu else None)


def _of_index(
    x: Tensor, index: Tensor, weight: Tensor | None, gamma: float | Tensor, epsilon: float
) -> Tensor:
    """w_t FL_t of one class a row, from its margin."""
    u, t = margin(x, index)
    if isinstance(gamma, Tensor):
        gamma = gamma.gather(1, index.unsqueeze(1)).squeeze(1)
    loss = focal(u, torch.ones_like(u), gamma, epsilon, t)
    return loss if weight is None else weight.to(loss.dtype)[index] * loss
