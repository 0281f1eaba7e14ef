"""The asymmetric loss of single-label classification."""

from collections.abc import Sequence

from torch import Tensor

from parfocal.losses import checks, numbers
from parfocal.losses.reduction import to_input_dtype
from parfocal.losses.rows import rows
from parfocal.losses.softmax import Weights
from parfocal.numerics import asymmetric_values
from parfocal.numerics.forms import ClassAsymmetric


def softmax_asymmetric_loss(
    input: Tensor | None = None,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    gamma_neg: float | Tensor = 4,
    gamma_pos: float | Tensor = 0,
    *,
    ignore_index: int | Sequence[int] = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.1,
    mask: Tensor | None = None,
    position_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    r"""Asymmetric loss of mutually exclusive classes, exact in every precision.

    With ``p = softmax(inputs)`` over the C classes, class weights ``w``, class ``t`` and
    ``y_c = (1 - s) [c = t] + s / C``, s the label smoothing::

        L = -w_t y_t (1 - p_t) ** gamma_pos log p_t
            - sum over c != t of w_c y_c p_c ** gamma_neg log p_c

    The less probable a wrong class is, the less its smoothed share counts. Without smoothing the
    wrong classes contribute nothing, whatever `gamma_neg` is: the loss is `softmax_focal_loss` at
    `gamma_pos`. At exponents of 0 it is ``F.cross_entropy``.

    Args:
        input: Logits of shape (C), (N, C) or (N, C, d1, ...), as in `softmax_focal_loss`.
        target: Class indices of an integer dtype, shape (), (N) or (N, d1, ...), in [0, C) or
            `ignore_index`.
        weight: One factor per class, of shape (C).
        gamma_neg, gamma_pos: Focusing exponents of the wrong classes and of the true one, >= 0; may
            be tensors that broadcast against `input`.
        ignore_index: as in `softmax_focal_loss`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. A mean divides by the sum of the weights
            ``w_t`` of the positions that count, as in ``F.cross_entropy``.
        label_smoothing: In [0, 1]. The original's ``eps``, 0.1 by default as there.
        mask, position_weight, normalizer: as in `softmax_focal_loss`.
        inputs, targets: Other names of `input` and `target`.

    Returns:
        The loss: shape (), (N) or (N, d1, ...) for ``reduction="none"``, else a scalar; in the
        dtype of `input`, under autocast in float32 at least.

    Raises:
        TypeError, ValueError, IndexError: as `softmax_focal_loss`; class probabilities, which have
            no true class.

    `input`, the exponents and the weights may require gradients. Derivatives of every order in
    `input` and the exponents are finite. Reverse and forward mode, ``torch.func`` and
    ``torch.compile(fullgraph=True)`` work.

    Accuracy: within (1 + g)(8 + d + log2(C) / 2) ULP of the sum of the absolute values of the terms
    in float64 and float32, g the larger exponent and d the spread of a row of C logits; in float16
    and bfloat16 within 1 ULP of that of float32. The slope of a wrong class has two parts of
    opposite signs, ``gamma_neg ce`` to 1 with ``ce = -log p_c``: there the error is that of both.

    Example:
        >>> import torch
        >>> from parfocal import softmax_asymmetric_loss
        >>> logits = torch.tensor([[20.0, 0.0, 1.0], [0.0, 2.0, 0.0]], requires_grad=True)
        >>> loss = softmax_asymmetric_loss(logits, torch.tensor([0, 2]), gamma_neg=0.5)
        >>> loss.backward()
        >>> logits.grad
        tensor([[-1.7418e-05,  6.8110e-06,  1.0607e-05],
                [ 5.1671e-02,  3.6398e-01, -4.1565e-01]])

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, equation
    4, with the softmax for p; this form is that of ``ASLSingleLabel`` in its authors' code.
    """
    call = "softmax_asymmetric_loss"
    inputs = checks.one_of(call, "input", input, "inputs", inputs)
    targets = checks.one_of(call, "target", target, "targets", targets)
    checks.class_logits_and_targets(call, inputs, targets)
    if targets.is_floating_point():
        raise ValueError(
            f"{call}: expected `targets` to be class indices, since one class must be the true "
            "one, got class probabilities; `softmax_focal_loss` takes those"
        )
    checks.class_weight(call, weight, inputs)
    gamma_neg = checks.gamma(call, gamma_neg, inputs, name="gamma_neg")
    gamma_pos = checks.gamma(call, gamma_pos, inputs, name="gamma_pos")
    ignored = checks.ignore_index(call, ignore_index, targets)
    label_smoothing = numbers.fraction(call, "label_smoothing", label_smoothing)
    checks.position_weight(call, position_weight, inputs)
    mask = checks.position_mask(call, mask, inputs)
    checks.reduction(call, reduction)
    normalizer = checks.normalizer(call, normalizer, reduction)

    shape = inputs.shape
    if len(shape) == 1:
        inputs, targets = inputs.unsqueeze(0), targets.unsqueeze(0)
        mask = None if mask is None else mask.view(1)
    if position_weight is not None:
        position_weight = position_weight.expand(targets.shape)
    r = rows(call, inputs, targets, ignored, mask).prepare()
    assert r.labels is not None
    gamma_neg = r.exponent(call, "gamma_neg", gamma_neg, shape)
    gamma_pos = r.exponent(call, "gamma_pos", gamma_pos, shape)
    record = ClassAsymmetric(gamma_neg, gamma_pos, label_smoothing, weight)
    loss = asymmetric_values(record, r.x, r.labels)
    loss = Weights(weight, position_weight, reduction, normalizer).reduce(r, loss)
    if len(shape) == 1 and reduction == "none":
        loss = loss.squeeze(0)
    return to_input_dtype(loss, inputs)
