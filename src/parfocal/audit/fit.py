r"""Which function a loss computes at one hard target, fitted to its values and never looked up.

With u the margin of the answer (x at target 1, -x at target 0), p = sigmoid(u) and q = 1 - p, the
family is

    c (q + a) ** s (-log(p + d))

with a factor c, an exponent s and two constants, all unknown. Taken the logarithm of, it is linear
in log c and s for given constants, so that one unknown constant is searched for alone: that whose
least squares leave nothing. Where nothing of the family fits, two terms with unknown weights do:

    focal and q ** (g + 1)          poly
    focal and that of the other class      smoothed labels
    focal and cross-entropy         a sum of both

Each fit has to hold at all probes, of which there are several times as many as unknowns.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

Form = Literal["focal", "swapped", "without logarithm", "poly", "smoothed labels", "sum"]

# Margins at which whatever computes the family in float64 has ten digits, and those at which one
# has five that computes it in float32.
WIDE = (-12.0, -9.5, -7.0, -5.0, -3.25, -2.25, -1.5, -0.75, -0.25,
        0.5, 1.0, 1.75, 2.5, 4.0, 6.0, 8.5, 11.0)  # fmt: skip
MILD = tuple(u for u in WIDE if abs(u) < 4)

_CLOSE = 2e-7
_NEAR = 3e-5
ROUGH = 0.03

# Constants that are searched for, on a scale that is refined so often.
_LEAST, _MOST, _STEPS, _REFINED = 1e-9, 0.3, 97, 8


class Fit(NamedTuple):
    """What a loss is at a target: c (q + base) ** exponent (-log(p + logarithm)), or another form.

    form: focal for that. factor: c, negative where the loss falls. second: of a form of two terms
    the weight of the other, as a part of the first. is_coarse: whether its values have 16 bits, of
    which two digits are known.
    """

    factor: float
    exponent: float
    base: float = 0.0
    logarithm: float = 0.0
    form: Form = "focal"
    second: float = 0.0
    is_coarse: bool = False

    def value(self, u: Tensor) -> Tensor:
        """At margins."""
        q, ce = u.neg().sigmoid(), softplus(-u)
        s = self.exponent
        if self.form == "swapped":
            return self.factor * u.sigmoid() ** s * ce
        if self.form == "without logarithm":
            return self.factor * q**s
        if self.form == "focal":
            if self.logarithm:
                ce = -torch.log((u.sigmoid() + self.logarithm).clamp(max=1.0))
            return self.factor * (q + self.base).clamp(min=0.0) ** s * ce
        return self.factor * (q**s * ce + self.second * _SECOND[self.form](u, s))

    def slope(self, u: Tensor, *, detached: bool = False) -> Tensor:
        """The derivative in u; if detached, with the factor before the logarithm a constant."""
        v = u.detach().clone().requires_grad_()
        if not detached:
            return torch.autograd.grad(self.value(v).sum(), v)[0]
        factor = (self.value(v) / softplus(-v)).detach()
        return torch.autograd.grad((factor * softplus(-v)).sum(), v)[0]


_SECOND: dict[Form, Callable[[Tensor, float], Tensor]] = {
    "poly": lambda u, s: u.neg().sigmoid() ** (s + 1),
    "smoothed labels": lambda u, s: u.sigmoid() ** s * softplus(u),
    "sum": lambda u, s: softplus(-u),
}


def fit(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    """The function that has these values in float64 at margins `WIDE`; None if none fits.

    gamma: the exponent that was asked for, of forms that can't be told from others without it.
    """
    sign = -1.0 if float(value.median()) < 0 else 1.0
    mild = u.abs() < 4
    for where, tolerance in ((torch.ones_like(mild), _CLOSE), (mild, _NEAR)):
        found = _fitted(u[where], sign * value[where], gamma, tolerance)
        if found is not None:
            return found._replace(factor=sign * _nice(found.factor), exponent=_nice(found.exponent))
    return _coarse(u[mild], sign * value[mild], sign)


def _coarse(u: Tensor, value: Tensor, sign: float) -> Fit | None:
    """The same of values that are numbers of 16 bits."""
    narrow = (torch.float16, torch.bfloat16)
    if not any(torch.equal(value.to(dtype).double(), value.double()) for dtype in narrow):
        return None
    found = _of_family(u, value, 0.0)
    if found is None or not _holds(found, u, value, ROUGH):
        return None
    factor, exponent = float(f"{found.factor:.1g}"), round(2 * found.exponent) / 2
    rounded = Fit(sign * factor, exponent, is_coarse=True)
    is_near = abs(factor - found.factor) <= ROUGH and abs(exponent - found.exponent) <= ROUGH
    return rounded if is_near else None


def _fitted(u: Tensor, value: Tensor, gamma: float, tolerance: float) -> Fit | None:
    candidates: Sequence[Callable[[Tensor, Tensor, float], Fit | None]] = (
        _of_family, _swapped, _without_logarithm, _with_constant, _of_two_terms,
    )  # fmt: skip
    if not bool(value.isfinite().all()) or bool((value < 0).any()):
        return None
    for candidate in candidates:
        found = candidate(u, value, gamma)
        if found is not None and _holds(found, u, value, tolerance):
            return found
    return None


def _holds(found: Fit, u: Tensor, value: Tensor, tolerance: float) -> bool:
    difference = (found.value(u) - value).abs()
    return bool((difference <= tolerance * value.abs()).all())


def _of_family(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    return _line(u, value, u.neg().sigmoid(), softplus(-u))


def _swapped(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    found = _line(u, value, u.sigmoid(), softplus(-u))
    return None if found is None else found._replace(form="swapped")


def _without_logarithm(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    found = _line(u, value, u.neg().sigmoid(), torch.ones_like(u))
    return None if found is None else found._replace(form="without logarithm")


def _line(u: Tensor, value: Tensor, base: Tensor, other: Tensor) -> Fit | None:
    """c and s of c base ** s other, by least squares of logarithms."""
    if bool((value <= 0).any()):
        return None
    x, y = base.log(), (value / other).log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return Fit(math.exp(y.mean() - slope * x.mean()), float(slope))


# Where the constant is: added to the base, to the probability in the logarithm, to both; or taken
# from the base and added in the logarithm, as a margin of the probability is.
_PLACES: tuple[tuple[float, float], ...] = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 1.0))


def _with_constant(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    """One constant, where it leaves the smallest residual."""
    kept = value > 0  # a margin of the probability takes the easy answers away
    if int(kept.sum()) < 6:
        return None
    u, value = u[kept], value[kept]
    found = [_searched(u, value, place) for place in _PLACES]
    residual, best = min(found, key=lambda pair: pair[0])
    return best if residual < 1e-3 else None


def _searched(u: Tensor, value: Tensor, place: tuple[float, float]) -> tuple[float, Fit]:
    """The best constant of a place, from a scale of constants that gets finer around the best."""
    low, high = math.log(_LEAST), math.log(_MOST)
    for _ in range(_REFINED):
        scale = torch.linspace(low, high, _STEPS, dtype=torch.float64).exp()
        residuals = _residuals(u, value, place, scale)[2]
        at, step = int(residuals.argmin()), (high - low) / (_STEPS - 1)
        low, high = math.log(scale[at]) - step, math.log(scale[at]) + step
    log_c, s, residuals = (column[at] for column in _residuals(u, value, place, scale))
    constant = float(scale[at])
    if not math.isfinite(float(residuals)):
        return math.inf, Fit(0.0, 0.0)
    fitted = Fit(math.exp(log_c), float(s), place[0] * constant, place[1] * constant)
    return float(residuals), fitted


def _residuals(
    u: Tensor, value: Tensor, place: tuple[float, float], constants: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each constant log c, s and the largest residual, infinite where it is none."""
    p, q, column = u.sigmoid(), u.neg().sigmoid(), constants[:, None]
    base = q + place[0] * column
    ce = softplus(-u).expand_as(base) if not place[1] else -torch.log(p + place[1] * column)
    x, y = base.log(), (value / ce).log()
    x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    slope = ((x - x_mean) * (y - y_mean)).sum(1) / ((x - x_mean) ** 2).sum(1)
    log_c = y_mean[:, 0] - slope * x_mean[:, 0]
    residual = (y - log_c[:, None] - slope[:, None] * x).abs().amax(1)
    return log_c, slope, residual.nan_to_num(math.inf)


