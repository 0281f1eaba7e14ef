"""What a spec asks for and no memory holds ends in a line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def made(kind: str, got: str, size: int = 0) -> Iterator[None]:
    """Name what can't be made; for a lack of memory torch has only RuntimeError.

    kind: what is expected, in words; got: the settings it is made from.
    size: the bytes that it takes at least. The system would end a process that begins to fill more
        than there are.

    Raises:
        ValueError: it can't be made inside, or is larger than this machine's memory.
    """
    try:
        if size > memory():
            raise MemoryError(
                f"it takes {size / 1e9:.3g} GB, this machine has {memory() / 1e9:.3g}"
            )
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"Expected {kind} that can be made and fits into memory, got {got} ({reason(error)})"
        ) from error


def memory() -> float:
    """The bytes of this machine's memory; infinity where they aren't known."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def reason(error: Exception) -> str:
    """What went wrong, in a line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
