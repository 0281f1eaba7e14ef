"""An audit in a process of its own: what hangs, crashes or prints there does so alone.

    python -m parfocal.audit.isolated JOB REPORT PROGRESS

is that process: it reads a job, and writes a report and where it is.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import torch

from parfocal.audit.audit import Progress, audit
from parfocal.audit.report import AuditReport, could_not

_POLL = 0.2

# In the environment of a target and of all that it starts.
_MARK = "PARFOCAL_AUDIT"

# What is kept of what a target prints.
_OUTPUT = 2000


@dataclass(frozen=True)
class Job:
    """What to audit: a target with fields of `Subject`, or a known loss by its name.

    gammas, dtypes, quantities: as in `audit`, all by default; dtypes by their names.
    """

    target: str
    given: Mapping[str, Any] = field(default_factory=dict)
    known: str | None = None
    quick: bool = False
    modes: Sequence[str] | None = None
    gammas: Sequence[float] | None = None
    dtypes: Sequence[str] | None = None
    quantities: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.known or str(self.given.get("name", self.target))


def audit_isolated(
    job: Job,
    timeout: float = 900.0,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> AuditReport:
    """Run a job in a process of its own, for at most so many seconds, or until it is stopped.

    A target that hangs, crashes or can't be called gives a report that says so.
    """
    with tempfile.TemporaryDirectory(prefix="parfocal-audit-") as folder:
        job_path, report_path, progress_path = (
            Path(folder, name) for name in ("job", "report", "progress")
        )
        job_path.write_text(json.dumps(asdict(job)))
        paths = map(str, (job_path, report_path, progress_path))
        mark = f"{_MARK}={folder}"
        process = subprocess.Popen(
            [sys.executable, "-m", "parfocal.audit.isolated", *paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, _MARK: folder},
        )
        output = _Tail(process.stdout)
        try:
            late = _wait(process, timeout, progress, progress_path, report_path, stop)
        finally:
            _end(process, mark)
        printed = output.text()
        if report_path.exists():
            return replace(AuditReport.from_json(report_path.read_text()), output=printed)
        where = _where(progress_path)
        if late:
            return could_not(job.name, job.target, f"not done after {timeout:g} s{where}", printed)
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return could_not(job.name, job.target, f"its process ended with {how}{where}", printed)


def printable(text: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


class _Tail:
    """The end of what a process prints, read while it does."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream, self._kept = stream, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while part := self._stream.read1(1 << 16):  # type: ignore[attr-defined]
            self._kept = (self._kept + part)[-4 * _OUTPUT :]

    def text(self) -> str:
        """After the process has ended."""
        self._thread.join(timeout=2)
        if not self._thread.is_alive():
            self._stream.close()
        return printable(self._kept.decode(errors="replace")[-_OUTPUT:].strip())


def _wait(
    process: "subprocess.Popen[bytes]",
    timeout: float,
    progress: Progress | None,
    path: Path,
    report: Path,
    stop: threading.Event | None,
) -> bool:
    """Whether it was too late; shows where the other process is meanwhile.

    With a report it is over, whatever hooks of the target have still to say.
    """
    end = time.monotonic() + timeout
    while process.poll() is None and not report.exists():
        if time.monotonic() > end or (stop is not None and stop.is_set()):
            return True
        if progress is not None and path.exists():
            words, _, part = path.read_text().rpartition(" ")
            if words:
                progress(words, float(part))
        time.sleep(_POLL)
    return False


def _where(path: Path) -> str:
    words = path.read_text().rpartition(" ")[0] if path.exists() else ""
    return f", at: {words}" if words else ""


def _end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """With all that it has started, in its session or, where /proc tells, in one of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def main(job_path: str, report_path: str, progress_path: str) -> None:
    """The other process."""
    data = json.loads(Path(job_path).read_text())
    job = Job(**data)

    has_begun = False

    def say(words: str, part: float) -> None:
        nonlocal has_begun
        has_begun |= words != "importing"
        temporary = Path(progress_path + ".new")
        temporary.write_text(f"{words} {part:.4f}")
        temporary.replace(progress_path)

    say("importing", 0.0)
    torch.set_num_threads(1)  # small tensors, beside processes that make certified values
    # A process starts with the first task; a quick audit has none that are worth one.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as executor:
        try:
            report = _report(job, None if job.quick else executor, say)
        except BaseException as error:  # a target may raise anything, SystemExit too
            words = printable(" ".join(str(error).split()))[:4000]
            where = "" if has_begun else "at import: "
            report = could_not(job.name, job.target, f"{where}{type(error).__name__}: {words}")
    temporary = Path(report_path + ".new")
    temporary.write_text(report.to_json())
    temporary.replace(report_path)


def _report(job: Job, executor: ProcessPoolExecutor | None, say: Progress) -> AuditReport:
    given: dict[str, Any] = {
        "quick": job.quick,
        "modes": job.modes,
        "gammas": job.gammas,
        "executor": executor,
        "progress": say,
    }
    if job.dtypes is not None:
        given["dtypes"] = [getattr(torch, name) for name in job.dtypes]
    if job.quantities is not None:
        given["quantities"] = job.quantities
    if job.known is None:
        return audit(job.target, **{**given, **job.given})
    from parfocal.audit.known import known

    entry = known(job.known)
    return audit(entry.subject(), version=entry.version or "", **given)


if __name__ == "__main__":
    main(*sys.argv[1:])
