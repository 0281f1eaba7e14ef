"""Causes that a report states, each tried: by an experiment, or held to what the loss does."""

import math
import re
from collections.abc import Callable

import torch
from torch.nn.functional import softplus

from audit.zoo_findings import Told
from audit.zoo_lines import same_constants
from audit.zoo_results import computed, spacing


def check_cause(told: Told) -> str:
    """What contradicts the cause of a finding; empty if nothing does."""
    for pattern, check in _CAUSES:
        match = re.search(pattern, told.finding.cause)
        if match:
            return check(told, match)
    return "a cause that no experiment of the zoo is for"


def _by_gamma(told: Told, match: re.Match[str]) -> str:
    """At a larger gamma the gradient is finite at this logit."""
    gamma = float(match["gamma"])
    if not math.isfinite(told.at(told.finding.dtype, gamma)):
        return f"at gamma {gamma:g} it isn't finite there"
    if "rounds to 1" in match.string:
        return _rounds(told, match)
    return ""


def _rounds(told: Told, match: re.Match[str]) -> str:
    """It rounds to 1 at the logit, and not before, where all is well."""
    wrong = "1 - p_t rounds" in told.finding.cause
    sign = (1 if told.finding.target else -1) * (-1 if wrong else 1)
    assert told.finding.logit is not None
    dtype = _computed_in(told)
    ways = _ones(sign * told.finding.logit, dtype)
    if not any(ways):
        return f"it rounds to less than 1 in {dtype}"
    before = told.finding.before
    if told.finding.kind in ("not finite", "dead gradient") and before is not None:
        earlier = _ones(sign * before, dtype)
        if not any(now and not then for now, then in zip(ways, earlier, strict=True)):
            return f"at {before!r}, where all is well, it rounds to 1 too"
    return ""


def _computed_in(told: Told) -> str:
    named = re.search(r"rounds to 1 in (\w+)", told.finding.cause)
    name = named.group(1) if named else told.finding.dtype
    for cause in told.entry.causes:
        if cause in ("float32", "bfloat16") and not named:
            name = cause
    return name


def _ones(u: float, dtype: str) -> tuple[bool, ...]:
    """Whether the sigmoid of u is 1 in a dtype: rounded, as PyTorch has it, and as 1 - p."""
    kind = getattr(torch, dtype)
    logit = torch.tensor([u], dtype=kind)
    exact = torch.tensor(1 / (1 + math.exp(-u)) if u > -700 else 0.0, dtype=torch.float64).to(kind)
    many = [torch.sigmoid(logit.expand(32)), 1 - torch.sigmoid(-logit.expand(32))]
    rows = torch.stack([logit, torch.zeros_like(logit)], 1)
    one_by_one = [torch.sigmoid(logit), 1 - torch.sigmoid(-logit), torch.exp(-softplus(-logit)),
                  rows.softmax(1)[0], rows.log_softmax(1).exp()[0]]  # fmt: skip
    return tuple(float(way[0]) == 1 for way in (exact[None], *many, *one_by_one))


def _wide_is_finite(told: Told, match: re.Match[str]) -> str:
    got = [told.at("float32", gamma) for gamma in told.gammas()]
    return "" if all(map(math.isfinite, got)) else "float32 isn't finite there either"


def _constant(told: Told, match: re.Match[str]) -> str:
    return same_constants(told.entry, match)


def _clamp(told: Told, match: re.Match[str]) -> str:
    """In float64 the value is one number beyond, another before, and beyond has no gradient."""
    sign = -1.0 if told.finding.target else 1.0
    at, p_t = float(match["logit"]), float(match["p"])
    if not math.isclose(p_t, 1 / (1 + math.exp(at)), rel_tol=0.02):
        return f"p_t isn't {p_t} there"
    for gamma in told.gammas():
        parts = [computed(told.entry.name, "float64", sign * x * at, told.finding.target, gamma)
                 for x in (0.95, 1.05, 2.0)]  # fmt: skip
        (before, slope, _), (beyond, dead, _), (far, _, _) = parts
        if not (beyond == far != before and dead == 0 != slope):
            return f"at gamma {gamma:g} {parts}"
    return ""


def _nan_in_all(told: Told, match: re.Match[str]) -> str:
    got = [told.at(dtype, g) for dtype in ("float64", "float32") for g in told.gammas()]
    return "" if all(map(math.isnan, got)) else f"it is {got}"


def _is_narrow(told: Told, match: re.Match[str]) -> str:
    """In float32 it is right at this logit."""
    for gamma in told.gammas():
        got, right = told.at("float32", gamma), told.right(gamma)
        if abs(float(got - right)) > 1024 * spacing(float(right), "float32") * 4:
            return f"in float32 it is {got!r} for {float(right)!r}"
    return ""


def _in_dtype(told: Told, match: re.Match[str]) -> str:
    return (
        "" if match.group(1) in told.entry.causes else "it computes in the dtype that it is given"
    )


def _subtraction(told: Told, match: re.Match[str]) -> str:
    """It is in its source, or in PyTorch's cross-entropy: x - log sigmoid(x), and p - y."""
    has_one = {"subtraction", "bce"} & {*told.entry.causes}
    return "" if has_one else "it has no subtraction"


def _plain(told: Told, match: re.Match[str]) -> str:
    """What repeats the told.finding."""
    return ""


def _off_by(told: Told, match: re.Match[str]) -> str:
    return "" if told.finding.ulp > 1 else f"{told.finding.ulp} ULP"


def _never_held(told: Told, match: re.Match[str]) -> str:
    return "it is known what it should be" if told.entry.held else ""


# The first that is found in a cause.
_CAUSES: tuple[tuple[str, Callable[[Told, re.Match[str]], str]], ...] = (
    (r"(?P<c>[0-9.e-]+) is added to (?P<where>1 - p_t and to p_t in the logarithm|1 - p_t|p_t in)",
     _constant),
    (r"wrong logit of (?P<logit>[0-9.]+), where p_t is (?P<p>[0-9.e+-]+): a clamp", _clamp),
    (r"it is NaN in every dtype", _nan_in_all),
    (r"at gamma (?P<gamma>[0-9.e+-]+) the gradient is finite", _by_gamma),
    (r"in float32 it is finite", _wide_is_finite),
    (r"rounds to 1", _rounds),
    (r"intermediate results are rounded", _is_narrow),
    (r"its results are (\w+), given", _in_dtype),
    (r"as that of a subtraction", _subtraction),
    (r"is not what it gives in float64", _never_held),
    (r"more than the last digit of|units in the last place are wrong", _off_by),
    (r"the gradient is exactly 0|has the opposite sign|at mild logits in float64|"
     r"the true result is a number there|a position whose loss is multiplied by 0|it computes|"
     r"gamma is never read|reduced first|falls where the focal loss rises", _plain),
)  # fmt: skip
