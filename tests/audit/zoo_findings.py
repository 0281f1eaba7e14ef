"""Findings of a report, each held to the loss itself at the logit that it shows."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from audit.zoo import Entry
from audit.zoo_results import computed, felt, scan, spacing, true
from audit.zoo_truth import QUANTITIES
from parfocal.audit.findings import Finding


class Told(NamedTuple):
    """A finding on an entry."""

    entry: Entry
    finding: Finding

    def gammas(self) -> tuple[float, ...]:
        """The one at which it is shown, as its line of Python has it; else all of them."""
        keyword = rf"\b{self.entry.gamma}=([0-9.e+-]+)"
        shown = re.search(keyword, self.finding.reproduce)
        return (float(shown.group(1)),) if shown else self.finding.gammas

    def shown(self) -> Iterator[tuple[float, float, Any]]:
        """The gamma, what comes out there and what is true, at the logit that is shown."""
        for gamma in self.gammas():
            yield gamma, self.at(self.finding.dtype, gamma), self.right(gamma)

    def right(self, gamma: float) -> Any:
        """What is true there; of a function that is unknown its own float64."""
        finding = self.finding
        assert finding.logit is not None
        if self.entry.held:
            return true(self.entry, finding.quantity, finding.logit, finding.target, gamma)
        return self.at("float32" if "float64" in self.entry.refused else "float64", gamma)

    def at(self, dtype: str, gamma: float, logit: float | None = None) -> float:
        """The quantity of a finding at a dtype, a gamma, and its or another logit."""
        x = self.finding.logit if logit is None else logit
        assert x is not None
        found = computed(self.entry.name, dtype, x, self.finding.target, gamma)
        return found[QUANTITIES.index(self.finding.quantity)]

    def as_stated(self) -> str:
        """What of its numbers isn't so; empty if all is."""
        finding = self.finding
        if finding.logit is None or finding.computed is None or finding.truth is None:
            return "no numbers are shown"
        reasons = []
        for gamma, got, right in self.shown():
            wrong = _difference(finding, got, float(right), right)
            if not wrong:
                return ""
            reasons.append(f"at gamma {gamma:g} {wrong}")
        return "; ".join(reasons)


def _difference(finding: Finding, got: float, right: float, exact: Any) -> str:
    """What of a finding's numbers isn't so; empty if all is."""
    dtype = finding.dtype
    assert finding.computed is not None
    assert finding.truth is not None
    same = got == finding.computed or (math.isnan(got) and math.isnan(finding.computed))
    if not same and not abs(got - finding.computed) <= 1e-3 * abs(finding.computed):
        return f"it gives {got!r}, not {finding.computed!r}"
    if math.isnan(right) != math.isnan(finding.truth) or (
        not math.isnan(right) and not abs(right - finding.truth) <= 1e-9 * abs(right) + 1e-300
    ):
        return f"the truth is {right!r}, not {finding.truth!r}"
    if math.isinf(finding.ulp) or not math.isfinite(got):
        same = math.isinf(finding.ulp) and not math.isfinite(got)
        return "" if same else f"an error of {finding.ulp} ULP at {got!r}"
    unit = spacing(right, dtype)
    error = abs(float(finding.computed - exact)) / unit
    if finding.quantity == "curvature" or finding.target not in (0, 1):
        return "" if finding.ulp <= 1.01 * error + 0.01 else f"an error of {error:.4g} ULP of it"
    if abs(error - finding.ulp) > 0.01 * error + 0.01:
        return f"the error is {error:.6g} ULP, not {finding.ulp:.6g}"
    return ""


def check_finding(told: Told) -> str:
    """What contradicts a finding; empty if nothing does."""
    if told.finding.mode not in ("eager", "masked"):
        is_so = "mode mismatch" in told.entry.faults
        return "" if is_so else f"{told.finding.mode} gives no other loss"
    check = _KINDS.get(told.finding.kind)
    return f"a kind that no check is for: {told.finding.kind}" if check is None else check(told)


def _not_finite(told: Told) -> str:
    why = told.as_stated()
    if why:
        return why
    if told.finding.computed is not None and math.isfinite(told.finding.computed):
        return "it is finite"
    largest = torch.finfo(getattr(torch, told.finding.dtype)).max
    if told.finding.truth is None or not abs(told.finding.truth) <= largest:
        return "the truth is no number of the dtype either"
    if told.finding.before is not None:
        got = [told.at(told.finding.dtype, g, told.finding.before) for g in told.gammas()]
        if not any(map(math.isfinite, got)):
            return f"before it, at {told.finding.before!r}, it isn't finite either"
    for gamma in told.finding.gammas:
        if not _is_seen(told, gamma, "nonfinite"):
            return f"at gamma {gamma:g} it is finite at all logits of a scan"
    return ""


