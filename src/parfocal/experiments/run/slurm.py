"""Runs as Slurm jobs, or as local processes in their place, by submitit.

A job that reaches its time limit is queued again, and resumes from the run's checkpoint.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from parfocal import extras
from parfocal.experiments.errors import DeadWorkerError

# Seconds between two looks for a job's result, which is a file.
_LOOK = 0.5

# Parameters that submitit has for every kind of cluster; all others are Slurm's own.
_SHARED = (
    "name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node",
)  # fmt: skip

# By which submitit asks how it is to set up logging.
_LOGGING = "SUBMITIT_LOG_LEVEL"


class _Raised(NamedTuple):
    """An exception on its way through a job's result, which would keep its text alone."""

    error: Exception


class _Call:
    """A call as a job; what Slurm interrupts is called again with the same arguments."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments

    def __call__(self) -> Any:
        try:
            return self._function(*self._arguments)
        except Exception as error:
            return _Raised(error)

    def checkpoint(self) -> Any:
        """What submitit queues when Slurm announces the end of a job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Slurm:
    """Jobs of a Slurm cluster whose machines share a disk; a number of them at once.

    Args:
        folder: where submitit keeps the jobs' scripts, calls and outputs.
        jobs: how many are queued or running at once.
        parameters: of a job, by submitit's names; Slurm's with or without `slurm_`.
        local: use processes of this machine instead of a cluster, to try it out.

    Raises:
        ValueError: there is no Slurm here, or no such parameter.
    """

    name = "slurm"

    def __init__(
        self, folder: Path, *, jobs: int, parameters: Mapping[str, Any], local: bool = False
    ) -> None:
        with extras.needs("slurm", "parfocal sweep --slurm"), _logging_left_alone():
            import submitit

        named = {_parameter(name): value for name, value in parameters.items()}
        try:
            self._executor = submitit.AutoExecutor(folder, cluster="local" if local else "slurm")
            self._executor.update_parameters(**{"name": "parfocal", **named})
        except (RuntimeError, NameError, TypeError) as error:
            raise ValueError(f"Expected a Slurm that takes these parameters: {error}") from error
        self._incomplete = submitit.core.utils.UncompletedJobError
        self._waiting = ThreadPoolExecutor(jobs)
        self._queued: set[Any] = set()
        self._withdrawn = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in a job."""
        return self._waiting.submit(self._call, _Call(function, arguments))

    def withdraw(self) -> None:
        """Take back the jobs that Slurm hasn't begun."""
        self._withdrawn = True
        for job in list(self._queued):
            if job.state == "PENDING":
                job.cancel(check=False)

    def _call(self, call: _Call) -> Any:
        if self._withdrawn:
            raise CancelledError
        job: Any = self._executor.submit(call)
        self._queued.add(job)
        try:
            while not job.done():
                time.sleep(_LOOK)
            result = job.result()
        except self._incomplete as error:
            if self._withdrawn:
                raise CancelledError from error
            reason = str(error).strip().splitlines()[0]
            raise DeadWorkerError(f"the job {job.job_id} died: {reason}") from error
        finally:
            self._queued.discard(job)
        if isinstance(result, _Raised):
            raise result.error
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.shutdown(cancel_futures=True)


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """Have submitit not set up logging when it is imported: that closes all handlers there are."""
    before = os.environ.get(_LOGGING)
    os.environ[_LOGGING] = "NOCONFIG"
    try:
        yield
    finally:
        del os.environ[_LOGGING]
        if before is not None:
            os.environ[_LOGGING] = before


def _parameter(name: str) -> str:
    """The name that submitit has for it.

    >>> _parameter("partition"), _parameter("timeout_min"), _parameter("slurm_qos")
    ('slurm_partition', 'timeout_min', 'slurm_qos')
    """
    return name if name in _SHARED or name.startswith("slurm_") else f"slurm_{name}"


def read_parameters(text: str) -> dict[str, Any]:
    """`partition=gpu,timeout_min=240` as names and values; whole numbers are integers.

    >>> read_parameters("partition=gpu,timeout_min=240")
    {'partition': 'gpu', 'timeout_min': 240}
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not name or not equals:
            raise ValueError(f"Expected local, or NAME=VALUE,...; got {text!r}")
        found[name] = int(value) if value.isdecimal() else value
    return found
