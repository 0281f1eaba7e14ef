"""Watches a loss in a running training: warns before it breaks, explains when it has broken."""

from parfocal.monitor.capture import load_capture, save_capture
from parfocal.monitor.diagnosis import Diagnosis, diagnose
from parfocal.monitor.guard import FocalGuard, FocalGuardError, FocalGuardWarning, Notice
from parfocal.monitor.limits import Limits, limits_of
from parfocal.monitor.watched import Call, Pass

__all__ = [
    "Call",
    "Diagnosis",
    "FocalGuard",
    "FocalGuardError",
    "FocalGuardWarning",
    "Limits",
    "Notice",
    "Pass",
    "diagnose",
    "limits_of",
    "load_capture",
    "save_capture",
]
