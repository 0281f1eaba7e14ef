"""What a loss accepts, said in one place.

Only dtypes, shapes, devices and Python numbers are looked at: reading the values of a tensor
would synchronise a device and break a compiled graph. Each error names the call, what was
expected and what came.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def logits(call: str, inputs: Tensor) -> None:
    """Floating-point logits."""
    if not isinstance(inputs, Tensor):
        raise TypeError(f"{call}: expected `inputs` to be a tensor, got {_kind(inputs)}")
    if inputs.dtype not in _FLOATING:
        raise TypeError(
            f"{call}: expected `inputs` to be logits in float64, float32, float16 or bfloat16, "
            f"got {_describe(inputs)}"
        )


def logits_and_targets(call: str, inputs: Tensor, targets: Tensor) -> None:
    """Floating-point logits, and real targets of the same shape on the same device."""
    logits(call, inputs)
    _real_targets(call, targets)
    _same_shape(call, targets, inputs)
    _same_device(call, "targets", targets, inputs)


def class_logits_and_targets(call: str, inputs: Tensor, targets: Tensor) -> None:
    """Logits (C), (N, C) or (N, C, ...), and indices without C or probabilities with it."""
    logits(call, inputs)
    _real_targets(call, targets)
    if inputs.ndim == 0:
        raise ValueError(
            f"{call}: expected `inputs` of shape (C), (N, C) or (N, C, ...), "
            f"got {_describe(inputs)}"
        )
    if targets.is_floating_point():
        _same_shape(call, targets, inputs)
    else:
        positions = positions_of(inputs)
        if targets.dtype == torch.bool or targets.shape != positions:
            raise ValueError(
                f"{call}: expected `targets` to be class indices of shape {tuple(positions)}, or "
                f"probabilities of shape {tuple(inputs.shape)}, got {_describe(targets)}"
            )
    _same_device(call, "targets", targets, inputs)


def positions_of(inputs: Tensor) -> torch.Size:
    """The shape of class logits without their classes."""
    return inputs.shape[:0] if inputs.ndim == 1 else inputs.shape[:1] + inputs.shape[2:]


def class_weight(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A real tensor with one number a class."""
    if given is None:
        return
    _parameter(call, "weight", given, None)
    count = inputs.shape[0 if inputs.ndim == 1 else 1]
    if given.shape != (count,):
        raise ValueError(
            f"{call}: expected `weight` to have one number for each of the {count} classes, "
            f"got {_describe(given)}"
        )
    _same_device(call, "weight", given, inputs)


def position_mask(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A boolean tensor that broadcasts to the positions of class logits."""
    if given is not None:
        _boolean(call, given)
        _broadcasts(call, "mask", given, positions_of(inputs), "the positions of `inputs`")
        _same_device(call, "mask", given, inputs)


def ignore_index(call: str, given: int, targets: Tensor) -> int:
    """An integer; one that could be a class has no meaning beside probabilities."""
    index = integer(call, "ignore_index", given)
    if targets.is_floating_point() and index >= 0:
        raise ValueError(
            f"{call}: expected no `ignore_index` beside class probabilities, got {index}; "
            "give the positions that count as `mask`"
        )
    return index


def labels(call: str, given: Tensor, inputs: Tensor) -> None:
    """Classes (M) of objects, for logits (..., N, C)."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{call}: expected `labels` to be a tensor, got {_kind(given)}")
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{call}: expected `labels` to be class indices, got {_describe(given)}")
    if given.ndim != 1 or inputs.ndim < 2:
        raise ValueError(
            f"{call}: expected `labels` of shape (M) and `inputs` of shape (..., N, C), "
            f"got {_describe(given)} and {_describe(inputs)}"
        )
    _same_device(call, "labels", given, inputs)


def maps(call: str, inputs: Tensor) -> None:
    """Logits (N, C, d1, ...): classes of images."""
    if inputs.ndim < 3:
        raise ValueError(
            f"{call}: expected `inputs` of shape (N, C, d1, ...), got {_describe(inputs)}"
        )


def class_index(call: str, name: str, given: int, inputs: Tensor) -> int:
    """One of the classes of logits (N, C, ...)."""
    index = integer(call, name, given)
    if not 0 <= index < inputs.shape[1]:
        raise ValueError(
            f"{call}: expected `{name}` to be the index of one of {inputs.shape[1]} classes, "
            f"got {index}"
        )
    return index


def integer(call: str, name: str, given: int) -> int:
    """The integer as one of Python's; a bool isn't one."""
    if type(given) is int or isinstance(given, torch.SymInt):
        return given
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError(f"{call}: expected `{name}` to be an integer, got {_kind(given)}")
    return int(given)


def positive(call: str, name: str, given: float) -> float:
    """A finite number > 0."""
    given = non_negative(call, name, given)
    if given == 0:
        raise ValueError(f"{call}: expected `{name}` to be positive, got {given}")
    return given


def share(call: str, name: str, given: float) -> float:
    """A number in [0, 1]."""
    given = number(call, name, given)
    if not 0 <= given <= 1:
        raise ValueError(f"{call}: expected `{name}` in [0, 1], got {given}")
    return given


def alpha(
    call: str, given: float | Tensor | None, inputs: Tensor | None = None
) -> float | Tensor | None:
    """A share in [0, 1], a tensor that broadcasts, or None or a negative number for off."""
    if given is None:
        return None
    if isinstance(given, Tensor):
        _parameter(call, "alpha", given, inputs)
        return given
    given = number(call, "alpha", given, or_else=", a tensor or None")
    if not given <= 1:  # NaN isn't either
        raise ValueError(
            f"{call}: expected `alpha` in [0, 1], or None or a negative number to turn it off, "
            f"got {given}"
        )
    return given


