"""The three losses that every experiment compares, and any other that parfocal has."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_loss

import parfocal
from parfocal.experiments.spec import LOSS_NAMES, SMOOTHING
from parfocal.losses.sigmoid import sigmoid_focal_loss
from parfocal.places import did_you_mean

Loss = Callable[[Tensor, Tensor], Tensor]

# Parameters that are settings of their own, or belong to a batch.
_OTHERS = {
    *("alpha", "gamma", "reduction"),
    *("inputs", "targets", "weight", "mask", "normalizer"),
}


def compared_loss(
    name: str,
    *,
    alpha: float,
    gamma: float,
    reduction: str,
    options: Mapping[str, float] | None = None,
) -> Loss:
    """The loss of that name, as a function of logits and targets.

    Args:
        name: one of LOSS_NAMES, or an elementwise loss that parfocal exports.
        alpha, gamma, reduction: as in `parfocal.sigmoid_focal_loss`.
        options: further keyword arguments of a parfocal function.

    Raises:
        ValueError: there is no such loss, or it has no such option.
    """
    keywords: dict[str, Any] = dict(options or {})
    if name == "original" and not keywords:
        return partial(torchvision_loss, alpha=alpha, gamma=gamma, reduction=reduction)
    if name == "smoothed":
        keywords.setdefault("epsilon", SMOOTHING)
    exported = _exported()
    if name not in exported and name not in ("smoothed", "exact"):
        losses = (*LOSS_NAMES, *exported)
        raise ValueError(
            f"Expected a `loss` from {', '.join(losses)}, `original` only without options; "
            f"got {name!r}{did_you_mean(name, losses)}"
        )
    function = exported.get(name, sigmoid_focal_loss)
    known = inspect.signature(function).parameters
    allowed = [parameter for parameter in known if parameter not in _OTHERS]
    unknown = sorted(set(keywords) - set(allowed))
    if unknown:
        expected = f"out of {', '.join(allowed)}" if allowed else "to be empty"
        hint = did_you_mean(unknown[0], allowed)
        raise ValueError(
            f"Expected `options` {expected} for {name}; got {', '.join(unknown)}{hint}"
        )
    for keyword, value in (("alpha", alpha), ("gamma", gamma), ("reduction", reduction)):
        if keyword in known:
            keywords[keyword] = value
    return partial(function, **keywords)


def _exported() -> dict[str, Callable[..., Tensor]]:
    """The losses of one logit and one target a position, whose sums over batches add up."""
    functions = {name: getattr(parfocal, name) for name in parfocal.__all__}
    taken = {"inputs", "targets", "normalizer"}
    return {
        name: function
        for name, function in functions.items()
        if inspect.isfunction(function)
        and taken <= set(inspect.signature(function).parameters)
        and not name.startswith("softmax_")
    }
