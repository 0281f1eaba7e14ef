"""How large the gradient of a focal loss is beside that of the cross-entropy."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.reduction import widen
from parfocal.losses.rows import rows
from parfocal.numerics import HardLoss, margin

# A margin like those beyond it: its gradient is 0, or that of the limit, in float64.
_FAR = 2.0**20


def target_margins(
    inputs: Tensor, targets: Tensor, *, ignore_index: int | Iterable[int] = -100
) -> Tensor:
    r"""The margin u of each answer, the logit of its p_t.

    ::

        p_t = sigmoid(u)
        u = x or -x                                    of a sigmoid, at targets 1 and 0
        u = x_t - logsumexp of the other logits        of a softmax

    Args:
        inputs: Logits (...), or (N, C, ...) of a softmax, as the losses take them.
        targets: 0 or 1 in the shape of `inputs`, or class indices (N, ...) of an integer dtype,
            for a softmax.
        ignore_index: Class indices that don't count, one or several.

    Returns:
        The margins in the shape of `targets`, in float32 at least, without gradient. They are
        infinite where a target is ignored, as for an answer without a gradient.

    Raises:
        TypeError, ValueError: tensors of another kind or shape, or targets other than 0 and 1.
        IndexError: an index that is no class, where checking is free: on a CPU.

    Example:
        >>> import torch
        >>> from parfocal import target_margins
        >>> target_margins(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.0]))
        tensor([ 2., -3.])
        >>> target_margins(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor([1.3069])
    """
    call = "target_margins"
    ignored = checks.ignore_index(call, ignore_index)
    checks.logits_and_targets(call, inputs, targets, takes_indices=True)
    x = widen(inputs.detach())
    if targets.shape == inputs.shape:
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise ValueError(f"{call}: expected `targets` of 0 and 1, or class indices")
        return torch.where(targets == 1, x, -x)
    r = rows(call, x, targets, ignored, None)
    assert r.labels is not None
    u = margin(x, r.labels).u
    return u if r.mask is None else u.masked_fill(~r.mask, math.inf)


def gradient_scale(
    gamma: float | Tensor, margins: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    r"""Norm of the focal loss's gradient in the margins, as a multiple of the cross-entropy's.

    ::

        scale = sqrt(sum of (w L'(u)) ** 2 / sum of (w ce'(u)) ** 2)
        L'(u) / ce'(u) = q ** gamma + gamma p q ** (gamma - 1) ce       p = sigmoid(u), q = 1 - p

    For a sigmoid, and for one answer of a softmax, it is also the ratio of the norms in the logits:
    the modulating factor as it acts on the gradient, above 1 at hard answers, and 0 in the limit of
    confident ones. With several answers of a softmax, each is also weighted by its gradient in the
    other logits. With the learning rate of the cross-entropy, a step of SGD is longer by about this
    factor; divide the rate by `gradient_scale` to keep its length. Adam and similar optimizers
    divide by the gradient's size themselves, and need no change.

    Args:
        gamma: Focusing exponent, >= 0; a tensor of several gives the scale of each.
        margins: The margins u of a model's answers, of any shape: `target_margins` of a batch.
            Infinite ones have no gradient, or that of the limit.
        weight: A factor per answer, such as alpha_t, in the shape of `margins`.

    Returns:
        The scale in float64, in the shape of `gamma`.

    Raises:
        TypeError: margins that are no tensor of a floating-point dtype.
        ValueError: no margin, one that is NaN, a `gamma` out of its range, a `weight` of another
            shape or that isn't finite, or a batch without any gradient.

    Accuracy: 4 + 2 gamma ULP of float64, and the rounding of two sums, as long as the gradients are
    normal numbers: to a margin of 700 / (1 + gamma).

    Example:
        >>> import torch
        >>> from parfocal import gradient_scale, target_margins
        >>> start = torch.tensor([-2.1972])  # p_t = 0.1: ten classes, before any training
        >>> sure = torch.tensor([3.0])
        >>> gradient_scale(2.0, start), gradient_scale(2.0, sure)
        (tensor(1.2245, dtype=torch.float64), tensor(0.0066, dtype=torch.float64))
        >>> gradient_scale(torch.tensor([0.0, 0.5, 1.0, 2.0]), torch.cat([start, sure]))
        tensor([1.0000, 1.0687, 1.1287, 1.2228], dtype=torch.float64)

    Source: the derivative of equation 5 of Lin et al., "Focal Loss for Dense Object Detection",
    ICCV 2017, appendix B, in the margin.
    """
    call = "gradient_scale"
    checks.logits(call, margins, name="margins", what="margins")
    u = margins.detach().double().flatten().clamp(-_FAR, _FAR)
    if not len(u) or bool(u.isnan().any()):
        raise ValueError(f"{call}: expected `margins` without NaN, and at least one")
    if weight is not None:
        is_tensor = isinstance(weight, Tensor)
        if not is_tensor or weight.shape != margins.shape or not bool(weight.isfinite().all()):
            came = f"the shape {tuple(weight.shape)}" if is_tensor else numbers.kind(weight)
            raise ValueError(
                f"{call}: expected `weight` to be finite, in the shape of `margins`, "
                f"{tuple(margins.shape)}, got {came}"
            )
        weight = weight.detach().to(u).flatten()
    gammas = torch.as_tensor(gamma, dtype=torch.float64).detach()
    if not gammas.numel():
        raise ValueError(f"{call}: expected `gamma`, got none")
    exponents = [numbers.exponent(call, "gamma", g) for g in gammas.flatten().tolist()]

    def norm(exponent: float) -> Tensor:
        slope: Tensor = HardLoss(u, exponent).slope
        weighted = slope if weight is None else slope * weight
        largest = weighted.abs().max()
        if largest == 0:
            return largest
        return largest * (weighted / largest).square().sum().sqrt()  # no square underflows

    usual = norm(0.0)
    if usual == 0:
        raise ValueError(f"{call}: expected answers with a gradient, got none")
    scales = torch.stack([norm(exponent) for exponent in exponents]) / usual
    return scales.view(gammas.shape)
