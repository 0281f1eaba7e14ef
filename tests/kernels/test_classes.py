"""Sums of class indices by the kernel, against the formula in float64."""

import math
from typing import NamedTuple

import pytest
import torch
from sampled import sampled
from torch import Tensor

from kernels.cases import rows_of_classes
from kernels.device import DEVICE
from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics.forms import ClassFocal
from parfocal.numerics.triton import classes, tiles
from parfocal.numerics.triton.tiles import Rows as Strides
from parfocal.numerics.triton.tiles import Tile

INF, NAN = math.inf, math.nan
HALF = ClassFocal(0.5)
GAMMAS = (0.0, 0.1, 0.5, 2.0, 5.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# A tile of each sort: positions in threads, shared among warps, a warp a row, many, and the loop.
WIDTHS = (2, 21, 64, 100, 300, 1500, 5000, 40_000)


class Rows(NamedTuple):
    """Logits (N, C) and the true classes."""

    x: Tensor
    index: Tensor


def sample(width: int, dtype: torch.dtype = torch.float32, count: int | None = None) -> Rows:
    """Rows near and far apart, of which every third is right, and every third quite wrong."""
    chance = torch.Generator().manual_seed(width)
    count = count or max(6, min(300, 10_000 // width))
    spread = torch.tensor([0.01, 1.0, 8.0, 25.0]).repeat(count)[:count, None]
    x = (torch.randn(count, width, generator=chance) * spread).to(dtype)
    index = torch.randint(width, (count,), generator=chance)
    index[::3], index[1::3] = x[::3].float().argmax(1), x[1::3].float().argmin(1)
    return Rows(x, index)


class Terms(NamedTuple):
    """The loss of each row, and the gradient of their sum, in float64."""

    loss: Tensor
    gradient: Tensor


def truth(rows: Rows, gamma: float) -> Terms:
    x, index = rows.x.double(), rows.index.unsqueeze(1)
    gamma = torch.tensor(gamma).double()
    own, others = x.gather(1, index), x.scatter(1, index, -INF)
    log_others = others.logsumexp(1, keepdim=True)
    u = own - log_others
    p, q = 1 / (1 + torch.exp(-u)), 1 / (1 + torch.exp(u))
    ce = torch.log1p(torch.exp(-u.abs())) - u.clamp(max=0)
    slope = q**gamma * (gamma * p * ce + q)
    gradient = (slope * torch.exp(others - log_others)).scatter(1, index, -slope)
    return Terms((q**gamma * ce).squeeze(1), gradient)


def allowed(rows: Rows, gamma: float) -> Tensor:
    """What `softmax_focal_loss` promises, of each row, in ULP."""
    if rows.x.dtype != torch.float32:
        return torch.ones(len(rows.x))
    spread = rows.x.amax(1) - rows.x.amin(1)
    return (1 + gamma) * (8 + spread + math.log2(rows.x.shape[1]) / 2)


def ulp(got: Tensor, want: Tensor) -> Tensor:
    return ulp_error(got.cpu(), Truth(want, torch.zeros_like(want), want.abs()))


def evaluate(rows: Rows, gamma=2.0, weight=None, divisor=1.0, needs_gradient=True):
    """The total and the gradient, on the CPU."""
    given = [v.to(DEVICE) if isinstance(v, Tensor) else v for v in (*rows, weight, divisor)]
    x, index, weight, divisor = given
    loss = ClassFocal(gamma)
    total, gradient = classes.class_sum(loss, x, index, weight, divisor, needs_gradient)
    return total.cpu(), None if gradient is None else gradient.cpu()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether all bits are the same."""
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0))


@pytest.mark.covering
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gradient_is_within_its_bound(width, gamma):
    rows = sample(width)
    _, gradient = evaluate(rows, gamma)
    errors = ulp(gradient, truth(rows, gamma).gradient)
    assert (errors.amax(1) / allowed(rows, gamma)).max() <= 1


@pytest.mark.covering
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("width", WIDTHS)
def test_value_of_a_row_is_within_its_bound(width, gamma):
    rows = sample(width, count=9)
    for one in (Rows(rows.x[i : i + 1], rows.index[i : i + 1]) for i in range(9)):
        total, _ = evaluate(one, gamma)
        assert ulp(total, truth(one, gamma).loss.sum()) <= allowed(one, gamma)


@pytest.mark.covering
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("width", WIDTHS)
def test_sixteen_bits_are_within_an_ulp(width, dtype, gamma):
    rows = sample(width, dtype)
    total, gradient = evaluate(rows, gamma)
    want = truth(rows, gamma)
    assert gradient.dtype == dtype
    assert ulp(gradient, want.gradient).max() <= 1
    assert ulp(total.to(dtype), want.loss.sum()) <= 1


@pytest.mark.covering
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [3, 1500])
def test_tails_are_kept_down_to_the_least_number(width, dtype, gamma):
    ahead = torch.linspace(-130, 130, 261 if width < 100 else 53)
    x = torch.linspace(-2, 0, width).repeat(len(ahead), 1)
    x[:, 0] = ahead
    rows = Rows(x.to(dtype), torch.zeros(len(x), dtype=torch.int64))
    _, gradient = evaluate(rows, gamma)
    errors = ulp(gradient, truth(rows, gamma).gradient)
    assert (errors.amax(1) / allowed(rows, gamma)).max() <= 1


@pytest.mark.covering
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("width", [3, 21, 300, 40_000])
def test_spread_costs_nothing_where_differences_are_exact(width, gamma):
    x, index = sample(width)
    rows = Rows((x * 2).round().clamp(-50, 50), index)
    _, gradient = evaluate(rows, gamma)
    errors = ulp(gradient, truth(rows, gamma).gradient)
    assert errors.max() <= (1 + gamma) * (8 + math.log2(width) / 2)


def test_sum_of_many_rows_is_within_two_ulp():
    rows = sample(10, count=5000)
    total, _ = evaluate(rows, 0.5)
    assert ulp(total, truth(rows, 0.5).loss.sum()) <= 2


LARGEST = torch.finfo(torch.float32).max

# A row whose class is the first, its loss at gamma 0, and the gradient there: the limits, but that
# none reaches an infinite logit.
LIMITS = [
    ([INF, 1.0, 2.0], 0.0, [0.0, 0.0, 0.0]),
    ([INF, INF, 2.0], math.log(2), [0.0, 0.0, 0.0]),
    ([INF, INF, INF], math.log(3), [0.0, 0.0, 0.0]),
    ([-INF, -INF, -INF], math.log(3), [0.0, 0.0, 0.0]),
    ([INF, -INF, -INF], 0.0, [0.0, 0.0, 0.0]),
    ([0.0, -INF, -INF], 0.0, [0.0, 0.0, 0.0]),
    ([0.0, 0.0, -INF], math.log(2), [-0.5, 0.5, 0.0]),
    ([0.0, INF, 1.0], INF, [-1.0, 0.0, 0.0]),
    ([0.0, INF, INF], INF, [-1.0, 0.0, 0.0]),
    ([-INF, INF, 1.0], INF, [0.0, 0.0, 0.0]),
    ([-INF, 1.0, 1.0], INF, [0.0, 0.5, 0.5]),
    ([0.0, LARGEST, LARGEST], LARGEST, [-1.0, 0.5, 0.5]),
    ([-LARGEST, 0.0, 0.0], LARGEST, [-1.0, 0.5, 0.5]),
    ([LARGEST, 0.0, -LARGEST], 0.0, [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize("width", [3, 100, 1500, 40_000])
@pytest.mark.parametrize(("row", "loss", "gradient"), LIMITS)
def test_infinite_logits_have_their_limits(width, row, loss, gradient):
    if width > 3 and row == [-INF, -INF, -INF]:
        loss = math.log(width)
    x = torch.full((1, width), -INF)
    x[0, :3] = torch.tensor(row)
    total, found = evaluate(Rows(x, torch.tensor([0])), gamma=0.0)
    assert torch.allclose(total, torch.tensor(loss), rtol=1e-6)
    assert torch.allclose(found[0, :3], torch.tensor(gradient), rtol=1e-6, atol=0.0)
    assert not found[0, 3:].any()


@pytest.mark.covering
@pytest.mark.parametrize("width", [3, 100, 1500, 40_000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "values", [[NAN, 0.0], [0.0, NAN], [INF, NAN], [NAN, INF], [-INF, NAN], [NAN, NAN]]
)
def test_nan_makes_its_row_nan_and_no_other(width, dtype, values):
    rows = sample(width, dtype, count=2)
    rows.index.fill_(0)
    x = rows.x.clone()
    x[1, :2] = torch.tensor(values)
    for gamma in (0.0, 0.5):
        total, gradient = evaluate(Rows(x, rows.index), gamma)
        assert total.isnan()
        assert gradient[1].isnan().all()
        assert same(gradient[0], evaluate(rows, gamma)[1][0])


@pytest.mark.covering
@pytest.mark.parametrize("width", [3, 100, 1500, 40_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_weight_add_nothing(width, dtype):
    rows = sample(width, dtype, count=6)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    x = rows.x.clone()
    x[1], x[3, 0], x[5, -1] = NAN, INF, NAN
    total, gradient = evaluate(Rows(x, rows.index), 0.5, weight)
    alone = evaluate(Rows(rows.x[::2], rows.index[::2]), 0.5)
    assert torch.allclose(total, alone[0], rtol=1e-6)
    assert same(gradient[::2], alone[1])
    assert not gradient[1::2].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("divisor", [7.5, torch.tensor(7.5), torch.tensor(3)])
def test_weights_and_divisor_multiply(dtype, divisor):
    rows = sample(21, dtype)
    weight = torch.rand(len(rows.x), generator=torch.Generator().manual_seed(0)) * 3
    total, gradient = evaluate(rows, 0.5, weight, divisor)
    want, share = truth(rows, 0.5), weight.double() / float(divisor)
    assert torch.allclose(total.double(), (want.loss * share).sum(), rtol=1e-6)
    errors = ulp(gradient, want.gradient * share[:, None]).amax(1)
    assert (errors / (allowed(rows, 0.5) + (dtype == torch.float32) * 2)).max() <= 1


def test_nothing_that_counts_over_a_count_of_zero_is_nan():
    rows = sample(21)
    total, gradient = evaluate(rows, 0.5, torch.zeros(len(rows.x)), torch.tensor(0))
    assert total.isnan()
    assert not gradient.any()


@pytest.mark.covering
@pytest.mark.parametrize("width", [21, 1500, 40_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rescaled_gradient_is_rounded_once(width, dtype):
    rows = sample(width, dtype)
    incoming = torch.tensor(3.0, device=DEVICE)
    given = [v.to(DEVICE) for v in rows]
    divisor = torch.tensor(7, device=DEVICE)
    _, kept = classes.class_sum(HALF, *given, None, divisor, True)
    found = classes.class_rescale(HALF, *given, None, divisor, kept, incoming).cpu()
    assert found.data_ptr() == kept.data_ptr() or DEVICE != "cpu"
    _, single = classes.class_sum(HALF, *given, None, 1.0, True)
    anew = classes.class_rescale(HALF, *given, None, 1.0, single, incoming)
    assert same(anew, classes.class_slopes(HALF, *given, None, incoming))
    errors = ulp(found, truth(rows, 0.5).gradient * 3 / 7).amax(1)
    assert (errors / (allowed(rows, 0.5) + (dtype == torch.float32) * 2)).max() <= 1


def test_gradient_stays_where_one_comes_in():
    rows = [v.to(DEVICE) for v in sample(21)]
    kept = torch.full_like(rows[0], 7.0)  # which no gradient is
    one = torch.ones((), device=DEVICE)
    assert (classes.class_rescale(HALF, *rows, None, 1.0, kept, one) == 7.0).all()


# Of each width, a map as it is in memory, and whether it is read there.
LAYOUTS = {
    "map": (torch.empty, True),
    "channels last": (lambda n, c, h, w: torch.empty(n, h, w, c).permute(0, 3, 1, 2), True),
    "queries": (lambda n, c, h, w: torch.empty(n, h * w, c).transpose(1, 2), True),
    "one image": (lambda n, c, h, w: torch.empty(1, c, h, n * w), True),
    "images last": (lambda n, c, h, w: torch.empty(c, h, w, n).permute(3, 0, 1, 2), False),
    "transposed": (lambda n, c, h, w: torch.empty(n, c, w, h).transpose(2, 3), False),
    "classes of more": (lambda n, c, h, w: torch.empty(n, c + 3, h, w)[:, 1 : 1 + c], False),
}


WIDTHS = (5, 100, 300, 1500)


@pytest.mark.covering
@pytest.mark.parametrize(
    ("layout", "width", "dtype"),
    [  # each pair of two of them; all triples would take minutes in the interpreter
        (layout, width, DTYPES[(i + j) % len(DTYPES)])
        for i, layout in enumerate(LAYOUTS)
        for j, width in enumerate(WIDTHS)
    ],
)
def test_maps_are_rows(layout, width, dtype):
    make, is_read_there = LAYOUTS[layout]
    x = make(2, width, 3, 7).to(dtype)
    rows = sample(width, dtype, count=x.numel() // width)
    positions = (x.shape[0], *x.shape[2:])
    x.copy_(rows.x.unflatten(0, positions).movedim(-1, 1))
    weight = torch.arange(len(rows.x)).float() % 4
    maps = Rows(x, rows.index.view(positions))
    total, gradient = evaluate(maps, 0.5, weight.view(positions))
    of_rows = evaluate(rows, 0.5, weight)
    assert torch.allclose(total, of_rows[0], rtol=1e-6)
    as_rows = gradient.movedim(1, -1).reshape(-1, width)
    errors = ulp(as_rows, truth(rows, 0.5).gradient * weight[:, None]).amax(1)
    assert (errors / (allowed(rows, 0.5) + (dtype == torch.float32))).max() <= 1
    if is_read_there:
        assert gradient.stride() == x.stride()
    alone, _ = evaluate(maps, 0.5, weight.view(positions), needs_gradient=False)
    assert torch.allclose(alone, total, rtol=1e-6)


@pytest.mark.covering
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(12, 300), (2, 300, 5, 7)])
def test_loop_is_the_tile(shape, dtype, monkeypatch):
    rows = sample(300, dtype, count=math.prod(shape) // 300)
    positions = (shape[0], *shape[2:])
    x = rows.x.unflatten(0, positions).movedim(-1, 1).contiguous()
    maps = Rows(x, rows.index.view(positions))
    total, gradient = evaluate(maps, 0.5)
    tile = Tile(32, 2, 1, loops=True, one_a_thread=len(shape) > 2)
    monkeypatch.setattr(tiles, "tile_of", lambda *_: tile)
    looped = evaluate(maps, 0.5)
    assert torch.allclose(looped[0], total, rtol=1e-6)
    errors = ulp(looped[1], gradient.double()).movedim(1, -1).reshape(-1, 300).amax(1)
    assert (errors / allowed(rows, 0.5)).max() <= 1
    assert not same(looped[1], gradient) or dtype != torch.float32  # it was another way


@pytest.mark.parametrize("width", [21, 1500])
def test_a_sum_is_the_same_each_time(width):
    rows = sample(width)
    first, again = evaluate(rows), evaluate(rows)
    assert same(first[0], again[0])
    assert same(first[1], again[1])
    assert same(first[0], evaluate(rows, needs_gradient=False)[0])
    assert evaluate(rows, needs_gradient=False)[1] is None


@pytest.mark.parametrize("stray", [-1, 21, 2**40, -(2**40)])
def test_an_index_that_is_no_class_makes_its_row_nan(stray):
    rows = sample(21)
    rows.index[5] = stray
    total, gradient = evaluate(rows)
    assert total.isnan()
    assert gradient.isnan().all(1).nonzero().tolist() == [[5]]


@pytest.mark.parametrize("strides", [(2**31 + 8, 1), (1, 2**30 + 8), (2**31 + 8, 2)])
@pytest.mark.parametrize("width", [3, 300])
def test_offsets_beyond_two_to_the_31(strides, width):
    """Of the memory in between nothing is touched, so that it isn't there."""
    if strides[1] > 2 and width > 3:
        width = 130  # at the end of a tile of maps
        strides = (1, 2**24 + 8)
    x = torch.empty_strided((2, width), strides, dtype=torch.bfloat16, device=DEVICE)
    rows = sample(width, torch.bfloat16, count=2)
    x.copy_(rows.x)
    total, _ = evaluate(Rows(x, rows.index), needs_gradient=False)
    assert ulp(total, truth(rows, 2.0).loss.sum()) <= 64


def test_what_has_no_kernel_is_refused():
    x, index = sample(21)

    def refuses(x, index, gamma=2.0):
        return classes.class_sum(ClassFocal(gamma), x, index, None, 1.0, True) is None

    assert refuses(x.double(), index)
    assert refuses(x, index, torch.ones(len(x)))
    assert refuses(x[:, :1], index)
    assert refuses(x[:0], index[:0])


def tile_of(width: int, in_rows: bool):
    """The tile of long rows, or of large maps."""
    rows = Strides(1, 2**20, 0, width if in_rows else 1, 1 if in_rows else 2**20)
    return tiles.tile_of(width, rows)


# Instructions for a class, at most. In the time of 8 bytes an H100 has 79, in that of 4 bytes 39;
# of the 12 and 6 of a row that is read twice, 118 and 59, beside what is done once, which is here
# counted with each tile. Short rows in 16 bits take more for stores that are whole, and maps of a
# hundred classes for those that their tile doesn't fill.
BUDGETS = {
    (21, "maps"): (79, 41),
    (21, "rows"): (79, 70),
    (100, "rows"): (79, 70),
    (150, "maps"): (95, 77),
    (1000, "rows"): (79, 39),
    (32_000, "rows"): (79, 39),
    (128_256, "rows"): (118, 82),
}


@pytest.mark.parametrize("gpu", sampled(["sm_80", "sm_90"], "sm_90".__eq__))
@pytest.mark.parametrize("of", BUDGETS)
def test_instructions_leave_time_for_memory(of, gpu, compile_all):
    cases = {}
    for width, sort in BUDGETS:
        tile = tile_of(width, sort == "rows")
        strides = ("position_stride",) if sort == "maps" else ("class_stride",)
        strides = () if tile.one_a_thread and sort == "rows" else strides
        for dtype in ("*fp32", "*bf16"):
            name = f"{width} {sort} {dtype}"
            cases[name] = rows_of_classes(tile, width, dtype, gpu, strides)
    reports = compile_all(cases)
    width, sort = of
    for dtype, budget in zip(("*fp32", "*bf16"), BUDGETS[of], strict=True):
        report = reports[f"{width} {sort} {dtype}"]
        assert report.instructions <= budget
        assert report.spills == 0
        assert report.float64 == 0
