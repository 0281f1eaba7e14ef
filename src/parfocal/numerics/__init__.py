"""The mathematics of the focal loss: closed forms and their binding to autograd.

Knows logits, targets, gamma and epsilon; knows no weights, reductions or modules.
"""

from parfocal.numerics.autograd import focal
from parfocal.numerics.closed_form import BRANCH_BOUNDS

__all__ = ["BRANCH_BOUNDS", "focal"]
