"""Pieces of work on threads (serial until the measured form is in)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Piece = TypeVar("Piece")


def in_parallel(work: Callable[[Piece], float | None], pieces: Sequence[Piece]) -> float | None:
    """The sum of work(piece) over all pieces; None as soon as one piece has None."""
    total = 0.0
    for piece in pieces:
        part = work(piece)
        if part is None:
            return None
        total += part
    return total
