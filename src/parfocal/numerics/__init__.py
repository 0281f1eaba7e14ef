"""The mathematics of the focal loss: closed forms, margins, and their binding to autograd.

Knows logits, targets, gamma, epsilon and alpha, and how a weighted sum over all of them is made in
one pass; knows no masks, options of reductions, or modules.
"""

from parfocal.numerics.asymmetric import asymmetric, asymmetric_sum
from parfocal.numerics.autograd import focal
from parfocal.numerics.binary_regions import tversky_power
from parfocal.numerics.blocks import computation, is_readable
from parfocal.numerics.class_regions import class_tversky_power
from parfocal.numerics.class_sum import class_focal_sum
from parfocal.numerics.closed_form import (
    BRANCH_BOUNDS,
    alpha_t,
    shares,
)
from parfocal.numerics.focal_sum import Arranged, Arrangement, focal_sum
from parfocal.numerics.hard import HardLoss
from parfocal.numerics.margin import margin, margins
from parfocal.numerics.opposed import opposed
from parfocal.numerics.poly import poly, poly_sum
from parfocal.numerics.quality import quality, quality_sum
from parfocal.numerics.region import composed_power
from parfocal.numerics.region_power import Power
from parfocal.numerics.varifocal import varifocal, varifocal_sum

__all__ = [
    "BRANCH_BOUNDS",
    "Arranged",
    "Arrangement",
    "HardLoss",
    "Power",
    "alpha_t",
    "asymmetric",
    "asymmetric_sum",
    "class_focal_sum",
    "class_tversky_power",
    "composed_power",
    "computation",
    "focal",
    "focal_sum",
    "is_readable",
    "margin",
    "margins",
    "opposed",
    "poly",
    "poly_sum",
    "quality",
    "quality_sum",
    "shares",
    "tversky_power",
    "varifocal",
    "varifocal_sum",
]
