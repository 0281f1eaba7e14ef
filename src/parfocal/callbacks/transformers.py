"""The former name of `parfocal.guard.transformers`."""

from parfocal.guard.transformers import FocalGuardCallback

__all__ = ["FocalGuardCallback"]
