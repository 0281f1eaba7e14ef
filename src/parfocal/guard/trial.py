"""Calls of a loss beside the training, which leave the loss and all random streams as they were.

A loss may keep a running mean, a queue, a count, or draw random numbers. Whatever of that hangs on
the loss itself is put back after a trial: buffers and tensors in their own memory, containers with
their own contents, other attributes and the variables of a closure as they were. Global variables
of a script aren't.
"""

import copy
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.guard.loss_call import Loss, LossCall

_CONTAINERS = (list, dict, set, deque, OrderedDict)


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
        undo = [_keep(holder) for holder in _holders(loss, {})]
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


def _holders(thing: Any, known: dict[int, Any]) -> Iterator[Any]:
    """The objects of a loss that may keep something from one call to the next."""
    if id(thing) in known or isinstance(thing, type):
        return
    known[id(thing)] = thing
    if isinstance(thing, partial):
        for part in (thing.func, *thing.args, *thing.keywords.values()):
            yield from _holders(part, known)
    elif isinstance(thing, MethodType):
        yield from _holders(thing.__self__, known)
    elif isinstance(thing, nn.Module):
        yield from thing.modules()
    elif isinstance(thing, FunctionType):
        yield thing
        for cell in thing.__closure__ or ():
            yield cell
            try:
                yield from _holders(cell.cell_contents, known)
            except ValueError:  # an empty cell
                continue
    elif hasattr(thing, "__dict__") and callable(thing):
        yield thing


def _keep(holder: Any) -> Callable[[], None]:
    """What puts the state of an object back."""
    if not hasattr(holder, "__dict__"):
        return _keep_cell(holder)
    attributes = vars(holder)
    before = dict(attributes)
    values = list(before.values())
    if isinstance(holder, nn.Module):
        values += [tensor for tensor in holder._buffers.values() if tensor is not None]
    contents = [undo for value in values if (undo := _keep_value(value)) is not None]

    def put_back() -> None:
        attributes.clear()
        attributes.update(before)
        for undo in contents:
            undo()

    return put_back


def _keep_cell(cell: Any) -> Callable[[], None]:
    """The same of a variable of a closure."""
    try:
        value = cell.cell_contents
    except (AttributeError, ValueError):
        return lambda: None
    contents = _keep_value(value)

    def put_back() -> None:
        cell.cell_contents = value
        if contents is not None:
            contents()

    return put_back


def _keep_value(value: Any) -> Callable[[], None] | None:
    """What puts the contents of a value back, in its own memory; None for what has none."""
    undo: Callable[[], None] | None = None
    if isinstance(value, Tensor):  # a forward pass doesn't change parameters
        undo = None if isinstance(value, nn.Parameter) else _keep_tensor(value)
    elif isinstance(value, torch.Generator):
        undo = partial(_set_state, value.set_state, value.get_state())
    elif isinstance(value, random.Random):
        undo = partial(_set_state, value.setstate, value.getstate())
    elif hasattr(value, "bit_generator"):  # NumPy's
        drawn = copy.deepcopy(value.bit_generator.state)
        undo = partial(setattr, value.bit_generator, "state", drawn)
    elif isinstance(value, _CONTAINERS):
        undo = _keep_container(value)
    return undo


def _set_state(put_back: Callable[[Any], Any], state: Any) -> None:
    put_back(state)


def _keep_tensor(tensor: Tensor) -> Callable[[], None]:
    version, before = tensor._version, tensor.detach().clone()

    def put_back() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.copy_(before)

    return put_back


def _keep_container(container: Any) -> Callable[[], None]:
    before = copy.copy(container)
    parts = before.values() if isinstance(before, dict) else before
    contents = [undo for part in parts if isinstance(part, Tensor) and (undo := _keep_value(part))]

    def put_back() -> None:
        if container != before if _is_comparable(before) else True:
            container.clear()
            (container.extend if isinstance(container, list | deque) else container.update)(before)
        for undo in contents:
            undo()

    return put_back


def _is_comparable(container: Any) -> bool:
    """Whether == of its parts is a truth value, which that of tensors isn't."""
    parts = container.values() if isinstance(container, dict) else container
    return not any(isinstance(part, Tensor) for part in parts)
