"""What all processes of a group know together; without a group, what the one knows."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Thing = TypeVar("Thing")

_CAN_BE_GROUPED = dist.is_available()


def rank() -> int:
    """Of this process; 0 without a group."""
    return dist.get_rank() if is_group() else 0


def largest(values: Tensor) -> Tensor:
    """Of each number, over the processes."""
    return _reduced(values, dist.ReduceOp.MAX)


def total(values: Tensor) -> Tensor:
    """Of each number, over the processes."""
    return _reduced(values, dist.ReduceOp.SUM)


def is_on_any(is_so: bool, device: torch.device) -> bool:
    """Whether it is so for one of the processes."""
    if not is_group():
        return is_so
    return largest(torch.tensor(float(is_so), device=device)).item() > 0


def first_of_all(own: Thing | None, is_second: Callable[[Thing], bool]) -> Thing | None:
    """What the first process has that has anything.

    is_second: of which things those of other processes come first.
    """
    if not is_group():
        return own
    of_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, own)
    things = [one for one in of_ranks if one is not None]
    return next(iter(sorted(things, key=is_second)), None)


def first_on_any(
    own: Thing | None, device: torch.device, is_second: Callable[[Thing], bool]
) -> tuple[bool, Thing | None]:
    """Whether any process has something, and what the first has: see `first_of_all`."""
    if not is_on_any(own is not None, device):
        return False, None
    return True, first_of_all(own, is_second)


def is_group() -> bool:
    """Whether there are other processes to ask."""
    return _CAN_BE_GROUPED and dist.is_initialized()


def _reduced(values: Tensor, operation: Any) -> Tensor:
    if not is_group():
        return values
    values = values.clone()
    dist.all_reduce(values, operation)
    return values
