"""The constants of the closed forms, and float32 searched far more densely than by the oracle."""

import pytest
import torch
from flint import arb, ctx

from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from parfocal.numerics import closed_form

GAMMAS = [0.0, 1e-3, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float32, 38), (torch.float64, 69)], ids=["float32", "float64"]
)
def test_shift_is_a_number_of_the_dtype(dtype, bits):
    """exp(-C) rounds with an error of 2 ** -bits, and C is subtracted exactly beyond the bound."""
    shift = closed_form._SHIFT[dtype]
    before = ctx.prec
    try:
        ctx.prec = 200
        exact = (-arb(shift)).exp()
        rounded = torch.tensor(float(exact.mid()), dtype=dtype).item()
        assert abs(arb(rounded) / exact - 1) < arb(2) ** -bits
    finally:
        ctx.prec = before
    far = closed_form._FAR[dtype]
    a = torch.linspace(far, 1.2 * far, 10_001, dtype=torch.float64).to(dtype)
    back = (a - shift).to(torch.float64) + shift
    assert torch.equal(back, a.to(torch.float64))


def test_log1p_is_the_identity_beyond_its_bound():
    """t - t ** 2 / 2 < log1p(t) < t, and t ** 2 / 2 is below a quarter of an ULP of t there."""
    t = torch.exp(torch.tensor(-closed_form._LOG1P_IS_IDENTITY, dtype=torch.float64)).item()
    assert t / 2 < 2.0**-55


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_million_float32_logits(gamma):
    """Against the same forms in float64, whose own error is 2 ** -26 of a float32 ULP at most."""
    gamma = torch.tensor(gamma).item()
    x = torch.cat([torch.linspace(-90, 90, 700_001), torch.linspace(-3, 3, 300_001)])
    for target in (1.0, 0.0):
        y = torch.full_like(x, target)
        for form in (
            closed_form.value,
            closed_form.slope,
            closed_form.gamma_slope,
            closed_form.target_slope,
        ):
            exact = form(x.double(), y.double(), gamma, 0.0)
            truth = Truth(exact, torch.zeros_like(exact), exact.abs())
            error = ulp_error(form(x, y, gamma, 0.0), truth)
            is_normal = exact.abs() >= torch.finfo(torch.float32).tiny
            assert error[is_normal].max() <= 4 + 2 * gamma, form.__name__