def _of_two_terms(u: Tensor, value: Tensor, gamma: float) -> Fit | None:
    """The weights of two terms, at the exponent that was asked for."""
    focal = u.neg().sigmoid() ** gamma * softplus(-u)
    for form, second in _SECOND.items():
        terms = torch.stack([focal, second(u, gamma)], 1) / value[:, None]
        if not bool(terms.isfinite().all()):
            continue
        try:
            weights = torch.linalg.lstsq(terms, torch.ones_like(value)[:, None]).solution[:, 0]
        except RuntimeError:
            continue
        first, other = weights.tolist()
        if abs(first) > 1e-9:
            found = Fit(first, gamma, form=form, second=other / first)
            if _holds(found, u, value, _NEAR):
                return found
    return None


def _nice(number: float) -> float:
    """A number as somebody would have written it, where it is that to five digits."""
    for digits in (1, 2, 3):
        rounded = float(f"{number:.{digits}g}")
        if abs(number - rounded) <= _NEAR * abs(rounded):
            return rounded
    return 0.0 if abs(number) < 1e-6 else number


def fit_slope(u: Tensor, slope: Tensor, gamma: float) -> Fit | None:
    """The same of a loss that tells no values: from its gradients, among likely exponents."""
    mild = u.abs() < 4
    for exponent in dict.fromkeys((gamma, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)):
        expected = Fit(1.0, exponent).slope(u[mild])
        ratio = slope[mild] / expected
        factor = float(ratio.median())
        if bool(((ratio - factor).abs() <= 10 * _NEAR * abs(factor)).all()):
            return Fit(_nice(factor), exponent)
    return None
