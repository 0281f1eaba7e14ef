"""Nonsense that a loss must refuse, in the name of the call: which calls it fits, and how."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fuzzing.chance import (
    BINARY,
    HAS_ALPHA_TENSOR,
    INTEGERS,
    TAKES_INDICES,
    Draw,
    parameters,
)


def _exponent_of(name: str) -> str:
    known = [p for p in ("gamma", "beta", "gamma_neg") if p in parameters(name)]
    return known[0] if known else ""


def _set(option: str, *values: Any) -> Callable[[Draw, str, dict[str, Any]], None]:
    def change(d: Draw, name: str, arguments: dict[str, Any]) -> None:
        arguments[option] = d.pick(*values)

    return change


def _set_exponent(*values: Any) -> Callable[[Draw, str, dict[str, Any]], None]:
    def change(d: Draw, name: str, arguments: dict[str, Any]) -> None:
        arguments[_exponent_of(name)] = d.pick(*values)

    return change


def _has(option: str) -> Callable[[str, dict[str, Any]], bool]:
    return lambda name, arguments: option in parameters(name)


_DATA = ("inputs", "targets", "weight", "alpha")


def _is_plain_sum(name: str, arguments: dict[str, Any]) -> bool:
    """A sum whose values are read anyway, of positions that all count."""
    is_sum = arguments.get("reduction") in ("mean", "sum")
    options = [v for n, v in arguments.items() if n not in _DATA]
    is_plain = not any(isinstance(v, torch.Tensor) for v in options) and "epsilon" not in arguments
    weight = arguments.get("weight")
    return (
        name in BINARY and is_sum and is_plain and not (weight is not None and weight.requires_grad)
    )


def _has_targets(name: str, arguments: dict[str, Any]) -> bool:
    """A plain sum with a target of each logit."""
    x, y = arguments["inputs"], arguments["targets"]
    return _is_plain_sum(name, arguments) and x.numel() > 0 and y.shape == x.shape


def _alpha_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    x = arguments["inputs"]
    alpha = torch.full(x.shape[-1:], 0.5)
    alpha[d.random.randrange(max(1, alpha.numel())) if alpha.ndim else ...] = d.pick(
        2.0, 10.0, -1.0
    )
    arguments["alpha"] = alpha


def _targets_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    y = (
        arguments["targets"]
        .to(d.pick(torch.int64, torch.float32))
        .clone(memory_format=torch.contiguous_format)
    )
    y.view(-1)[d.random.randrange(y.numel())] = d.pick(-1, 255, 2)
    arguments["targets"] = y


def _labels_beyond(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    key = parameters(name)[1]
    y = arguments[key].long().clone(memory_format=torch.contiguous_format)
    classes = arguments["inputs"].shape[-1 if key == "labels" else 1]
    classes += name in TAKES_INDICES  # of which the last is none
    y.view(-1)[d.random.randrange(y.numel())] = d.pick(classes, classes + 100, -3)
    arguments[key] = y


def _has_labels(name: str, arguments: dict[str, Any]) -> bool:
    x, y = arguments["inputs"], arguments[parameters(name)[1]]
    is_index = name.startswith(("softmax", "focal_matching")) and not y.is_floating_point()
    is_index |= name in TAKES_INDICES and y.ndim < x.ndim
    return is_index and y.numel() > 0 and x.ndim > 1 and x.numel() > 0 and "mask" not in arguments


def _other_shape(d: Draw, name: str, arguments: dict[str, Any]) -> None:
    key = parameters(name)[1]
    arguments[key] = arguments[key].unsqueeze(-1).expand(*arguments[key].shape, 2)


Fits = Callable[[str, dict[str, Any]], bool]
Change = Callable[[Draw, str, dict[str, Any]], None]

NONSENSE: dict[str, tuple[Fits, Change]] = {
    "exponent beyond float64's use": (
        lambda name, arguments: bool(_exponent_of(name)) and "unified" not in name,
        _set_exponent(1e300, 1e308, np.float64(1e300)),
    ),
    "negative exponent": (
        lambda name, arguments: bool(_exponent_of(name)),
        _set_exponent(-0.5, -1, np.float32(-2)),
    ),
    "exponent no number": (
        lambda name, arguments: bool(_exponent_of(name)),
        _set_exponent(math.nan, math.inf, "2", True, None, [2.0]),
    ),
    "alpha above 1": (
        lambda name, arguments: "alpha" in parameters(name) and "tversky" not in name,
        _set("alpha", 1.5, 2, np.float32(10), math.nan),
    ),
    "alpha tensor out of [0, 1]": (
        lambda name, arguments: (
            name in HAS_ALPHA_TENSOR
            and _is_plain_sum(name, arguments)
            and arguments["inputs"].numel() > 0
        ),
        _alpha_beyond,
    ),
    "targets out of [0, 1]": (
        lambda name, arguments: name in BINARY and _has_targets(name, arguments),
        _targets_beyond,
    ),
    "index that is no class": (_has_labels, _labels_beyond),
    "negative smooth": (_has("smooth"), _set("smooth", -1.0, math.nan, "1")),
    "negative epsilon": (_has("epsilon"), _set("epsilon", -1e-3, math.inf, True)),
    "epsilon_1 below -1": (_has("epsilon_1"), _set("epsilon_1", -1.5, math.nan, math.inf, "1")),
    "label_smoothing out of [0, 1]": (
        _has("label_smoothing"),
        _set("label_smoothing", -0.1, 1.1, math.nan, True),
    ),
    "unknown reduction": (
        _has("reduction"),
        _set("reduction", "avg", "batchmean", None, "Mean"),
    ),
    "share out of [0, 1]": (_has("delta"), _set("delta", -0.1, 1.5, math.nan)),
    "balance out of [0, 1]": (_has("balance"), _set("balance", -0.1, 1.5, math.nan)),
    "background that is no class": (_has("background"), _set("background", -1, 400, 0.5, True)),
    "margin out of [0, 1)": (_has("margin"), _set("margin", -0.1, 1.0, math.nan)),
    "mask of floats": (_has("mask"), _set("mask", torch.ones(()), torch.ones(1, dtype=torch.half))),
    "weight no tensor": (_has("weight"), _set("weight", 2.0, [1.0], "a")),
    "normalizer not positive": (
        lambda name, arguments: (
            "normalizer" in parameters(name) and arguments.get("reduction") == "sum"
        ),
        _set("normalizer", 0.0, -1, math.nan, "3", torch.ones(2)),
    ),
    "normalizer of a mean": (
        lambda name, arguments: (
            "normalizer" in parameters(name) and arguments.get("reduction") in ("none", "mean")
        ),
        _set("normalizer", 3.0),
    ),
    "ignore_index no integer": (_has("ignore_index"), _set("ignore_index", 0.5, "1", True)),
    "integer logits": (
        lambda name, arguments: True,
        lambda d, name, arguments: arguments.update(
            inputs=torch.zeros_like(arguments["inputs"], dtype=d.pick(*INTEGERS, torch.bool))
        ),
    ),
    "targets of another shape": (
        lambda name, arguments: name != "focal_matching_cost",
        _other_shape,
    ),
}
