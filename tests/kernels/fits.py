"""The polynomials of the kernels' arithmetic, fitted anew: `python tests/kernels/fits.py`.

Each has a constant term of exactly 1 and the least possible relative error, nearly: reweighted
least squares (Lawson's algorithm) at Chebyshev's points. All are the kernels'.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]


class Fit(NamedTuple):
    """1 + x (c1 + x (c2 + ...)) for a function on an interval.

    names: the constants of `parfocal.numerics.triton.arithmetic` that hold the coefficients.
    bits: of the relative error that is stated beside them, the coefficients being of float32.
    """

    names: str
    function: Function
    low: float
    high: float
    degree: int
    bits: float


def log1p_share(t: np.ndarray) -> np.ndarray:
    """log1p(t) / t: an error relative to it is one relative to log1p(t)."""
    return np.log1p(t) / t


def log_share(p: np.ndarray) -> np.ndarray:
    """-log(1 - p) / p."""
    return -np.log1p(-p) / p


FITS = (
    Fit("E", np.exp2, -0.5, 0.5, 6, -28.3),
    Fit("L", log1p_share, 1e-9, 1.0, 10, -30.0),
    Fit("S", log1p_share, 1e-9, 1.0, 6, -19.4),
    Fit("M", log_share, 1e-9, 0.5, 10, -28.0),
    Fit("N", log_share, 1e-9, 0.5, 6, -18.0),
)


def points(fit: Fit, count: int) -> np.ndarray:
    """Chebyshev's points of the interval."""
    angles = np.pi * (np.arange(count) + 0.5) / count
    return (fit.low + fit.high) / 2 + (fit.high - fit.low) / 2 * np.cos(angles)


def relative_errors(fit: Fit, coefficients: list[float], x: np.ndarray) -> np.ndarray:
    """Of the polynomial with these coefficients, lowest first, in float64."""
    truth = fit.function(x)
    return np.abs(np.polynomial.polynomial.polyval(x, [1.0, *coefficients]) / truth - 1)


def best(fit: Fit, known: list[float], rounds: int = 60) -> list[float]:
    """All coefficients in float64, lowest first, of which the first are known.

    We want sum_k c_k x ** k / f = (f - 1) / f, with the largest residual as small as can be: each
    round raises the weight of the points at which it is large.
    """
    x = points(fit, 300)
    y = fit.function(x)
    weight = np.ones_like(x)
    terms = np.vander(x, fit.degree + 1, increasing=True)[:, 1:] / y[:, None]
    wanted = (y - 1) / y - terms[:, : len(known)] @ np.array(known)
    terms = terms[:, len(known) :]
    for _ in range(rounds):
        c = np.linalg.lstsq(terms * weight[:, None], wanted * weight, rcond=None)[0]
        residual = np.abs(terms @ c - wanted)
        weight *= 0.5 + residual / residual.max()
        weight /= weight.mean()
    return known + [float(number) for number in c]


def fitted(fit: Fit) -> list[float]:
    """The coefficients in float32, lowest first: each is rounded, then those above fitted anew."""
    known: list[float] = []
    while len(known) < fit.degree:
        known.append(float(np.float32(best(fit, known)[len(known)])))
    return known


def _short(number: float) -> str:
    """The hexadecimal form without idle zeros."""
    digits, _, exponent = number.hex().partition("p")
    return f"{digits.rstrip('0')}p{exponent}"


def main() -> None:
    """Print each polynomial as it is written in the kernels."""
    for fit in FITS:
        coefficients = fitted(fit)
        error = np.log2(relative_errors(fit, coefficients, points(fit, 100_001)).max())
        print(f"# to 2 ** {error:.1f}")
        for k, number in enumerate(coefficients, 1):
            print(f"{fit.names}{k} = {_short(number)}")


if __name__ == "__main__":
    main()
