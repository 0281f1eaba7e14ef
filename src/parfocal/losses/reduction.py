"""From a loss per position to what the caller asked for, and in which precision."""

import torch
from torch import Tensor

from parfocal.numerics import computation, is_autocast


def widen(inputs: Tensor) -> Tensor:
    """The logits in the dtype of the computation."""
    return inputs.to(computation(inputs))


def result_dtype(inputs: Tensor) -> torch.dtype:
    """That of the logits; under autocast that of the computation."""
    wide = computation(inputs)
    if wide == inputs.dtype or not is_autocast(inputs):
        return inputs.dtype
    return wide


def to_input_dtype(loss: Tensor, inputs: Tensor) -> Tensor:
    """The loss in the dtype of the logits, rounded once; under autocast as it was computed."""
    if loss.dtype == inputs.dtype or is_autocast(inputs):
        return loss
    return loss.to(inputs.dtype)


def reduce(
    loss: Tensor,
    reduction: str,
    mask: Tensor | None,
    normalizer: float | Tensor | None,
    shares: Tensor | None = None,
) -> Tensor:
    """The loss itself, its mean over the positions that count, or its sum over the normalizer.

    A mean divides by the sum of `shares` where these are given. Masked positions of `loss` and of
    `shares` are 0 already. The mean of no positions is 0 / 0, as in PyTorch.
    """
    if reduction == "none":
        return loss
    if reduction == "sum":
        return normalize(loss.sum(), normalizer)
    if shares is not None:
        return loss.sum() / shares.sum()
    if mask is None:
        return loss.mean()
    return loss.sum() / mask.expand_as(loss).sum()


def normalize(total: Tensor, normalizer: float | Tensor | None) -> Tensor:
    """The sum over the normalizer, where there is one."""
    if isinstance(normalizer, Tensor):
        normalizer = normalizer.to(total)
    return total if normalizer is None else total / normalizer


def select(mask: Tensor | None, loss: Tensor) -> Tensor:
    """`loss` where the mask is True, exactly 0 elsewhere, in value and in gradient."""
    return loss if mask is None else torch.where(mask, loss, 0.0)
