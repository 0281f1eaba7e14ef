"""The mathematics of the focal loss: closed forms, margins, sums, and their binding to autograd.

Knows logits, targets, the records of losses, and how a weighted sum over all of them is made in one
pass; knows no options of reductions, and no modules. The records are in `forms`.
"""

from parfocal.numerics.autograd import focal
from parfocal.numerics.closed_form import BRANCH_BOUNDS
from parfocal.numerics.data import Data, Loss, computation, prepare, tensors_of, with_tensors
from parfocal.numerics.derivatives import HardLoss, SoftLoss
from parfocal.numerics.likelihood import LEAST
from parfocal.numerics.linear import LinearMap, WeightedRows
from parfocal.numerics.linear_sums import linear_class_sum, linear_class_values
from parfocal.numerics.margin import margin, margins
from parfocal.numerics.matching import opposed
from parfocal.numerics.region import Power, composed_power
from parfocal.numerics.sums import (
    asymmetric_values,
    class_region_power,
    class_sum,
    class_values,
    elementwise_sum,
    elementwise_values,
    region_power,
)
from parfocal.numerics.tracing import is_autocast, is_readable, replicate_beside, varies

__all__ = [
    "BRANCH_BOUNDS",
    "LEAST",
    "Data",
    "HardLoss",
    "LinearMap",
    "Loss",
    "Power",
    "SoftLoss",
    "WeightedRows",
    "asymmetric_values",
    "class_region_power",
    "class_sum",
    "class_values",
    "composed_power",
    "computation",
    "elementwise_sum",
    "elementwise_values",
    "focal",
    "is_autocast",
    "is_readable",
    "linear_class_sum",
    "linear_class_values",
    "margin",
    "margins",
    "opposed",
    "prepare",
    "region_power",
    "replicate_beside",
    "tensors_of",
    "varies",
    "with_tensors",
]
