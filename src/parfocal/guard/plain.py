"""Values as plain data: what JSON and a few small tensors can hold; and text that is only text."""

import math
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# Numbers of one tensor, parts of a container, and characters of a text that are kept, and all these
# together, at most.
_NUMBERS = 1 << 12
_PARTS = 256
_CHARACTERS = 1000
_ALL = 1 << 13

# Containers within containers.
_DEEP = 4

_DTYPES = frozenset({
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
    torch.bfloat16, torch.float32, torch.float64,
})  # fmt: skip


class NotPlainError(TypeError):
    """A value that can't be kept; the message says what it is."""


class Keeper:
    """Turns values into JSON, tensors among them into entries of `tensors`.

    tensors: by the names that the JSON has for them. lost: the names of the values that couldn't be
    kept, and what they are.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.lost: list[str] = []
        self._left = _ALL

    def keep(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those values that can be kept, each by itself."""
        kept = {}
        for name, value in values.items():
            try:
                kept[name] = self.plain(value)
            except NotPlainError as error:
                self.lost.append(f"{name} ({error})")
        return kept

    def plain(self, value: Any, depth: int = 0) -> Any:
        """A value as JSON.

        Raises:
            NotPlainError: it can't be kept.
        """
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            value = value.item()
        result = value
        if isinstance(value, Tensor):
            result = {"tensor": self._name_of(value)}
        elif numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biuf":
            result = {"array": self._name_of(torch.from_numpy(value.copy()))}
        elif isinstance(value, torch.dtype):
            result = {"dtype": str(value).removeprefix("torch.")}
        elif isinstance(value, str):
            self._take(value, len(value), _CHARACTERS)
            result = str.__str__(value)
        elif isinstance(value, Real) and not isinstance(value, bool):
            result = int(value) if isinstance(value, Integral) else float(value)
        elif type(value) in (list, tuple, dict) and depth < _DEEP:
            self._take(value, len(value), _PARTS)
            result = self._container(value, depth + 1)
        elif value is not None and not isinstance(value, bool):
            raise NotPlainError(_kind(value))
        return result

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            pairs = [[self.plain(k, depth), self.plain(v, depth)] for k, v in value.items()]
            return {"dict": pairs}
        parts = [self.plain(part, depth) for part in value]
        return parts if isinstance(value, list) else {"tuple": parts}

    def _take(self, value: Any, size: int, most: int) -> None:
        """Of the space that there is."""
        if size > min(most, self._left):
            raise NotPlainError(_kind(value))
        self._left -= size

    def _name_of(self, tensor: Tensor) -> str:
        is_usual = tensor.layout == torch.strided and tensor.dtype in _DTYPES
        if not is_usual or tensor.is_meta:
            raise NotPlainError(_kind(tensor))
        self._take(tensor, tensor.numel(), _NUMBERS)
        name = f"value {len(self.tensors)}"
        self.tensors[name] = tensor.detach()
        return name


def value_of(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What a `Keeper` made plain.

    Raises:
        TypeError, KeyError, ValueError, AttributeError: it is no such thing.
    """
    if plain is None or isinstance(plain, bool | int | float | str):
        return plain
    if isinstance(plain, list):
        return [value_of(part, tensors) for part in plain]
    if not isinstance(plain, dict) or len(plain) != 1 or not plain.keys() <= _KINDS.keys():
        raise TypeError(f"expected a value, got {plain!r}")
    ((kind, inner),) = plain.items()
    return _KINDS[kind](inner, tensors)


_KINDS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda name, tensors: tensors[name].numpy(),
    "tuple": lambda parts, tensors: tuple(value_of(part, tensors) for part in parts),
    "dict": lambda pairs, tensors: {value_of(k, tensors): value_of(v, tensors) for k, v in pairs},
    "dtype": lambda name, _: dtype_of(name),
}


def dtype_of(name: Any) -> torch.dtype:
    """A dtype by its name.

    Raises:
        TypeError: it is no such name; any name of torch could stand there.
    """
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"expected a dtype, got {name!r}")
    return dtype


def are_same(a: Any, b: Any) -> bool:
    """Whether two values are equal, numbers and containers of tensors too."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        is_like = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return is_like and _are_equal(a.detach(), b.detach())
    if isinstance(a, Tensor) or isinstance(b, Tensor) or type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(are_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(are_same(a[key], b[key]) for key in a)
    try:
        return a is b or bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
    except Exception:  # of a comparison that is no single truth, as of arrays
        return False


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Whether tensors of one shape and dtype are equal, NaN to NaN."""
    if a.is_floating_point():
        return bool(
            torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
        )
    return torch.equal(a, b)


def in_a_line(text: object, most: int = 200) -> str:
    r"""Text of others in a line, cut, without characters that a terminal would obey.

    >>> in_a_line("two\nlines")
    'two\\nlines'
    >>> in_a_line("long " * 100, 12)
    'long long...'
    """
    words = visible(str(text)[: most + 1])
    return words if len(words) <= most else f"{words[: most - 3].rstrip()}..."


def visible(text: str) -> str:
    """Text with escapes in the place of what a terminal would obey, line ends among them."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.numel()} numbers"
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
