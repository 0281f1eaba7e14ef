"""Blocks of a computation, shared among threads that meet once, at the end.

torch divides each operation among the threads of OpenMP, and each operation waits for the slowest
of them. A block makes a dozen operations; where other work runs on the same processors, one of
the threads waits for its turn in most of them, and a loss of a hundred blocks waits a thousand
times. Here a thread takes a whole block, computes all of it alone, and takes the next: a thread
that has lost its processor delays its own block.

The threads live as long as the call, and the calling thread is one of them. Starting one takes a
tenth of the time of a block, and there is nothing to keep: no pool that a fork copies without
its threads, that waits at the exit of the interpreter, or that misses what a new thread has from
the one that starts it (its treatment of subnormal numbers, its processors, its priority).

A block of 2 ** 17 elements holds the interpreter for about 20 microseconds and its processor for
800 (sum and gradient of the focal loss, gamma 2, float32, two cores of an AMD EPYC): the
interpreter could serve some forty threads.

After an operation that was divided the threads of OpenMP go on spinning for a few milliseconds and
take processors from these meanwhile. Sums of fewer than 2 ** 21 elements are therefore computed by
the calling thread and those of torch, block by block. At 2 ** 22 that took 10 % less time for the
cheapest losses, alone, and a hundred times as much for some beside other work.
"""

import _thread
import ctypes
import functools
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch

Piece = TypeVar("Piece")
Part = TypeVar("Part")

# So many blocks, or a multiple, are shared out evenly by 2, 4, 8 and 16 threads.
_EVEN = 16

# Elements from which on threads pay back: after an operation that was divided those of OpenMP
# spin for up to 5 ms, and take a processor from ours meanwhile.
_SHARED = 2**21

# A multiple of every vector length, so that no element falls to the scalar rest of a vectorised
# loop, which may round otherwise.
_VECTORS = 64

# torch divides no operation on fewer elements than 2 ** 15.
_UNDIVIDED = 2**15 - _VECTORS

_TORCH_CPU = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"


