"""How a loss is made again on another machine: from where it can be imported, and its options."""

import inspect
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from parfocal.guard.loss_call import Loss, parameters
from parfocal.guard.plain import are_same, in_a_line
from parfocal.guard.trust import TrustError, known_loss
from parfocal.places import PlaceError, load

# Characters of code that is kept.
_CODE = 1 << 13

# How often a module is constructed to find its options, and for how many seconds, at most.
_TRIALS = 64
_SECONDS = 1.0

# What every module keeps: no option, whatever a parameter is called.
_OF_MODULES = frozenset(vars(nn.Module()))


class OptionsError(Exception):
    """A loss can't be made with the options of a capture; the message says why."""


class LossSource(NamedTuple):
    """A function and the arguments that it is bound to, or a class and those that construct it.

    place: ``package.module:name``, or ``file.py:name`` for a loss of the training's own script;
        empty for one that has none.
    options: what the function is bound to, or what constructs the class.
    text: the code of a loss that can't be imported, as of a notebook, for people to read.
    bound: what an instance of the class is bound to by `functools.partial`.
    positional: the names of the bound arguments that come first in a call, without keywords.
    variables: numbers, text and tensors that the code reads from around it.
    lost: what of the loss isn't in these, as people call it.
    """

    place: str
    options: Mapping[str, Any]
    is_class: bool
    text: str = ""
    bound: Mapping[str, Any] = {}  # never written to
    positional: Sequence[str] = ()
    variables: Mapping[str, Any] = {}
    lost: Sequence[str] = ()

    @staticmethod
    def from_loss(loss: Loss) -> "LossSource":
        """Of a function, a partial or a module.

        A module's options are its attributes that are called like parameters of its class. One that
        it keeps elsewhere is looked for by constructing the class with what else the module keeps.
        """
        bound, positional, base = _unbound(loss)
        options, lost, is_class = bound, list[str](), _is_instance(base)
        if is_class:
            options, lost = _options(base)
        elif isinstance(base, MethodType) and not isinstance(base.__self__, type):
            lost = [f"self (a {type(base.__self__).__name__})"]
        what = target(loss)
        place = _place(what)
        text = _text(what) if _is_of_text(place) else ""
        return LossSource(
            place,
            options,
            is_class,
            text,
            bound if is_class else {},
            positional,
            _variables(what) if text else {},
            lost,
        )

    @property
    def is_run(self) -> bool:
        """Whether the loss is the code that was kept, and isn't imported."""
        return bool(self.text) and _is_of_text(self.place)

    @property
    def given(self) -> dict[str, Any]:
        """All that another loss in its place may take, by name."""
        return {**self.variables, **self.options, **self.bound}

    def build(self, *, trust: bool) -> Loss:
        """The loss. With trust it imports what the place names, or runs the code.

        Raises:
            TrustError: without trust, of a place that isn't a known loss.
            PlaceError, ImportError: nothing there.
            OptionsError: it can't be made with its options.
            Exception: whatever the code raises that is imported.
        """
        if not trust:
            return self.make(known_loss(self.place))
        if self.is_run:
            return self.make(_run(self.text, self.variables))
        try:
            return self.make(known_loss(self.place))
        except TrustError:
            if _is_of_text(self.place):
                raise PlaceError("the file doesn't hold its code") from None
            return self.make(load(self.place))

    def make(self, what: Callable[..., Any]) -> Loss:
        """A function bound, or a class constructed, as the loss was.

        Raises:
            OptionsError: it can't be.
        """
        loss = _constructed(what, self.options) if self.is_class else what
        bound = self.bound if self.is_class else self.options
        if not bound:
            return loss
        first = [bound[name] for name in self.positional]
        return partial(loss, *first, **{k: v for k, v in bound.items() if k not in self.positional})


def target(loss: Loss) -> Any:
    """The function, or the class, that a loss comes from."""
    base = _unbound(loss)[2]
    return type(base) if _is_instance(base) else base


