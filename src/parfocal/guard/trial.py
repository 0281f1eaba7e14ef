"""Calls of a loss beside the training, which leave the loss and all random streams as they were.

A loss may keep a running mean, a queue, a count, or draw random numbers. Whatever of that hangs on
the loss itself, or on what hangs on it, is put back after a trial: buffers and tensors in their own
memory, containers with their own contents, other attributes and the variables of a closure as they
were. Global variables of a script aren't, nor those of a class.
"""

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.guard.loss_call import Loss, LossCall

_CONTAINERS = (list, dict, set, deque)

# What has no state of its own.
_NOTHING = (type(None), bool, int, float, complex, str, bytes, type, ModuleType)

# Of this package a guard may hang on a loss that is a method of a model.
_OWN = __name__.rpartition(".")[0]

# Things that are looked at, and numbers of a tensor that are kept, at most: of a loss that is a
# method of a model or a trainer much more hangs on it, and a trial must not take seconds.
_MOST = 1000
_NUMBERS = 1 << 23


def value_and_gradient(
    call: LossCall, logits: Tensor, targets: Tensor | None = None, factor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss at other logits, and its gradient there, 0 where there is none.

    targets: others than those of the call. factor: what comes into the loss from downstream; 1 for
    each of its elements without.
    """
    targets = call.targets if targets is None else targets
    with unchanged(call.loss, logits.device), torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_()
        if targets.is_floating_point() and targets.dtype == call.logits.dtype:
            targets = targets.to(leaf.dtype)
        loss = call.at(leaf, targets.clone())
        incoming = torch.ones_like(loss) if factor is None else factor.to(loss).expand_as(loss)
        (gradient,) = torch.autograd.grad(loss, leaf, incoming, allow_unused=True)
    return loss.detach(), torch.zeros_like(leaf) if gradient is None else gradient


@contextmanager
def unchanged(loss: Loss, device: torch.device) -> Iterator[None]:
    """Put back at the end what calls of the loss have changed in it and in the random streams."""
    with _random_streams(device):
        undo = _undo_of(loss)
        try:
            yield
        finally:
            for put_back in reversed(undo):
                put_back()


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


def _undo_of(loss: Loss) -> list[Callable[[], None]]:
    """What puts back the state of a loss and of all that hangs on it, the nearest first."""
    waiting, known = deque([loss]), dict[int, Any]()
    undo: list[Callable[[], None]] = []
    while waiting and len(known) < _MOST:
        thing = waiting.popleft()
        if id(thing) in known or isinstance(thing, _NOTHING):
            continue
        known[id(thing)] = thing
        put_back, parts = _keep(thing)
        if put_back is not None:
            undo.append(put_back)
        waiting.extend(parts)
    return undo


def _keep(thing: Any) -> tuple[Callable[[], None] | None, Iterable[Any]]:
    """What puts the state of a thing back, and its parts, which may have one too."""
    put_back: Callable[[], None] | None = None
    parts: Iterable[Any] = ()
    if isinstance(thing, Tensor):
        put_back = _keep_tensor(thing)
    elif (stream := _keep_stream(thing)) is not None:
        put_back = stream
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
    if isinstance(thing, nn.Module | FunctionType):
        return True
    module = type(thing).__module__ or ""
    package = module.partition(".")[0]
    is_known = package in sys.stdlib_module_names and package != "__main__"
    return not (is_known or package in ("torch", "numpy") or module.startswith(_OWN))


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


def _keep_tensor(tensor: Tensor) -> Callable[[], None] | None:
    """The same of a tensor; not of a parameter, which no forward pass changes, or a large one.

    Its version tells most changes, but not those by `.data`.
    """
    if isinstance(tensor, nn.Parameter) or tensor.is_inference() or tensor.numel() > _NUMBERS:
        return None
    version, before = tensor._version, tensor.detach().clone()

    def put_back() -> None:
        is_dense = tensor.layout == torch.strided
        if tensor._version != version or (is_dense and not torch.equal(tensor, before)):
            with torch.no_grad():
                tensor.copy_(before)

    return put_back


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
