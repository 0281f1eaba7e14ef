"""The former place of `parfocal.guard.lightning` and `parfocal.guard.transformers`."""

import warnings

warnings.warn(
    "parfocal.callbacks is now part of parfocal.guard, and will be removed in 0.3",
    FutureWarning,
    stacklevel=2,
)
