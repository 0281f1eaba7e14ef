"""The multiclass focal loss of logits, with the interface of PyTorch's cross-entropy."""

import torch
from torch import Tensor, nn

from parfocal.losses import checks
from parfocal.losses.classes import rows
from parfocal.losses.parameters import shown, store
from parfocal.losses.precision import rounded
from parfocal.losses.reduction import normalized, reduce, select
from parfocal.numerics import class_focal_sum, focal, is_readable, margin, margins


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    gamma: float | Tensor = 2,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    epsilon: float = 0.0,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Multiclass focal loss of logits, exact at every gamma >= 0 and in every precision.

    With ``p = softmax(inputs)`` over the classes, class weights ``w`` and class ``t``::

        FL_c = -(1 - p_c + epsilon) ** gamma log p_c
        L    = w_t FL_t                                     for a class index t
        L    = sum over c of w_c y_c FL_c                   for class probabilities y

    At ``gamma=0`` this is ``F.cross_entropy`` with the same options. Label smoothing s takes
    ``(1 - s) y + s / C`` for y, as there.

    Args:
        inputs: Logits of shape (C), (N, C) or (N, C, d1, ...); float64, float32, float16 or
            bfloat16. NaN gives NaN; an infinity gives the limit of the loss, through which no
            gradient reaches it.
        targets: Class indices of an integer dtype, shape (), (N) or (N, d1, ...), in [0, C) or
            `ignore_index`; or class probabilities of a floating dtype, shape of `inputs`.
        weight: One factor a class, of shape (C).
        gamma: Focusing exponent, >= 0. May be a tensor that broadcasts against `inputs`, each
            class of each sample having its own: shape (C) with inputs (N, C), (C, 1, 1) with
            images, (N, 1) a sample. Its values are not looked at.
        ignore_index: Index of positions that don't count: their loss and gradients are exactly 0,
            whatever `inputs` holds there. For class indices only.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. A mean divides by the sum of the weights
            ``w_t`` of the positions that count if targets are indices, by the number of these
            positions if they are probabilities, as in ``F.cross_entropy``.
        label_smoothing: In [0, 1].
        epsilon: Smoothing constant of van Leeuwen et al., >= 0; 0 is the exact loss.
        mask: Boolean, broadcasts against the positions, shape (), (N) or (N, d1, ...); True where
            one counts. Also beside probabilities, where there is no `ignore_index`.
        normalizer: Positive number, or tensor of one element, that the sum is divided by; with
            ``reduction="sum"`` only.

    Returns:
        The loss: shape (), (N) or (N, d1, ...) for ``reduction="none"``, else a scalar; in the
        dtype of `inputs`, under autocast in float32 at least.

    Raises:
        TypeError: logits, targets, mask or `ignore_index` of another kind.
        ValueError: shapes or devices that don't fit, numbers out of their range, `ignore_index`
            beside probabilities, a normalizer without ``reduction="sum"``.
        RuntimeError: an index that is no class, where it costs nothing to see: on a CPU.

    If no position counts, a mean is NaN, as in PyTorch; for 0 instead use ``reduction="sum"`` with
    a normalizer of at least 1.

    `inputs`, probabilities, `gamma` and `weight` may require gradients. Derivatives of every order
    in `inputs` and `gamma` are finite. Reverse and forward mode, ``torch.func`` and
    ``torch.compile(fullgraph=True)`` work.

    Accuracy: for class indices, value and gradient are within (1 + gamma)(8 + d + log2(C) / 2) ULP
    in float64 and float32, d the spread of a row of C logits, and within 1 ULP of that of float32
    in float16 and bfloat16. The exponential of a difference of logits feels its rounding, up to
    d / 2 units of 2 ** -23, which is d ULP of a result just below a power of two. A search for the
    worst of 10^6 rows of up to 40 classes found 0.93 of the bound, ``ledger/search.py``.

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
    checks.class_logits_and_targets(call, inputs, targets)
    checks.class_weight(call, weight, inputs)
    gamma = checks.gamma(call, gamma, inputs)
    ignore_index = checks.ignore_index(call, ignore_index, targets)
    label_smoothing = checks.share(call, "label_smoothing", label_smoothing)
    epsilon = checks.non_negative(call, "epsilon", epsilon)
    checks.position_mask(call, mask, inputs)
    checks.reduction(call, reduction)
    normalizer = checks.normalizer(call, normalizer, reduction)

    is_plain = not (label_smoothing or epsilon or reduction == "none" or inputs.ndim == 1)
    if is_plain and not isinstance(gamma, Tensor) and not targets.is_floating_point():
        total = _sum_of_indices(inputs, targets, weight, gamma, ignore_index, reduction, mask)
        if total is not None:
            return rounded(normalized(total, normalizer), inputs)

    r = rows(inputs, targets, ignore_index, mask)
    dtype = r.x.dtype
    if isinstance(gamma, Tensor):
        gamma = r.over_classes(gamma.to(dtype).expand_as(inputs).view_as(r.x))
    if weight is not None:
        weight = weight.to(dtype)
    shares = None  # of the positions, in a mean
    if r.labels is not None and weight is not None:
        shares = select(r.mask, weight[r.labels])

    if r.labels is not None and label_smoothing == 0:
        loss = _of_index(r.x, r.labels, gamma, epsilon)
        loss = loss if shares is None else shares * loss
    else:
        y = r.distribution()
        if label_smoothing:
            y = (1 - label_smoothing) * y + label_smoothing / y.shape[1]
        loss = _of_probabilities(r.x, y, weight, gamma, epsilon)
    loss = select(r.mask, loss)
    if inputs.ndim == 1 and reduction == "none":
        loss = loss.squeeze(0)
    return rounded(reduce(loss, reduction, r.mask, normalizer, shares), inputs)


