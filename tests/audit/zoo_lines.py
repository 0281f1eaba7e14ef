"""Lines of a report on how a loss is called and what it means, held to its record."""

import math
import re
from collections.abc import Callable

import torch

from audit.zoo import Entry

_SHAPES = {
    "flat": "binary", "long": "binary, integer targets", "column": "binary, logits (N, 1)",
    "map": "binary, logits (N, 1, H, W)", "index": "multiclass",
    "one-hot": "multiclass, one-hot targets", "map of indices": "multiclass, logits (N, C, H, W)",
    "map of one-hot": "multiclass, logits (N, C, H, W), one-hot targets",
}  # fmt: skip

Line = Callable[[Entry, re.Match[str]], bool | str]

HOW: tuple[tuple[str, Line], ...] = (
    (r"gamma is the keyword (\w+)( of the call)?",
     lambda e, m: e.gamma == m[1] and (e.place == "call") == bool(m[2])),
    (r"no keyword for gamma", lambda e, m: e.gamma is None),
    (r"targets come first", lambda e, m: e.targets_first),
    (r"arrays of (\w+)", lambda e, m: e.framework == m[1]),
    (r"(.+), of (logits|probabilities|log-probabilities)$",
     lambda e, m: _SHAPES[e.shape] == m[1] and e.takes == m[2]),
    (r"its (probabilities|log-probabilities) are made of logits", lambda e, m: e.takes == m[1]),
    (r"its alpha, (\S+) by default, is on the negative class",
     lambda e, m: _is(m[1], e.negative)),
    (r"it gives one number", lambda e, m: e.reduced == "mean"),
    (r"(float64|float32|float16|bfloat16) is refused", lambda e, m: m[1] in e.refused),
    (r"(\w+)=(.*)", lambda e, m: repr(e.options.get(m[1], ...)) == m[2]),
)  # fmt: skip

SOFT = {
    "linear": "soft targets: p_t = y p + (1 - y)(1 - p)",
    "mixture": "soft targets: a mixture of the losses of both classes",
    "margin": "soft targets: 1 - p_t = sigmoid(-(2 y - 1) x)",
    "entropy": "soft targets: 1 - p_t = 1 - exp(-BCE)",
    "rounded": "soft targets: they are rounded to 0 or 1",
    "refused": "soft targets are refused",
    "another": "soft targets: another function",
    "quality": "soft targets: the quality focal loss",
    "Gaussian": "soft targets: the Gaussian focal loss",
    "varifocal": "soft targets: the varifocal loss",
}


def _growth(entry: Entry) -> str:
    constant, slope, inverse = entry.growth
    parts = [(constant, f"{constant:g}"), (slope, "gamma" if slope == 1 else f"{slope:g} * gamma"),
             (inverse, f"{inverse:g} / gamma")]  # fmt: skip
    return " + ".join(words for part, words in parts if part)


def _is(a: str, b: float) -> bool:
    return math.isclose(float(a), b, rel_tol=1e-3)


def same_constants(entry: Entry, match: re.Match[str]) -> str:
    base, logarithm = entry.constants
    where = match["where"]
    stated = {"1 - p_t": (1, 0), "p_t in": (0, 1)}.get(where, (1, 1))
    wanted = tuple(float(match["c"]) * part for part in stated)
    same = all(
        math.isclose(a, b, rel_tol=1e-3) for a, b in zip(wanted, (base, logarithm), strict=True)
    )
    return "" if same else f"the constants are {entry.constants}"


def has_no_gradient(entry: Entry, match: re.Match[str]) -> bool:
    """Whether a position that is left out has no gradient, nor a value where each has one."""
    x = torch.tensor([0.5, -2.0, 40.0, 1.0], dtype=torch.float32)
    x = torch.stack([x, -x], 1) if entry.is_multiclass else x
    x.requires_grad_()
    out = torch.tensor([False, False, True, True])
    y = torch.tensor([0, 1, 0, 1])
    if match[1]:
        loss = entry.loss(x, y.to(x.dtype), gamma=0.5, **{match[1]: (~out).to(x.dtype)})
    else:
        loss = entry.loss(x, torch.where(out, int(match[2]), y), gamma=0.5)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return not bool(gradient[out].any()) and ("value" not in match[0] or not bool(loss[out].any()))


