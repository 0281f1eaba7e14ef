"""The numbers of the explorer against torch's, bit for bit, and its truth against mpmath."""

import base64
import itertools
import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from explorer.libraries import ALPHA, DTYPES, EPSILON, GAMMAS, LOSSES, SOFT, logits
from parfocal.audit import audit
from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from parfocal.experiments.gradient_study import smallest_nonfinite

of_vectors = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2", reason="this torch computes otherwise"
)

NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DTYPES}
TARGETS = (1.0, 0.0)

CALL = """(() => {
  const bytes = Uint8Array.from(atob(%s), c => c.charCodeAt(0));
  const given = new Float64Array(bytes.buffer);
  const columns = (%s)(given, %s).map(column => Float64Array.from(column));
  const text = column => {
    const part = new Uint8Array(column.buffer);
    let found = "";
    for (let i = 0; i < part.length; i += 4096) {
      found += String.fromCharCode(...part.subarray(i, i + 4096));
    }
    return btoa(found);
  };
  return columns.map(text);
})()"""

LOSS = """(x, options) => {
  const found = Array.from(x, module_curves.evaluator(options.loss, options));
  return [found.map(one => one.loss), found.map(one => one.gradient)];
}"""


def _call(page, function, x, **options):
    """Columns of float64 that a function of the page gives for one of them."""
    text = base64.b64encode(x.double().numpy().tobytes()).decode()
    found = page.evaluate(CALL % (json.dumps(text), function, json.dumps(options)))
    return [torch.from_numpy(np.frombuffer(base64.b64decode(column)).copy()) for column in found]


def _is_equal(a, b):
    """Of the bits: zeros by their signs; all NaN are one."""
    return (a.view(torch.int64) == b.view(torch.int64)) | (a.isnan() & b.isnan())


