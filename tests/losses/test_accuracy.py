"""Values and gradients of the family against the textbook in ball arithmetic, in ULP.

The bounds are those of the docstrings. Logits reach far into saturation, to where results are
hardly normal numbers.
"""

import itertools

import pytest
import torch
from flint import arb

import parfocal
from parfocal.audit.series import derivative_truth
from parfocal.audit.ulp import ulp_error

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
REACH = {torch.float64: 300.0, torch.float32: 40.0, torch.bfloat16: 40.0, torch.float16: 9.0}


def p_of(x):
    return 1 / (1 + (-x).exp())


def normal(truth, dtype):
    return truth.hi.abs() >= torch.finfo(dtype).tiny


def worst(computed, truth, of_scale=False):
    """The largest error over the points whose true result is a normal number."""
    error = ulp_error(computed, truth, of_scale=of_scale)
    chosen = normal(truth, computed.dtype)
    assert chosen.sum() >= len(chosen) // 4
    return error[chosen].max().item()


def rounded(number, dtype):
    """As it takes part in the computation."""
    computation = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(number, dtype=computation).item()


def grid(dtype, count=160):
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * REACH[dtype]
    return torch.cat([drawn, drawn / 20, torch.zeros(1)]).to(dtype)


def check(loss, formula, x, y, bound, *, of_scale=False):
    """A loss of one logit and one target a position, without reduction."""
    x = x.clone().requires_grad_()
    value = loss(x, y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    truths = [
        derivative_truth(lambda s, t=t: formula(s[0], t), [(u,)])
        for u, t in zip(x.tolist(), y.tolist(), strict=True)
    ]
    for computed, name in ((value.detach(), "value"), (gradient, "gradient")):
        parts = [getattr(truth, name) for truth in truths]
        truth = type(parts[0])(*(torch.cat(column) for column in zip(*parts, strict=True)))
        limit = 1 if x.dtype.itemsize == 2 else bound
        assert worst(computed, truth, of_scale) <= limit, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
class TestElementwise:
    """At the targets at which no terms cancel."""

    def test_varifocal(self, gamma, dtype):
        """Negatives, and positives of full quality."""
        g = rounded(gamma, dtype)
        x = grid(dtype)
        y = (torch.arange(x.numel()) % 2).to(dtype)

        def formula(x, y):
            p = p_of(x)
            return [-p.log()] if y else [-(p ** arb(g)) * (1 - p).log() * arb("0.75")]

        check(lambda x, y: parfocal.varifocal_loss(x, y, gamma=gamma), formula, x, y, 5 + 2 * gamma)

    def test_gaussian(self, gamma, dtype):
        """Centres, and negatives at 0 and 0.5, whose penalty is exact."""
        g = rounded(gamma, dtype)
        x = grid(dtype)
        y = (torch.arange(x.numel()) % 3).to(dtype) / 2

        def formula(x, y):
            p = p_of(x)
            if y == 1:
                return [-((1 - p) ** arb(g)) * p.log()]
            return [-arb((1 - y) ** 4) * p ** arb(g) * (1 - p).log()]

        check(
            lambda x, y: parfocal.gaussian_focal_loss(x, y, gamma=gamma),
            formula,
            x,
            y,
            5 + 2 * gamma,
        )

    def test_quality_of_hard_labels(self, gamma, dtype):
        """The focal loss, at any exponent."""
        g = rounded(gamma, dtype)
        x = grid(dtype)
        y = torch.arange(x.numel()) % 2

        def formula(x, y):
            p = p_of(x) if y else p_of(-x)
            return [-((1 - p) ** arb(g)) * p.log()]

        check(
            lambda x, y: parfocal.quality_focal_loss(x, y, beta=gamma), formula, x, y, 4 + 2 * gamma
        )

    def test_asymmetric_without_margin(self, gamma, dtype):
        """Two exponents."""
        g, g_pos = rounded(gamma, dtype), rounded(0.3, dtype)
        x = grid(dtype)
        y = (torch.arange(x.numel()) % 2).to(dtype)

        def formula(x, y):
            p = p_of(x)
            return [-((1 - p) ** arb(g_pos)) * p.log()] if y else [-(p ** arb(g)) * (1 - p).log()]

        def loss(x, y):
            return parfocal.asymmetric_loss(x, y, gamma, 0.3, margin=0.0)

        check(loss, formula, x, y, 4 + 2 * max(gamma, 0.3))

    def test_poly(self, gamma, dtype):
        """Both terms have one sign."""
        g = rounded(gamma, dtype)
        x = grid(dtype)
        y = (torch.arange(x.numel()) % 2).to(dtype)

        def formula(x, y):
            p = p_of(x) if y else p_of(-x)
            return [-((1 - p) ** arb(g)) * p.log(), (1 - p) ** (arb(g) + 1)]

        check(
            lambda x, y: parfocal.poly_focal_loss(x, y, gamma=gamma),
            formula,
            x,
            y,
            5 + 2 * (gamma + 1),
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_softmax_focal_loss(classes, gamma, dtype):
    """Rows of every spread, shifted as a whole; the target's gradient and that of another class."""
    g = rounded(gamma, dtype)
    generator = torch.Generator().manual_seed(classes)
    spreads = torch.linspace(0.5, REACH[dtype], 40, dtype=torch.float64).view(-1, 1)
    rows = torch.rand(40, classes, generator=generator, dtype=torch.float64) * spreads
    x = (rows + torch.linspace(-20, 20, 40, dtype=torch.float64).view(-1, 1)).to(dtype)
    targets = torch.randint(0, classes, (40,), generator=generator)
    targets[::2] = x[::2].argmax(1)  # as often right as not
    x.requires_grad_()
    value = parfocal.softmax_focal_loss(x, targets, gamma=gamma, reduction="none")
    (gradient,) = torch.autograd.grad(value.sum(), x)
    d = (x.detach().amax(1) - x.detach().amin(1)).double()
    bound = (1 + gamma) * (4 + 0.75 * d) if dtype.itemsize > 2 else torch.ones(40).double()
    other = (targets + 1) % classes
    for variable in (targets, other):
        for i, (row, t, v) in enumerate(
            zip(x.tolist(), targets.tolist(), variable.tolist(), strict=True)
        ):

            def formula(logits, t=t):
                terms = [(u - logits[t]).exp() for u in logits]
                p = 1 / sum(terms)
                return [-((1 - p) ** arb(g)) * p.log()]

            truth = derivative_truth(formula, [row], v)
            for computed, exact in (
                (value.detach()[i : i + 1], truth.value),
                (gradient[i : i + 1, v], truth.gradient),
            ):
                if normal(exact, dtype):
                    assert ulp_error(computed, exact).item() <= bound[i], (row, t, v)


def test_softmax_focal_loss_of_many_classes():
    """128,000 of them, in float32 against float64: the sum over the others keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 128_000, generator=generator) * 3
    targets = torch.tensor([5, 77, 127_999])
    x[0, 5] = 40.0
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = x.to(dtype, copy=True).requires_grad_()
        value = parfocal.softmax_focal_loss(logits, targets, gamma=0.5, reduction="none")
        results.append((value.detach(), torch.autograd.grad(value.sum(), logits)[0]))
    d = float(x.max() - x.min())
    bound = 1.5 * (4 + 0.75 * d) * torch.finfo(torch.float32).eps
    for found, exact in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=bound, atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("exponent", [0.1, 0.5, 0.75, 1.0, 3.0])
@pytest.mark.parametrize("reach", [1.0, 10.0, 30.0, 80.0])
@pytest.mark.parametrize("right", [True, False])
def test_focal_tversky_loss(right, reach, exponent, dtype):
    """A region of six pixels, found perfectly or with one pixel wrong; at every exponent."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    margins = reach * (0.75 + 0.25 * torch.rand(6, generator=generator))
    logits = (margins * (2 * y - 1)).to(dtype)
    if not right:
        logits[2] *= -0.5
    logits = logits.view(1, 1, 6).requires_grad_()
    gamma = 1 / exponent
    k = arb(rounded(1 / gamma, dtype))
    alpha, beta = arb(rounded(0.7, dtype)), arb(rounded(0.3, dtype))
    value = parfocal.sigmoid_focal_tversky_loss(
        logits, y.view(1, 1, 6), gamma=gamma, reduction="none"
    )
    (gradient,) = torch.autograd.grad(value.sum(), logits)

    def formula(x):
        p = [p_of(u) for u in x]
        pairs = list(zip(p, y.tolist(), strict=True))
        tp = sum((u for u, t in pairs if t), arb(0) * p[0])
        wrong = sum((alpha * (1 - u) if t else beta * u for u, t in pairs), arb(0) * p[0])
        return [(wrong / (tp + wrong + 1)) ** k]

    row = logits.detach().double().flatten().tolist()
    beyond = max(0.0, min(abs(u) for u in row) - 20) if right else 0.0
    bound = 1 if dtype.itemsize == 2 else 8 + 6 * exponent + exponent * beyond / 2
    for i, computed in itertools.chain([(None, value)], enumerate(gradient.flatten())):
        truth = derivative_truth(formula, [row], i or 0)
        exact = truth.value if i is None else truth.gradient
        if normal(exact, dtype):
            error = ulp_error(computed.detach().reshape(1), exact).item()
            assert error <= bound, ("value" if i is None else i, error, bound)
