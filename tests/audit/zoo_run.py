"""Audits of the zoo, each made once in a process, with what is claimed and what is missed."""

import functools
import warnings
from dataclasses import replace
from typing import NamedTuple

import torch

from audit.zoo import ENTRIES
from audit.zoo_claims import Checker, Claim
from audit.zoo_missed import missed
from parfocal.audit import AuditReport, audit
from parfocal.audit.discover import discover


class Seen(NamedTuple):
    """An audit; its claims; and what it should have said besides."""

    report: AuditReport
    claims: tuple[Claim, ...]
    missed: tuple[str, ...]

    @property
    def false(self) -> list[Claim]:
        """Those that something contradicts."""
        return [claim for claim in self.claims if not claim.is_true]


@functools.cache
def seen(name: str) -> Seen:
    """Of an entry."""
    entry = ENTRIES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subject, how = discover(entry.target)
        report = audit(
            subject,
            quick=True,
            gammas=entry.gammas,
            dtypes=[getattr(torch, dtype) for dtype in entry.dtypes],
            modes=["autocast"] if "mode mismatch" in entry.faults else [],
        )
        report = replace(report, how=how)  # as an audit of the target has it
        claims = tuple(Checker(entry, report, subject).claims())
        return Seen(report, claims, tuple(missed(entry, report)))
