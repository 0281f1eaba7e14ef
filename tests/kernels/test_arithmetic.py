"""The kernels' arithmetic against float64, whose own error is 2 ** -28 of a float32 ULP."""

import math

import pytest
import torch
from flint import arb, ctx
from torch import Tensor

from kernels import fits, launch
from kernels.samples import (
    COUNT,
    INF,
    LARGEST,
    LEAST,
    NAN,
    NORMAL,
    closed_form,
    even,
    margins,
    representable,
    softplus_of_minus,
    spread,
    worst,
)
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics.triton import arithmetic


def same(got: Tensor, want: list[float]) -> bool:
    """Whether all bits are the same, but for those of NaN."""
    return torch.equal(got.view(torch.int32), torch.tensor(want).view(torch.int32))


@pytest.mark.parametrize("fit", fits.FITS, ids=lambda fit: fit.names)
def test_polynomials_are_as_good_as_they_say(fit):
    """By their relative error, which is within 2 % of what the same degree and float32 can do."""
    x = fits.points(fit, 100_001)
    ours = [getattr(arithmetic, f"{fit.names}{k + 1}").value for k in range(fit.degree)]
    error = fits.relative_errors(fit, ours, x).max()
    assert error <= 2.0**fit.bits
    assert error <= 1.02 * fits.relative_errors(fit, fits.fitted(fit), x).max()


@pytest.mark.parametrize(
    ("names", "multiple", "bits"),
    [("LOG2E", 1, 49), ("A0", 2, 48)],
    ids=["LOG2E", "A0"],
)
def test_two_numbers_hold_log2_e(names, multiple, bits):
    """The constant and its rest, against ball arithmetic."""
    held = getattr(arithmetic, names).value, getattr(arithmetic, f"{names}_REST").value
    before = ctx.prec
    try:
        ctx.prec = 200
        truth = multiple / arb(2).log()
        assert abs(sum(map(arb, held), arb(0)) - truth) < arb(2) ** -bits
        log_2 = arb(arithmetic.LOG_2.value) + arb(arithmetic.LOG_2_REST.value)
        assert abs(log_2 - arb(2).log()) < arb(2) ** -bits
    finally:
        ctx.prec = before


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0])
def test_exponent_is_told_to_48_bits(gamma):
    """gamma log2(e) in two numbers of float32, against ball arithmetic."""
    gamma = torch.tensor(gamma).item()
    told = arithmetic.exponent(gamma)
    before = ctx.prec
    try:
        ctx.prec = 200
        truth = arb(gamma) / arb(2).log()
        held = arb(told.c) + arb(torch.tensor(told.c_rest).item())
        assert abs(held - truth) <= truth * arb(2) ** -48
    finally:
        ctx.prec = before
    assert told.gamma == gamma
    assert told.c == torch.tensor(told.c).item()


def test_exp_of_minus():
    """An ULP; subnormal results too."""
    a = torch.cat([spread(LEAST, 104.0), even(0.0, 104.0)])
    normal, subnormal = worst(launch.function("exp_of_minus", a), torch.exp(-a.double()))
    assert normal <= 1.0
    assert subnormal <= 0.9


def test_exp_of_minus_at_the_edges():
    """0 from where exp(-a) is below half of the least number, and 1 as long as it rounds to it."""
    a = torch.tensor([0.0, -0.0, LEAST, 2.0**-26, 103.97, 103.98, 104.0, 1e4, LARGEST, INF])
    got = launch.function("exp_of_minus", a)
    assert same(got, [1.0, 1.0, 1.0, 1.0, LEAST, 0.0, 0.0, 0.0, 0.0, 0.0])


def test_log():
    """0.8 ULP for all positive numbers, also close to 1."""
    b = torch.cat([representable(), spread(0.4, 2.5), 1 - spread(2.0**-24, 0.3)])
    normal, subnormal = worst(launch.function("log", b), torch.log(b.double()))
    assert normal <= 0.8
    assert subnormal == 0.0
    assert same(launch.function("log", torch.ones(1)), [0.0])


def test_log2_parts():
    """A whole number and two small ones; their sum to 2 ** -28.5, and 2 ** -27.5 of itself."""
    b = torch.cat([representable(), spread(0.7, 1.42), 1 - spread(2.0**-24, 0.3)])
    whole, high, low = launch.log2_parts(b)
    truth = torch.log2(b.double())
    error = (whole.double() + high.double() + low.double() - truth).abs()
    assert torch.equal(whole, whole.round())
    assert high.abs().max() <= 0.5
    assert low.abs().max() <= 2.0**-7
    assert error.max() <= 2.0**-28.5
    assert (error <= 2.0**-27.5 * truth.abs()).all()


def test_reciprocal():
    """An ULP, of normal numbers with normal results."""
    n = spread(NORMAL, 2.0**125)
    assert max(worst(launch.function("reciprocal", n), 1 / n.double())) <= 1.0


def test_quotient():
    """x / (1 + x): half an ULP of the quotient, and as much by which 1 + x was rounded."""
    x = torch.cat([spread(LEAST, 1.0), even(0.0, 1.0)])
    truth = x.double() / (1 + x.double())
    normal, subnormal = worst(launch.function("share", x), truth)
    assert normal <= 1.5
    assert subnormal <= 0.5


