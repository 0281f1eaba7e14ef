"""The multiclass focal loss of a linear map, whose logits are never all there."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from parfocal.losses import checks, numbers, values
from parfocal.losses.reduction import to_input_dtype
from parfocal.losses.rows import rows
from parfocal.losses.softmax import Weights, softmax_focal_loss
from parfocal.numerics import (
    LinearMap,
    WeightedRows,
    computation,
    is_autocast,
    linear_class_sum,
    linear_class_values,
    varies,
)


def linear_softmax_focal_loss(
    input: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    gamma: float | Tensor = 2,
    *,
    ignore_index: int | Sequence[int] = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    mask: Tensor | None = None,
    position_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Softmax focal loss of ``input @ weight.T + bias``, without the memory of these logits.

    ::

        x = input weight^T + bias      p = softmax(x)      L = -w_t (1 - p_t) ** gamma log p_t

    It is ``softmax_focal_loss(F.linear(input, weight, bias), targets, class_weight, gamma, ...)``,
    computed over chunks of rows. The gradients in `input`, `weight` and `bias` are computed in the
    forward pass, while the logits of a chunk are in memory. With the 10^5 classes of a language
    model or of retrieval, the logits and their gradient are most of a training's memory. At
    ``gamma=0`` it is ``F.linear_cross_entropy``.

    Args:
        input: Features of shape (..., D); float64, float32, float16 or bfloat16.
        weight: Of the linear map, shape (C, D), in the dtype of `input`, or under autocast in any.
            A DTensor, such as FSDP's, is gathered; its gradient is averaged over the ranks.
        targets: Class indices of an integer dtype, shape (...), in [0, C) or `ignore_index`.
        bias: Of the linear map, shape (C).
        gamma: Focusing exponent, >= 0. May be a tensor that broadcasts to the positions, (...).
        ignore_index: Index of positions that don't count, or several: their loss and gradients are
            exactly 0, whatever `input` holds there, and on a CPU they take no time.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. A mean divides by the sum of the class
            weights of the positions that count. With ``"none"`` the logits are recomputed in the
            backward pass.
        label_smoothing: In [0, 1].
        class_weight: One factor per class, of shape (C).
        mask: Boolean, or integers with 0 for False; broadcasts to the positions; True where a
            position counts.
        position_weight: One factor per position, broadcasts to them. It doesn't change what a mean
            divides by. Where it is 0 the position doesn't count.
        normalizer: Positive number, or tensor of one element, that the sum is divided by; with
            ``reduction="sum"`` only.

    Returns:
        The loss: shape (...) for ``reduction="none"``, else a scalar; in the dtype of `input`,
        under autocast in float32 at least.

    Raises:
        TypeError: tensors or `ignore_index` of the wrong type.
        ValueError: shapes, dtypes or devices that don't fit, numbers out of their range, a
            normalizer without ``reduction="sum"``.
        IndexError: an index that is no class, where checking is free: on a CPU.

    Memory beyond inputs and gradients: the logits of a chunk in float32, and their gradient. A
    chunk has D / 4 rows, D / 24 of a weight in 16 bits, but at least 128, and 2 ** 22 logits. Label
    smoothing without a kernel takes 25 times 2 ** 18 numbers, or 25 rows, more. The weight's
    gradient is accumulated in float32: in bfloat16 that takes a third of its size more,
    and all of its size more with label smoothing; in float16 it stays in float32 until it is
    scaled. ``torch.compile`` treats the loss as one operator. Anything but plain reverse mode,
    second derivatives, and a `gamma` or weights of classes, positions or the sum that require
    gradients use the composition, with all logits at once.

    Accuracy: that of `softmax_focal_loss` at the logits, whose own rounding is that of a product in
    float32 accumulation. In 16 bits on a CPU, and with CUDA from torch 2.8 on, logits aren't
    rounded to 16 bits, unlike those of ``F.linear``. Gradients are rounded once, or twice in
    bfloat16 if the incoming gradient isn't 1.

    Example:
        >>> import torch
        >>> from parfocal import linear_softmax_focal_loss
        >>> features = torch.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
        >>> head = torch.nn.Linear(2, 3)
        >>> loss = linear_softmax_focal_loss(
        ...     features, head.weight, torch.tensor([2, 0]), head.bias, gamma=0.5
        ... )
        >>> loss.backward()
        >>> head.weight.grad.shape, head.bias.grad.shape, features.grad.shape
        (torch.Size([3, 2]), torch.Size([3]), torch.Size([2, 2]))

    Source: the loss as in `softmax_focal_loss`; gradients in the forward pass of a chunk: Hsu et
    al., "Liger Kernel", 2024, section 3.2.
    """
    call = "linear_softmax_focal_loss"
    checks.linear_map(call, input, weight, bias)
    positions, classes = input.shape[:-1], weight.shape[0]
    # Stands for logits with their classes in dim 1: nobody asks what it holds.
    logits = input.new_empty(()).expand(*positions[:1], classes, *positions[1:])
    checks.class_logits_and_targets(call, logits, targets)
    checks.class_indices(call, targets)
    checks.class_weight(call, class_weight, logits, name="class_weight")
    gamma = checks.gamma(call, gamma, input.new_empty(()).expand(positions))
    ignored = checks.ignore_index(call, ignore_index)
    label_smoothing = numbers.fraction(call, "label_smoothing", label_smoothing)
    checks.position_weight(call, position_weight, logits)
    mask = checks.position_mask(call, mask, logits)
    checks.reduction(call, reduction)
    normalizer = checks.normalizer(call, normalizer, reduction)

    if isinstance(gamma, Tensor):
        values.bounded(call, "gamma", gamma)
        gamma = gamma.to(input.device, computation(input)).expand(positions).flatten()
    if position_weight is not None:
        position_weight = position_weight.expand(positions).flatten()
    mask = None if mask is None else mask.expand(positions).flatten()
    weight, bias = _gather(weight, input), None if bias is None else _gather(bias, input)
    features = input.unsqueeze(0) if input.ndim == 1 else input.flatten(0, -2)
    linear_map = LinearMap(features, weight, bias)
    logits = input.new_empty(()).expand(features.shape[0], classes)
    r = rows(call, logits, targets.flatten(), ignored, mask)
    assert r.labels is not None
    weights = Weights(class_weight, position_weight, reduction, normalizer)
    result = None
    if classes > 1 and not varies(class_weight, position_weight, normalizer, gamma):
        loss = weights.record(gamma, label_smoothing)
        factor, divisor = weights.of_rows(r, r.labels, loss, computation(input))
        weighted = WeightedRows(r.labels, factor, divisor)
        evaluate = linear_class_values if reduction == "none" else linear_class_sum
        result = evaluate(loss, linear_map, weighted, _product_dtype(input))
    if result is None:
        result = softmax_focal_loss(
            linear(*linear_map),
            torch.where(r.mask, r.labels, -100) if r.mask is not None else r.labels,
            class_weight,
            gamma.unsqueeze(1) if isinstance(gamma, Tensor) else gamma,
            reduction=reduction,
            label_smoothing=label_smoothing,
            position_weight=position_weight,
            normalizer=normalizer,
        )
    result = result.view(positions) if reduction == "none" else result
    return to_input_dtype(result, input)


def _gather(tensor: Tensor, input: Tensor) -> Tensor:
    """A tensor as all ranks have it, where the input is each rank's own.

    Its gradient is averaged over the ranks, as those of a model under FSDP are.
    """
    if not hasattr(tensor, "full_tensor") or hasattr(input, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    placements = [Partial("avg")] * tensor.device_mesh.ndim  # type: ignore[attr-defined]
    result: Tensor = tensor.full_tensor(grad_placements=placements)
    return result


def _product_dtype(input: Tensor) -> torch.dtype:
    """The dtype of the factors of a product, which autocast chooses but for float64."""
    if input.dtype == torch.float64 or not is_autocast(input):
        return input.dtype
    return torch.get_autocast_dtype(input.device.type)