def _sum_of_indices(
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    gamma: float,
    ignore_index: int,
    reduction: str,
    mask: Tensor | None,
) -> Tensor | None:
    """The mean or the sum in one pass over the logits; None where there is no such pass."""
    if not is_readable(inputs) or (weight is not None and weight.requires_grad):
        return None
    labels, shares = targets.long(), None
    counts = labels != ignore_index
    if mask is not None:
        counts = counts & mask
    if not counts.all():
        labels = torch.where(counts, labels, 0)
        shares = counts.float()
    if weight is not None:
        shares = weight.float()[labels] if shares is None else weight.float()[labels] * shares
    scale = 1.0
    if reduction == "mean":
        whole = float(labels.numel() if shares is None else shares.sum(dtype=torch.float64))
        if not whole > 0:
            return None
        scale = 1 / whole
    return class_focal_sum(inputs, labels, gamma, shares, scale)


def _of_index(x: Tensor, index: Tensor, gamma: float | Tensor, epsilon: float) -> Tensor:
    """FL of one class a row, from its margin."""
    u, t = margin(x, index)
    if isinstance(gamma, Tensor):
        gamma = gamma.gather(1, index.unsqueeze(1)).squeeze(1)
    return focal(u, torch.ones_like(u), gamma, epsilon, t)


def _of_probabilities(
    x: Tensor, y: Tensor, weight: Tensor | None, gamma: float | Tensor, epsilon: float
) -> Tensor:
    """The sum over the classes of w_c y_c FL_c, each from its own margin."""
    u, t = margins(x)
    terms = focal(u, torch.ones_like(u), gamma, epsilon, t)
    if weight is not None:
        y = y * weight.view(-1, *(1,) * (y.ndim - 2))
    # A class that was ruled out, by a logit of -inf and a probability of 0, adds nothing.
    return torch.where((y == 0) & terms.isinf(), 0.0, y * terms).sum(dim=1)


class SoftmaxFocalLoss(nn.Module):
    """`softmax_focal_loss` with its hyper-parameters stored, as in ``nn.CrossEntropyLoss``.

    Args:
        weight, gamma, ignore_index, reduction, label_smoothing, epsilon: as in
            `softmax_focal_loss`, checked here already. A tensor becomes a buffer, so that it
            moves with the module; an ``nn.Parameter`` is learned.

    Shape:
        inputs (C), (N, C) or (N, C, d1, ...); targets indices without C or probabilities with it.

    Example:
        >>> import torch
        >>> from parfocal import SoftmaxFocalLoss
        >>> loss = SoftmaxFocalLoss(gamma=0.5, label_smoothing=0.1)
        >>> loss
        SoftmaxFocalLoss(weight=None, gamma=0.5, ignore_index=-100, reduction='mean',
            label_smoothing=0.1, epsilon=0.0)
        >>> loss(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0]))
        tensor(0.3374)
    """

    weight: Tensor | None
    gamma: float | Tensor

    def __init__(
        self,
        weight: Tensor | None = None,
        gamma: float | Tensor = 2,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        checks.reduction(call, reduction)
        store(self, "weight", weight)
        store(self, "gamma", checks.gamma(call, gamma))
        self.ignore_index = checks.integer(call, "ignore_index", ignore_index)
        self.reduction = reduction
        self.label_smoothing = checks.share(call, "label_smoothing", label_smoothing)
        self.epsilon = checks.non_negative(call, "epsilon", epsilon)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        """The loss; see `softmax_focal_loss`."""
        return softmax_focal_loss(
            inputs,
            targets,
            self.weight,
            self.gamma,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            epsilon=self.epsilon,
            mask=mask,
            normalizer=normalizer,
        )

    def extra_repr(self) -> str:
        """The hyper-parameters, as they are given to the constructor."""
        return (
            f"weight={shown(self.weight)}, gamma={shown(self.gamma)}, "
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, "
            f"label_smoothing={self.label_smoothing}, epsilon={self.epsilon}"
        )
