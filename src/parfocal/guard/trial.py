"""Trial calls of a loss during training, which leave the loss and all random streams unchanged.

A loss may keep a running mean, a queue, a count, or draw random numbers. A tensor that a trial
writes into is copied before the write, wherever it is kept, and restored afterwards; one that
belongs to the loss gets its shape and memory back as well. Everything else that belongs to the loss
or its arguments is restored too: containers with their contents, other attributes, the variables of
a closure, those of its class. Not restored are a script's global variables, and what is written
through NumPy's view of a tensor. A loss that keeps what can't be restored isn't tried, nor one that
communicates with other processes, which wouldn't answer.
"""

import copy
import random
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache, partial
from types import CellType, FunctionType, GeneratorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from parfocal.guard.loss_call import Loss, LossCall

_CONTAINERS = (list, dict, set, deque)

# What has no state of its own.
_NOTHING = (type(None), bool, int, float, complex, str, bytes, type, ModuleType)

# Of this package a guard may hang on a loss that is a method of a model.
_OWN = __name__.rpartition(".")[0]

# Things that are looked at, at most: of a loss that is a method of a model or a trainer much more
# hangs on it, and a trial must not take seconds.
_MOST = 10_000

_state = threading.local()


class UntriableError(RuntimeError):
    """A loss that can't be called in a trial."""


def is_trial() -> bool:
    """Whether this thread is in a trial, in which other guards have nothing to watch."""
    return getattr(_state, "is_trial", False)