def with_options(
    loss: Loss, options: Mapping[str, Any], call: Mapping[str, Any]
) -> tuple[Loss, dict[str, Any], list[str]]:
    """Another loss with the options of a captured one.

    Args:
        loss: a function, or a class, which is constructed.
        options: what the captured loss was bound to or constructed with.
        call: the keywords of the captured call, without logits and targets.

    Returns:
        The loss, the keywords that are left for its call, and the names that it doesn't take.

    Raises:
        OptionsError: it can't be made with them.
    """
    accepted = {name: v for name, v in options.items() if _takes(loss, name)}
    keywords, made = dict(call), loss
    if isinstance(loss, type):
        method = getattr(loss, "forward", None) or vars(loss).get("__call__")
        moved = [n for n in call if _takes(loss, n) and not _takes(method, n)]
        accepted |= {name: keywords.pop(name) for name in moved}
        made = _constructed(loss, accepted)
    elif accepted:
        made = partial(loss, **accepted)
    refused = [name for name in keywords if not _takes(made, name)] if parameters(made) else []
    for name in refused:
        del keywords[name]
    others = [name for name in options if name not in accepted]
    return made, keywords, list(dict.fromkeys([*others, *refused]))


def names_all(loss: Loss, names: Sequence[str]) -> bool:
    """Whether a loss has parameters of these names; also if it names none at all."""
    known = parameters(loss)
    first = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    is_any = not any(p.kind in first for p in known.values())
    return all(_takes(loss, name) and (is_any or name in known) for name in names)


def _takes(loss: Any, name: str) -> bool:
    names = parameters(loss)
    is_any = any(p.kind is p.VAR_KEYWORD for p in names.values())
    is_named = name in names and names[name].kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return is_any or is_named


