"""The former name of `parfocal.guard.lightning`."""

from parfocal.guard.lightning import FocalGuardCallback

__all__ = ["FocalGuardCallback"]
