"""Which tensors a loss accepts: their dtypes, shapes, layouts and devices.

Each error names the call, what was expected, what came, and what mends it where that is known.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from parfocal.losses import numbers, values
from parfocal.losses.numbers import is_real, kind
from parfocal.numerics import is_autocast

REDUCTIONS = ("none", "mean", "sum")
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# The smallest number that a sum is divided by: the quotient fits float32.
_SMALLEST = 2.0**-40


def logits(call: str, inputs: Tensor, *, name: str = "inputs", what: str = "logits") -> None:
    """Check that logits, or what they are made of, are a dense floating-point tensor."""
    if not isinstance(inputs, Tensor):
        raise TypeError(f"{call}: expected `{name}` to be a tensor, got {kind(inputs)}")
    if inputs.dtype not in _FLOATING:
        raise TypeError(
            f"{call}: expected `{name}` to be {what} in float64, float32, float16 or bfloat16, "
            f"got {_describe(inputs)}"
        )
    _dense(call, name, inputs)


def likelihoods(call: str, nll: Tensor) -> None:
    """Check that negative log-likelihoods are what logits have to be."""
    logits(call, nll, name="nll", what="negative log-likelihoods")


def logits_and_targets(
    call: str, inputs: Tensor, targets: Tensor, *, takes_indices: bool = False
) -> None:
    """Floating-point logits, and real targets of the same shape on the same device.

    takes_indices: whether targets may also be class indices (N, ...), of logits (N, C, ...).
    """
    logits(call, inputs)
    real_targets(call, targets)
    if not (takes_indices and _are_indices(targets, inputs)):
        _same_shape(call, targets, inputs, takes_indices=takes_indices)
    elif inputs.shape[1] == 1 and not torch.compiler.is_compiling():
        values.warn(
            f"{call}: `targets` are indices of a single class: 0 means present, 1 absent; labels "
            "where 1 means present need the shape of `inputs`: `targets.unsqueeze(1)`"
        )
    _same_device(call, "targets", targets, inputs)


def _are_indices(targets: Tensor, inputs: Tensor) -> bool:
    """Whether targets are class indices (N, ...) of logits (N, C, ...), by dtype and shape."""
    is_integer = not targets.is_floating_point() and targets.dtype != torch.bool
    return is_integer and inputs.ndim > 1 and targets.shape == positions_of(inputs)


def class_logits_and_targets(call: str, inputs: Tensor, targets: Tensor) -> None:
    """Logits (C), (N, C) or (N, C, ...), and indices without C or probabilities with it."""
    logits(call, inputs)
    real_targets(call, targets)
    if inputs.ndim == 0 or inputs.shape[0 if inputs.ndim == 1 else 1] == 0:
        raise ValueError(
            f"{call}: expected `inputs` of shape (C), (N, C) or (N, C, ...) with C >= 1, "
            f"got {_describe(inputs)}"
        )
    is_right = (
        targets.shape == inputs.shape
        if targets.is_floating_point()
        else targets.dtype != torch.bool and targets.shape == positions_of(inputs)
    )
    if not is_right:
        raise ValueError(
            f"{call}: expected `targets` to be class indices of an integer dtype and of shape "
            f"{tuple(positions_of(inputs))}, or probabilities of shape {tuple(inputs.shape)}, "
            f"got {_describe(targets)}{_remedy(inputs, targets)}"
        )
    _same_device(call, "targets", targets, inputs)
    if inputs.shape[0 if inputs.ndim == 1 else 1] == 1 and not torch.compiler.is_compiling():
        values.warn(
            f"{call}: `inputs` have a single class, whose probability is always 1: the loss is 0 "
            "and nothing is learned; for two classes, use a sigmoid loss"
        )


def _remedy(inputs: Tensor, targets: Tensor) -> str:
    """What makes targets of a known wrong kind the right ones."""
    positions = positions_of(inputs)
    dim = min(inputs.ndim - 1, 1)
    if targets.shape == inputs.shape:
        return f"; for one-hot targets, pass `targets.float()` or `targets.argmax({dim})`"
    if targets.shape == positions:
        return "; cast class indices with `targets.long()`"
    if targets.shape == (*positions[:dim], 1, *positions[dim:]):
        cast = ".long()" if targets.is_floating_point() else ""
        return f"; drop the channel dimension with `targets.squeeze({dim}){cast}`"
    if targets.shape == (*positions, inputs.shape[dim]):
        return "; classes are expected in dim 1, not last: `targets.movedim(-1, 1).float()`"
    if targets.shape == inputs.shape[:-1]:
        return (
            "; classes are expected in dim 1, not last: `inputs.flatten(0, -2)` and "
            "`targets.flatten()`, or `inputs.movedim(-1, 1)`"
        )
    return ""


def linear_map(call: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Features (..., D), a weight (C, D) and a bias (C), of one dtype unless autocast casts."""
    logits(call, input, name="input", what="features")
    if input.ndim == 0:
        raise ValueError(
            f"{call}: expected `input` of shape (..., D), the features, got {_describe(input)}"
        )
    _parameter(call, "weight", weight, None)
    features = input.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != features:
        raise ValueError(
            f"{call}: expected `weight` of shape (C, {features}), one row of features per class, "
            f"got {_describe(weight)}"
        )
    named = [("weight", weight)]
    if bias is not None:
        _parameter(call, "bias", bias, None)
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{call}: expected `bias` to have one number for each of the {len(weight)} "
                f"classes, got {_describe(bias)}"
            )
        named.append(("bias", bias))
    is_cast = is_autocast(input) and input.dtype != torch.float64
    for name, tensor in named:
        _same_device(call, name, tensor, input)
        may_differ = is_cast and tensor.is_floating_point() and tensor.dtype != torch.float64
        if tensor.dtype != input.dtype and not may_differ:
            raise TypeError(
                f"{call}: expected `{name}` in the dtype of `input`, {input.dtype}, got "
                f"{_describe(tensor)}; autocast casts both"
            )


