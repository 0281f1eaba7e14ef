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
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from parfocal.audit.report import AuditReport, Progress, audit, could_not

_POLL = 0.2

# What is kept of what a target prints.
_OUTPUT = 2000


@dataclass(frozen=True)
class Job:
    """What to audit: a target with fields of `Subject`, or a known loss by its name."""

    target: str
    given: Mapping[str, Any] = field(default_factory=dict)
    known: str | None = None
    quick: bool = False
    modes: Sequence[str] = ("autocast", "vmap")

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.known or str(self.given.get("name", self.target))


def audit_isolated(
    job: Job, timeout: float = 900.0, progress: Progress | None = None
) -> AuditReport:
    """Run a job in a process of its own, for at most so many seconds.

    A target that hangs, crashes or can't be called gives a report that says so.
    """
    with tempfile.TemporaryDirectory(prefix="parfocal-audit-") as folder:
        paths = [Path(folder, name) for name in ("job", "report", "progress", "output")]
        job_path, report_path, progress_path, output_path = paths
        job_path.write_text(json.dumps(asdict(job)))
        command = [sys.executable, "-m", "parfocal.audit.isolated", *map(str, paths[:3])]
        with output_path.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                late = _wait(process, timeout, progress, progress_path)
            finally:
                if process.poll() is None:
                    _end(process)
        printed = output_path.read_text(errors="replace")[-_OUTPUT:].strip()
        if late:
            where = _where(progress_path)
            return could_not(job.name, job.target, f"not done after {timeout:g} s{where}", printed)
        if not report_path.exists():
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            return could_not(
                job.name,
                job.target,
                f"its process ended with {how}{_where(progress_path)}",
                printed,
            )
        report = AuditReport.from_json(report_path.read_text())
        return replace(report, output=printed)


def _wait(
    process: "subprocess.Popen[bytes]", timeout: float, progress: Progress | None, path: Path
) -> bool:
    """Whether it was too late; shows where the other process is meanwhile."""
    end = time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > end:
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


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With all its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(job_path: str, report_path: str, progress_path: str) -> None:
    """The other process."""
    data = json.loads(Path(job_path).read_text())
    job = Job(**data)

    def say(words: str, part: float) -> None:
        temporary = Path(progress_path + ".new")
        temporary.write_text(f"{words} {part:.4f}")
        temporary.replace(progress_path)

    say("importing", 0.0)
    # A process starts with the first task; a quick audit has none that are worth one.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as executor:
        try:
            report = _report(job, None if job.quick else executor, say)
        except BaseException as error:  # a target may raise anything, SystemExit too
            words = " ".join(str(error).split())[:500]
            report = could_not(job.name, job.target, f"{type(error).__name__}: {words}")
    Path(report_path).write_text(report.to_json())


def _report(job: Job, executor: ProcessPoolExecutor | None, say: Progress) -> AuditReport:
    if job.known is None:
        return audit(
            job.target,
            quick=job.quick,
            modes=job.modes,
            executor=executor,
            progress=say,
            **job.given,
        )
    from parfocal.audit.known import known

    entry = known(job.known)
    return audit(
        entry.subject(),
        quick=job.quick,
        modes=job.modes,
        executor=executor,
        progress=say,
        version=entry.version or "",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
