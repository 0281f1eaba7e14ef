"""The numbers of the explorer: rounding, indices and the FMA, against torch and mpmath."""

import mpmath
import pytest
import torch

from explorer.test_bits import NAMES, _call, _is_equal
from parfocal.floats import every_finite, representable

ROUND = "(x, options) => [Array.from(x, module_floats.DTYPES[options.dtype].round)]"

INDEX = """(x, options) => {
  const {indexOf, numberAt, DTYPES} = module_floats, dtype = DTYPES[options.dtype];
  const found = Array.from(x, one => indexOf(one, dtype));
  return [found.map(Number), found.map(index => numberAt(index, dtype)),
    Array.from(x, one => module_floats.spacing(one, dtype))];
}"""

FMA = """(x, options) => {
  const n = x.length / 3, found = [];
  for (let i = 0; i < n; i++) found.push(module_floats[options.name](x[i], x[n + i], x[2 * n + i]));
  return [found];
}"""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=NAMES.get)
def test_rounding_to_16_bits(arithmetic, dtype):
    """Ties, subnormal numbers and overflows among all numbers and their halfway points."""
    numbers = every_finite(dtype)[::7].float()
    halfway = (numbers + every_finite(dtype)[1::7][: len(numbers)].float()) / 2
    x = torch.cat([numbers, halfway, representable(torch.float32, 500), torch.tensor([torch.nan])])
    (found,) = _call(arithmetic, ROUND, x, dtype=NAMES[dtype])
    assert _is_equal(found, x.to(dtype).double()).all()


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
def test_indices_and_spacings(arithmetic, dtype):
    """Neighbours differ by one; a number comes back from its index."""
    x = every_finite(dtype)[::3] if dtype.itemsize == 2 else representable(dtype, 500)
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    right = x.abs().view(integers[dtype.itemsize]).double() * x.double().sign()
    index, back, spacing = _call(arithmetic, INDEX, x, dtype=NAMES[dtype])
    assert torch.equal(index, right)
    assert torch.equal(back, x.double())
    upper = torch.nextafter(x.abs(), torch.full_like(x, torch.inf)).double()
    inner = upper.isfinite()
    normal = x.double().abs() >= torch.finfo(dtype).smallest_normal
    assert torch.equal((upper - x.double().abs())[inner], spacing[inner])
    assert (spacing[~normal] == torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize(("name", "bits"), [("fma32", 24), ("fma64", 53)])
def test_fma_is_rounded_once(arithmetic, name, bits):
    """Where a b is all but half an ULP of c, a second rounding would show."""
    dtype = torch.float32 if bits == 24 else torch.float64
    generator, one = torch.Generator().manual_seed(2), torch.ones(600, dtype=torch.float64)
    c = torch.rand(600, generator=generator, dtype=dtype).double() + one
    half, tiny = 2.0**-bits, 2.0 ** (1 - bits)
    # (1 + k u) (1 - k u) = 1 - (k u) ** 2 with u the distance of neighbours.
    k = torch.randint(1, 9, (600,), generator=generator).double()
    a, b = one + k * tiny, half * (one - k * tiny)
    random = torch.randn(3, 400, generator=generator, dtype=dtype).double()
    random[2] *= 2.0 ** torch.randint(-40, 40, (400,), generator=generator)
    columns = [torch.cat(pair) for pair in zip((a, b, c), random, strict=True)]
    (found,) = _call(arithmetic, FMA, torch.cat(columns), name=name)
    with mpmath.workprec(400):
        rows = torch.stack(columns, 1).tolist()
        exact = [mpmath.mpf(x) * mpmath.mpf(y) + mpmath.mpf(z) for x, y, z in rows]
    right = [float(mpmath.fadd(0, value, prec=bits, rounding="n")) for value in exact]
    assert found.tolist() == right