def class_indices(call: str, targets: Tensor) -> None:
    """Targets that are no probabilities, which would be as many as the logits."""
    if targets.is_floating_point():
        raise TypeError(
            f"{call}: expected `targets` to be class indices of an integer dtype, got "
            f"{_describe(targets)}; `softmax_focal_loss` takes class probabilities"
        )


def positions_of(inputs: Tensor) -> torch.Size:
    """The shape of class logits without their classes."""
    return inputs.shape[:0] if inputs.ndim == 1 else inputs.shape[:1] + inputs.shape[2:]


def class_weight(
    call: str, tensor: Tensor | None, inputs: Tensor | None = None, *, name: str = "weight"
) -> None:
    """A real tensor with one number a class, as many as the inputs have."""
    if tensor is None:
        return
    _parameter(call, name, tensor, None)
    if inputs is None:
        if tensor.ndim != 1:
            raise ValueError(
                f"{call}: expected `{name}` to have one number per class, got {_describe(tensor)}"
            )
        return
    count = inputs.shape[0 if inputs.ndim == 1 else 1]
    if tensor.shape != (count,):
        raise ValueError(
            f"{call}: expected `{name}` to have one number for each of the {count} classes, "
            f"got {_describe(tensor)}"
        )
    _same_device(call, name, tensor, inputs)


def position_weight(call: str, tensor: Tensor | None, inputs: Tensor) -> None:
    """A real tensor that broadcasts to the positions of class logits."""
    if tensor is not None:
        _parameter(call, "position_weight", tensor, None)
        what = "the positions of `inputs`"
        _broadcasts(call, "position_weight", tensor, positions_of(inputs), what)
        _same_device(call, "position_weight", tensor, inputs)


def position_mask(call: str, tensor: Tensor | None, inputs: Tensor) -> Tensor | None:
    """A boolean tensor that broadcasts to the positions of class logits, or integers."""
    if tensor is None:
        return None
    tensor = _boolean(call, tensor)
    _broadcasts(call, "mask", tensor, positions_of(inputs), "the positions of `inputs`")
    _same_device(call, "mask", tensor, inputs)
    return tensor


def ignore_index(
    call: str, value: int | Iterable[int], targets: Tensor | None = None
) -> tuple[int, ...]:
    """Integers; one that could be a class has no meaning beside probabilities."""
    is_one = not isinstance(value, Iterable) or isinstance(value, str) or is_real(value)
    many: Iterable[Any] = (value,) if is_one else value  # type: ignore[assignment]
    indices = tuple(numbers.integer(call, "ignore_index", index) for index in many)
    if targets is not None and targets.is_floating_point():
        for index in indices:
            if index >= 0:
                raise ValueError(
                    f"{call}: expected no `ignore_index` with class probabilities, got {index}; "
                    "pass the positions that count as `mask`"
                )
    return indices


