"""Which of many like cases run each time, and which under `make test-exhaustive` alone."""

import zlib
from collections import defaultdict

import pytest


def sampled(values, keeps):
    """Parameters, of which those that `keeps` doesn't are marked as exhaustive."""
    return [
        v if keeps(v) else pytest.param(*as_row(v), marks=pytest.mark.exhaustive) for v in values
    ]


def first_of_each(values, key):
    """Parameters, of which all but the first of each key are marked as exhaustive."""
    firsts = {key(v): v for v in reversed(values)}
    return sampled(values, lambda v: firsts[key(v)] is v)


def as_row(value):
    """The parameters of one case; a plain tuple has several."""
    return value if type(value) is tuple else (value,)


def mark_all_but_a_cover(items):
    """Mark as exhaustive what `cover` leaves out of the cases of each test that is `covering`."""
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("covering") and not item.get_closest_marker("exhaustive"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        kept = cover({case.nodeid: parameters(case) for case in cases})
        for case in cases:
            if case.nodeid not in kept:
                case.add_marker(pytest.mark.exhaustive)


def parameters(case):
    """Names and values of its parameters; a value is the same object in every case that has it."""
    return {(name, id(value)) for name, value in case.callspec.params.items()}


def cover(cases):
    """Names of a few cases in which every parameter of all occurs.

    The next is one with the most that are new, chosen by its name: their order doesn't matter.

    >>> sorted(cover({"a0": {"a", 0}, "a1": {"a", 1}, "b0": {"b", 0}, "b1": {"b", 1}}))
    ['a1', 'b0']
    """
    left = set().union(*cases.values())
    kept = set()
    while left:
        best = max(cases, key=lambda name: (len(left & cases[name]), zlib.crc32(name.encode())))
        kept.add(best)
        left -= cases[best]
    return kept
