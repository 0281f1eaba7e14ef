"""What a loss accepts, said in one place.

Only dtypes, shapes, devices and Python numbers are looked at: reading the values of a tensor
would synchronise a device and break a compiled graph. Each error names the call, what was
expected and what came.
"""

import math
from numbers import Real

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def logits_and_targets(call: str, inputs: Tensor, targets: Tensor) -> None:
    """Floating-point logits, and real targets of the same shape on the same device."""
    for name, argument in (("inputs", inputs), ("targets", targets)):
        if not isinstance(argument, Tensor):
            raise TypeError(f"{call}: expected `{name}` to be a tensor, got {_kind(argument)}")
    if inputs.dtype not in _FLOATING:
        raise TypeError(
            f"{call}: expected `inputs` to be logits in float64, float32, float16 or bfloat16, "
            f"got {_describe(inputs)}"
        )
    if targets.is_complex() or (targets.is_floating_point() and targets.dtype not in _FLOATING):
        raise TypeError(
            f"{call}: expected `targets` to be real numbers in [0, 1], got {_describe(targets)}"
        )
    if targets.shape != inputs.shape:
        raise ValueError(
            f"{call}: expected `targets` to have the shape of `inputs`, "
            f"{tuple(inputs.shape)}, got {_describe(targets)}"
        )
    _same_device(call, "targets", targets, inputs)


def alpha(call: str, given: float | Tensor | None, inputs: Tensor | None = None) -> None:
    """A share in [0, 1], a tensor that broadcasts, or None or a negative number for off."""
    if given is None:
        return
    if isinstance(given, Tensor):
        _parameter(call, "alpha", given, inputs)
        return
    if not _is_real(given):
        raise TypeError(
            f"{call}: expected `alpha` to be a number, a tensor or None, got {_kind(given)}"
        )
    if math.isnan(given) or given > 1:
        raise ValueError(
            f"{call}: expected `alpha` in [0, 1], or None or a negative number to turn it off, "
            f"got {given}"
        )


def gamma(call: str, given: float | Tensor, inputs: Tensor | None = None) -> None:
    """A finite exponent >= 0, or a tensor that broadcasts."""
    if isinstance(given, Tensor):
        _parameter(call, "gamma", given, inputs)
        return
    _non_negative(call, "gamma", given, or_tensor=" or a tensor")


def epsilon(call: str, given: float) -> None:
    """A finite constant >= 0."""
    _non_negative(call, "epsilon", given)


def weight(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A real tensor that broadcasts."""
    if given is not None:
        _parameter(call, "weight", given, inputs)


def mask(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A boolean tensor that broadcasts; True where a position counts."""
    if given is None:
        return
    if not isinstance(given, Tensor) or given.dtype != torch.bool:
        raise TypeError(
            f"{call}: expected `mask` to be a boolean tensor, True where a position counts, "
            f"got {_describe(given) if isinstance(given, Tensor) else _kind(given)}"
        )
    _broadcasts(call, "mask", given, inputs)
    _same_device(call, "mask", given, inputs)


def reduction(call: str, given: str, normalizer: float | Tensor | None = None) -> None:
    """One of the three reductions; a normalizer belongs to a sum."""
    if given not in REDUCTIONS:
        raise ValueError(
            f"{call}: expected `reduction` to be 'none', 'mean' or 'sum', got {given!r}"
        )
    if normalizer is None:
        return
    if given != "sum":
        raise ValueError(
            f"{call}: expected `normalizer` together with reduction='sum', which it divides, "
            f"got reduction={given!r}"
        )
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ValueError(
                f"{call}: expected `normalizer` to be one number, got {_describe(normalizer)}"
            )
    elif not _is_real(normalizer):
        raise TypeError(
            f"{call}: expected `normalizer` to be a number or a tensor, got {_kind(normalizer)}"
        )
    elif not normalizer > 0:
        raise ValueError(f"{call}: expected `normalizer` to be positive, got {normalizer}")


def _parameter(call: str, name: str, given: Tensor, inputs: Tensor | None) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{call}: expected `{name}` to be a tensor, got {_kind(given)}")
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{call}: expected `{name}` to hold real numbers, got {_describe(given)}")
    if inputs is not None:
        _broadcasts(call, name, given, inputs)
        _same_device(call, name, given, inputs)


def _non_negative(call: str, name: str, given: float, or_tensor: str = "") -> None:
    if not _is_real(given):
        raise TypeError(f"{call}: expected `{name}` to be a number{or_tensor}, got {_kind(given)}")
    if not 0 <= given < math.inf:
        raise ValueError(f"{call}: expected `{name}` to be finite and >= 0, got {given}")


def _broadcasts(call: str, name: str, given: Tensor, inputs: Tensor) -> None:
    ours, theirs = given.shape, inputs.shape
    fits = len(ours) <= len(theirs) and all(
        n in (1, m) for n, m in zip(reversed(ours), reversed(theirs), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{call}: expected `{name}` to broadcast to the shape of `inputs`, "
            f"{tuple(theirs)}, got {_describe(given)}"
        )


def _same_device(call: str, name: str, given: Tensor, inputs: Tensor) -> None:
    # A 0-dimensional CPU tensor is a number to every device.
    if given.device != inputs.device and not (given.ndim == 0 and given.device.type == "cpu"):
        raise ValueError(
            f"{call}: expected `{name}` on the device of `inputs`, {inputs.device}, "
            f"got {_describe(given)}"
        )


def _is_real(given: object) -> bool:
    return isinstance(given, Real | torch.SymFloat | torch.SymInt) and not isinstance(given, bool)


def _describe(given: Tensor) -> str:
    dtype = str(given.dtype).removeprefix("torch.")
    return f"a {dtype} tensor of shape {tuple(given.shape)} on {given.device}"


def _kind(given: object) -> str:
    return f"{given!r} ({type(given).__name__})"