def labels(call: str, tensor: Tensor, inputs: Tensor) -> None:
    """Classes (M) of objects, for logits (..., N, C)."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{call}: expected `labels` to be a tensor, got {kind(tensor)}")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{call}: expected `labels` to be class indices, got {_describe(tensor)}")
    if tensor.ndim != 1 or inputs.ndim < 2:
        raise ValueError(
            f"{call}: expected `labels` of shape (M) and `inputs` of shape (..., N, C), "
            f"got {_describe(tensor)} and {_describe(inputs)}"
        )
    _dense(call, "labels", tensor)
    _same_device(call, "labels", tensor, inputs)
    values.class_indices(call, tensor, inputs.shape[-1], name="labels")


def maps(call: str, inputs: Tensor) -> None:
    """Logits (N, C, d1, ...): classes of images."""
    if inputs.ndim < 3:
        raise ValueError(
            f"{call}: expected `inputs` of shape (N, C, d1, ...), got {_describe(inputs)}"
        )


def class_index(call: str, name: str, value: int, inputs: Tensor) -> int:
    """One of the classes of logits (N, C, ...)."""
    index = numbers.integer(call, name, value)
    if not 0 <= index < inputs.shape[1]:
        raise ValueError(
            f"{call}: expected `{name}` to be the index of one of {inputs.shape[1]} classes, "
            f"got {index}"
        )
    return index


def alpha(
    call: str, value: float | Tensor | None, inputs: Tensor | None = None
) -> float | Tensor | None:
    """A number in [0, 1], a tensor that broadcasts, or None for off, as is a negative number."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        _parameter(call, "alpha", value, inputs)
        if inputs is None:  # of a module, in which it stays
            values.bounded(call, "alpha", value, 1.0, None)
        return value
    value = numbers.number(call, "alpha", value, or_else=", a tensor or None")
    if not value <= 1:  # NaN isn't either
        raise ValueError(
            f"{call}: expected `alpha` in [0, 1], or None or a negative number to turn it off, "
            f"got {value}"
        )
    return None if value < 0 else value


def gamma(
    call: str, value: float | Tensor, inputs: Tensor | None = None, *, name: str = "gamma"
) -> float | Tensor:
    """An exponent >= 0, or a tensor that broadcasts."""
    if isinstance(value, Tensor):
        _parameter(call, name, value, inputs)
        if inputs is None:
            values.bounded(call, name, value)
        return value
    return numbers.exponent(call, name, value, or_else=" or a tensor")


def one_of(
    call: str, name: str, tensor: Tensor | None, other_name: str, other: Tensor | None
) -> Tensor:
    """An argument that has two names."""
    if (tensor is None) == (other is None):
        came = "both" if other is not None else "neither"
        raise TypeError(f"{call}: expected either `{name}` or `{other_name}`, got {came}")
    result = tensor if other is None else other
    assert result is not None
    return result


def weight(call: str, tensor: Tensor | None, inputs: Tensor) -> None:
    """A real tensor that broadcasts."""
    if tensor is not None:
        _parameter(call, "weight", tensor, inputs)


def mask(call: str, tensor: Tensor | None, inputs: Tensor) -> Tensor | None:
    """A boolean tensor that broadcasts, True where a position counts; or integers, not 0 there."""
    if tensor is None:
        return None
    tensor = _boolean(call, tensor)
    _broadcasts(call, "mask", tensor, inputs.shape)
    _same_device(call, "mask", tensor, inputs)
    return tensor


def reduction(call: str, value: str) -> None:
    """One of the three reductions."""
    word(call, "reduction", value, REDUCTIONS)


def word(call: str, name: str, value: str, words: Sequence[str]) -> None:
    """One of several words."""
    if value not in words:
        *others, last = map(repr, words)
        raise ValueError(
            f"{call}: expected `{name}` to be {', '.join(others)} or {last}, got {value!r}"
        )


