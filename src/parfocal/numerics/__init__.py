"""The mathematics of the focal loss: closed forms, margins, and their binding to autograd.

Knows logits, targets, gamma and epsilon; knows no weights, reductions or modules.
"""

from parfocal.numerics.autograd import focal
from parfocal.numerics.closed_form import BRANCH_BOUNDS, difference, modulator, sides
from parfocal.numerics.margin import margin, margins
from parfocal.numerics.region import tversky_power

__all__ = [
    "BRANCH_BOUNDS",
    "difference",
    "focal",
    "margin",
    "margins",
    "modulator",
    "sides",
    "tversky_power",
]
