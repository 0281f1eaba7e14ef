"""Every statement of a report as a claim that is checked, and what a report should have said.

A claim is true if the record of the loss or an experiment with the loss itself says so: it is
called at the logit that is shown, and compared with mpmath's value there.
"""

import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.functional import softplus

from audit.zoo import Entry
from audit.zoo_truth import QUANTITIES, truth, truths
from parfocal.audit import AuditReport, Subject
from parfocal.audit.cell import Cell
from parfocal.audit.findings import Finding

SOFT = 0.375


class Claim(NamedTuple):
    """One statement. why: what contradicts it; empty if it is true."""

    entry: str
    kind: str
    words: str
    why: str = ""

    @property
    def is_true(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.why


# What a loss gives, and what is true


class Results(NamedTuple):
    """At some logits, in their dtype; None where there is none. dtype: of the value."""

    value: torch.Tensor | None
    gradient: torch.Tensor | None
    curvature: torch.Tensor | None
    dtype: str = ""


def call(entry: Entry, x: torch.Tensor, y: float, gamma: float, *, second: bool = True) -> Results:
    """The loss of an entry and its derivatives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if entry.framework == "numpy":
            gradient, curvature = entry.loss(x.numpy(), torch.full_like(x, y).numpy(), gamma)
            return Results(None, torch.as_tensor(gradient), torch.as_tensor(curvature))
        x = x.detach().clone().requires_grad_()
        loss = entry.call(x, y, gamma)
        value = loss.detach().to(x.dtype) if loss.numel() == x.numel() else None
        name = str(loss.dtype).removeprefix("torch.")
        (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=second)
        curvature = None
        if second and gradient.requires_grad:
            try:
                (curvature,) = torch.autograd.grad(gradient.sum(), x)
            except RuntimeError:
                curvature = None
        return Results(value, gradient.detach(), curvature, name)


@functools.lru_cache(maxsize=100_000)
def computed(name: str, dtype: str, x: float, y: float, gamma: float) -> tuple[float, ...]:
    """Value, gradient and curvature at one logit; NaN where there is none."""
    from audit.zoo import ENTRIES

    logit = torch.tensor([x], dtype=getattr(torch, dtype))
    found = call(ENTRIES[name], logit, y, gamma)
    parts = (getattr(found, quantity) for quantity in QUANTITIES)
    return tuple(math.nan if part is None else float(part) for part in parts)


def true(entry: Entry, quantity: str, x: float, y: float, gamma: float) -> Any:
    """What a result should be, as a number of mpmath."""
    soft = entry.soft if entry.soft in ("mixture", "margin", "entropy") else "linear"
    exponent = entry.exponent_of(gamma, y)
    jet = truth(x, y, exponent, soft=soft or "linear", detached=entry.detached)
    return getattr(jet.times(entry.factor(y)), quantity)


def spacing(number: float, dtype: str) -> float:
    """The distance of neighbouring numbers of a dtype."""
    info = torch.finfo(getattr(torch, dtype))
    magnitude = min(max(abs(number), info.tiny), info.max)
    return math.ldexp(info.eps, math.frexp(magnitude)[1] - 1)


# Findings


def _gamma_of(finding: Finding) -> tuple[float, ...]:
    """The gamma at which it is shown, as its line of Python has it; else all of them."""
    shown = re.search(
        r"(?:gamma|focusing|beta|gamma_neg|focal_gamma)=([0-9.e+-]+)", finding.reproduce
    )
    return (float(shown.group(1)),) if shown else finding.gammas


class Checker:
    """Claims of one report on one entry."""

    def __init__(self, entry: Entry, report: AuditReport, subject: Subject) -> None:
        self.entry, self.report, self.subject = entry, report, subject

    def claims(self) -> Iterator[Claim]:
        """All of them."""
        yield from self._call()
        for line in self.report.how:
            yield self._claim("how", line, _matched(line, _HOW, self.entry))
        for line in self.report.meaning:
            yield self._claim("meaning", line, _matched(line, _MEANING, self.entry))
        for finding in self.report.findings:
            yield from self._finding(finding)
        for cell in self.report.cells:
            yield from self._cliffs(cell)
        for line in self.report.certificates:
            yield self._claim("certificate", line, self._certificate(line))

    def _claim(self, kind: str, words: str, why: str) -> Claim:
        return Claim(self.entry.name, kind, words, why)

    def _call(self) -> Iterator[Claim]:
        """How it is called."""
        entry, subject = self.entry, self.subject
        fields = {
            "kind": "multiclass" if entry.is_multiclass else "binary",
            "takes": entry.takes,
            "targets_first": entry.targets_first,
            "framework": entry.framework,
            "gamma": entry.gamma,
            "gamma_on_call": entry.place == "call",
            "reduced": entry.reduced,
            "column": entry.shape == "column",
            "maps": "map" in entry.shape,
            "one_hot": "one-hot" in entry.shape,
            "long": entry.shape == "long",
        }
        for name, right in fields.items():
            if entry.framework == "numpy" and name == "reduced":
                continue
            found = getattr(subject, name)
            why = "" if found == right else f"expected {right!r}, got {found!r}"
            yield self._claim("call", f"{name} is {found!r}", why)

    # One finding

    def _finding(self, finding: Finding) -> Iterator[Claim]:
        place = (
            f"{finding.kind}, {finding.quantity}, {finding.dtype}, target {finding.target:g}, "
            f"gammas {finding.gammas}, at {finding.logit!r}"
        )
        check = _KINDS.get(finding.kind)
        if finding.mode not in ("eager", "masked"):
            ok = "mode mismatch" in self.entry.faults
            yield self._claim("finding", place, "" if ok else f"no {finding.mode} is another loss")
            return
        why = f"a kind that isn't known: {finding.kind}" if check is None else check(self, finding)
        yield self._claim("finding", place, why)
        yield self._claim("cause", f"{place}: {finding.cause}", self._cause(finding))

    def shown(self, finding: Finding) -> Iterator[tuple[float, float, Any]]:
        """The gamma, what comes out there and what is true, at the logit that is shown."""
        assert finding.logit is not None
        for gamma in _gamma_of(finding):
            here = computed(self.entry.name, finding.dtype, finding.logit, finding.target, gamma)
            got = here[QUANTITIES.index(finding.quantity)]
            yield gamma, got, self.right(finding, gamma)

    def right(self, finding: Finding, gamma: float) -> Any:
        """What is true there; of a function that is unknown its own float64."""
        assert finding.logit is not None
        if self.entry.held:
            return true(self.entry, finding.quantity, finding.logit, finding.target, gamma)
        dtype = "float32" if "float64" in self.entry.refused else "float64"
        found = computed(self.entry.name, dtype, finding.logit, finding.target, gamma)
        return found[QUANTITIES.index(finding.quantity)]

    def as_stated(self, finding: Finding) -> str:
        """Whether what was computed and what is true are the numbers that the finding has."""
        if finding.logit is None or finding.computed is None or finding.truth is None:
            return "no numbers are shown"
        reasons = []
        for gamma, got, right in self.shown(finding):
            wrong = _difference(finding, got, float(right), right)
            if not wrong:
                return ""
            reasons.append(f"at gamma {gamma:g} {wrong}")
        return "; ".join(reasons)

    # Its cause

    def _cause(self, finding: Finding) -> str:
        for pattern, check in _CAUSES:
            match = re.search(pattern, finding.cause)
            if match:
                return check(self, finding, match)
        return "a cause that no experiment of the zoo is for"

    def at(self, finding: Finding, dtype: str, gamma: float, logit: float | None = None) -> float:
        """The quantity of a finding at another dtype, gamma or logit."""
        x = finding.logit if logit is None else logit
        assert x is not None
        found = computed(self.entry.name, dtype, x, finding.target, gamma)
        return found[QUANTITIES.index(finding.quantity)]

    # The cells

    def _cliffs(self, cell: Cell) -> Iterator[Claim]:
        """The smallest |logit| of each defect, and its neighbour that has it not."""
        if not self.entry.held or cell.target not in (0, 1) or cell.quantity == "curvature":
            return
        if self.entry.reduced == "mean" or self.entry.framework != "torch":
            return
        for name, cliff in (("nonfinite", cell.cliff), ("dead", cell.dead_from),
                            ("flipped", cell.flipped_from), ("off", cell.percent)):  # fmt: skip
            if cliff is None:
                continue
            words = (
                f"{name}, {cell.quantity}, {cell.dtype}, target {cell.target:g}, gamma "
                f"{cell.gamma:g}: from {cliff.logit!r} on, not at {cliff.before!r}"
            )
            yield self._claim("cliff", words, self._cliff(cell, name, cliff.logit, cliff.before))

    def _cliff(self, cell: Cell, name: str, logit: float, before: float | None) -> str:
        if not any(self._ways(cell, name, logit)):
            return f"nothing is {name} there"
        if before is not None and all(self._ways(cell, name, before, margin=1e-6)):
            return f"{name} at {before!r} as well"
        found = scan(self.entry.name, cell.dtype, cell.target, cell.gamma)
        wide = found.x.double().abs()
        earlier = found.wrong[cell.quantity][name] & (wide < abs(logit) * (1 - 1e-12))
        for other in sorted(found.x[earlier].double().tolist(), key=abs)[:8]:
            if all(self._ways(cell, name, other, margin=1e-6)):
                return f"{name} at {other!r} already"
        return ""

    def _ways(self, cell: Cell, name: str, logit: float, margin: float = 0.0) -> Iterator[bool]:
        """Whether it is wrong there, alone and among many: vector units round otherwise."""
        for count in (1, 32, 64):
            x = torch.full((count,), logit, dtype=torch.float64).to(getattr(torch, cell.dtype))
            wrong = _defects(self.entry, x, cell.target, cell.gamma, margin)
            yield bool(wrong[cell.quantity][name][0])

    def _certificate(self, line: str) -> str:
        """Within what is stated at other logits, but for twice of it and one ULP."""
        match = re.match(r"(\w+): value and gradient accurate to ([0-9.e+-]+) ULP", line)
        if not match:
            return "words that no check is for"
        if not self.entry.held:
            return "nothing is known of what it should be"
        dtype, bound = match.group(1), float(match.group(2))
        x = torch.linspace(-40, 40, 17, dtype=torch.float64).to(getattr(torch, dtype))
        targets = {c.target for c in self.report.cells if c.dtype == dtype}
        for y in targets:
            for gamma in {c.gamma for c in self.report.cells if c.dtype == dtype}:
                for logit in x.tolist():
                    for i, quantity in enumerate(QUANTITIES[:2]):
                        got = computed(self.entry.name, dtype, logit, y, gamma)[i]
                        right = true(self.entry, quantity, logit, y, gamma)
                        if math.isnan(got) and self.entry.framework == "numpy":
                            continue
                        if math.isnan(got) and self.entry.reduced != "none":
                            continue
                        if abs(float(right)) < torch.finfo(getattr(torch, dtype)).tiny:
                            continue
                        if y not in (0, 1) and quantity == "gradient":
                            continue  # of the scale of its terms
                        error = abs(float(got - right)) / spacing(float(right), dtype)
                        if not error <= 2 * bound + 1:
                            return f"{error:.3g} ULP at {logit:g}, target {y:g}, gamma {gamma:g}"
        return ""


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


# Kinds of findings


def _not_finite(self: Checker, finding: Finding) -> str:
    why = self.as_stated(finding)
    if why:
        return why
    if finding.computed is not None and math.isfinite(finding.computed):
        return "it is finite"
    largest = torch.finfo(getattr(torch, finding.dtype)).max
    if finding.truth is None or not abs(finding.truth) <= largest:
        return "the truth is no number of the dtype either"
    if finding.before is not None:
        got = [self.at(finding, finding.dtype, g, finding.before) for g in _gamma_of(finding)]
        if not any(map(math.isfinite, got)):
            return f"before it, at {finding.before!r}, it isn't finite either"
    for gamma in finding.gammas:
        if not _is_seen(self, finding, gamma, "nonfinite"):
            return f"at gamma {gamma:g} it is finite at all logits of a scan"
    return ""


def _is_seen(self: Checker, finding: Finding, gamma: float, name: str) -> bool:
    """Whether a scan has it at this gamma, or there is none, or it is at the end of the numbers."""
    entry = self.entry
    if not entry.held or finding.target not in (0, 1) or finding.quantity == "curvature":
        return True
    if entry.reduced == "mean" or entry.framework != "torch":
        return True
    if any(math.isclose(gamma, g) for g in _gamma_of(finding)):
        return True  # at the logit that is shown
    wrong = scan(entry.name, finding.dtype, finding.target, gamma).wrong[finding.quantity]
    return bool(wrong[name].any())


def _wrong_sign(self: Checker, finding: Finding) -> str:
    if finding.quantity == "value" and finding.gammas == ():
        return "" if "wrong sign" in self.entry.faults else "its sign is right"
    return self.as_stated(finding) or (
        "" if (finding.computed or 0) * (finding.truth or 0) < 0 else "it has the sign of the truth"
    )


def _dead(self: Checker, finding: Finding) -> str:
    tiny = torch.finfo(getattr(torch, finding.dtype)).tiny
    why = self.as_stated(finding)
    if not why and finding.computed != 0:
        return f"it is {finding.computed!r}"
    if not why and not abs(finding.truth or 0) >= tiny:
        return "the truth is no normal number"
    return why


def _biased(self: Checker, finding: Finding) -> str:
    """Off at the logit that is shown, and in float64 at mild logits too."""
    if not self.entry.held:
        return "it is held to another function than its own"
    why = self.as_stated(finding)
    if why:
        return why
    if self.entry.reduced == "mean":
        return ""
    soft = finding.target not in (0, 1)
    for gamma in finding.gammas:
        if soft:
            continue
        found = scan(self.entry.name, "float64", finding.target, gamma)
        mild = found.x.abs() < 25
        wrong = found.wrong.get(finding.quantity)
        if wrong is not None and not bool(((wrong["off"] | wrong["dead"]) & mild).any()):
            return f"float64 is right at mild logits, at gamma {gamma:g}"
    return ""


def _inaccurate(self: Checker, finding: Finding) -> str:
    return self.as_stated(finding)


def _another(self: Checker, finding: Finding) -> str:
    other = self.entry.other
    if other is None:
        return f"it is the focal loss: {finding.cause}"
    return "" if re.search(other, finding.cause) else f"it is {other}"


def _of_record(self: Checker, finding: Finding) -> str:
    return "" if finding.kind in self.entry.faults else "it isn't so"


def _leak(self: Checker, finding: Finding) -> str:
    assert finding.logit is not None
    for gamma in finding.gammas:
        x = torch.tensor([finding.logit], dtype=getattr(torch, finding.dtype), requires_grad=True)
        (gradient,) = torch.autograd.grad((self.entry.call(x, finding.target, gamma) * 0).sum(), x)
        if float(gradient) != 0:
            return ""
    return "its gradient is 0 behind the mask"


def _vanishing(self: Checker, finding: Finding) -> str:
    why = _not_finite(self, finding)
    if why:
        return why
    wide = [self.at(finding, "float32", gamma) for gamma in _gamma_of(finding)]
    return "" if any(map(math.isfinite, wide)) else "float32 isn't finite there either"


_KINDS: dict[str, Callable[[Checker, Finding], str]] = {
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


# Causes: what a sentence says, tried


def _by_gamma(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    """At a gamma of 1 or more the gradient is finite at this logit."""
    for gamma in (1.0, 1.25, 1.5, 2.0, 3.0, 5.0):
        if not math.isfinite(self.at(finding, finding.dtype, gamma)):
            return f"at gamma {gamma:g} it isn't finite there"
    if "rounds to 1" in match.string:
        return _rounds(self, finding, match)
    return ""


def _rounds(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    """It rounds to 1 at the logit, and not before, where all is well."""
    wrong = "1 - p_t rounds" in finding.cause
    sign = (1 if finding.target else -1) * (-1 if wrong else 1)
    assert finding.logit is not None
    dtype = _computed_in(self, finding)
    ways = _ones(sign * finding.logit, dtype)
    if not any(ways):
        return f"it rounds to less than 1 in {dtype}"
    before = finding.before
    if finding.kind in ("not finite", "dead gradient") and before is not None:
        earlier = _ones(sign * before, dtype)
        if not any(now and not then for now, then in zip(ways, earlier, strict=True)):
            return f"at {before!r}, where all is well, it rounds to 1 too"
    return ""


def _computed_in(self: Checker, finding: Finding) -> str:
    named = re.search(r"rounds to 1 in (\w+)", finding.cause)
    name = named.group(1) if named else finding.dtype
    for cause in self.entry.causes:
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


def _wide_is_finite(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    got = [self.at(finding, "float32", gamma) for gamma in _gamma_of(finding)]
    return "" if all(map(math.isfinite, got)) else "float32 isn't finite there either"


def _constant(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    return _constants(self.entry, match)


def _is_narrow(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    """In float32 it is right at this logit."""
    for gamma in _gamma_of(finding):
        got, right = self.at(finding, "float32", gamma), self.right(finding, gamma)
        if abs(float(got - right)) > 1024 * spacing(float(right), "float32") * 4:
            return f"in float32 it is {got!r} for {float(right)!r}"
    return ""


def _in_dtype(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    return (
        "" if match.group(1) in self.entry.causes else "it computes in the dtype that it is given"
    )


def _subtraction(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    """It is in its source, or in PyTorch's gradient of the cross-entropy at target 1."""
    causes = self.entry.causes
    if "subtraction" in causes:
        return ""
    by_pytorch = "bce" in causes and finding.target and finding.quantity != "value"
    return "" if by_pytorch else "it has no subtraction from 1"


def _plain(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    """What repeats the finding."""
    return ""


def _off_by(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    return "" if finding.ulp > 1 else f"{finding.ulp} ULP"


def _never_held(self: Checker, finding: Finding, match: re.Match[str]) -> str:
    return "it is known what it should be" if self.entry.held else ""


# The first that is found in a cause.
_CAUSES: tuple[tuple[str, Callable[[Checker, Finding, re.Match[str]], str]], ...] = (
    (r"(?P<c>[0-9.e-]+) is added to (?P<where>1 - p_t and to p_t in the logarithm|1 - p_t|p_t in)",
     _constant),
    (r"at a gamma of 1 or more the gradient is finite", _by_gamma),
    (r"in float32 it is finite", _wide_is_finite),
    (r"rounds to 1", _rounds),
    (r"intermediate results are rounded", _is_narrow),
    (r"its results are (\w+), given", _in_dtype),
    (r"formed by subtraction", _subtraction),
    (r"is not what it gives in float64", _never_held),
    (r"more than the last digit of|units in the last place are wrong", _off_by),
    (r"the gradient is exactly 0|has the opposite sign|at mild logits in float64|"
     r"the true result is a number there|a position whose loss is multiplied by 0|it computes|"
     r"gamma is never read|reduced first|falls where the focal loss rises", _plain),
)  # fmt: skip


# Lines on how it is called, and what it means


_SHAPES = {
    "flat": "binary", "long": "binary, integer targets", "column": "binary, logits (N, 1)",
    "map": "binary, logits (N, 1, H, W)", "index": "multiclass",
    "one-hot": "multiclass, one-hot targets", "map of indices": "multiclass, logits (N, C, H, W)",
    "map of one-hot": "multiclass, logits (N, C, H, W), one-hot targets",
}  # fmt: skip

Line = Callable[[Entry, re.Match[str]], bool | str]

_HOW: tuple[tuple[str, Line], ...] = (
    (r"gamma is the keyword (\w+)( of the call)?",
     lambda e, m: e.gamma == m[1] and (e.place == "call") == bool(m[2])),
    (r"no keyword for gamma", lambda e, m: e.gamma is None),
    (r"targets come first", lambda e, m: e.targets_first),
    (r"arrays of (\w+)", lambda e, m: e.framework == m[1]),
    (r"(.+), of (logits|probabilities|log-probabilities)$",
     lambda e, m: _SHAPES[e.shape] == m[1] and e.takes == m[2]),
    (r"it gives one number", lambda e, m: e.reduced == "mean"),
    (r"(float64|float32|float16|bfloat16) is refused", lambda e, m: m[1] in e.refused),
    (r"(\w+)=(.*)", lambda e, m: repr(e.options.get(m[1], ...)) == m[2]),
)  # fmt: skip

_SOFT = {
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


def _is(a: str, b: float) -> bool:
    return math.isclose(float(a), b, rel_tol=1e-3)


def _constants(entry: Entry, match: re.Match[str]) -> str:
    base, logarithm = entry.constants
    where = match["where"]
    stated = {"1 - p_t": (1, 0), "p_t in": (0, 1)}.get(where, (1, 1))
    wanted = tuple(float(match["c"]) * part for part in stated)
    same = all(
        math.isclose(a, b, rel_tol=1e-3) for a, b in zip(wanted, (base, logarithm), strict=True)
    )
    return "" if same else f"the constants are {entry.constants}"


_MEANING: tuple[tuple[str, Line], ...] = (
    (r"no alpha", lambda e, m: e.positive == e.negative == 1),
    (r"no weights of classes", lambda e, m: e.positive == e.negative == 1 and not e.weights),
    (r"a factor (\S+) on (both|all) classes",
     lambda e, m: _is(m[1], e.positive) and _is(m[1], e.negative)),
    (r"(?:alpha|a factor) (\S+) on the positive class, (\S+) on the negative",
     lambda e, m: _is(m[1], e.positive) and _is(m[2], e.negative)),
    (r"weights of classes: (\S+) of class 0, (\S+) of class 1",
     lambda e, m: _is(m[1], e.positive) and _is(m[2], e.negative)),
    (r"weights of classes: ([0-9., ]+)$",
     lambda e, m: [*map(float, m[1].split(", "))] == [*e.weights]),
    (r"soft targets", lambda e, m: m.string.startswith(_SOFT.get(str(e.soft), "?"))),
    (r"(mean|sum|what it gives by default) divides by (.+)",
     lambda e, m: e.means.get(m[1]) == m[2]),
    (r"(mean|sum|what it gives by default): the modulator is that of the (mean|sum) of the whole",
     lambda e, m: "reduced too early" in e.faults),
    (r"its exponent is (\S+)", lambda e, m: e.gamma is None and _is(m[1], e.exponent)),
    (r"gamma is never read: the exponent is (\S+)", lambda e, m: "gamma ignored" in e.faults),
    (r"the loss falls where the focal loss rises(, on the (positive|negative) class)?",
     lambda e, m: (e.positive < 0, e.negative < 0) == (m[2] != "negative", m[2] != "positive")),
    (r"(?P<c>[0-9.e-]+) is added to (?P<where>1 - p_t and to p_t in the logarithm|1 - p_t|p_t in)",
     _constants),
    (r"the modulating factor is detached", lambda e, m: e.detached),
    (r"gamma (\S+) is refused", lambda e, m: float(m[1]) < e.least_gamma),
    (r"no focal loss that is known", lambda e, m: e.other == "unknown"),
    (r"one-vs-rest sigmoid losses",
     lambda e, m: bool(e.other and re.search(e.other, m.string))),
)  # fmt: skip


def _matched(line: str, patterns: tuple[tuple[str, Line], ...], entry: Entry) -> str:
    """Why a line isn't true; empty if it is."""
    for pattern, check in patterns:
        match = re.match(pattern, line)
        if match:
            found = check(entry, match)
            if isinstance(found, str):
                return found
            return "" if found else "the record says otherwise"
    return "a line that no check is for"


# Brute force


class Scan(NamedTuple):
    """Logits, and by quantity and defect at which of them it is wrong."""

    x: torch.Tensor
    wrong: dict[str, dict[str, torch.Tensor]]


@functools.lru_cache(maxsize=4096)
def scan(name: str, dtype: str, y: float, gamma: float) -> Scan:
    """All logits of 16 bits up to 120, and 20,000 of wider dtypes."""
    from audit.zoo import ENTRIES

    x = grid(dtype)
    return Scan(x, _defects(ENTRIES[name], x, y, gamma))


@functools.cache
def grid(dtype: str) -> torch.Tensor:
    """Logits up to 120."""
    kind = getattr(torch, dtype)
    if kind.itemsize == 2:
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
        return every[every.abs() <= 120].contiguous()
    side = torch.cat([torch.linspace(0.01, 120, 7_001, dtype=torch.float64),
                      torch.linspace(3, 40, 3_001, dtype=torch.float64)])  # fmt: skip
    return torch.cat([side, -side]).to(kind).unique()


def _defects(
    entry: Entry, x: torch.Tensor, y: float, gamma: float, margin: float = 0.0
) -> dict[str, dict[str, torch.Tensor]]:
    """What is wrong at each logit and a hard target, against the formula in float64."""
    found = call(entry, x, y, gamma, second=False)
    right = truths(x, y, entry.exponent_of(gamma, y), detached=entry.detached)
    wrong = {}
    for quantity in ("value", "gradient"):
        got = getattr(found, quantity)
        if got is not None and not (entry.shifted and quantity == "value"):
            wrong[quantity] = _wrongs(got, right[quantity] * entry.factor(y), margin)
    return wrong


def _wrongs(got: torch.Tensor, right: torch.Tensor, margin: float) -> dict[str, torch.Tensor]:
    info, wide = torch.finfo(got.dtype), got.double()
    normal = (right.abs() >= info.tiny) & (right.abs() <= info.max)
    finite = got.isfinite()
    dead = (got == 0) & normal
    off = finite & normal & ~dead & ((wide - right).abs() > 0.01 * (1 + margin) * right.abs())
    return {
        "nonfinite": ~finite & (right.abs() <= info.max),
        "dead": dead,
        "off": off,
        "flipped": off & (wide * right < 0) & ((wide - right).abs() > right.abs()),
    }


# What should have been said

_TOLD_BY = {
    "nonfinite": ("not finite", "vanishing constant"),
    "dead": ("dead gradient", "biased"),
    "flipped": ("wrong sign",),
    "off": ("biased", "inaccurate", "dead gradient", "wrong sign"),
}

# Of the logits of a scan, the part from which on a defect must be told.
_PART = 0.01


def missed(entry: Entry, report: AuditReport) -> Iterator[str]:
    """What is true of a loss, and isn't in its report."""
    kinds = {finding.kind for finding in report.findings}
    yield from (f"{kind} isn't found" for kind in entry.faults if kind not in kinds)
    lines = " | ".join((*report.meaning, *(f.cause for f in report.findings)))
    if entry.other and not re.search(entry.other, lines):
        yield f"it isn't called {entry.other}"
    if any(entry.constants) and "is added to" not in lines:
        yield f"the constants {entry.constants} aren't found"
    if entry.soft and _SOFT[entry.soft] not in lines:
        yield f"soft targets aren't told: {_SOFT[entry.soft]}"
    for name, divisor in entry.means.items():
        if f"{name} divides by {divisor}" not in lines:
            yield f"that {name} divides by {divisor} isn't told"
    if entry.weights and ", ".join(f"{w:.4g}" for w in entry.weights) not in lines:
        yield f"the weights {entry.weights} of the classes aren't told"
    for dtype in entry.refused:
        if not any(line.startswith(f"{dtype} is refused") for line in report.how):
            yield f"that {dtype} is refused isn't told"
    refused = [gamma for gamma in entry.gammas if gamma < entry.least_gamma]
    if refused and "is refused" not in lines:
        yield f"that gamma {refused[0]:g} is refused isn't told"
    yield from _missed_numbers(entry, report)


def _missed_numbers(entry: Entry, report: AuditReport) -> Iterator[str]:
    if not entry.held or entry.framework != "torch" or entry.reduced == "mean":
        return
    for dtype in (name for name in entry.dtypes if name not in entry.refused):
        for y in (1.0, 0.0):
            for gamma in (g for g in entry.gammas if g >= entry.least_gamma):
                wrong = scan(entry.name, dtype, y, entry.exponent if entry.gamma is None else gamma)
                for quantity, defects in wrong.wrong.items():
                    for name, where in defects.items():
                        if (quantity, name) == ("value", "dead"):
                            continue
                        if float(where.double().mean()) < _PART:
                            continue
                        if not _is_told(report, _TOLD_BY[name], quantity, dtype, y, gamma, entry):
                            yield (
                                f"{name}, {quantity}, {dtype}, target {y:g}, gamma {gamma:g}: "
                                f"{float(where.double().mean()):.1%} of the logits"
                            )


def _is_told(
    report: AuditReport, kinds: tuple[str, ...], quantity: str, dtype: str, y: float, gamma: float,
    entry: Entry,
) -> bool:  # fmt: skip
    return any(
        finding.kind in kinds
        and (finding.quantity, finding.dtype, finding.target) == (quantity, dtype, y)
        and (gamma in finding.gammas or entry.gamma is None)
        for finding in report.findings
    )
