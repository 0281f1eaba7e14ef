"""The former name of `parfocal.guard`, for code that was written for it."""

import warnings

from parfocal.guard import *  # noqa: F403
from parfocal.guard import __all__  # noqa: F401

warnings.warn(
    "parfocal.monitor is now parfocal.guard, and will be removed in 0.3",
    FutureWarning,
    stacklevel=2,
)
