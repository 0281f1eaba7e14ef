"""The mathematics of the focal loss: closed forms, margins, and their binding to autograd.

Knows logits, targets, gamma and epsilon; knows no weights, reductions or modules.
"""

from parfocal.numerics.autograd import focal
from parfocal.numerics.closed_form import (
    BRANCH_BOUNDS,
    alpha_t,
    difference,
    modulator,
    sides,
)
from parfocal.numerics.margin import margin, margins
from parfocal.numerics.region import tversky_power
from parfocal.numerics.summed import focal_sum

__all__ = [
    "BRANCH_BOUNDS",
    "alpha_t",
    "difference",
    "focal",
    "focal_sum",
    "margin",
    "margins",
    "modulator",
    "sides",
    "tversky_power",
]
