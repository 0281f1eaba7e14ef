"""What all processes of a group know together; without a group, what the one knows."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Thing = TypeVar("Thing")

_CAN_BE_GROUPED = dist.is_available()


def rank() -> int:
    """Of this process; 0 without a group."""
    return dist.get_rank() if is_group() else 0


def together(values: list[float], maxima: int, device: torch.device) -> list[float]:
    """Over the processes the largest of each of the first numbers, and the sum of each other."""
    if not is_group():
        return values
    highs, sums = (torch.tensor(v, device=device) for v in (values[:maxima], values[maxima:]))
    dist.all_reduce(highs, dist.ReduceOp.MAX)
    dist.all_reduce(sums, dist.ReduceOp.SUM)
    return [*highs.tolist(), *sums.tolist()]


def is_on_any(is_so: bool, device: torch.device) -> bool:
    """Whether it is so for one of the processes."""
    if not is_group():
        return is_so
    so = torch.tensor(float(is_so), device=device)
    dist.all_reduce(so, dist.ReduceOp.MAX)
    return so.item() > 0


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
