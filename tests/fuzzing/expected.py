"""What a call of a loss must give, by its docstring: value and gradient in float64, and how near.

The formulas are those of `fuzzing.stable`. Here are the options that all losses share: which
positions count, what a mean divides by, weights, and the rounding of what is computed in one dtype
and given back in another. Defaults are written down anew, as the docstrings have them.
"""

from collections.abc import Callable
from typing import Any

from fuzzing import classes, elementwise, regions
from fuzzing.arithmetic import Expected, Incoming, arithmetic

_OF_REGIONS: dict[str, Callable[..., Expected]] = {
    "sigmoid_asymmetric_unified_focal_loss": regions.unified("sigmoid", is_asymmetric=True),
    "sigmoid_focal_tversky_loss": regions.sigmoid_tversky(lambda gamma: 1 / float(gamma)),
    "sigmoid_tversky_loss": regions.sigmoid_tversky(lambda gamma: 1.0),
    "sigmoid_unified_focal_loss": regions.unified("sigmoid", is_asymmetric=False),
    "softmax_asymmetric_unified_focal_loss": regions.unified("softmax", is_asymmetric=True),
    "softmax_focal_tversky_loss": regions.softmax_tversky(lambda gamma: 1 / float(gamma)),
    "softmax_tversky_loss": regions.softmax_tversky(lambda gamma: 1.0),
    "softmax_unified_focal_loss": regions.unified("softmax", is_asymmetric=False),
}


def reference(name: str) -> Callable[..., Expected]:
    """The function of its name here, or the one of its kind."""
    if name in _OF_REGIONS:
        return _OF_REGIONS[name]
    room = classes if hasattr(classes, name) else elementwise
    function: Callable[..., Expected] = getattr(room, name)
    return function


def expected(
    name: str, arguments: dict[str, Any], incoming: Incoming, *, autocast: bool
) -> Expected:
    """Of the call name(**arguments), whose result is given the gradient `incoming` of its shape."""
    arguments = dict(arguments)
    inputs = arguments.pop("inputs")
    return reference(name)(inputs, arithmetic(inputs, autocast), incoming, **arguments)
