"""What a call of a loss must give, by its docstring: value and gradient in float64, and how near.

The formulas are those of `fuzzing.stable`. Here are the options that all losses share: which
positions count, what a mean divides by, weights, and the rounding of what is computed in one dtype
and given back in another. Defaults are written down anew, as the docstrings have them.
"""

from collections.abc import Callable
from typing import Any

from fuzzing import classes, elementwise, regions
from fuzzing.arithmetic import Expected, Incoming, arithmetic

_LOSSES: dict[str, Callable[..., Expected]] = {
    "asymmetric_loss": elementwise.asymmetric_loss,
    "focal_matching_cost": elementwise.focal_matching_cost,
    "gaussian_focal_loss": elementwise.gaussian_focal_loss,
    "poly_focal_loss": elementwise.poly_focal_loss,
    "quality_focal_loss": elementwise.quality_focal_loss,
    "sigmoid_asymmetric_unified_focal_loss": regions.unified("sigmoid", asymmetric=True),
    "sigmoid_focal_loss": elementwise.sigmoid_focal_loss,
    "sigmoid_focal_tversky_loss": regions.sigmoid_tversky(lambda gamma: 1 / float(gamma)),
    "sigmoid_tversky_loss": regions.sigmoid_tversky(lambda gamma: 1.0),
    "sigmoid_unified_focal_loss": regions.unified("sigmoid", asymmetric=False),
    "softmax_asymmetric_unified_focal_loss": regions.unified("softmax", asymmetric=True),
    "softmax_focal_loss": classes.softmax_focal_loss,
    "softmax_focal_tversky_loss": regions.softmax_tversky(lambda gamma: 1 / float(gamma)),
    "softmax_tversky_loss": regions.softmax_tversky(lambda gamma: 1.0),
    "softmax_unified_focal_loss": regions.unified("softmax", asymmetric=False),
    "varifocal_loss": elementwise.varifocal_loss,
}


def expected(
    name: str, arguments: dict[str, Any], incoming: Incoming, *, autocast: bool
) -> Expected:
    """Of the call name(**arguments), whose result is given the gradient `incoming` of its shape."""
    arguments = dict(arguments)
    inputs = arguments.pop("inputs")
    return _LOSSES[name](inputs, arithmetic(inputs, autocast), incoming, **arguments)
