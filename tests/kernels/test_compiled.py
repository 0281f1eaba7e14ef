"""What the compilers make of the kernels, for GPUs that aren't there: counts, and bounds of them.

An H100 issues 118 instructions and 15 calls of the special function unit for an element in the time
that it takes to move 12 bytes, what float32 needs; in 16 bits half of all three.
"""

from dataclasses import replace

import pytest

from kernels.offline import Case

GPUS = ("sm_75", "sm_80", "sm_90", "sm_100", "gfx942")
NUMBERS = {
    "n": "i64",
    "gamma": "fp32",
    "c": "fp32",
    "c_rest": "fp32",
    "alpha": "fp32",
    "scale": "fp32",
}


def _total(dtype, grade):
    """The sum and all slopes of hard targets in one pass, 8 elements a thread."""
    pointers = {"x_ptr": dtype, "y_ptr": dtype, "total_ptr": "*fp32", "slope_ptr": dtype}
    constants = {"GRADE": grade, "BLOCK": 1024}
    return Case("kernels.probes:total_and_slope", pointers | NUMBERS, constants, elements=1024)


# By name: the case; bounds of its instructions by GPU, and how many are of the special function
# unit; bytes loaded and stored for an element; operations that flush, of a thread.
# The special function unit gives the seed of 1 / n, and in 16 bits two exponentials.
TABLE = {
    "float32": (_total("*fp32", 32), (100, 101, 101, 84, 99), 1, 8, 4, 0),
    "float16": (_total("*fp16", 16), (53, 53, 54, 56, 60), 3, 4, 2, 16),
    "bfloat16": (_total("*bf16", 16), (60, 55, 56, 57, 66), 3, 4, 2, 16),
}  # fmt: skip
CASES = {f"{name}, {gpu}": replace(row[0], gpu=gpu) for name, row in TABLE.items() for gpu in GPUS}
ROWS = pytest.mark.parametrize("gpu", GPUS)
NAMES = pytest.mark.parametrize("name", TABLE)


@pytest.fixture(scope="module")
def reports(compile_all):
    """All cases, compiled once."""
    return compile_all(CASES)


@ROWS
@NAMES
def test_instructions_of_an_element(reports, name, gpu):
    """Within what was measured, and at most 2 more."""
    most = TABLE[name][1][GPUS.index(gpu)]
    assert most - 5 <= reports[f"{name}, {gpu}"].instructions <= most


@ROWS
@NAMES
def test_special_functions_of_an_element(reports, name, gpu):
    """As many as the source has: none comes in by a division or a logarithm of the library."""
    assert reports[f"{name}, {gpu}"].special == TABLE[name][2]


@ROWS
@NAMES
def test_bytes_of_an_element(reports, name, gpu):
    """Each number is read once and written once; a block's sum is 4 bytes more, here a thread."""
    report = reports[f"{name}, {gpu}"]
    a_thread = CASES[f"{name}, {gpu}"].elements / 128 if gpu.startswith("sm") else 4
    assert report.loaded == TABLE[name][3]
    assert report.stored == TABLE[name][4] + 4 / a_thread


@ROWS
@NAMES
def test_no_float64_and_no_spills(reports, name, gpu):
    """A consumer card has two lanes of float64; registers suffice."""
    report = reports[f"{name}, {gpu}"]
    assert report.float64 == 0
    assert report.spills == 0


@ROWS
@NAMES
def test_subnormal_numbers_are_kept(reports, name, gpu):
    """Nothing flushes them, but for NVIDIA's exponential, whose square isn't subnormal before."""
    report = reports[f"{name}, {gpu}"]
    assert report.flushing == (TABLE[name][5] if gpu.startswith("sm") else 0)


def test_what_is_forbidden_is_seen(compile_all):
    """The counts can tell: a kernel with all of it, in `forbidden`."""
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i64"}
    constants = {"BLOCK": 1024}
    case = Case("kernels.probes:forbidden", signature, constants, elements=1024)
    found = compile_all({gpu: replace(case, gpu=gpu) for gpu in ("sm_90", "gfx942")})
    assert found["sm_90"].flushing == 8
    for report in found.values():
        assert report.special >= 1
        assert report.float64 >= 4 * 4
        assert (report.loaded, report.stored) == (4, 4)
