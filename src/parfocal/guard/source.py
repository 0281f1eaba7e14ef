"""How a loss is made again on another machine: from where it can be imported, and its options."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import Tensor, nn

from parfocal.guard.trust import known_loss
from parfocal.places import load


class Recipe(NamedTuple):
    """A function and keywords that it is bound to, or a class and those that construct it."""

    place: str
    options: Mapping[str, Any]
    is_class: bool

    def make(self, *, trust: bool) -> Callable[..., Tensor]:
        """The loss. With trust it runs the code of whatever module the place names.

        Raises:
            TrustError: without trust, of a place that isn't a known loss.
            PlaceError, ImportError, TypeError: nothing there that can be made so.
        """
        found: Callable[..., Any] = load(self.place) if trust else known_loss(self.place)
        if not self.is_class:
            return partial(found, **self.options) if self.options else found
        made: Callable[..., Any] = found(**self.options)
        return made


def recipe_of(loss: Callable[..., Any]) -> Recipe | None:
    """Of a function, a partial or a module; None for a lambda, a closure and the like.

    A module's options are those of its attributes that are called like parameters of its class:
    whether it is the same loss has to be tried.
    """
    options: dict[str, Any] = {}
    while isinstance(loss, partial):
        if loss.args:
            return None
        options, loss = {**loss.keywords, **options}, loss.func
    is_class = isinstance(loss, nn.Module)
    if is_class:
        known = inspect.signature(type(loss)).parameters
        options = {name: getattr(loss, name) for name in known if hasattr(loss, name)}
        loss = type(loss)
    plain = {name: _plain(value) for name, value in options.items()}
    name = getattr(loss, "__qualname__", "<")
    if "<" in name or not all(_is_told(value) for value in plain.values()):
        return None
    return Recipe(f"{loss.__module__}:{name}", plain, is_class)


def _is_told(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else plain_number(value)


def plain_number(value: Any) -> Any:
    """NumPy's numbers and fractions as Python's; anything else as it is."""
    if isinstance(value, str | int | float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