def _constructed(what: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """An instance of a class.

    Raises:
        OptionsError: it needs an option that isn't there, or raises something.
    """
    names = parameters(what)
    needed = [
        name
        for name, p in names.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in options
    ]
    if needed:
        raise OptionsError(f"it needs {' and '.join(needed)}")
    try:
        return what(**options)
    except Exception as error:
        raise OptionsError(f"{type(error).__name__}: {in_a_line(error)}") from error


# A loss taken apart


def _unbound(loss: Any) -> tuple[dict[str, Any], list[str], Any]:
    """What partials bind, the names of what they bind without keywords, and what is left."""
    bound: dict[str, Any] = {}
    first: tuple[Any, ...] = ()
    while isinstance(loss, partial):
        first = (*loss.args, *first)
        bound, loss = {**loss.keywords, **bound}, loss.func
    known = list(parameters(loss))
    names = [known[i] if i < len(known) else f"argument {i + 1}" for i in range(len(first))]
    return {**dict(zip(names, first, strict=True)), **bound}, names, loss


def _is_instance(loss: Any) -> bool:
    """Whether it is an instance of a class that is called like a function."""
    return not (isinstance(loss, type) or inspect.isroutine(loss) or hasattr(loss, "__qualname__"))


def _options(instance: Any) -> tuple[dict[str, Any], list[str]]:
    """What an instance was constructed with, as far as it tells, and the names of the rest."""
    make = type(instance)
    state, names = _state(instance), _names(make)
    options = {name: state[f".{name}"] for name in names if f".{name}" in state}
    end, tried = time.monotonic() + _SECONDS, 0
    same = _alike(make, options, state)
    missing = [name for name in names if name not in options]
    for name in list(missing):
        for path in _likely(name, state, same):
            tried += 1
            if tried > _TRIALS or time.monotonic() > end:
                break
            is_named = _last(path) == name
            now = _alike(make, {**options, name: state[path]}, state)
            if len(now) > len(same) or (is_named and now and len(now) == len(same)):
                options[name], same = state[path], now
                missing.remove(name)
                break
    if len(same) == len(state):
        return options, []
    # An attribute that comes out otherwise isn't what the class was given under this name.
    changed = [name for name in options if same and f".{name}" in state.keys() - same]
    every = parameters(make).values()
    others = [str(p) for p in every if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return options, [*missing, *changed, *others]


def _names(make: type) -> list[str]:
    """The parameters that construct a class, also where it hands keywords on to a base."""
    names: dict[str, None] = {}
    for one in (make, *make.__mro__[1:]):
        if one in (nn.Module, object):
            break
        known = list(parameters(one).values())
        names |= dict.fromkeys(
            p.name for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        if not any(p.kind is p.VAR_KEYWORD for p in known):
            break
    return list(names)


def _state(instance: Any) -> dict[str, Any]:
    """What an instance keeps, by paths; of its modules and its partials too."""
    modules = dict(instance.named_modules()) if isinstance(instance, nn.Module) else {"": instance}
    state: dict[str, Any] = {}
    for path, module in modules.items():
        own = getattr(module, "__dict__", {})
        kept = {name: value for name, value in own.items() if name not in _OF_MODULES}
        kept |= {**own.get("_parameters", {}), **own.get("_buffers", {})}
        for name, value in kept.items():
            inner = _unbound(value)[0] if isinstance(value, partial) else None
            of = {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
            state |= {f"{path}.{key}": v for key, v in of.items()}
    return state


def _alike(make: type, options: Mapping[str, Any], state: Mapping[str, Any]) -> set[str]:
    """Where an instance that is made with some options keeps the same; nowhere if none can be."""
    try:
        made = _state(make(**options))
    except Exception:
        return set()
    return {path for path, value in state.items() if path in made and are_same(made[path], value)}


def _likely(name: str, state: Mapping[str, Any], same: set[str]) -> list[str]:
    """Where an option may be kept, the likeliest first: under its name, or where it is missed."""
    named = [path for path in state if _last(path) == name]
    return [*named, *(path for path in state if path not in same and path not in named)]


def _last(path: str) -> str:
    return path.rpartition(".")[2].strip("_")


def _place(what: Any) -> str:
    """Where a function or a class can be imported from; `__main__:name` of a notebook."""
    module, name = getattr(what, "__module__", None), getattr(what, "__qualname__", "<")
    is_method = isinstance(what, MethodType) and not isinstance(what.__self__, type)
    if "<" in name or is_method or not module:
        return ""
    if module != "__main__":
        return f"{module}:{name}" if _is_there(what, module, name) else ""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None or not file.endswith(".py") or "ipykernel" in file:
        return f"__main__:{name}"
    if not _is_there(what, module, name):
        return ""
    path = Path(file).resolve()
    return f"{os.path.relpath(path) if path.is_relative_to(Path.cwd()) else path}:{name}"


def _is_there(what: Any, module: str, name: str) -> bool:
    """Whether a name is that of this very function, and not of one that it took the name from."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    compiled = getattr(what, "_torchdynamo_orig_callable", what)
    return found is not None and found in (what, compiled)


def _is_of_text(place: str) -> bool:
    """Whether a place can't be imported: none, or one of a notebook."""
    return not place or place.startswith("__main__:")


def _text(what: Any) -> str:
    """The code of a loss, where Python has kept it."""
    try:
        text = textwrap.dedent(inspect.getsource(what)).rstrip()
    except (OSError, TypeError):
        return ""
    return text if len(text) <= _CODE else ""


def _variables(what: Any) -> dict[str, Any]:
    """What a function reads from around it, without functions, classes and modules."""
    function = inspect.unwrap(what) if callable(what) else what
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType):
        return {}
    try:
        read = inspect.getclosurevars(function)
    except ValueError:  # a variable that isn't set yet
        return {}
    every = {**read.globals, **read.nonlocals}
    return {n: v for n, v in every.items() if not (callable(v) or isinstance(v, ModuleType))}


def _run(text: str, variables: Mapping[str, Any]) -> Any:
    """What the code of a function or a class defines."""
    names: dict[str, Any] = {
        "torch": torch, "Tensor": Tensor, "nn": nn, "F": nn.functional, "math": math, **variables
    }  # fmt: skip
    before = dict(names)
    exec(compile(text, "<capture>", "exec"), names)
    defined = [v for name, v in names.items() if before.get(name) is not v and callable(v)]
    if not defined:
        raise PlaceError("it defines no function")
    return defined[-1]
