"""What the compilers make of the kernels, for GPUs that aren't there: counts, and bounds of them.

An H100 issues 118 instructions and 15 calls of the special function unit for an element in the time
that it takes to move 12 bytes, what float32 needs; in 16 bits half of all three.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import triton
from sampled import sampled

from kernels.cases import of_classes, sums, values
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


class Budget(NamedTuple):
    """A case for all GPUs, and what an element may cost there.

    instructions: at most, in the order of GPUS: what was measured, and 1 to 3 more.
    special: of the special function unit: the seed of 1 / n, and in 16 bits two exponentials.
    loaded, stored: bytes.
    flushing: operations of a thread.
    """

    case: Case
    instructions: tuple[int, ...]
    special: int
    loaded: int
    stored: int
    flushing: int = 0


BUDGETS = {
    "arithmetic, float32": Budget(_total("*fp32", 32), (100, 101, 101, 84, 99), 1, 8, 4),
    "arithmetic, float16": Budget(_total("*fp16", 16), (54, 54, 55, 57, 61), 3, 4, 2, 16),
    "arithmetic, bfloat16": Budget(_total("*bf16", 16), (61, 56, 57, 58, 67), 3, 4, 2, 16),
    "sigmoid, float32": Budget(
        sums("*fp32", "*fp32", alpha="fp32"), (104, 103, 106, 86, 102), 1, 8, 4
    ),
    "sigmoid, float32, bool": Budget(
        sums("*fp32", "*i1", alpha="fp32"), (110, 107, 111, 91, 104), 1, 5, 4
    ),
    "sigmoid, float16": Budget(
        sums("*fp16", "*fp16", alpha="fp32"), (61, 60, 61, 57, 66), 3, 4, 2, 16
    ),
    "sigmoid, bfloat16": Budget(
        sums("*bf16", "*bf16", alpha="fp32"), (67, 62, 62, 58, 70), 3, 4, 2, 16
    ),
    # What soft targets would cost is there too, behind a branch.
    "sigmoid, float32, soft": Budget(
        sums("*fp32", "*fp32", alpha="fp32", soft="maybe"), (216, 210, 214, 168, 212), 3, 8, 4
    ),
    # Four elements share an index, which is read once for them, where C is a multiple of 4. Beyond
    # the first of a row, reads find it in the cache.
    "80 classes, float32": Budget(
        of_classes(sums("*fp32", "*i64", alpha="fp32"), 80), (109, 108, 110, 90, 108), 1, 6, 4
    ),
    "20 classes, bfloat16": Budget(
        of_classes(sums("*bf16", "*i64", alpha="fp32"), 20), (71, 65, 66, 61, 76), 3, 4, 2, 16
    ),
    "91 classes, float32": Budget(
        of_classes(sums("*fp32", "*i64", alpha="fp32"), 91), (119, 121, 123, 105, 117), 1, 12, 4
    ),
    "maps of 21 classes, float32": Budget(
        of_classes(sums("*fp32", "*i64", alpha="fp32"), 21, in_maps=True),
        (137, 136, 139, 120, 141),
        1,
        12,
        4,
    ),
    "maps, more than 2 ** 31 logits": Budget(
        of_classes(sums("*fp32", "*i64", alpha="fp32"), 21, in_maps=True, wide=True),
        (147, 147, 149, 130, 177),
        1,
        12,
        4,
    ),
    "80 classes, values, float32": Budget(
        of_classes(values("*fp32", "*i64"), 80), (71, 70, 72, 71, 65), 0, 6, 4
    ),
    "values, float32": Budget(values("*fp32", "*fp32"), (68, 67, 69, 68, 58), 0, 8, 4),
}
CASES = {
    f"{name}, {gpu}": replace(budget.case, gpu=gpu)
    for name, budget in BUDGETS.items()
    for gpu in GPUS
}
COUNTED = pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8),
    reason="counted with Triton 3.8; 3.6 makes up to a tenth more",
)
# One card each time, all of them under `make test-exhaustive`.
ROWS = pytest.mark.parametrize("gpu", sampled(GPUS, "sm_90".__eq__), scope="module")
NAMES = pytest.mark.parametrize("name", BUDGETS)


@pytest.fixture(scope="module")
def reports(compile_all, gpu):
    """All cases of a card, compiled once."""
    return compile_all({name: case for name, case in CASES.items() if case.gpu == gpu})


@COUNTED
@ROWS
@NAMES
def test_instructions_of_an_element(reports, name, gpu):
    """Within their budget."""
    most = BUDGETS[name].instructions[GPUS.index(gpu)]
    assert reports[f"{name}, {gpu}"].instructions <= most


@COUNTED
@ROWS
@NAMES
def test_special_functions_of_an_element(reports, name, gpu):
    """As many as the source has: none comes in by a division or a logarithm of the library.

    A thread may have one for all of its elements: a division by a number of the host.
    """
    assert math.floor(reports[f"{name}, {gpu}"].special) == BUDGETS[name].special


@ROWS
@NAMES
def test_bytes_of_an_element(reports, name, gpu):
    """Each number is read once and written once; a block's sum is 4 bytes of a thread."""
    report, case = reports[f"{name}, {gpu}"], CASES[f"{name}, {gpu}"]
    threads = case.warps * (32 if gpu.startswith("sm") else 64)
    has_sum = {"total_ptr", "partial_ptr"} & set(case.signature)
    assert report.loaded == BUDGETS[name].loaded
    assert report.stored == BUDGETS[name].stored + (4 * threads / case.elements if has_sum else 0)


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
    assert report.flushing == (BUDGETS[name].flushing if gpu.startswith("sm") else 0)


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
