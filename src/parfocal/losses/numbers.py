"""Options that are numbers: the one door by which every number comes in.

What passes is made one of Python's, since NumPy's would carry out our arithmetic in its own dtype,
and what a computation in float32 can't hold is refused.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

# The largest exponent: products of it with any logit that a form keeps are finite.
LARGEST_EXPONENT = 2.0**20

# The largest of other numbers: float32 holds it, its square, and products with any loss.
_LARGEST = 2.0**40

# The largest factor of a loss, as a power of two: what it multiplies may reach 2 ** 60.
_LARGEST_FACTOR = 64


def number(call: str, name: str, value: float, *, or_else: str = "") -> float:
    """The number as one of Python's: NumPy's would carry out our arithmetic in its own dtype.

    It is the one door for numbers. What passes: real numbers of Python and NumPy, fractions, and
    arrays without dimensions; a bool doesn't.
    """
    if type(value) in (float, int):  # what it nearly always is; the general question takes longer
        return value
    if isinstance(value, (torch.SymFloat, torch.SymInt)):  # a compiler's, which stays one
        return value
    if not is_real(value):
        raise TypeError(f"{call}: expected `{name}` to be a number{or_else}, got {kind(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{call}: expected `{name}` to fit a float, got a larger one") from None


def integer(call: str, name: str, value: int) -> int:
    """The integer as one of Python's; a bool isn't one."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{call}: expected `{name}` to be an integer, got {kind(value)}")
    return int(value)


def non_negative(
    call: str, name: str, value: float, *, or_else: str = "", largest: float = _LARGEST
) -> float:
    """A number >= 0 that the computation can hold."""
    value = number(call, name, value, or_else=or_else)
    if not 0 <= value < math.inf:
        raise ValueError(f"{call}: expected `{name}` to be finite and >= 0, got {value}")
    return at_most(call, name, value, largest)


def positive(call: str, name: str, value: float) -> float:
    """A finite number > 0."""
    value = non_negative(call, name, value)
    if value == 0:
        raise ValueError(f"{call}: expected `{name}` to be positive, got {value}")
    return value


def fraction(call: str, name: str, value: float) -> float:
    """A number in [0, 1]."""
    value = number(call, name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{call}: expected `{name}` in [0, 1], got {value}")
    return value


def exponent(call: str, name: str, value: float, *, or_else: str = "") -> float:
    """A number >= 0, with which a logit may be multiplied."""
    return non_negative(call, name, value, or_else=or_else, largest=LARGEST_EXPONENT)


def smoothing(call: str, epsilon: float, gamma: float | Tensor) -> float:
    """A smoothing constant whose factor, (1 + epsilon) ** gamma, leaves room for the loss."""
    epsilon = non_negative(call, "epsilon", epsilon)
    is_plain = type(gamma) in (float, int) and type(epsilon) in (float, int)
    if epsilon and is_plain and gamma * math.log2(1 + epsilon) > _LARGEST_FACTOR:
        raise ValueError(
            f"{call}: expected (1 + epsilon) ** gamma to be at most 2 ** {_LARGEST_FACTOR}, got "
            f"`epsilon` {epsilon} and `gamma` {gamma}"
        )
    return epsilon


def at_most(call: str, name: str, value: float, largest: float = _LARGEST) -> float:
    """A number beyond which the arithmetic of float32 would leave its range."""
    if not abs(value) <= largest:
        power = math.frexp(largest)[1] - 1
        raise ValueError(f"{call}: expected `{name}` to be at most 2 ** {power}, got {value}")
    return value


def is_real(value: object) -> bool:
    """Whether it is a number, or a foreign array of one real number without dimensions."""
    if isinstance(value, Real):
        return not isinstance(value, bool)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return not isinstance(value, Tensor) and getattr(value, "shape", None) == () and kind in "fiu"


def kind(value: object) -> str:
    """A value and its type, as an error says them."""
    return f"{value!r} ({type(value).__name__})"