def gamma(
    call: str, given: float | Tensor, inputs: Tensor | None = None, *, name: str = "gamma"
) -> float | Tensor:
    """A finite exponent >= 0, or a tensor that broadcasts."""
    if isinstance(given, Tensor):
        _parameter(call, name, given, inputs)
        return given
    return non_negative(call, name, given, or_else=" or a tensor")


def non_negative(call: str, name: str, given: float, *, or_else: str = "") -> float:
    """A finite number >= 0."""
    given = number(call, name, given, or_else=or_else)
    if not 0 <= given < math.inf:
        raise ValueError(f"{call}: expected `{name}` to be finite and >= 0, got {given}")
    return given


def number(call: str, name: str, given: float, *, or_else: str = "") -> float:
    """The number as one of Python's: NumPy's would carry out our arithmetic in its own dtype.

    It is the one door for numbers. What passes: real numbers of Python and NumPy, fractions, and
    arrays without dimensions; a bool doesn't.
    """
    if type(given) in (float, int):  # what it nearly always is; the general question takes longer
        return given
    if isinstance(given, (torch.SymFloat, torch.SymInt)):  # a compiler's, which stays one
        return given
    if not _is_real(given):
        raise TypeError(f"{call}: expected `{name}` to be a number{or_else}, got {_kind(given)}")
    return float(given)


def weight(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A real tensor that broadcasts."""
    if given is not None:
        _parameter(call, "weight", given, inputs)


def mask(call: str, given: Tensor | None, inputs: Tensor) -> None:
    """A boolean tensor that broadcasts; True where a position counts."""
    if given is not None:
        _boolean(call, given)
        _broadcasts(call, "mask", given, inputs.shape)
        _same_device(call, "mask", given, inputs)


def reduction(call: str, given: str) -> None:
    """One of the three reductions."""
    if given not in REDUCTIONS:
        raise ValueError(
            f"{call}: expected `reduction` to be 'none', 'mean' or 'sum', got {given!r}"
        )


def normalizer(call: str, given: float | Tensor | None, reduction: str) -> float | Tensor | None:
    """A positive number, or a tensor of one, beside a sum; or None."""
    if given is None:
        return None
    if reduction != "sum":
        raise ValueError(
            f"{call}: expected `normalizer` together with reduction='sum', which it divides, "
            f"got reduction={reduction!r}"
        )
    if isinstance(given, Tensor):
        if given.numel() != 1:
            raise ValueError(
                f"{call}: expected `normalizer` to be one number, got {_describe(given)}"
            )
        return given
    given = number(call, "normalizer", given, or_else=" or a tensor")
    if not given > 0:
        raise ValueError(f"{call}: expected `normalizer` to be positive, got {given}")
    return given


def _boolean(call: str, given: Tensor) -> None:
    if not isinstance(given, Tensor) or given.dtype != torch.bool:
        raise TypeError(
            f"{call}: expected `mask` to be a boolean tensor, True where a position counts, "
            f"got {_describe(given) if isinstance(given, Tensor) else _kind(given)}"
        )


def _real_targets(call: str, targets: Tensor) -> None:
    if not isinstance(targets, Tensor):
        raise TypeError(f"{call}: expected `targets` to be a tensor, got {_kind(targets)}")
    if targets.is_complex() or (targets.is_floating_point() and targets.dtype not in _FLOATING):
        raise TypeError(
            f"{call}: expected `targets` to be real numbers in [0, 1], got {_describe(targets)}"
        )


def _same_shape(call: str, targets: Tensor, inputs: Tensor) -> None:
    if targets.shape != inputs.shape:
        raise ValueError(
            f"{call}: expected `targets` to have the shape of `inputs`, "
            f"{tuple(inputs.shape)}, got {_describe(targets)}"
        )


def _parameter(call: str, name: str, given: Tensor, inputs: Tensor | None) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{call}: expected `{name}` to be a tensor, got {_kind(given)}")
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{call}: expected `{name}` to hold real numbers, got {_describe(given)}")
    if inputs is not None:
        _broadcasts(call, name, given, inputs.shape)
        _same_device(call, name, given, inputs)


def _broadcasts(
    call: str, name: str, given: Tensor, shape: torch.Size, what: str = "the shape of `inputs`"
) -> None:
    last = shape[len(shape) - given.ndim :]
    fits = given.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(given.shape, last, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{call}: expected `{name}` to broadcast to {what}, {tuple(shape)}, "
            f"got {_describe(given)}"
        )


def _same_device(call: str, name: str, given: Tensor, inputs: Tensor) -> None:
    # A 0-dimensional CPU tensor is a number to every device.
    if given.device != inputs.device and not (given.ndim == 0 and given.device.type == "cpu"):
        raise ValueError(
            f"{call}: expected `{name}` on the device of `inputs`, {inputs.device}, "
            f"got {_describe(given)}"
        )


def _is_real(given: object) -> bool:
    """Whether it is a number, or a foreign array of one real number without dimensions."""
    if isinstance(given, Real):
        return not isinstance(given, bool)
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    return not isinstance(given, Tensor) and getattr(given, "shape", None) == () and kind in "fiu"


def _describe(given: Tensor) -> str:
    dtype = str(given.dtype).removeprefix("torch.")
    return f"a {dtype} tensor of shape {tuple(given.shape)} on {given.device}"


def _kind(given: object) -> str:
    return f"{given!r} ({type(given).__name__})"
