"""Judges any focal loss, with proof: `audit`, and the oracle, grids and metric that it uses."""

from parfocal import extras

with extras.needs("audit", "parfocal.audit"):
    from parfocal.audit.audit import audit
    from parfocal.audit.report import AuditReport
    from parfocal.audit.subject import Subject, SubjectError

__all__ = ["AuditReport", "Subject", "SubjectError", "audit"]
