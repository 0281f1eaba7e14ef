"""Commands in processes of their own that needn't import torch: forked from one that has."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from parfocal.experiments.run.engines import process_context

# Ends a hang, and nothing else: what is waited for comes within seconds, or much later on a machine
# that is slow and busy.
DEADLINE = 600


class Command:
    """`parfocal ARGUMENTS` in a process group of its own; a context manager that ends it.

    As from a shell: what it starts itself is in the group, and shares nothing with this process.
    """

    def __init__(self, *arguments, output, environment=None, prepare=None):
        """Start it; `prepare`, a function of this module, is called there before it begins."""
        self._output = Path(output)
        words = [str(argument) for argument in arguments]
        given = (words, str(output), environment or {}, prepare)
        self._process = process_context().Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def status(self):
        """The exit status, None until there is one."""
        return self._process.exitcode

    def interrupt(self):
        """Ctrl-C: SIGINT to the whole group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self):
        """SIGKILL to this process alone."""
        self._process.kill()
        self._process.join(DEADLINE)

    def kill_all(self):
        """SIGKILL to it and to all that it has started, wherever that has gone."""
        for pid in _descendants(self.pid) | {self.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.join(DEADLINE)

    def output(self):
        """All that it prints, to its end."""
        self._process.join(DEADLINE)
        text = self._output.read_text()
        assert self.status is not None, text
        return text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_all()


def wait_until(condition):
    """Look again and again until something is so."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def audit_in_short():
    """Audits at one gamma in one dtype, where they are called: the demo begins with two."""
    import torch

    from parfocal.audit import audit, isolated

    def in_short(job):
        return audit(job.target, gammas=(0.5,), dtypes=[torch.bfloat16], quick=True)

    isolated.audit_isolated = in_short


def _run(arguments, output, environment, prepare):
    os.setsid()
    os.environ.update(environment)
    if prepare is not None:
        prepare()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, "utf-8") for stream in (1, 2))
    sys.argv = ["parfocal", *arguments]
    from parfocal.__main__ import main

    main()


def _descendants(pid):
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = set(), [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found