def _cell(page, references, key, alpha=ALPHA):
    """Logits of a cell, and where loss and gradient there are equal."""
    _, loss, dtype, target, gamma, part = key
    x, name = logits(dtype)[part], NAMES[dtype]
    options = {"loss": loss, "dtype": name, "target": target, "gamma": gamma, "alpha": alpha}
    found = _call(page, LOSS, x, **options, epsilon=EPSILON)
    right = references[key]
    return x, [_is_equal(ours, theirs.double()) for ours, theirs in zip(found, right, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_bit(arithmetic, references, loss, dtype):
    """Of a thousand logits: torch's own, but for MKL's two functions, which are rounded once."""
    cells = itertools.product(TARGETS, GAMMAS, range(4))
    assert sum(map(len, logits(dtype))) >= 1000
    for target, gamma, part in cells:
        x, equal = _cell(arithmetic, references, (True, loss, dtype, target, gamma, part))
        for quantity, where in zip(("loss", "gradient"), equal, strict=True):
            assert where.all(), f"{quantity}, {target=}, {gamma=}: {x[~where][:5].tolist()}"


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_bit_at_a_soft_target(arithmetic, references, loss, dtype):
    """All terms of a formula count there; no alpha."""
    x, equal = _cell(arithmetic, references, (True, loss, dtype, SOFT, 1.5, 0), alpha=None)
    for where in equal:
        assert where.all(), x[~where][:5].tolist()


def test_share_of_bits_with_mkl(arithmetic, references, build):
    """Of float32 and float64 as they come: what the page says of the processor that it names."""
    shares, of_roots = {}, {}
    for loss, dtype in itertools.product(LOSSES, DTYPES[:2]):
        cells = {
            gamma: torch.cat(_cell(arithmetic, references, (False, loss, dtype, 1.0, gamma, 0))[1])
            for gamma in GAMMAS
        }
        name = f"{loss} {NAMES[dtype]}"
        shares[name] = torch.cat([*cells.values()]).double().mean().item()
        of_roots[name] = cells[0.5].double().mean().item()
    for name, share in shares.items():
        print(f"{name}: {share:.2%}, at gamma 0.5 {of_roots[name]:.2%}")
    assert min(shares.values()) > 0.9
    processor = Path("/proc/cpuinfo")
    words = processor.read_text() if processor.exists() else ""
    if "AMD EPYC" in words and "avx512f" not in words:
        told = build.versions()
        assert told["share"] == f"{min(shares.values()):.1%} to {max(shares.values()):.1%}"
        assert told["share_of_roots"] == f"{min(of_roots.values()):.0%}"


TRUTH = """(x, options) => {
  const digits = x => { const found = [x.m < 0n ? -1 : 1, x.e]; let m = x.m < 0n ? -x.m : x.m;
    for (let i = 0; i < 7; i++) { found.push(Number(m & 0xffffffffn)); m >>= 32n; } return found; };
  return Array.from(x, one => module_truth.focalTruth(one, options))
    .flatMap(one => [digits(one.loss), digits(one.gradient)]);
}"""


def _integer(column):
    sign, exponent, *digits = (int(v) for v in column.tolist())
    return sign * mpmath.ldexp(sum(d << (32 * i) for i, d in enumerate(digits)), exponent)


@pytest.mark.parametrize(
    ("gamma", "target", "alpha", "epsilon"),
    [(0.1, 1.0, 0.3, 0), (5.0, 1.0, None, 0), (0.5, 0.0, 0.3, 1e-3), (2.5, 0.3, None, 0)],
)
def test_truth(arithmetic, gamma, target, alpha, epsilon):
    """To 20 bits beyond an ULP of float64, far into the numbers that aren't normal, and beyond."""
    x = logits(torch.float64)[0][::4]
    options = {"gamma": gamma, "target": target, "alpha": alpha, "epsilon": epsilon}
    columns = _call(arithmetic, TRUTH, x, **options)
    with mpmath.workprec(1200):
        y, a = mpmath.mpf(target), mpmath.mpf(1)
        if alpha is not None:
            a = y * alpha + (1 - y) * (1 - mpmath.mpf(alpha))
        for i, one in enumerate(x.tolist()):
            u = mpmath.mpf(one)
            p, q = 1 / (1 + mpmath.exp(-u)), 1 / (1 + mpmath.exp(u))
            base, ce = y * q + (1 - y) * p + epsilon, -y * mpmath.log(p) - (1 - y) * mpmath.log(q)
            loss = a * base**gamma * ce
            gradient = (
                a * base**gamma * (gamma * ce * (1 - 2 * y) * p * q / base + (1 - y) * p - y * q)
            )
            for right, found in ((loss, columns[2 * i]), (gradient, columns[2 * i + 1])):
                assert abs(_integer(found) - right) <= abs(right) * mpmath.mpf(2) ** -73, one


ULP = """(x, options) => {
  const {add, ofNumber, ulpError} = module_truth, error = [];
  const n = x.length / 3, dtype = module_floats.DTYPES[options.dtype];
  for (let i = 0; i < n; i++) {
    error.push(ulpError(x[i], add(ofNumber(x[n + i]), ofNumber(x[2 * n + i])), dtype));
  }
  return [error];
}"""


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_ulp_error(arithmetic, dtype):
    """As the audit counts it: infinities, overflows and numbers that aren't normal among them."""
    generator = torch.Generator().manual_seed(1)
    info, steps = torch.finfo(dtype), torch.arange(400, dtype=torch.float64) / 400
    hi = info.max * (info.smallest_normal / 2**12 / info.max) ** steps
    hi *= 1 + 0.1 * torch.rand(400, generator=generator, dtype=torch.float64)
    hi[hi.isinf()] = info.max
    lo = hi * 2.0**-60
    computed = (hi * (1 + 3e-3 * torch.randn(400, generator=generator).double())).to(dtype)
    computed[::50], computed[1::50], computed[2::50] = torch.inf, torch.nan, 0.0
    right = ulp_error(computed, Truth(hi, lo, hi))
    (found,) = _call(arithmetic, ULP, torch.cat([computed.double(), hi, lo]), dtype=NAMES[dtype])
    finite = right.isfinite()
    assert torch.equal(found.isfinite(), finite)
    torch.testing.assert_close(found[finite], right[finite], rtol=1e-12, atol=1e-12)


CLIFF = """(_, options) => {
  const found = module_curves.allCliffs({...options, losses: Object.keys(module_losses.LOSSES)});
  return Object.values(found).map(one => [one.notFinite ?? NaN, one.percent ?? NaN]);
}"""


def _cliffs(page, **options):
    columns = _call(page, CLIFF, torch.zeros(1), **options)
    return dict(zip(LOSSES, (column.tolist() for column in columns), strict=True))


@of_vectors
@pytest.mark.parametrize("target", [1, 0])
@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_cliffs_are_those_of_gradients(arithmetic, dtype, target):
    """The logit from which a gradient isn't finite, to the bit that of `parfocal gradients`."""
    options = {"gamma": 0.5, "alpha": 0.5, "epsilon": EPSILON}
    found = _cliffs(arithmetic, dtype=NAMES[dtype], target=target, **options)
    for name, loss in LOSSES.items():
        right = smallest_nonfinite(
            lambda x, y, loss=loss: loss(_padded(x), _padded(y), **options)[: len(x)].sum(),
            dtype,
            target,
        )
        assert found[name][0] == right if right is not None else found[name][0] != found[name][0]


def _padded(x):
    """Whole vectors: a single logit is computed by other functions."""
    return torch.cat([x, x[-1:].expand(-len(x) % 64)])


@of_vectors
def test_one_percent_is_that_of_the_audit(arithmetic, tmp_path, monkeypatch):
    """Errors of rounding are scattered, and either search may miss the first by a little."""
    monkeypatch.setenv("PARFOCAL_CACHE", str(tmp_path))
    report = audit(
        "torchvision.ops:sigmoid_focal_loss", quick=True, gammas=(0.5,), dtypes=[torch.float32]
    )
    (right,) = (
        min(abs(at.logit) for at in (cell.percent, cell.dead_from) if at)
        for cell in report.cells
        if (cell.quantity, cell.target) == ("gradient", 1.0)
    )
    options = {"gamma": 0.5, "alpha": None, "epsilon": EPSILON}
    found = _cliffs(arithmetic, dtype="float32", target=1, **options)["torchvision"][1]
    assert found == pytest.approx(right, rel=0.02)
