"""Where runs are executed: processes of this machine, or tasks of a Ray cluster.

An engine takes a function with its arguments and gives a future, as an executor of the standard
library does; both have one process a run at a time, so that one that dies takes no other with it.
"""

import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, Self

from parfocal.experiments.errors import DeadWorkerError


class Engine(Protocol):
    """What a sweep needs."""

    name: str

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function somewhere, some time; a dead process is a DeadWorkerError."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Processes:
    """So many processes on this machine, each used again for the next run."""

    name = "processes"

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self._threads = threads
        self._waiting = ThreadPoolExecutor(jobs)
        self._idle: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(jobs):
            self._idle.put(self._process())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in one of the processes; a dead one is replaced."""
        return self._waiting.submit(self._call, function, arguments)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._idle.get()
        try:
            return process.submit(_call, function, arguments).result()
        except BrokenProcessPool as error:
            process.shutdown(wait=False)
            process = self._process()
            raise DeadWorkerError("the process died, perhaps for want of memory") from error
        finally:
            self._idle.put(process)

    def _process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(self._threads,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().shutdown()


# Held by a process of a pool while it works.
_WORKING = threading.Lock()


def _prepare(threads: int) -> None:
    """Pin the threads of every library; Ctrl-C is the parent's to handle."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with _WORKING:
        return function(*arguments)


def _end_with_parent() -> None:
    """A pool's process would wait for ever for work from a parent that was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    with _WORKING:
        os._exit(1)


class Ray:
    """Tasks of Ray Core, on a cluster that exists or one that is started here for the while.

    address: of the cluster, or "local".
    cpus, gpus, resources: what one run takes; jobs: how many at once, on a local one.
    """

    name = "ray"

    def __init__(
        self,
        address: str,
        *,
        jobs: int,
        cpus: float = 1,
        gpus: float = 0,
        resources: dict[str, float] | None = None,
    ) -> None:
        if address == "local":
            # Loopback alone; by default Ray listens on all of a Linux machine's addresses.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        self._ray = ray
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            cpus_there = max(1, math.ceil(jobs * cpus))
            ray.init("local", num_cpus=cpus_there, include_dashboard=False, **common)
        else:
            try:
                ray.init(address, **common)
            except ConnectionError as error:
                raise ConnectionError(
                    f"{error}; if the cluster authenticates by token, set RAY_AUTH_MODE=token"
                ) from error
        self._options: dict[str, Any] = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "resources": resources or None,
            "max_retries": 0,  # the sweep tries again, as on the other engine
        }

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function as a task."""
        task = self._ray.remote(_call).options(**self._options).remote(function, arguments)
        theirs: Future[Any] = task.future()
        ours: Future[Any] = Future()
        ours.set_running_or_notify_cancel()
        theirs.add_done_callback(lambda done: self._pass_on(done, ours))
        return ours

    def _pass_on(self, theirs: Future[Any], ours: Future[Any]) -> None:
        died = (
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.OutOfMemoryError,
        )
        error = theirs.exception()
        if error is None:
            ours.set_result(theirs.result())
        elif isinstance(error, died):
            ours.set_exception(DeadWorkerError(str(error).strip().splitlines()[0]))
        else:
            cause = error.cause if isinstance(error, self._ray.exceptions.RayTaskError) else error
            ours.set_exception(cause)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()
