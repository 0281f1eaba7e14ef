"""A baseline: the findings that are known, kept in a file that both sides are held to."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from parfocal.audit.report import AuditReport


class Difference(NamedTuple):
    """What a baseline doesn't know, and what it knows that no longer occurs."""

    new: tuple[str, ...]
    gone: tuple[str, ...]


def keys(reports: Sequence[AuditReport], fail_on: Collection[str] = ("error",)) -> list[str]:
    """What names each finding that fails."""
    return sorted(
        f"{report.name} | {finding.key}"
        for report in reports
        for finding in report.failures(fail_on)
    )


def write_baseline(
    path: Path, reports: Sequence[AuditReport], fail_on: Collection[str] = ("error",)
) -> None:
    """What is found now."""
    path.write_text(json.dumps({"findings": keys(reports, fail_on)}, indent=1) + "\n")


def read_baseline(path: Path) -> list[str]:
    """The findings that are known.

    Raises:
        ValueError: a file that is none, or no baseline.
    """
    try:
        known = json.loads(path.read_text())["findings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no baseline: write one with --write-baseline") from error
    if not isinstance(known, list) or not all(isinstance(key, str) for key in known):
        raise ValueError(f"{path} is no baseline: expected a list of findings, got {known!r:.40}")
    return known


def compare(
    known: Sequence[str], reports: Sequence[AuditReport], fail_on: Collection[str] = ("error",)
) -> Difference:
    """Strictly: what is new, and what is gone."""
    found = keys(reports, fail_on)
    return Difference(
        tuple(key for key in found if key not in known),
        tuple(key for key in known if key not in found),
    )