def mean_of_nothing(entry: Entry, match: re.Match[str]) -> bool:
    """Whether a mean over ignored targets alone is NaN."""
    x = torch.tensor([[0.5, -2.0], [40.0, 1.0]])
    return bool(entry.loss(x, torch.full((2,), int(match[1])), gamma=2.0).isnan())


MEANING: tuple[tuple[str, Line], ...] = (
    (r"(?:(weight)|target (-?\d+)): (?:value and|the) gradient of a position", has_no_gradient),
    (r"target (-?\d+): a mean in which all are left out is NaN", mean_of_nothing),
    (r"no alpha", lambda e, m: e.positive == e.negative == 1),
    (r"no weights of classes",
     lambda e, m: e.positive == e.negative == 1 and not e.weights and e.ratio is None),
    (r"a factor ([0-9.e-]+) on (both|all) classes",
     lambda e, m: _is(m[1], e.positive) and _is(m[1], e.negative)),
    (r"(?:alpha|a factor) (\S+) on the positive class, (\S+) on the negative",
     lambda e, m: _is(m[1], e.positive) and _is(m[2], e.negative)),
    (r"weights of classes: (\S+) of class 0, (\S+) of class 1",
     lambda e, m: _is(m[1], e.positive) and _is(m[2], e.negative)),
    (r"weights of classes: ([0-9., ]+)$",
     lambda e, m: [*map(float, m[1].split(", "))] == [*e.weights]),
    (r"soft targets", lambda e, m: m.string.startswith(SOFT.get(str(e.soft), "?"))),
    (r"(mean|sum|what it gives by default) divides by (.+)",
     lambda e, m: e.means.get(m[1]) == m[2]),
    (r"(mean|sum|what it gives by default): the modulator is that of the (mean|sum) of the whole",
     lambda e, m: "reduced too early" in e.faults),
    (r"a factor (.+) on both classes", lambda e, m: m[1] == _growth(e)),
    (r"mean is weighted: the other class weighs (\S+) times the first",
     lambda e, m: e.ratio is not None and _is(m[1], e.ratio)),
    (r"its exponent is (\S+)", lambda e, m: e.gamma is None and _is(m[1], e.exponent)),
    (r"gamma is never read: the exponent is (\S+)", lambda e, m: "gamma ignored" in e.faults),
    (r"the loss falls where the focal loss rises(, on the (positive|negative) class)?",
     lambda e, m: (e.positive < 0, e.negative < 0) == (m[2] != "negative", m[2] != "positive")),
    (r"(?P<c>[0-9.e-]+) is added to (?P<where>1 - p_t and to p_t in the logarithm|1 - p_t|p_t in)",
     same_constants),
    (r"the modulating factor is detached", lambda e, m: e.detached),
    (r"gamma (\S+) is refused", lambda e, m: float(m[1]) < e.least_gamma),
    (r"it computes in 16 bits", lambda e, m: "bfloat16" in e.causes),
    (r"no focal loss that is known", lambda e, m: e.other == "unknown"),
    (r"one-vs-rest sigmoid losses",
     lambda e, m: bool(e.other and re.search(e.other, m.string))),
)  # fmt: skip


def matched(line: str, patterns: tuple[tuple[str, Line], ...], entry: Entry) -> str:
    """Why a line isn't true; empty if it is."""
    for pattern, check in patterns:
        match = re.match(pattern, line)
        if match:
            found = check(entry, match)
            if isinstance(found, str):
                return found
            return "" if found else "the record says otherwise"
    return "a line that no check is for"