def runs(count: int, width: int, most: int, elements: int | None = None) -> list[slice]:
    """Blocks that together are [0, count), for `in_parallel`.

    Where they begin depends on no number of threads if they are to be shared, and then neither does
    a sum over them.

    Args:
        count: how many elements, or rows.
        width: the elements of a row.
        most: about how many elements a thread has of a block.
        elements: how many there are in all, if these are a part of them.
    """
    size = max(1, _block_size(elements or count * width, most) // width)
    blocks = max(1, -(-count // size))
    size = -(-count // blocks)
    if size > _VECTORS:
        size = -(-size // _VECTORS) * _VECTORS
    return [
        slice(start, min(start + size, count)) for start in range(0, max(count, 1), max(size, 1))
    ]


def _block_size(elements: int, most: int) -> int:
    """About how many elements a block has."""
    if elements <= most:
        return max(elements, 1)
    if elements < _SHARED:
        return most * torch.get_num_threads()
    if not _library().works:
        return _UNDIVIDED
    return elements // (-(-elements // (_EVEN * most)) * _EVEN)


def in_parallel(
    work: Callable[[Piece], Part | None], pieces: Sequence[Piece], elements: int
) -> list[Part] | None:
    """work(piece) of all pieces, in their order, from as many threads as torch uses.

    Each is computed by a single thread, without gradients and autocast. Those of few elements are
    left to the calling thread and the threads of torch.

    Args:
        work: what is done for a piece; it may write to memory that is this piece's own.
        pieces: what is to be done.
        elements: how many there are in all pieces.

    Returns:
        The results; None as soon as one is None. Nothing is running any more.

    Raises:
        Whatever `work` raises, once; the pieces that haven't begun are dropped.
    """
    threads = min(torch.get_num_threads(), len(pieces))
    if elements < _SHARED or threads == 1:
        parts = []
        for piece in pieces:
            part = work(piece)
            if part is None:
                return None
            parts.append(part)
        return parts
    job = _Job(work, pieces, torch.is_inference_mode_enabled())
    _share(job, threads - 1)
    return job.result()


class _Job(Generic[Piece, Part]):
    """Pieces that are still to be begun, and what came of the others."""

    def __init__(
        self, work: Callable[[Piece], Part | None], pieces: Sequence[Piece], is_inference: bool
    ) -> None:
        self.work = work
        self.waiting = deque(enumerate(pieces))
        self.parts: list[Part | None] = [None] * len(pieces)
        self.failures: list[BaseException] = []
        self.is_inference = is_inference

    def run(self) -> None:
        """Take one piece after another, until there are no more or one fails."""
        while True:
            try:
                place, piece = self.waiting.popleft()
            except IndexError:
                return
            part = self.work(piece)
            if part is None:
                self.waiting.clear()
            self.parts[place] = part

    def result(self) -> list[Part] | None:
        """All parts, in order."""
        if self.failures:
            raise self.failures.pop()
        parts = [part for part in self.parts if part is not None]
        return parts if len(parts) == len(self.parts) else None


def _share(job: _Job[Piece, Part], helpers: int) -> None:
    """Run the job in this thread and up to so many others; none of them runs afterwards."""
    locks: list[threading.RLock] = []
    try:
        _start(job, helpers, locks)
        _run_alone(job)
    finally:
        job.waiting.clear()
        _take(locks)
        # A thread that is about to end holds the job; autograd copies a gradient that is held.
        del job.work


def _start(job: _Job[Piece, Part], helpers: int, locks: list[threading.RLock]) -> None:
    """Start helpers, each with a lock, while there is something to be done.

    A helper holds its lock while it works. Who takes the lock waits for a helper that works, and
    keeps out one that hasn't begun.
    """
    for _ in range(helpers):
        if not job.waiting:
            return
        locks.append(threading.RLock())
        try:
            _thread.start_new_thread(_help, (job, locks[-1]))
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            return


def _help(job: _Job[Piece, Part], lock: threading.RLock) -> None:
    """Run a helper's part of the job, unless the caller keeps it out."""
    if not lock.acquire(blocking=False):
        return
    try:
        _run_alone(job)
    except BaseException as error:  # raised again in the calling thread
        job.failures.append(error)
        job.waiting.clear()
    finally:
        lock.release()


def _take(locks: list[threading.RLock]) -> None:
    """Take all locks; an interrupt waits until then.

    They are reentrant because it may come when a lock is taken and still in the list.
    """
    interrupt: BaseException | None = None
    while locks:
        try:
            locks[-1].acquire()
            locks.pop()
        except BaseException as error:  # raised again below
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _run_alone(job: _Job[Piece, Part]) -> None:
    """Run the job with operations that are divided among no threads.

    The settings are those of this thread alone. After an interrupt too, each `finally` gets to
    its first call, which is one of C.
    """
    threads = torch.get_num_threads()  # the first call in a thread makes torch's own settings
    library = _library()
    previous = 0
    try:
        library.set_openmp(1)
        previous = library.set_mkl(1)
        with torch.inference_mode(job.is_inference), torch.no_grad(), _no_autocast():
            job.run()
    finally:
        try:
            library.set_openmp(threads)
        finally:
            library.set_mkl(previous)


def _no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


class _Library(NamedTuple):
    """How many threads operations of the calling thread get; None of it is known if not `works`.

    set_openmp: of OpenMP, which torch divides its operations with.
    set_mkl: of MKL, whose functions of long vectors have threads of their own once
        `torch.set_num_threads` was called; returns the setting before, 0 for none.
    """

    works: bool
    set_openmp: Callable[[int], object]
    set_mkl: Callable[[int], int]


@functools.cache
def _library() -> _Library:
    """The functions of the libraries that torch itself uses, if they do what they are to do."""
    unknown = _Library(False, int, int)
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / _TORCH_CPU))
        set_openmp = torch_cpu.omp_set_num_threads
        set_mkl = torch_cpu.MKL_Set_Num_Threads_Local if torch.backends.mkl.is_available() else int
    except (OSError, AttributeError):
        return unknown
    threads = torch.get_num_threads()
    try:
        set_openmp(1)
        works = torch.get_num_threads() == 1
    finally:
        set_openmp(threads)
    return _Library(True, set_openmp, set_mkl) if works else unknown
