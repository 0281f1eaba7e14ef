"""The mathematics of the focal loss: closed forms, margins, and their binding to autograd.

Knows logits, targets, gamma, epsilon and alpha, and how a weighted sum over all of them is made in
one pass; knows no masks, options of reductions, or modules.
"""

from parfocal.numerics.autograd import focal
from parfocal.numerics.blocks import computation, is_readable
from parfocal.numerics.class_sum import class_focal_sum
from parfocal.numerics.closed_form import (
    BRANCH_BOUNDS,
    alpha_t,
    difference,
    modulator,
    sides,
)
from parfocal.numerics.focal_sum import focal_sum
from parfocal.numerics.margin import margin, margins
from parfocal.numerics.region import tversky_power

__all__ = [
    "BRANCH_BOUNDS",
    "alpha_t",
    "class_focal_sum",
    "computation",
    "difference",
    "focal",
    "focal_sum",
    "is_readable",
    "margin",
    "margins",
    "modulator",
    "sides",
    "tversky_power",
]