def normalizer(call: str, value: float | Tensor | None, reduction: str) -> float | Tensor | None:
    """A positive number, or a tensor of one, beside a sum; or None."""
    if value is None:
        return None
    if reduction != "sum":
        raise ValueError(
            f"{call}: expected `normalizer` with reduction='sum', since it divides the sum, "
            f"got reduction={reduction!r}"
        )
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{call}: expected `normalizer` to be one number, got {_describe(value)}"
            )
        _parameter(call, "normalizer", value, None)
        return value.reshape(())
    value = numbers.number(call, "normalizer", value, or_else=" or a tensor")
    if not _SMALLEST <= value <= 1 / sys.float_info.min:
        raise ValueError(f"{call}: expected `normalizer` to be positive and finite, got {value}")
    return value


def _boolean(call: str, tensor: Tensor) -> Tensor:
    """A mask as booleans."""
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(
            f"{call}: expected `mask` to be a boolean tensor, True where a position counts, or an "
            f"integer tensor, nonzero there, "
            f"got {_describe(tensor) if isinstance(tensor, Tensor) else kind(tensor)}"
        )
    _dense(call, "mask", tensor)
    return tensor if tensor.dtype == torch.bool else tensor != 0


def _dense(call: str, name: str, tensor: Tensor) -> None:
    """A tensor with a number at each position: neither sparse, nested nor quantized."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        mend = ".dequantize()" if tensor.is_quantized else ".to_dense()"
        mend = "" if tensor.is_nested else f"; convert it with `{name}{mend}`"
        raise TypeError(f"{call}: expected `{name}` to be dense, got {_describe(tensor)}{mend}")


def real_targets(call: str, targets: Tensor) -> None:
    """A tensor of real numbers."""
    if not isinstance(targets, Tensor):
        raise TypeError(f"{call}: expected `targets` to be a tensor, got {kind(targets)}")
    if targets.is_complex() or (targets.is_floating_point() and targets.dtype not in _FLOATING):
        raise TypeError(
            f"{call}: expected `targets` to be real numbers in [0, 1], got {_describe(targets)}"
        )
    _dense(call, "targets", targets)


def _same_shape(call: str, targets: Tensor, inputs: Tensor, *, takes_indices: bool) -> None:
    if targets.shape != inputs.shape:
        hint = ""
        if takes_indices and inputs.ndim > 1:
            shape = tuple(positions_of(inputs))
            hint = f"; class indices need an integer dtype and the shape {shape}"
        raise ValueError(
            f"{call}: expected `targets` to have the shape of `inputs`, "
            f"{tuple(inputs.shape)}, got {_describe(targets)}{hint}"
        )


def _parameter(call: str, name: str, tensor: Tensor, inputs: Tensor | None) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{call}: expected `{name}` to be a tensor, got {kind(tensor)}")
    is_known = tensor.dtype in _FLOATING or not tensor.is_floating_point()
    if tensor.is_complex() or tensor.dtype == torch.bool or not is_known:
        raise TypeError(f"{call}: expected `{name}` to hold real numbers, got {_describe(tensor)}")
    _dense(call, name, tensor)
    if inputs is not None:
        _broadcasts(call, name, tensor, inputs.shape)
        _same_device(call, name, tensor, inputs)


def _broadcasts(
    call: str, name: str, tensor: Tensor, shape: torch.Size, what: str = "the shape of `inputs`"
) -> None:
    last = shape[len(shape) - tensor.ndim :]
    fits = tensor.ndim <= len(shape) and all(
        n in (1, m) for n, m in zip(tensor.shape, last, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{call}: expected `{name}` to broadcast to {what}, {tuple(shape)}, "
            f"got {_describe(tensor)}"
        )


def _same_device(call: str, name: str, tensor: Tensor, inputs: Tensor) -> None:
    # A 0-dimensional CPU tensor is a number to every device.
    if tensor.device != inputs.device and not (tensor.ndim == 0 and tensor.device.type == "cpu"):
        raise ValueError(
            f"{call}: expected `{name}` on the device of `inputs`, {inputs.device}, "
            f"got {_describe(tensor)}"
        )


def _describe(tensor: Tensor) -> str:
    """The dtype, layout, shape and device of a tensor."""
    words = [str(tensor.dtype).removeprefix("torch.")]
    if tensor.layout is not torch.strided:
        words.insert(0, str(tensor.layout).removeprefix("torch."))
    shape = "of nested shape" if tensor.is_nested else f"of shape {tuple(tensor.shape)}"
    return f"a {' '.join(words)} tensor {shape} on {tensor.device}"
