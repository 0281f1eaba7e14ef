"""Numbers of a loss as functions of its gamma: exponents and factors, fitted to a few gammas."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch


class Exponent(NamedTuple):
    """The exponent of a class, by the gamma that was asked for."""

    slope: float = 1.0
    constant: float = 0.0

    def at(self, gamma: float) -> float:
        """For a gamma."""
        return gamma if self == ASKED else self.slope * gamma + self.constant

    def source(self) -> str:
        """In Python."""
        return str(self).replace(" gamma", " * gamma") if self.slope not in (0, 1) else str(self)

    def __str__(self) -> str:
        if self.slope == 0:
            return f"{self.constant:g}"
        part = "gamma" if self.slope == 1 else f"{self.slope:g} gamma"
        return part + (f" {'+' if self.constant > 0 else '-'} {abs(self.constant):g}"
                       if self.constant else "")  # fmt: skip


ASKED = Exponent()


class Growth(NamedTuple):
    """A factor of both classes, by the gamma: constant + slope gamma + inverse / gamma."""

    constant: float = 1.0
    slope: float = 0.0
    inverse: float = 0.0

    def at(self, gamma: float) -> float:
        """For a gamma."""
        return self.constant + self.slope * gamma + (self.inverse / gamma if self.inverse else 0.0)

    def source(self) -> str:
        """In Python."""
        terms = [
            (self.constant, "{:g}"),
            (self.slope, "{:g} * gamma"),
            (self.inverse, "{:g} / gamma"),
        ]
        return " + ".join(words.format(part) for part, words in terms if part).replace(
            "1 * gamma", "gamma"
        )


CONSTANT = Growth()


def fit_exponent(gammas: Sequence[float], exponents: Sequence[float]) -> Exponent | None:
    """The line on which the exponents are."""
    if len(gammas) == 1:
        return ASKED if exponents[0] == gammas[0] else Exponent(0.0, exponents[0])
    slope = (exponents[1] - exponents[0]) / (gammas[1] - gammas[0])
    slope = round(slope, 4)
    line = Exponent(slope, round(exponents[0] - slope * gammas[0], 4))
    near = all(
        abs(line.at(g) - s) <= 1e-3 * max(1.0, s) for g, s in zip(gammas, exponents, strict=True)
    )
    return line if near else None


def fit_growth(factors: Mapping[float, float]) -> Growth | None:
    """What the factors have of gamma: nothing, a line, or a part that falls with it."""
    seen = torch.tensor(list(factors.values()), dtype=torch.float64)
    if bool(((seen - seen[0]).abs() <= 1e-2 * seen.abs()).all()):
        return CONSTANT
    gammas = torch.tensor(list(factors), dtype=torch.float64)
    if len(gammas) < 4:
        return None
    terms = torch.stack([torch.ones_like(gammas), gammas, 1 / gammas], 1)
    weights = torch.linalg.lstsq(terms, seen[:, None]).solution
    if not bool(((terms @ weights)[:, 0] - seen).abs().le(1e-4 * seen.abs()).all()):
        return None
    parts = [part if abs(part) > 1e-4 * float(weights.abs().max()) else 0.0
             for part in weights[:, 0].tolist()]  # fmt: skip
    unit = next(part for part in parts if part)
    return Growth(*(rounded(part / unit) for part in parts))


def rounded(number: float) -> float:
    """To four digits, where it is that."""
    short = float(f"{number:.4g}")
    return short if abs(short - number) <= 1e-4 * abs(number) else number
