"""The kernels as compiled for a GPU, run statement by statement, against float64.

This is their accuracy on NVIDIA's cards: which products were contracted, what is flushed, and the
special function unit, exact and off by its whole bound.
"""

import math

import pytest
import torch

import parfocal
from kernels import ptx
from kernels.cases import of_classes, rows_of_classes, sums, values
from kernels.offline import Case
from kernels.samples import INF, NAN, closed_form, even, margins, representable, worst
from kernels.test_smoothed import Rows, allowed
from kernels.test_smoothed import truth as smoothed_truth
from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics.forms import ClassFocal
from parfocal.numerics.triton.arithmetic import exponent
from parfocal.numerics.triton.tiles import Tile

# One warp a block and one element a thread.
BLOCK = {"BLOCK": 32}
NUMBERS = {"n": "i64", "gamma": "fp32", "c": "fp32", "c_rest": "fp32"}


def _value_and_slope(dtype, grade):
    pointers = dict.fromkeys(("x_ptr", "y_ptr", "value_ptr", "slope_ptr"), dtype)
    constants = BLOCK | {"GRADE": grade}
    return Case("kernels.probes:value_and_slope", pointers | NUMBERS, constants, 32, warps=1)


def _function(name):
    signature = {"x_ptr": "*fp32", "out_ptr": "*fp32", "n": "i64"}
    return Case("kernels.probes:function", signature, BLOCK | {"NAME": name}, 32, warps=1)


# 21 classes in one warp: maps, and rows as long ones are. Short rows go through shared memory.
SHORT, LONG = Tile(32, 32, 1, one_a_thread=True), Tile(32, 1, 1)

# One class index a row, in memory as Triton's type: the shape of the logits, and that of the index.
INDEXED = {
    "80 classes": ((41, 80), torch.int64, "*i64"),
    "91 classes": ((33, 91), torch.int32, "*i32"),
    "small maps": ((2, 21, 5, 9), torch.uint8, "*u8"),
    "maps": ((2, 3, 33, 34), torch.int64, "*i64"),
}


def _indexed(name, wide):
    shape, _, kind = INDEXED[name]
    case = sums("*fp32", kind, elements=32, warps=1)
    return of_classes(case, shape[1], in_maps=len(shape) > 2, wide=wide)


CASES = {
    **{(name, wide): _indexed(name, wide) for name in INDEXED for wide in (False, True)},
    "maps": rows_of_classes(SHORT, 21, "*fp32", strides=("position_stride",)),
    "long rows": rows_of_classes(LONG, 21, "*fp32", strides=("class_stride",)),
    "smoothed maps": rows_of_classes(
        SHORT, 21, "*fp32", strides=("position_stride",), smoothing="even"
    ),
    "smoothed long rows": rows_of_classes(
        LONG, 21, "*fp32", strides=("class_stride",), smoothing="weighted"
    ),
    torch.float32: _value_and_slope("*fp32", 32),
    torch.float16: _value_and_slope("*fp16", 16),
    torch.bfloat16: _value_and_slope("*bf16", 16),
    "sums": sums("*fp32", "*fp32", soft="maybe", elements=32, warps=1),
    "values": values("*fp32", "*fp32", soft="maybe", elements=32, warps=1),
    "sums, bfloat16": sums("*bf16", "*bf16", elements=32, warps=1),
    "reciprocal": _function("reciprocal"),
    "total": Case(
        "kernels.probes:total_and_slope",
        {"x_ptr": "*fp32", "y_ptr": "*fp32", "total_ptr": "*fp32", "slope_ptr": "*fp32"}
        | NUMBERS
        | {"alpha": "fp32", "scale": "fp32"},
        BLOCK | {"GRADE": 32},
        32,
        warps=1,
    ),
}

UNIT = pytest.mark.parametrize("off", [0.0, 1.0], ids=["exact unit", "unit at its bound"])
GAMMAS = pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0])


@pytest.fixture(scope="module")
def codes(compile_all):
    """The PTX of each case."""
    reports = compile_all({str(name): case for name, case in CASES.items()})
    return {name: reports[str(name)].text for name in CASES}


