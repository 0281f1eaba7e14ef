"""What tensors hold, looked at only where that is free: reading a device would wait for it.

Beside errors there are warnings, of what is possible and teaches nothing.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from parfocal.losses.numbers import LARGEST_EXPONENT
from parfocal.numerics import LEAST, Loss, is_readable

# Where a call of the user isn't: in a loss, or in the call of a module.
_OURS = (str(Path(__file__).parent), str(Path(torch.nn.__file__).parent))

# Elements of an operation that torch doesn't divide among threads, which would go on spinning
# beside those of a sum.
_UNDIVIDED = 2**15

_EXPONENTS = ("gamma", "gamma_neg", "gamma_pos")

# The losses of which a heat map with a centre was seen; theirs are looked at no more.
_have_centres: set[str] = set()


def class_indices(
    call: str, labels: Tensor, classes: int, ignored: Sequence[int] = (), *, name: str = "targets"
) -> None:
    """Indices of classes, where looking at them is free."""
    if is_readable(labels) and not known_classes(labels, classes):
        wrong = labels[(labels < 0) | (labels >= classes)][0].item()
        expected, remedy = f"in [0, {classes})", ""
        if ignored:
            expected += f", or {' or '.join(map(str, ignored))} to be ignored"
            remedy = f"; if it marks positions to leave out, pass `ignore_index={wrong}`"
        raise IndexError(
            f"{call}: expected `{name}` {expected}, got {wrong}, which is out of bounds{remedy}"
        )


def classes_or_none(call: str, labels: Tensor, inputs: Tensor, mask: Tensor | None) -> None:
    """Indices in [0, C], of which C is no class, where they count and looking at them is free."""
    labels, classes = labels.long(), inputs.shape[1]
    if not is_readable(labels, mask) or known_classes(labels, classes + 1):
        return
    is_wrong = (labels < 0) | (labels > classes)
    if mask is not None:
        is_wrong &= mask.expand_as(inputs).any(1)
    if is_wrong.any():
        raise IndexError(
            f"{call}: expected `targets` in [0, {classes}], a class or {classes} for none, got "
            f"{labels[is_wrong][0].item()}, which is out of bounds; to leave out positions, "
            "such as void labels, pass `mask`"
        )


def known_classes(labels: Tensor, classes: int) -> bool:
    """Whether all labels are known to be indices of classes; looked at where that is free."""
    if not is_readable(labels):
        return False
    if labels.numel() == 0:
        return True
    for part in labels.reshape(-1).split(_UNDIVIDED):
        low, high = part.aminmax()
        if low.item() < 0 or high.item() >= classes:
            return False
    return True


def probabilities(call: str, targets: Tensor) -> None:
    """Targets in [0, 1], where looking at them is free; NaN gives NaN."""
    if not is_readable(targets) or targets.numel() == 0:
        return
    for part in targets.detach().reshape(-1).split(_UNDIVIDED):
        if part.amin().item() >= 0 and part.amax().item() <= 1:
            continue
        outside = part[(part < 0) | (part > 1)]
        if outside.numel():
            raise ValueError(
                f"{call}: expected `targets` in [0, 1], got {outside[0].item():g}; "
                "to leave out positions, such as void labels, pass `mask`"
            )


def likelihoods(call: str, nll: Tensor, mask: Tensor | None) -> None:
    """Negative log-likelihoods, of which some rounded 0 may be below it, where checking is free."""
    if not is_readable(nll, mask) or nll.numel() == 0:
        return
    if all(part.amin().item() >= LEAST for part in nll.detach().reshape(-1).split(_UNDIVIDED)):
        return
    value = _first(nll < LEAST, nll, mask)
    if value is not None:
        raise ValueError(
            f"{call}: expected `nll` >= 0, or down to {LEAST:g} by rounding, got {value:g}, where "
            "exp(-nll) is no probability; for a density, pass `nll - log(cell)` with a small cell"
        )


def parameters(call: str, loss: Loss, mask: Tensor | None) -> None:
    """Tensors among the numbers of a loss, where looking at them is free: alpha and exponents."""
    for name, bound in (("alpha", 1.0), *((name, LARGEST_EXPONENT) for name in _EXPONENTS)):
        tensor = getattr(loss, name, None)
        if isinstance(tensor, Tensor):
            bounded(call, name, tensor, bound, mask)
            if name == "gamma_neg":
                without_cusp(call, tensor, getattr(loss, "margin", 0.0), mask)


def bounded(
    call: str,
    name: str,
    tensor: Tensor,
    bound: float = LARGEST_EXPONENT,
    mask: Tensor | None = None,
) -> None:
    """Values in [0, bound] where they count, if looking at them is free."""
    if not is_readable(tensor, mask):
        return
    value = _first(~((tensor >= 0) & (tensor <= bound)), tensor, mask)  # NaN is outside
    if value is not None:
        expected = "in [0, 1]" if bound == 1 else "to be >= 0 and at most 2 ** 20"
        hint = "; pass class weights as `weight`" if name == "alpha" else ""
        raise ValueError(f"{call}: expected `{name}` {expected}, got {value:g}{hint}")


def without_cusp(call: str, gamma: Tensor, margin: float, mask: Tensor | None) -> None:
    """No gamma_neg in (0, 1) beside a margin, at which its slope would be infinite."""
    if margin == 0 or not is_readable(gamma, mask):
        return
    value = _first((gamma > 0) & (gamma < 1), gamma, mask)
    if value is not None:
        raise ValueError(
            f"{call}: expected `gamma_neg` of 0 or at least 1 with margin={margin}, got "
            f"{value:g}: the slope would be infinite at p = margin; use margin=0"
        )


def _first(chosen: Tensor, tensor: Tensor, mask: Tensor | None) -> float | None:
    """The first of the chosen values that counts."""
    if mask is not None:
        chosen = chosen & mask
    return tensor.detach().expand_as(chosen)[chosen][0].item() if chosen.any() else None


def heat_map(call: str, targets: Tensor) -> None:
    """Warn of bumps without a centre that is exactly 1, where checking is free."""
    if call in _have_centres or not targets.is_floating_point():
        return
    if not is_readable(targets) or targets.numel() == 0:
        return
    highest = targets.detach().amax().item()
    if highest == 1:
        _have_centres.add(call)
    if 0 < highest < 1:
        warn(
            f"{call}: no value of `targets` is exactly 1, the centre of an object: no positive "
            "is learned"
        )


def binary_mask(call: str, labels: Tensor, positive: Tensor) -> None:
    """Warn where all that is positive is ignored: a mask of 0 and 255, where checking is free."""
    if is_readable(labels, positive) and not positive.any() and (labels > 0).any():
        warn(
            f"{call}: all positives of `targets` are {int(labels.max())}, which is ignored as "
            "void; give `ignore_index=None` if it marks positives"
        )


def warn(text: str) -> None:
    """Warn of the line that called the loss, or its module."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
