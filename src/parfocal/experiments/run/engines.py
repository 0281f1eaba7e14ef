"""Where runs are executed: processes of this machine, or tasks of a Ray cluster; `slurm` has jobs.

An engine takes a function with its arguments and returns a future, like an executor of the standard
library. Both run one process per run, so that a process that dies ends no other run.
"""

import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, Self

from parfocal import extras
from parfocal.experiments.errors import DeadWorkerError

# What an HTTP/2 client sends first: a preface, and a frame of no settings (RFC 9113, 3.4).
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
# A frame begins with three bytes of length and its type; a server's first are its settings, 4.
_FRAME, _SETTINGS = 9, 4


class Engine(Protocol):
    """What a sweep needs."""

    name: str

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function somewhere, some time; a dead process is a DeadWorkerError."""

    def withdraw(self) -> None:
        """Take back calls that wait in a queue of its own; their futures raise CancelledError."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def process_context() -> Any:
    """How training processes are started: on Linux by forking one that has imported torch.

    That process has run nothing, so it has no threads that a fork would lose.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["parfocal.experiments.run.training"])
    return context


class Processes:
    """A number of processes on this machine, each reused for the next run."""

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

    def withdraw(self) -> None:
        """Nothing waits but in futures, which can be cancelled."""

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._idle.get()
        try:
            return process.submit(_call, function, arguments).result()
        except BrokenProcessPool as error:
            process.shutdown(wait=False)
            process = self._process()
            raise DeadWorkerError("the process died, perhaps out of memory") from error
        finally:
            self._idle.put(process)

    def _process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=process_context(), initializer=_prepare, initargs=(self._threads,)
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
    """Pin the threads of libraries that are still to be loaded; Ctrl-C is the parent's to handle.

    Those of torch, which is there already, are set by each run.
    """
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


def check_answers(address: str, seconds: float = 4.0) -> None:
    """Check that a gRPC server, which Ray needs, answers at the address of a cluster.

    Ray itself tries for minutes before it reports that there is none. For an address without a host
    and a port, Ray reports at once what is wrong.

    Args:
        address: as in `ray.init`: host:port, ray://host:port, or auto for the one in RAY_ADDRESS.
        seconds: to connect, and again for the answer.

    Raises:
        ConnectionError: nothing is there, or something else; with the address.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as server:
            server.sendall(_HTTP2)
            answer = server.makefile("rb").read(_FRAME)
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{_NO_CLUSTER}, and {address} doesn't answer: {error}") from error
    encrypted = os.environ.get("RAY_USE_TLS") == "1"
    if not encrypted and (len(answer) < _FRAME or answer[3] != _SETTINGS):
        raise ConnectionError(f"{_NO_CLUSTER}, and what answers at {address} is something else")


_NO_CLUSTER = "Expected the address of a Ray cluster, host:port or ray://host:port"


class Ray:
    """Tasks of Ray Core, on an existing cluster or on one started here temporarily.

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
        with extras.needs("cluster", "parfocal sweep --ray"):
            import ray

        self._ray = ray
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            cpus_there = max(1, math.ceil(jobs * cpus))
            ray.init("local", num_cpus=cpus_there, include_dashboard=False, **common)
            gpus_there = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
            if gpus > gpus_there:  # its tasks would wait for ever
                ray.shutdown()
                raise ValueError(
                    f"Expected at most the {gpus_there:g} GPUs of this machine a run, got {gpus:g}"
                )
        else:
            check_answers(address)
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

    def withdraw(self) -> None:
        """A task that gets its turn sees by itself that it is to end."""

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
