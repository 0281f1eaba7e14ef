"""What worked on a run: software, machine, git state. Nothing in it changes the run's numbers."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

_PACKAGES = ("parfocal", "torch", "torchvision", "timm", "ray", "numpy", "mlxtend")


class Session(NamedTuple):
    """Who asks for runs: the engine, and the state of the git repository it was started in."""

    engine: str = "alone"
    git: dict[str, Any] | None = None


def session(engine: str) -> Session:
    """A session that begins now, here."""
    return Session(engine, _git_state())


def environment() -> dict[str, Any]:
    """This process's software and machine."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "versions": {package: _version(package) for package in _PACKAGES},
    }


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory's repository, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    # No lock is taken: this only looks.
    done = subprocess.run(
        ["git", "--no-optional-locks", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or f"{os.cpu_count()} cores"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