def value_and_gradient(
    call: LossCall, logits: Tensor, targets: Tensor | None = None, factor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss at other logits, and its gradient there, 0 where there is none.

    targets: others than those of the call. factor: what comes into the loss from downstream; 1 for
    each of its elements without.
    """
    targets = call.targets if targets is None else targets
    arguments = *call.arguments, *call.keywords.values()
    with unchanged(call.loss, logits.device, arguments), torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        if targets.is_floating_point() and targets.dtype == call.logits.dtype:
            targets = targets.to(leaf.dtype)
        loss = call.at(leaf.clone(), targets.clone())  # not the leaf: a loss may work in place
        incoming = torch.ones_like(loss) if factor is None else factor.to(loss).expand_as(loss)
        (gradient,) = torch.autograd.grad(loss, leaf, incoming, allow_unused=True)
    return loss.detach(), torch.zeros_like(leaf) if gradient is None else gradient


@contextmanager
def unchanged(loss: Loss, device: torch.device, arguments: Iterable[Any] = ()) -> Iterator[None]:
    """Put back at the end what calls of the loss have changed, and the random streams.

    Raises:
        UntriableError: it can't be put back.
    """
    with _random_streams(device):
        undo = _undo_of(loss, arguments)
        was, _state.is_trial = is_trial(), True
        writes = _Writes()
        try:
            with torch.autograd.set_detect_anomaly(False), writes:
                yield
        finally:
            _state.is_trial = was
            writes.put_back()
            for put_back in reversed(undo):
                put_back()


class _Writes(TorchDispatchMode):
    """Copies each tensor before an operation writes into it, unless the trial has made it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._streams: dict[int, tuple[torch.Generator, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """An operation."""
        kwargs = kwargs or {}
        effects = _effects_of(func)
        if effects.is_collective:
            raise UntriableError("it communicates with processes that wouldn't answer a trial")
        for key in effects.streams:
            for stream in _leaves(_argument(key, args, kwargs)):
                self._streams.setdefault(id(stream), (stream, stream.get_state()))
        for key in effects.written:
            for tensor in _tensors(_argument(key, args, kwargs)):
                self._keep(tensor)
        result = func(*args, **kwargs)
        if effects.makes:
            given = {_place(t) for value in (*args, *kwargs.values()) for t in _tensors(value)}
            self._own |= {_place(t) for t in _tensors(result)} - given
        return result

    def _keep(self, tensor: Tensor) -> None:
        place = _place(tensor)
        if place in self._own or place in self._before:
            return
        whole = tensor.detach()
        if tensor.layout == torch.strided:  # what other views of it have too
            whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            whole.set_(tensor.untyped_storage())
        self._before[place] = whole, whole.clone()

    def put_back(self) -> None:
        """All that was written into."""
        with torch.no_grad():
            for tensor, before in self._before.values():
                tensor.copy_(before)
        for generator, state in self._streams.values():
            generator.set_state(state)


class _Effects(NamedTuple):
    """What an operation does beside its result, by its schema.

    written, streams: places and names of the arguments that it writes into, and draws from.
    makes: whether it returns memory of its own.
    """

    is_collective: bool
    written: tuple[tuple[int, str], ...]
    streams: tuple[tuple[int, str], ...]
    makes: bool


@cache
def _effects_of(func: Any) -> _Effects:
    """Of an operation; batch norms don't tell that they write their running statistics."""
    places = [(i, argument.name) for i, argument in enumerate(func._schema.arguments)]
    batch_norm = "batch_norm" in func.__name__
    written, streams = [], []
    for place, argument in zip(places, func._schema.arguments, strict=True):
        is_write = argument.alias_info is not None and argument.alias_info.is_write
        if is_write or (batch_norm and argument.name.startswith("running_")):
            written.append(place)
        if "Generator" in str(argument.type):
            streams.append(place)
    return _Effects(
        func.namespace == "c10d",
        tuple(written),
        tuple(streams),
        any(returned.alias_info is None for returned in func._schema.returns),
    )


def _argument(key: tuple[int, str], args: Any, kwargs: dict[str, Any]) -> Any:
    """An argument of a call, None where it has none."""
    place, name = key
    return args[place] if place < len(args) else kwargs.get(name)


def _leaves(value: Any) -> Iterable[Any]:
    """What an argument or a result holds."""
    return value if isinstance(value, list | tuple) else () if value is None else (value,)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors among them."""
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    """Of its memory; of one that has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):
        return id(tensor)


@contextmanager
def _random_streams(device: torch.device) -> Iterator[None]:
    """Put back the streams of torch, Python and NumPy."""
    module = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
    own = None if module is None else module.get_rng_state(device)
    state, python = torch.get_rng_state(), random.getstate()
    numpy = sys.modules.get("numpy.random")
    of_numpy = None if numpy is None else numpy.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python)
        if module is not None:
            module.set_rng_state(own, device)
        if numpy is not None:
            numpy.set_state(of_numpy)


def _undo_of(loss: Loss, arguments: Iterable[Any]) -> list[Callable[[], None]]:
    """What puts back the state of a loss and of all that hangs on it, the nearest first."""
    waiting: deque[Any] = deque([loss, *arguments])
    known = dict[int, Any]()
    near = {id(part) for part in _keep(loss)[1]}
    of = _class_of(loss)
    if of is not None:
        waiting.append(_ClassState(of))
    undo: list[Callable[[], None]] = []
    while waiting and len(known) < _MOST:
        thing = waiting.popleft()
        if id(thing) in known or isinstance(thing, _NOTHING):
            continue
        known[id(thing)] = thing
        if isinstance(thing, CellType):
            near.update(id(part) for part in _keep(thing)[1])
        if id(thing) in near and _is_iterator(thing):
            raise UntriableError(f"it keeps {type(thing).__name__}, which can't be restored")
        put_back, parts = _keep(thing)
        if put_back is not None:
            undo.append(put_back)
        waiting.extend(parts)
    return undo


def _keep(thing: Any) -> tuple[Callable[[], None] | None, Iterable[Any]]:
    """What puts the state of a thing back, and its parts, which may have one too."""
    put_back: Callable[[], None] | None = None
    parts: Iterable[Any] = ()
    if isinstance(thing, Tensor):  # copied before it is written into
        put_back = _keep_place(thing)
    elif isinstance(thing, _ClassState):
        put_back, parts = thing.keep()
    elif (stream := _keep_stream(thing)) is not None:
        put_back = stream
    elif isinstance(thing, bytearray | array):
        put_back = partial(_fill, thing, thing[:])
    elif isinstance(thing, _CONTAINERS):
        put_back = _keep_container(thing)
        parts = list(thing.values() if isinstance(thing, dict) else thing)
    elif isinstance(thing, tuple):
        parts = thing
    elif isinstance(thing, CellType):
        put_back, parts = _keep_cell(thing)
    elif isinstance(thing, partial):
        parts = (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        parts = (thing.__self__, thing.__func__)
    elif _has_state(thing):
        put_back, parts = _keep_attributes(thing)
        if isinstance(thing, FunctionType):
            given = *(thing.__closure__ or ()), *(thing.__defaults__ or ())
            parts = (*given, *(thing.__kwdefaults__ or {}).values(), *parts)
    return put_back, parts


def _has_state(thing: Any) -> bool:
    """Whether a thing is of a class that may keep something from one call to the next.

    What Python, torch and the guard itself have is left alone: locks, files, threads, optimizers.
    """
    if isinstance(thing, nn.Module | FunctionType | SimpleNamespace) or is_dataclass(thing):
        return True
    module = type(thing).__module__ or ""
    package = module.partition(".")[0]
    is_known = package in sys.stdlib_module_names and package != "__main__"
    if module in ("torch.quasirandom",) or isinstance(thing, torch.optim.Optimizer):
        return True
    return not (is_known or package in ("torch", "numpy") or module.startswith(_OWN))


def _is_iterator(thing: Any) -> bool:
    """Whether it gives something else each time that it is asked, and has no state to copy."""
    if isinstance(thing, GeneratorType):
        return True
    return type(thing).__module__ == "itertools" and hasattr(thing, "__next__")


def _class_of(loss: Any) -> type | None:
    """The class of a loss, if it is one of the user's, whose attributes may be a count."""
    owner = loss.__self__ if isinstance(loss, MethodType) else loss
    of = type(owner)
    if isinstance(owner, FunctionType | partial) or not _has_state(owner):
        return None
    package = of.__module__.partition(".")[0]
    return None if package in ("torch", "builtins") else of


class _ClassState:
    """The plain attributes of a class."""

    def __init__(self, of: type) -> None:
        self._of = of
        plain = (int, float, str, bool, type(None), *_CONTAINERS)
        self._before = {
            name: value
            for name, value in vars(of).items()
            if isinstance(value, plain) and not name.startswith("__")
        }

    def keep(self) -> tuple[Callable[[], None], Iterable[Any]]:
        """What puts them back, and those that have parts."""

        def put_back() -> None:
            for name, value in self._before.items():
                if vars(self._of).get(name) is not value:
                    setattr(self._of, name, value)

        return put_back, list(self._before.values())


def _keep_place(tensor: Tensor) -> Callable[[], None] | None:
    """What gives a tensor its memory and its shape back, as `resize_`, `set_` and ``.data`` do."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        return None
    before = tensor.detach()

    def put_back() -> None:
        if _geometry(tensor) != _geometry(before):
            tensor.data = before

    return put_back


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride()


def _fill(values: Any, before: Any) -> None:
    values[:] = before


def _keep_attributes(thing: Any) -> tuple[Callable[[], None] | None, Iterable[Any]]:
    """The same of what has attributes, in a dictionary or in slots."""
    attributes: dict[str, Any] = getattr(thing, "__dict__", {})
    put_back = _keep_container(attributes) if isinstance(attributes, dict) else None
    names = [n for c in type(thing).__mro__ for n in _slots(c) if hasattr(thing, n)]
    slots = {name: getattr(thing, name) for name in names}
    if not slots:
        return put_back, list(attributes.values())

    def put_all_back() -> None:
        for name, value in slots.items():
            if getattr(thing, name, None) is not value:
                setattr(thing, name, value)
        if put_back is not None:
            put_back()

    return put_all_back, [*attributes.values(), *slots.values()]


def _slots(of: type) -> list[str]:
    slots = of.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _keep_cell(cell: CellType) -> tuple[Callable[[], None] | None, Iterable[Any]]:
    """The same of a variable of a closure."""
    try:
        value = cell.cell_contents
    except ValueError:  # an empty one
        return None, ()

    def put_back() -> None:
        cell.cell_contents = value

    return put_back, (value,)


def _keep_stream(value: Any) -> Callable[[], None] | None:
    """What puts a random stream back, or an array of NumPy; None for all else."""
    numpy = sys.modules.get("numpy")
    undo: Callable[[], None] | None = None
    if isinstance(value, torch.Generator):
        undo = partial(_call, value.set_state, value.get_state())
    elif isinstance(value, random.Random):
        undo = partial(_call, value.setstate, value.getstate())
    elif numpy is not None and isinstance(value, numpy.random.Generator):
        drawn = copy.deepcopy(value.bit_generator.state)
        undo = partial(setattr, value.bit_generator, "state", drawn)
    elif numpy is not None and isinstance(value, numpy.random.RandomState):
        undo = partial(_call, value.set_state, value.get_state())
    elif numpy is not None and isinstance(value, numpy.ndarray) and value.flags.writeable:
        undo = partial(numpy.copyto, value, value.copy())
    return undo


def _call(put_back: Callable[[Any], Any], state: Any) -> None:
    put_back(state)


def _keep_container(container: Any) -> Callable[[], None]:
    before = copy.copy(container)

    def put_back() -> None:
        if _identities(container) != _identities(before):
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(before)

    return put_back


def _identities(container: Any) -> Any:
    """What tells whether a container has other things in it, as == of tensors doesn't."""
    if isinstance(container, dict):
        return [(key, id(value)) for key, value in container.items()]
    return {id(part) for part in container} if isinstance(container, set) else [*map(id, container)]
