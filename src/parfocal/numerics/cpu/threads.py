"""Blocks of a computation, shared among threads that meet once, at the end.

torch divides each operation among the threads of OpenMP, and each operation waits for the slowest
of them. A block makes a dozen operations; where other work runs on the same processors, one of
the threads waits for its turn in most of them, and a loss of a hundred blocks waits a thousand
times. Here a thread takes a whole block, computes all of it alone, and takes the next: a thread
that has lost its processor delays its own block.

The threads are those of OpenMP themselves: one parallel region of theirs is the whole computation,
and what torch computes within a region it doesn't divide again. They are there already, and still
spin for work after the operation before; threads of another sort would have to compete with them
for the processors.

Where torch has no OpenMP of GNU's interface (on a Mac), and in a process that was forked since
(the threads have stayed with its parent, and a region would wait for them for ever), new threads
are started. They live as long as the call, and the calling thread is one of them: there is no pool
that waits at the exit of the interpreter, or that misses what a new thread has from the one that
starts it.

A block of 2 ** 17 elements holds the interpreter for about 20 microseconds and its processor for
800 (sum and gradient of the focal loss, gamma 2, float32, two cores of an AMD EPYC): the
interpreter could serve some forty threads. The threads wait for it now and then, which takes 0.2
to 0.4 ms a call; fewer than 2 ** 20 elements are computed by the calling thread and those of torch,
block by block.
"""

import _thread
import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

Piece = TypeVar("Piece")
Part = TypeVar("Part")

# So many blocks, or a multiple, are shared out evenly by 2, 4, 8 and 16 threads.
_EVEN = 16

# Elements from which on blocks are shared. Quiet, it costs a tenth at 2 ** 20 and nothing from
# 2 ** 21 on; beside other work the same losses took up to sixty times as long divided.
_SHARED = 2**20

# A multiple of every vector length, so that no element falls to the scalar rest of a vectorised
# loop, which may round otherwise.
_VECTORS = 64

# torch divides no operation on fewer elements than 2 ** 15.
_UNDIVIDED = 2**15 - _VECTORS

# What each thread of a region calls.
_MEMBER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_TORCH_CPU = "libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so"


# The process whose threads of OpenMP these are: a child that it forks has none of them.
_process = os.getpid()


def runs(count: int, width: int, most: int, elements: int | None = None) -> list[slice]:
    """Blocks that together are [0, count), for `in_parallel`.

    Of sixteen or more it depends on no number of threads where they begin, and then neither does a
    sum over them.

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
    multiple = _EVEN if elements >= _EVEN * most else torch.get_num_threads()
    return elements // (-(-elements // (multiple * most)) * multiple)


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
    library = _library()
    try:
        if library.start_region is None or os.getpid() != _process:
            _share_with_new(job, helpers)
        else:
            _share_in_region(job, 1 + helpers, library)
    finally:
        # A thread that is about to end holds the job; autograd copies a gradient that is held.
        del job.work


def _share_in_region(job: _Job[Piece, Part], threads: int, library: "_Library") -> None:
    """Run the job in this thread and those of OpenMP; this one is in the region meanwhile."""
    assert library.start_region is not None
    member = _MEMBER(lambda _: _join(job))
    started: list[object] = []
    try:
        # One call: no interrupt comes between the start of the region and the word of it.
        started.extend(map(library.start_region, (member,), (None,), (threads,)))
        _join(job)
    finally:
        try:
            job.waiting.clear()
        finally:
            if started:
                library.end_region()


def _join(job: _Job[Piece, Part]) -> None:
    """Run one thread's part of the job; what it raises is raised again in the calling thread."""
    try:
        _run_alone(job)
    except BaseException as error:
        job.failures.append(error)
        job.waiting.clear()


def _share_with_new(job: _Job[Piece, Part], helpers: int) -> None:
    """Run the job in this thread and in new ones."""
    locks: list[threading.RLock] = []
    try:
        _start(job, helpers, locks)
        _join(job)
    finally:
        job.waiting.clear()
        _take(locks)


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
        _join(job)
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
    start_region: has all threads of OpenMP but the calling one, so many with it, call a function;
        GNU's `GOMP_parallel_start`, None where there is none.
    end_region: waits for them.
    """

    works: bool
    set_openmp: Callable[[int], object]
    set_mkl: Callable[[int], int]
    start_region: Callable[[Any, None, int], object] | None
    end_region: Callable[[], object]


@functools.cache
def _library() -> _Library:
    """The functions of the libraries that torch itself uses, if they do what they are to do."""
    unknown = _Library(False, int, int, None, int)
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
    if not works:
        return unknown
    try:
        start_region, end_region = torch_cpu.GOMP_parallel_start, torch_cpu.GOMP_parallel_end
    except AttributeError:
        return _Library(True, set_openmp, set_mkl, None, int)
    start_region.argtypes = (_MEMBER, ctypes.c_void_p, ctypes.c_uint)
    start_region.restype = end_region.restype = None
    return _Library(True, set_openmp, set_mkl, start_region, end_region)
