"""Which of many like cases run each time, and which under `make test-exhaustive` alone."""

import pytest


def sampled(values, keeps):
    """Parameters, of which those that `keeps` doesn't are marked as exhaustive."""
    return [
        v if keeps(v) else pytest.param(*as_row(v), marks=pytest.mark.exhaustive) for v in values
    ]


def as_row(value):
    """The parameters of one case; a tuple has several."""
    return value if isinstance(value, tuple) else (value,)
