"""The backend of GPUs: a sum and its gradient in one pass over the logits, by Triton's kernels.

What it does is decided by dtypes, shapes, strides and options alone: no call waits for the device.
"""

from parfocal.numerics.triton.classes import class_rescale, class_slopes, class_sum, class_values
from parfocal.numerics.triton.elementwise import (
    elementwise_rescale,
    elementwise_slopes,
    elementwise_sum,
    elementwise_sum_slopes,
    elementwise_values,
    pointwise,
)
from parfocal.numerics.triton.launch import works_on

__all__ = [
    "asymmetric_values",
    "class_region_power",
    "class_rescale",
    "class_slopes",
    "class_sum",
    "class_values",
    "elementwise_rescale",
    "elementwise_slopes",
    "elementwise_sum",
    "elementwise_sum_slopes",
    "elementwise_values",
    "opposed",
    "pointwise",
    "region_power",
    "works_on",
]


def _composed(*_: object) -> None:
    """None: regions, costs of a matcher, and the asymmetric loss of a softmax are compositions."""


asymmetric_values = region_power = class_region_power = opposed = _composed
