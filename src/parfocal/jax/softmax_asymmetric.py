"""The asymmetric loss of single-label classification, for JAX."""

from typing import TYPE_CHECKING, Any

import numpy as np

from parfocal.jax import checks
from parfocal.jax.arrays import from_list
from parfocal.jax.softmax import check_options, losses

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def softmax_asymmetric_loss(
    logits: "ArrayLike",
    labels: "ArrayLike",
    *,
    alpha: "ArrayLike | None" = None,
    gamma_neg: "ArrayLike" = 4.0,
    gamma_pos: "ArrayLike" = 0.0,
    axis: int = -1,
    label_smoothing: "ArrayLike" = 0.1,
    ignore_index: int | None = -100,
    weight: "ArrayLike | None" = None,
    where: "ArrayLike | None" = None,
) -> Any:
    r"""Asymmetric loss of mutually exclusive classes, exact in every precision.

    With ``p = softmax(logits)`` over the C classes, class weights ``alpha``, class ``t``, label
    smoothing s and ``y_c = (1 - s) [c = t] + s / C``::

        L = -alpha_t y_t (1 - p_t) ** gamma_pos log p_t
            - sum over c != t of alpha_c y_c p_c ** gamma_neg log p_c

    Without smoothing, the wrong classes don't count: the loss is `softmax_focal_loss` at
    `gamma_pos`.

    Args:
        logits, alpha, axis, ignore_index, weight, where: as in `softmax_focal_loss`.
        labels: Class indices of an integer dtype, of the shape of `logits` without `axis`.
        gamma_neg, gamma_pos: Focusing exponents of the wrong classes and of the true one, in
            [0, 2 ** 20], of shapes that broadcast to the positions.
        label_smoothing: In [0, 1]. The original's ``eps``, with its default.

    Returns:
        The losses, of the shape of the positions, in the dtype of the logits. Nothing is reduced.

    Raises:
        TypeError: class probabilities, which have no true class; else as `softmax_focal_loss`.
        ValueError: as `softmax_focal_loss`.

    Accuracy: within (1 + g)(8 + d + log2(C) / 2) ULP of the sum of the absolute values of the terms
    on a CPU, with g the larger exponent and d the spread of a row; the slope of a wrong class has
    two terms of opposite signs. 16 bits are computed in float32 and rounded once. A result below
    16 / eps times the smallest normal number may be 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from parfocal.jax import softmax_asymmetric_loss
        >>> softmax_asymmetric_loss(jnp.array([[2.0, 0.0, 1.0]]), jnp.array([0]))
        Array([0.3806058], dtype=float32)

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, equation
    4, with the softmax for p; the form is ``ASLSingleLabel`` in the authors' code.
    """
    call = "softmax_asymmetric_loss"
    dtype = checks.dtype_of(call, "labels", labels)
    if not checks.is_integer(dtype):
        raise TypeError(
            f"{call}: expected class indices, since one class must be the true one, got {dtype}"
        )
    axis, ignore_index = check_options(
        call, logits, labels, alpha, axis, label_smoothing, ignore_index, weight, where
    )
    shape = np.shape(logits)
    for name, gamma in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
        checks.exponent(call, name, gamma)
        checks.broadcasts(call, name, gamma, shape[:axis] + shape[axis + 1 :])
    smoothing = None if checks.is_zero(label_smoothing) else label_smoothing
    arrays = (logits, labels, alpha, gamma_pos, gamma_neg, smoothing, None, weight, where)
    return losses(*map(from_list, arrays), axis, ignore_index)
