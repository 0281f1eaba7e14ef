"""How a loss is made again on another machine: from where it can be imported, and its options."""

import inspect
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parfocal.guard.loss_call import Loss, parameters
from parfocal.guard.trust import known_loss
from parfocal.places import PlaceError, load


class LossSource(NamedTuple):
    """A function and keywords that it is bound to, or a class and those that construct it.

    place: ``package.module:name``, or ``file.py:name`` for a loss of the training's own script;
        empty for one that has none.
    text: the code of a loss that can't be imported, as of a notebook, for people to read.
    """

    place: str
    options: Mapping[str, Any]
    is_class: bool
    text: str = ""

    @staticmethod
    def from_loss(loss: Loss) -> "LossSource":
        """Of a function, a partial or a module.

        A module's options are those of its attributes that are called like parameters of its class:
        whether it is the same loss has to be tried.
        """
        options: dict[str, Any] = {}
        positional: tuple[Any, ...] = ()
        while isinstance(loss, partial):
            positional = (*loss.args, *positional)
            options, loss = {**loss.keywords, **options}, loss.func
        is_class = isinstance(loss, nn.Module)
        if is_class:
            known = inspect.signature(type(loss)).parameters
            options = {name: getattr(loss, name) for name in known if hasattr(loss, name)}
            loss = type(loss)
        plain = {name: plain_value(value) for name, value in options.items()}
        name = getattr(loss, "__qualname__", "<")
        is_told = not positional and all(
            value is None or isinstance(value, str | int | float) for value in plain.values()
        )
        place = _place(loss) if is_told and "<" not in name else ""
        is_importable = place and not place.startswith("__main__:")
        return LossSource(
            place, plain if is_told else {}, is_class, "" if is_importable else _text(loss)
        )

    def build(self, *, trust: bool) -> Loss:
        """The loss. With trust it runs the code that the place names, or the text.

        Raises:
            TrustError: without trust, of a place that isn't a known loss.
            PlaceError, ImportError, TypeError: nothing there that can be made so.
        """
        loss: Any
        if not trust:
            loss = known_loss(self.place)
        elif self.text:
            loss = _run(self.text)
        else:
            loss = load(self.place)
        if self.is_class:
            loss = loss(**self.options)
        elif self.options:
            loss = partial(loss, **self.options)
        return loss  # type: ignore[no-any-return]


def with_options(
    loss: Loss, options: Mapping[str, Any], call: Mapping[str, Any]
) -> tuple[Loss, dict[str, Any], list[str]]:
    """Another loss with the options of a captured one.

    Args:
        loss: a function, or a class, which is constructed.
        options: what the captured loss was bound to or constructed with.
        call: the keywords of the captured call.

    Returns:
        The loss, the keywords that are left for its call, and the options that it doesn't take.
    """
    keywords = dict(call)
    if not isinstance(loss, type):
        accepted = {name: v for name, v in options.items() if _takes(loss, name)}
        bound = partial(loss, **accepted) if accepted else loss
        return bound, keywords, [name for name in options if name not in accepted]
    accepted = {name: v for name, v in options.items() if _takes(loss, name)}
    made = loss(**accepted)
    moved = [
        name
        for name, value in call.items()
        if not _takes(made, name) and _takes(loss, name) and not isinstance(value, Tensor)
    ]
    if moved:
        accepted |= {name: keywords.pop(name) for name in moved}
        made = loss(**accepted)
    return made, keywords, [name for name in options if name not in accepted]


def _takes(loss: Loss, name: str) -> bool:
    """Whether a parameter of this name may be given by keyword."""
    names = parameters(loss)
    if not names:
        return False
    is_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
    return is_any or (name in names and names[name].kind is not names[name].POSITIONAL_ONLY)


def _place(loss: Any) -> str:
    """Where a function or a class can be imported from; `__main__:name` of a notebook."""
    module, name = getattr(loss, "__module__", None), loss.__qualname__
    if module != "__main__":
        return f"{module}:{name}" if module else ""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or not file.endswith(".py") or "ipykernel" in file:
        return f"__main__:{name}"
    path = Path(file).resolve()
    return f"{os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}:{name}"


def _text(loss: Any) -> str:
    """The code of a loss, where Python has kept it."""
    try:
        return textwrap.dedent(inspect.getsource(loss))
    except (OSError, TypeError):
        return ""


def _run(text: str) -> Any:
    """What the code of a function or a class defines."""
    names: dict[str, Any] = {
        "torch": torch, "Tensor": Tensor, "nn": nn, "F": nn.functional, "math": math
    }  # fmt: skip
    before = set(names)
    try:
        exec(compile(text, "<capture>", "exec"), names)
    except Exception as error:
        raise PlaceError(f"its code doesn't run by itself: {error!r}") from error
    defined = [v for name, v in names.items() if name not in before and callable(v)]
    if not defined:
        raise PlaceError("its code defines no function")
    return defined[-1]


def plain_value(value: Any) -> Any:
    """NumPy's numbers, fractions and tensors of one number as Python's; anything else as it is."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, str | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def plain_or_none(values: Sequence[Any]) -> list[Any]:
    """Numbers and text; None for tensors, which are kept by themselves, and for all else."""
    plain = [value if isinstance(value, Tensor) else plain_value(value) for value in values]
    return [value if isinstance(value, str | int | float) else None for value in plain]
