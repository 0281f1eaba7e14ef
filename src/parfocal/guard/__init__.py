"""Watches a loss during training: warns before it breaks, explains why it broke."""

from parfocal.guard.capture import load_capture, save_capture
from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.focal_guard import FocalGuard
from parfocal.guard.form import Form, measure_form
from parfocal.guard.limits import Limits, limits_of
from parfocal.guard.loss_call import LossCall
from parfocal.guard.notices import FocalGuardError, FocalGuardWarning, Notice

__all__ = [
    "Diagnosis",
    "FocalGuard",
    "FocalGuardError",
    "FocalGuardWarning",
    "Form",
    "Limits",
    "LossCall",
    "Notice",
    "diagnose",
    "limits_of",
    "load_capture",
    "measure_form",
    "save_capture",
]
