"""Which backend computes a call; asked once, here, by what its tensors are.

A backend is a module of functions that may compute as they like: `pointwise`, `elementwise_sum`,
`class_sum`, `region_power`, `class_region_power`, `opposed`, each of which gives None for what it
can't do; and `rescale`, `region_slope`, `class_region_slope`, which end what these have begun.
What has no backend, or gets None, is left to the composition of torch's operations, which is right
for any device and any order of derivative, and which all backends are compared with.
"""

from types import ModuleType

from parfocal.numerics import cpu
from parfocal.numerics.tracing import is_readable


def backend_of(*tensors: object) -> ModuleType | None:
    """The backend for all these tensors; what else is among them is not asked."""
    return cpu if is_readable(*tensors) else None
