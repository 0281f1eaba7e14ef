"""The backend for tensors on the CPU, whose values may be looked at."""

from parfocal.numerics.cpu.asymmetric import asymmetric_values
from parfocal.numerics.cpu.binary_regions import region_power, region_slope
from parfocal.numerics.cpu.class_regions import class_region_power, class_region_slope
from parfocal.numerics.cpu.classes import class_rescale, class_sum, class_values
from parfocal.numerics.cpu.elementwise import (
    elementwise_rescale,
    elementwise_sum,
    elementwise_values,
    opposed,
    pointwise,
)

__all__ = [
    "asymmetric_values",
    "class_region_power",
    "class_region_slope",
    "class_rescale",
    "class_sum",
    "class_values",
    "elementwise_rescale",
    "elementwise_sum",
    "elementwise_values",
    "opposed",
    "pointwise",
    "region_power",
    "region_slope",
]