def _is_seen(told: Told, gamma: float, name: str) -> bool:
    """Whether a scan has it at this gamma, or there is none, or it is at the end of the numbers."""
    entry = told.entry
    if not entry.held or told.finding.target not in (0, 1) or told.finding.quantity == "curvature":
        return True
    if entry.reduced == "mean" or entry.framework != "torch":
        return True
    if any(math.isclose(gamma, g) for g in told.gammas()):
        return True  # at the logit that is shown
    wrong = scan(entry.name, told.finding.dtype, told.finding.target, gamma).wrong[
        told.finding.quantity
    ]
    return bool(wrong[name].any())


def _wrong_sign(told: Told) -> str:
    if told.finding.quantity == "value" and told.finding.gammas == ():
        return "" if "wrong sign" in told.entry.faults else "its sign is right"
    return told.as_stated() or (
        ""
        if (told.finding.computed or 0) * (told.finding.truth or 0) < 0
        else "it has the sign of the truth"
    )


def _dead(told: Told) -> str:
    tiny = torch.finfo(getattr(torch, told.finding.dtype)).tiny
    why = told.as_stated()
    if not why and told.finding.computed != 0:
        return f"it is {told.finding.computed!r}"
    if not why and not abs(told.finding.truth or 0) >= tiny:
        return "the truth is no normal number"
    return why


def _biased(told: Told) -> str:
    """Off at the logit that is shown, and in float64 at mild logits too."""
    if not told.entry.held:
        return "it is held to another function than its own"
    why = told.as_stated() or _severity(told)
    if why:
        return why
    if told.entry.reduced == "mean":
        return ""
    soft = told.finding.target not in (0, 1)
    for gamma in told.finding.gammas:
        if soft:
            continue
        found = scan(told.entry.name, "float64", told.finding.target, gamma)
        mild = found.x.abs() < 25
        wrong = found.wrong.get(told.finding.quantity)
        if wrong is not None and not bool(((wrong["off"] | wrong["dead"]) & mild).any()):
            return f"float64 is right at mild logits, at gamma {gamma:g}"
    return ""


def _inaccurate(told: Told) -> str:
    return told.as_stated() or _severity(told)


def _severity(told: Told) -> str:
    """An error is felt where it is shown, and a warning isn't."""
    entry, finding = told.entry, told.finding
    if not entry.held or finding.target not in (0, 1) or finding.quantity == "curvature":
        return ""
    is_error = finding.severity == "error"
    for gamma, got, right in told.shown():
        bound = felt(entry, finding.quantity, finding.dtype, finding.target, gamma, float(right))
        # A grid need not have the largest slope.
        least, most = (0.99 * bound, math.inf) if is_error else (0.0, 1.01 * bound)
        if least <= abs(float(right) - got) <= most:
            return ""
    return f"it is an {finding.severity}, and a training feels {bound:.3g}"


def _another(told: Told) -> str:
    other = told.entry.other
    if other is None:
        return f"it is the focal loss: {told.finding.cause}"
    return "" if re.search(other, told.finding.cause) else f"it is {other}"


def _of_record(told: Told) -> str:
    return "" if told.finding.kind in told.entry.faults else "it isn't so"


def _leak(told: Told) -> str:
    finding = told.finding
    assert finding.logit is not None
    for gamma in finding.gammas:
        x = torch.tensor([finding.logit], dtype=getattr(torch, finding.dtype), requires_grad=True)
        masked = told.entry.call(x, finding.target, gamma) * 0
        (gradient,) = torch.autograd.grad(masked.sum(), x)
        if float(gradient) != 0:
            return ""
    return "its gradient is 0 behind the mask"


def _vanishing(told: Told) -> str:
    why = _not_finite(told)
    if why:
        return why
    wide = [told.at("float32", gamma) for gamma in told.gammas()]
    return "" if any(map(math.isfinite, wide)) else "float32 isn't finite there either"


_KINDS: dict[str, Callable[[Told], str]] = {
    "not finite": _not_finite,
    "wrong sign": _wrong_sign,
    "another definition": _another,
    "gamma ignored": _of_record,
    "reduced too early": _of_record,
    "dead gradient": _dead,
    "biased": _biased,
    "inaccurate": _inaccurate,
    "masked leak": _leak,
    "vanishing constant": _vanishing,
}
