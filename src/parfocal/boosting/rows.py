"""The derivatives as CatBoost asks for them, of few samples at a time, in loops of numba.

Without numba the loop over the classes of a sample is Python's, and `binary` is not to be called.
The forms are those of `numerics.derivatives`, a sample at a time; what is returned is of -L, which
CatBoost makes larger.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from parfocal.boosting.arrays import Floats
from parfocal.boosting.objective import FLOOR

try:
    import numba

    IS_COMPILED = True
except ImportError:  # pragma: no cover - CatBoost asks for numba by itself
    IS_COMPILED = False


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at its first call and kept on disk; it lets other threads run."""
    if not IS_COMPILED:  # pragma: no cover - as above
        return function
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


_POLICIES = {"gauss_newton": 0, "exact": 1, "absolute": 2, "floor": 3}


def binary(
    scores: Floats,
    labels: Floats,
    weights: Floats | None,
    gamma: float,
    alpha: float | None,
    hessian: str,
) -> Floats:
    """Pairs of both derivatives of -L, (N, 2), of a binary loss."""
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    result = np.empty((len(scores), 2))
    weights = labels[:0] if weights is None else weights
    wrong = _binary(scores, labels, weights, gamma, positive, negative, _POLICIES[hessian], result)
    if wrong >= 0:
        raise ValueError(f"FocalObjective: expected labels in [0, 1], got {labels[wrong]:g}")
    return result


def classes(
    scores: Floats, label: float, factor: float, gamma: float, hessian: str
) -> tuple[Floats, Floats]:
    """Both derivatives of -L of a sample, (C,) and (C, C), of a loss of classes."""
    if not (0 <= label < len(scores) and label == int(label)):
        expected = f"expected labels 0 to {len(scores) - 1}"
        raise ValueError(f"MulticlassFocalObjective: {expected}, got {label:g}")
    gradient, second = np.empty(len(scores)), np.empty((len(scores), len(scores)))
    _classes(scores, int(label), factor, gamma, _POLICIES[hessian], gradient, second)
    return gradient, second


@_compiled
def _policy(exact, gauss_newton, policy):  # type: ignore[no-untyped-def]
    if policy == 1:
        return exact
    if policy == 2:
        return abs(exact)
    if policy == 3:
        return max(exact, FLOOR * gauss_newton)
    return gauss_newton


@_compiled
def _power(q, gamma):  # type: ignore[no-untyped-def]
    """q ** gamma; the usual exponents without the logarithm of a power."""
    if gamma == 2:
        return q * q
    if gamma == 1:
        return q
    if gamma == 0:
        return 1.0
    if gamma == 0.5:
        return math.sqrt(q)
    return q**gamma


@_compiled
def _hard(x, y, gamma, policy):  # type: ignore[no-untyped-def]
    """Both derivatives at a label of 0 or 1, by the margin of the true class."""
    u = x if y == 1 else -x
    t = math.exp(-abs(u))
    near = 1 / (1 + t)
    far = t * near
    p, q = (near, far) if u > 0 else (far, near)
    ce = math.log1p(t) - min(u, 0.0)
    factor = _power(q, gamma)
    slope = -factor * (gamma * p * ce + q)
    second = -p * slope
    if policy > 0:
        exact = factor * p * (gamma * ce * (gamma * p - q) + (2 * gamma + 1) * q)
        second = _policy(exact, second, policy)
    return (slope if y == 1 else -slope), second


@_compiled
def _soft(x, y, gamma, policy):  # type: ignore[no-untyped-def]
    """Both derivatives at a label between."""
    t = math.exp(-abs(x))
    near = 1 / (1 + t)
    far = t * near
    s, o, differs = (near, far, 1 - y) if x > 0 else (far, near, y)
    ce = math.log1p(t) + differs * abs(x)
    q = y * o + (1 - y) * s
    r = (1 - 2 * y) * s * o / q
    ce_slope = (1 - y) * s - y * o
    exact = s * o + 2 * gamma * r * ce_slope + gamma * r * (o - s - r + gamma * r) * ce
    second = _policy(exact, s * o + gamma * r * r * ce, policy)
    factor = _power(q, gamma)
    return factor * (gamma * r * ce + ce_slope), factor * second


@_compiled
def _binary(scores, labels, weights, gamma, positive, negative, policy, result):  # type: ignore[no-untyped-def]
    """Fills the pairs; the place of a label that is none, or -1."""
    for i in range(len(scores)):
        x, y = scores[i], float(labels[i])
        if not 0 <= y <= 1:
            return i
        is_hard = y in (0.0, 1.0)
        slope, second = _hard(x, y, gamma, policy) if is_hard else _soft(x, y, gamma, policy)
        factor = -(y * positive + (1 - y) * negative)
        if len(weights):
            factor *= weights[i]
        result[i, 0] = factor * slope
        result[i, 1] = factor * second
    return -1


@_compiled
def _classes(scores, label, factor, gamma, policy, gradient, second):  # type: ignore[no-untyped-def]
    """Fills both: g = -L' (1, -s_j), and by the policy a matrix or its diagonal.

    The matrix of Gauss-Newton is that of the cross-entropy, diag(p) - p p', times dL/dce; the true
    one is L'' g g' - L' (diag(s) - s s') of the others, s their softmax.
    """
    count = len(scores)
    top = -math.inf
    for j in range(count):
        if j != label:
            top = max(top, scores[j])
    total = 0.0
    for j in range(count):
        gradient[j] = math.exp(scores[j] - top) if j != label else 0.0  # s_j before its division
        total += gradient[j]
    u = scores[label] - (top + math.log(total))
    t = math.exp(-abs(u))
    near = 1 / (1 + t)
    far = t * near
    p, q = (near, far) if u > 0 else (far, near)
    ce = math.log1p(t) - min(u, 0.0)
    scale = factor * _power(q, gamma)
    rise = scale * (gamma * p * ce + q)  # -L'
    bend = scale * p * (gamma * ce * (gamma * p - q) + (2 * gamma + 1) * q)  # L''
    for j in range(count):
        gradient[j] /= total
    is_whole = policy < 2
    for j in range(count):
        s = gradient[j]
        for k in range(count):
            z = gradient[k]
            if j == label and k == label:
                positive, exact = rise * p, bend
            elif label in (j, k):
                positive, exact = -rise * p * (s + z), -bend * (s + z)
            elif j == k:
                positive = rise * s * (p + q * (1 - s))
                exact = bend * s * s + rise * s * (1 - s)
            else:
                positive, exact = -rise * q * s * z, (bend - rise) * s * z
            is_filled = is_whole or j == k
            second[j, k] = -_policy(exact, positive, policy) if is_filled else 0.0
    for j in range(count):
        gradient[j] *= -rise
    gradient[label] = rise
