"""The former place of `parfocal.guard.lightning` and `parfocal.guard.transformers`."""

import warnings

warnings.warn(
    "parfocal.callbacks is part of parfocal.guard now, and goes in 0.3",
    DeprecationWarning,
    stacklevel=2,
)