@pytest.mark.parametrize(
    ("gamma", "bound"),
    [(0.0, 0.0), (0.1, 1.1), (0.5, 1.0), (1.0, 0.0), (2.0, 0.95), (5.0, 1.0), (20.0, 2.0)],
)
def test_power(gamma, bound):
    """Of all bases up to 1 and some above."""
    gamma = torch.tensor(gamma).item()
    b = torch.cat([representable(), spread(2.0 ** (-149 / max(gamma, 1.0)), 1.0), even(0.5, 1.5)])
    b = b[(b > 0) & (b <= 1.5)]
    normal, subnormal = worst(launch.power(b, gamma), b.double() ** gamma)
    assert normal <= bound
    assert subnormal <= 0.95


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 2.0, 20.0])
def test_power_at_the_edges(gamma):
    """0 ** 0 is 1, 0 ** gamma is 0, 1 ** gamma is 1; NaN stays, but for gamma 0, as in `pow`."""
    gamma = torch.tensor(gamma).item()
    b = torch.tensor([0.0, LEAST, NORMAL, 1.0, NAN])
    got = launch.power(b, gamma)
    truth = torch.pow(b.double(), gamma).float()
    assert torch.equal(got[[0, 3]], truth[[0, 3]])
    assert torch.allclose(got, truth, rtol=2.0**-22, atol=0.0, equal_nan=True)


@pytest.mark.parametrize(("grade", "bound"), [(32, 1.5), (16, 64.0)])
def test_logistic(grade, bound):
    """Both tails keep their digits; 64 ULP are 0.008 of one of float16."""
    u = margins()
    wide = u.double()
    truths = softplus_of_minus(wide.abs()), torch.sigmoid(wide), torch.sigmoid(-wide)
    for got, truth in zip(launch.logistic(u, grade), truths, strict=True):
        normal, subnormal = worst(got, truth)
        assert normal <= bound
        assert subnormal <= (1.0 if grade == 32 else 33.0)


@pytest.mark.parametrize("grade", [32, 16])
def test_logistic_at_the_edges(grade):
    """Infinite margins are the limit, and zeros of both signs are the same."""
    u = torch.tensor([INF, -INF, LARGEST, -LARGEST])
    softplus, p, q = launch.logistic(u, grade)
    assert same(softplus, [0.0] * 4)
    assert same(p, [1.0, 0.0, 1.0, 0.0])
    assert same(q, [0.0, 1.0, 0.0, 1.0])
    softplus, p, q = launch.logistic(torch.tensor([0.0, -0.0, LEAST, -LEAST]), grade)
    assert same(p, [0.5] * 4)
    assert same(q, [0.5] * 4)
    assert worst(softplus, torch.full((4,), math.log(2), dtype=torch.float64))[0] <= (
        1 if grade == 32 else 32
    )


@pytest.mark.parametrize("grade", [32, 16])
@pytest.mark.parametrize(
    ("gamma", "bound"),
    [(0.0, 0.0), (0.1, 1.1), (0.5, 1.2), (1.0, 1.4), (2.0, 1.7), (5.0, 3.5), (20.0, 12.5)],
)
def test_modulating_factor(gamma, bound, grade):
    """exp(-gamma (l + max(u, 0))), l as it is given; for 16 bits to 2 ** -17."""
    gamma = torch.tensor(gamma).item()
    u = margins()
    softplus = softplus_of_minus(u.double().abs()).float()
    truth = torch.exp(-gamma * (softplus.double() + u.double().clamp(min=0)))
    normal, subnormal = worst(launch.modulating_factor(u, softplus, gamma, grade), truth)
    if grade == 16:
        assert normal <= (128.0 if gamma else 0.0)
        assert subnormal <= 64.0
    else:
        assert normal <= bound
        assert subnormal <= 1.0


@pytest.mark.parametrize("grade", [32, 16])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0])
def test_modulating_factor_at_the_edges(gamma, grade):
    """1 of an infinitely wrong margin; of an infinitely right one 0, unless gamma is 0."""
    u = torch.tensor([INF, LARGEST, -INF, -LARGEST])
    got = launch.modulating_factor(u, torch.zeros(4), torch.tensor(gamma).item(), grade)
    right = 0.0 if gamma else 1.0
    assert torch.equal(got, torch.tensor([right, right, 1.0, 1.0]))


GAMMAS = [0.0, 1e-3, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 20.0]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_slope(gamma):
    """4 + 2 gamma ULP, as all losses promise, at logits far denser than the oracle's."""
    gamma = torch.tensor(gamma).item()
    u = torch.cat([margins(), torch.linspace(-4, 4, 2 * COUNT), torch.linspace(4, 18, 2 * COUNT)])
    y = (torch.arange(len(u)) % 2).float()
    x = torch.where(y > 0, u, -u)
    value, slope = launch.value_and_slope(x, y, gamma, 32)
    true_value, true_slope = closed_form(u.double(), gamma)
    for got, truth in ((value, true_value), (torch.where(y > 0, slope, -slope), true_slope)):
        assert max(worst(got, truth)) <= 4 + 2 * gamma


@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_slope_by_ball_arithmetic(gamma):
    """The same at a few logits, against an enclosure of the truth, which is no formula of ours."""
    gamma = torch.tensor(gamma).item()
    sizes = torch.cat([spread(1e-30, 110.0)[::4000], torch.tensor([0.0, LEAST, 1e4, LARGEST])])
    x = torch.cat([sizes, -sizes])
    for target in (0.0, 1.0):
        truth = focal_truth(x.tolist(), target, gamma)
        got = launch.value_and_slope(x, torch.full_like(x, target), gamma, 32)
        for numbers, wanted in zip(got, (truth.value, truth.gradient), strict=True):
            assert ulp_error(numbers, wanted).max() <= 4 + 2 * gamma


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0, 5.0])
def test_value_and_slope_of_16_bits(gamma, dtype):
    """Half an ULP, and 0.02 of the arithmetic's, at every finite logit there is."""
    gamma = torch.tensor(gamma).item()
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    value, slope = launch.value_and_slope(x, torch.ones_like(x), gamma, 16)
    for got, truth in zip((value, slope), closed_form(x.double(), gamma), strict=True):
        assert max(worst(got, truth)) <= 0.52