def launched(code, inputs, outputs, numbers=(), off=0.0):
    """What a kernel stores for each input; NaN where it stored nothing."""
    results = [torch.full_like(inputs[0], NAN) for _ in range(outputs)]
    n = inputs[0].numel()
    ptx.run(code, [*inputs, *results, n, *numbers], -(-n // 32), off=off)
    return results


@UNIT
@GAMMAS
def test_value_and_slope(codes, gamma, off):
    """4 + 2 gamma ULP, as all losses promise; subnormal results too."""
    gamma = torch.tensor(gamma).item()
    u = torch.cat([margins()[::2], even(-4.0, 18.0)])
    y = (torch.arange(len(u)) % 2).float()
    x = torch.where(y > 0, u, -u)
    value, slope = launched(codes[torch.float32], (x, y), 2, exponent(gamma), off)
    true_value, true_slope = closed_form(u.double(), gamma)
    for got, truth in ((value, true_value), (torch.where(y > 0, slope, -slope), true_slope)):
        assert max(worst(got, truth)) <= 4 + 2 * gamma


@UNIT
@GAMMAS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_value_and_slope_of_16_bits(codes, dtype, gamma, off):
    """Half an ULP, and 0.02 of the arithmetic's, at every finite logit there is."""
    gamma = torch.tensor(gamma).item()
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    got = launched(codes[dtype], (x, torch.ones_like(x)), 2, exponent(gamma), off)
    for numbers, truth in zip(got, closed_form(x.double(), gamma), strict=True):
        assert max(worst(numbers, truth)) <= 0.52


def told(gamma):
    """The last numbers of an elementwise kernel: an exponent, `number`, another."""
    return *exponent(gamma), 0.0, *exponent(0.0)


@UNIT
@GAMMAS
def test_sigmoid(codes, gamma, off):
    """The library's own kernels at hard targets, which might be soft: both branches are there."""
    gamma = torch.tensor(gamma).item()
    u = torch.cat([margins()[::2], even(-4.0, 18.0)])
    y = (torch.arange(len(u)) % 2).float()
    x = torch.where(y > 0, u, -u)
    count, blocks = len(u), -(-len(u) // 32)
    true_value, true_slope = closed_form(u.double(), gamma)
    partial, slope, value = torch.zeros(blocks), torch.full_like(x, NAN), torch.full_like(x, NAN)
    numbers = [count, 1.0, *told(gamma)]
    ptx.run(codes["sums"], [x, y, partial, slope, *numbers], blocks, off=off)
    ptx.run(codes["values"], [x, y, value, count, *told(gamma)], blocks, off=off)
    assert max(worst(value, true_value)) <= 4 + 2 * gamma
    assert max(worst(torch.where(y > 0, slope, -slope), true_slope)) <= 4 + 2 * gamma
    exact = torch.nn.functional.pad(true_value, (0, blocks * 32 - count)).view(blocks, 32).sum(1)
    normal, subnormal = worst(partial, exact)
    assert normal <= 5 + 2 * gamma
    assert subnormal <= 32  # one for each number of the sum


@UNIT
@GAMMAS
def test_sigmoid_of_bfloat16(codes, gamma, off):
    """The slope of the library's own kernel at every finite logit."""
    gamma = torch.tensor(gamma).item()
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()]
    count, blocks = len(x), -(-len(x) // 32)
    slope = torch.full_like(x, NAN)
    arguments = [x, torch.ones_like(x), torch.zeros(blocks), slope, count, 1.0, *told(gamma)]
    ptx.run(codes["sums, bfloat16"], arguments, blocks, off=off)
    assert max(worst(slope, closed_form(x.double(), gamma)[1])) <= 0.52


@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("name", INDEXED)
def test_class_indices(codes, name, wide):
    """Each element finds the index of its row: blocks of 32 begin anywhere in a row, or a map."""
    shape, dtype, _ = INDEXED[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    index = torch.randint(0, shape[1] + 1, shape[:1] + shape[2:], generator=generator)
    one_hot = torch.nn.functional.one_hot(index, shape[1] + 1)[..., : shape[1]].movedim(-1, 1)
    u = torch.where(one_hot > 0, x, -x).double()
    value, slope = closed_form(u, 0.5)
    count, blocks = x.numel(), -(-x.numel() // 32)
    partial, gradient = torch.zeros(blocks), torch.full((count,), NAN)
    inner = [math.prod(shape[2:])] if len(shape) > 2 else []
    arguments = [x.flatten(), index.flatten().to(dtype), partial, gradient, count, *inner]
    ptx.run(codes[name, wide], [*arguments, 1.0, *told(0.5)], blocks)
    assert torch.allclose(partial.double().sum(), value.sum(), rtol=1e-6)
    slope = torch.where(one_hot > 0, slope, -slope)
    assert torch.allclose(gradient.view(shape).double(), slope, rtol=1e-6)


@UNIT
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("layout", ["maps", "long rows"])
def test_classes(codes, layout, gamma, off):
    """The gradient of class indices and its sum within (1 + gamma)(8 + d + log2(C) / 2) ULP."""
    gamma = torch.tensor(gamma).item()
    generator = torch.Generator().manual_seed(3)
    rows = 1024
    size = torch.rand(rows, 1, generator=generator) * 30
    x = torch.randn(rows, 21, generator=generator) * size
    index = torch.randint(0, 21, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator) + 0.5
    wide = x.double().requires_grad_()  # in float64, where no kernel is
    losses = parfocal.softmax_focal_loss(wide, index, gamma=gamma, reduction="none")
    total = (weight.double() * losses).sum()
    (slope,) = torch.autograd.grad(total, wide)
    in_rows = layout != "maps"
    flat = (x if in_rows else x.t()).contiguous()
    programs = rows if in_rows else rows // 32
    partial, gradient = torch.full((programs,), NAN), torch.full_like(flat, NAN)
    strides = [0, 21 if in_rows else rows]  # of images; of rows, or of classes: the other is 1
    arguments = [flat, index, weight, partial, gradient, rows, 21, *strides, gamma, 1.0]
    ptx.run(codes[layout], arguments, programs, off=off)
    gradient = gradient if in_rows else gradient.t()
    spread = x.amax(1) - x.amin(1)
    bound = (1 + gamma) * (8 + spread + math.log2(21) / 2)
    unit = torch.maximum(slope.abs(), torch.tensor(2.0**-126)).float()
    errors = (gradient.double() - slope).abs() / (unit.nextafter(unit + 1) - unit).double()
    assert (errors.amax(1) <= bound).all()
    assert torch.allclose(partial.double().sum(), total, rtol=1e-6)


@UNIT
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("layout", ["maps", "long rows"])
def test_smoothed_classes(codes, layout, gamma, off):
    """Of the two terms of a gradient within (1 + gamma)(8 + d + log2(C)) ULP, and the sum."""
    rows, smoothing = 1024, 0.1
    generator = torch.Generator().manual_seed(3)
    size = torch.rand(rows, 1, generator=generator) * 30
    x = torch.randn(rows, 21, generator=generator) * size
    index = torch.randint(0, 21, (rows,), generator=generator)
    of_rows = torch.rand(rows, generator=generator) + 0.5
    of_classes = torch.rand(21, generator=generator) + 0.5
    in_rows = layout != "maps"
    weights = [of_classes] if in_rows else []  # those of maps would go through shared memory
    value, gradient = smoothed_truth(Rows(x, index), ClassFocal(gamma, smoothing, *weights))
    flat = (x if in_rows else x.t()).contiguous()
    partial, found = torch.full((rows if in_rows else rows // 32,), NAN), torch.full_like(flat, NAN)
    strides = [0, 21 if in_rows else rows]
    arguments = [flat, index, of_rows, partial, found, rows, 21, *strides, gamma, 1.0]
    arguments += [*weights, 1 - smoothing, smoothing / 21]
    ptx.run(codes[f"smoothed {layout}"], arguments, len(partial), off=off)
    want = Truth(*(part * of_rows.double()[:, None] for part in gradient))
    errors = ulp_error(found if in_rows else found.t(), want, of_scale=True).amax(1)
    assert (errors <= allowed(Rows(x, index), gamma)).all()
    assert torch.allclose(partial.double().sum(), (value.hi * of_rows).sum(), rtol=1e-6)


@pytest.mark.parametrize("layout", ["maps", "long rows", "smoothed maps", "smoothed long rows"])
def test_nan_of_any_class_makes_its_row_nan(codes, layout):
    """Also by exponentials, which are made of the bits of numbers, and a NaN has all of them."""
    rows, classes = 32, 21
    x = torch.zeros(rows, classes)
    x[torch.arange(classes), torch.arange(classes)] = NAN
    in_rows = "maps" not in layout
    flat = (x if in_rows else x.t()).contiguous()
    partial, gradient = torch.zeros(rows if in_rows else 1), torch.zeros_like(flat)
    arguments = [flat, torch.zeros(rows, dtype=torch.int64), torch.ones(rows), partial, gradient]
    strides = [0, classes if in_rows else rows]
    arguments += [rows, classes, *strides, 0.5, 1.0]
    if "smoothed" in layout:
        arguments += [*([torch.ones(classes)] if in_rows else []), 0.9, 0.1 / classes]
    ptx.run(codes[layout], arguments, len(partial))
    has_nan = torch.arange(rows) < classes
    gradient = gradient if in_rows else gradient.t()
    assert torch.equal(gradient.isnan(), has_nan[:, None].expand(-1, classes))
    assert torch.equal(partial.isnan(), has_nan if in_rows else torch.ones(1, dtype=torch.bool))


def test_a_newton_step_makes_up_for_the_unit(codes):
    """The reciprocal of 1 to 2 is right to 0.6 ULP, though its seed is off by two."""
    n = even(1.0, 2.0)
    got = launched(codes["reciprocal"], (n,), 1, off=1.0)[0]
    assert max(worst(got, 1 / n.double())) <= 0.6


def test_sum_of_a_block(codes):
    """Lanes beyond the end add nothing, and the sum is that of the values."""
    count = 32 * 20 + 7
    x = torch.linspace(-90, 90, count)
    blocks = -(-count // 32)
    totals, slopes = torch.full((blocks,), NAN), torch.full((count,), NAN)
    arguments = [x, torch.ones(count), totals, slopes, count, *exponent(2.0), 0.25, 1.0]
    ptx.run(codes["total"], arguments, blocks)
    value, slope = closed_form(x.double(), 2.0)
    padded = torch.nn.functional.pad(0.25 * value, (0, blocks * 32 - count)).view(blocks, 32)
    assert max(worst(totals, padded.sum(1))) <= 8.0
    assert max(worst(slopes, 0.25 * slope)) <= 9.0


def test_nothing_beyond_the_end_is_touched(codes):
    """A load or a store outside of a tensor is an error of the interpreter."""
    x = torch.zeros(33)
    with pytest.raises(IndexError):
        ptx.run(codes[torch.float32], [x, x, x.clone(), torch.zeros(32), 33, *exponent(2.0)], 2)


# The interpreter itself, on statements whose results are known.
HEAD = ".visible .entry f(\n.param .u64 .ptr f_param_0\n)\n.reqntid 32\n{\n"


def interpreted(body, numbers, off=0.0):
    """Statements that turn %r1, or %f1 of the same bits, into %r2, for each number."""
    numbers = torch.nn.functional.pad(numbers, (0, -len(numbers) % 32))
    load = (
        "ld.param.b64 %rd1, [f_param_0]; mov.u32 %r8, %tid.x; mov.u32 %r9, %ctaid.x;"
        "mad.lo.s32 %r8, %r9, 32, %r8; mad.wide.u32 %rd2, %r8, 4, %rd1;"
        "ld.global.b32 {%r1}, [%rd2+0];"
    )
    text = HEAD + load + body + "st.global.b32 [%rd2+0], {%r2};\nret;\n}\n"
    ptx.run(text, [numbers], len(numbers) // 32, off=off)
    return numbers


def test_fma_rounds_once():
    """(1 + e) ** 2 - 1 - 2 e is e ** 2, which a product that is rounded first loses."""
    e = 2.0**-13
    got = interpreted(f"fma.rn.f32 %r2, %r1, %r1, 0f{_bits(-1 - 2 * e)};", torch.full((32,), 1 + e))
    assert (got == e * e).all()


def _bits(number):
    return f"{torch.tensor(number).view(torch.int32).item() & 0xFFFFFFFF:08X}"


def test_flush_is_where_it_is_written():
    """ftz takes a subnormal number for 0, before and after."""
    x = representable()[:4096]
    kept = interpreted("mul.f32 %r2, %r1, 0f3F000000;", x.clone())
    flushed = interpreted("mul.ftz.f32 %r2, %r1, 0f3F000000;", x.clone())
    assert torch.equal(kept[: len(x)], x / 2)
    is_kept = (x / 2).abs() >= 2.0**-126
    assert torch.equal(flushed[: len(x)], torch.where(is_kept, x / 2, torch.zeros(())))


def test_minimum_and_nan():
    """min drops a NaN, min.NaN keeps it."""
    x = torch.tensor([1.0, NAN, INF] + [0.0] * 29)
    assert interpreted("min.f32 %r2, %r1, 0f40000000;", x.clone())[:3].tolist() == [1.0, 2.0, 2.0]
    assert math.isnan(interpreted("min.NaN.f32 %r2, %r1, 0f40000000;", x.clone())[1])


def test_unit_is_off_by_its_bound():
    """Up or down by 2 ** -23 of a reciprocal: one ULP of those above 1/2."""
    x = even(1.0, 2.0)
    got = interpreted("rcp.approx.f32 %r2, %r1;", x.clone(), off=1.0)[: len(x)]
    error = got.double() * x.double() - 1
    assert error.abs().max() > 2.0**-23
    assert error.abs().max() < 2.0**-22
    assert error.min() < 0 < error.max()


def test_threads_part_and_meet():
    """A loop that each thread leaves after rounds of its own: powers of two."""
    body = (
        "mov.b32 %r2, 0f3F800000; mov.b32 %r3, 0; mov.u32 %r4, %tid.x;\n"
        "$L_again:\n"
        "setp.ge.u32 %p1, %r3, %r4; @%p1 bra $L_done; add.s32 %r3, %r3, 1;"
        "add.f32 %r2, %r2, %r2; bra.uni $L_again;\n"
        "$L_done:\n"
        "mul.f32 %r2, %r2, 0f3F000000;"
    )
    assert torch.equal(interpreted(body, torch.zeros(32)), 2.0 ** (torch.arange(32) - 1.0))


def test_lanes_of_a_warp_exchange():
    """shfl.bfly gives the number of the lane across."""
    x = torch.arange(64.0)
    got = interpreted("shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;", x.clone())
    assert torch.equal(got, x.view(2, 2, 16).flip(1).reshape(-1))
