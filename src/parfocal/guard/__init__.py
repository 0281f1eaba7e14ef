"""Watches a loss in a running training: warns before it breaks, explains when it has broken."""

from parfocal.guard.capture import load_capture, save_capture
from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.focal_guard import FocalGuard, FocalGuardError, FocalGuardWarning, Notice
from parfocal.guard.limits import Limits, limits_of
from parfocal.guard.loss_call import Call, Pass

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
