"""Margins: values and derivatives of every order beside their formulas, in every mode."""

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from parfocal.numerics import margin, margins

INF, NAN = math.inf, math.nan
ULP = 2.0**-23  # of float32


def others_of(index, classes):
    """The classes (N, C - 1, ...) other than the index (N, ...) of each row."""
    order = torch.arange(classes - 1).view(-1, *(1,) * (index.ndim - 1))
    index = index.unsqueeze(1)
    return order + (order >= index)


def textbook(x, index):
    """x_t - log(sum of exp(x_j) over the others), in the dtype of x."""
    own = x.gather(1, index.unsqueeze(1)).squeeze(1)
    return own - x.gather(1, others_of(index, x.shape[1])).logsumexp(1)


def textbook_all(x):
    """The same of every class."""
    rows = x.shape[:1] + x.shape[2:]
    return torch.stack([textbook(x, torch.full(rows, c)) for c in range(x.shape[1])], 1)


def drawn(*shape, scale=3.0, dtype=torch.float64):
    """Logits, and an index a row."""
    generator = torch.Generator().manual_seed(shape[1])
    x = torch.randn(shape, generator=generator, dtype=dtype) * scale
    return x, torch.randint(shape[1], shape[:1] + shape[2:], generator=generator)


def one(x, index):
    return margin(x, index).u


def every(x, _):
    return margins(x).u


FORMS = [
    pytest.param(one, textbook, id="one"),
    pytest.param(every, lambda x, _: textbook_all(x), id="all"),
]


def incoming(u):
    """A gradient that comes in, of both signs, the same for all dtypes."""
    return torch.linspace(-1.0, 2.0, u.numel(), dtype=torch.float64).view_as(u).to(u.dtype)


def rounding(classes):
    """What t may be off by, relatively: a sum over classes among its terms."""
    return (6 + math.log2(classes) / 2) * ULP


def slope(form, x, index, **options):
    x = x.clone().requires_grad_()
    u = form(x, index)
    return torch.autograd.grad(u, x, incoming(u), **options)[0]


@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, 15.0])
@pytest.mark.parametrize("shape", [(200, 2), (200, 3), (100, 21), (20, 1000), (10, 5, 3, 4)])
def test_value_and_gradient(shape, scale):
    """In float32 beside float64: u to a few ULP of 1 and of itself, t and each slope of their own.

    A slope feels the rounding of a difference of logits, t doesn't. A scale of 0 makes all classes
    alike: crowded, and every one the largest.
    """
    x, index = drawn(*shape, scale=scale)
    x = x.float().requires_grad_()
    u, t = margin(x, index)
    assert u.requires_grad
    assert not t.requires_grad
    x = x.detach()
    truth, bound = textbook(x.double(), index), rounding(shape[1])
    torch.testing.assert_close(u.detach().double(), truth, rtol=2 * ULP, atol=2 * ULP)
    torch.testing.assert_close(t.double(), (-truth.abs()).exp(), rtol=bound, atol=2.0**-148)
    bound += float(x.max() - x.min()) * ULP
    found, exact = slope(one, x, index), slope(textbook, x.double(), index)
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=2.0**-148)


@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, 15.0])
@pytest.mark.parametrize("shape", [(200, 2), (200, 3), (100, 21), (10, 5, 3, 4)])
def test_values_and_gradients_of_all_classes(shape, scale):
    """Slopes of many margins are summed, and held beside the absolute values of what is summed."""
    x = drawn(*shape, scale=scale)[0].float()
    u, t = margins(x)
    truth, bound = textbook_all(x.double()), rounding(shape[1])
    torch.testing.assert_close(u.double(), truth, rtol=2 * ULP, atol=2 * ULP)
    torch.testing.assert_close(t.double(), (-truth.abs()).exp(), rtol=bound, atol=2.0**-148)
    bound += float(x.max() - x.min()) * ULP
    wide = x.double()
    found, exact = slope(every, x, None), slope(lambda x, _: textbook_all(x), wide, None)
    grad = incoming(truth)
    size = grad.abs()
    for c in range(shape[1]):
        index = torch.full(shape[:1] + shape[2:], c)
        p = wide.gather(1, others_of(index, shape[1])).softmax(1)
        size = size.scatter_add(1, others_of(index, shape[1]), p * grad[:, c : c + 1].abs())
    assert ((found.double() - exact).abs() <= bound * size).all()


@pytest.mark.parametrize(("form", "truth"), FORMS)
@pytest.mark.parametrize("shape", [(5, 2), (5, 4), (3, 3, 2)])
def test_every_order_and_mode(form, truth, shape):
    """Float64 beside the textbook: Hessians of reverse, forward and batched derivatives."""
    x, index = drawn(*shape)
    close = {"rtol": 1e-11, "atol": 1e-13}

    def total(of):
        return lambda x: (incoming(of(x, index)) * of(x, index).square()).sum()

    hessian = torch.func.hessian(total(truth))(x)
    forward = torch.func.jvp(lambda x: form(x, index), (x,), (x.sin(),))[1]
    expected = torch.func.jvp(lambda x: truth(x, index), (x,), (x.sin(),))[1]
    torch.testing.assert_close(forward, expected, **close)
    with forward_ad.dual_level():
        u = form(forward_ad.make_dual(x, x.sin()), index)
        torch.testing.assert_close(forward_ad.unpack_dual(u).tangent, expected, **close)
    for vectorize in (False, True):
        found = torch.autograd.functional.hessian(total(form), x, vectorize=vectorize)
        torch.testing.assert_close(found, hessian, **close)
    torch.testing.assert_close(torch.func.hessian(total(form))(x), hessian, **close)

    leaf = x.clone().requires_grad_()
    u = form(leaf, index)
    basis = torch.eye(u.numel(), dtype=x.dtype).view(-1, *u.shape)
    batched = torch.autograd.grad(u, leaf, basis, is_grads_batched=True)[0]
    jacobian = torch.func.jacrev(lambda x: truth(x, index))(x)
    torch.testing.assert_close(batched, jacobian.reshape(batched.shape), **close)

    def of_row(x, index):
        return (form(x[None], index[None]) ** 3).sum()

    found = torch.func.vmap(torch.func.grad(of_row))(x, index)
    exact = torch.func.grad(lambda x: (truth(x, index) ** 3).sum())(x)
    torch.testing.assert_close(found, exact, **close)


@pytest.mark.parametrize(("form", "truth"), FORMS)
def test_third_derivative(form, truth):
    x, index = drawn(4, 3)
    found, exact = [], []
    for of, results in ((form, found), (truth, exact)):
        leaf = x.clone().requires_grad_()
        value = (of(leaf, index) ** 2).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
            results.append(gradient.detach())
            value = (gradient**2).sum()
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("form", "truth"), FORMS)
def test_graph_is_used_again(form, truth):
    """The gradient is given away once; the next backward pass makes it anew."""
    x, index = drawn(30, 7)
    x.requires_grad_()
    u = form(x, index)
    first = torch.autograd.grad(u.sum(), x, retain_graph=True)[0].clone()
    again = torch.autograd.grad(u, x, 2 * torch.ones_like(u), retain_graph=True)[0]
    torch.testing.assert_close(again, 2 * first, rtol=0, atol=0)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(u.sum(), x)


@pytest.mark.parametrize(("form", "truth"), FORMS)
def test_compiled(form, truth):
    """What a compiler is given, run without one."""
    x, index = drawn(50, 9, scale=8.0)
    x[0, 0], x[1, 4], index[:2] = INF, -INF, torch.tensor([0, 1])
    compiled = torch.compile(form, backend="aot_eager", fullgraph=True)
    leaf = x.clone().requires_grad_()
    u, eager = compiled(leaf, index), form(x, index)
    torch.testing.assert_close(u, eager, rtol=1e-13, atol=1e-13)
    found = torch.autograd.grad(u, leaf, incoming(u))[0]
    torch.testing.assert_close(found, slope(form, x, index), rtol=1e-12, atol=1e-14)

    x, index = drawn(8, 3)
    total = torch.func.grad(lambda x: (form(x, index) ** 3).sum())
    twice = torch.func.grad(lambda x: total(x).square().sum())
    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), twice(x), rtol=1e-12, atol=1e-12)


MAX = torch.finfo(torch.float32).max
LIMITS = [
    # logits, the class, its margin, and the slope of the margin; None where nobody asks for it
    ([INF, 0.0, 1.0], 0, MAX, [0.0, -0.26894143, -0.7310586]),
    ([0.0, INF, 1.0], 0, -INF, [1.0, 0.0, 0.0]),
    ([-INF, 0.0, 0.0], 0, -INF, [0.0, -0.5, -0.5]),
    ([0.0, -INF, 2.0], 0, -2.0, [1.0, 0.0, -1.0]),
    ([0.0, -INF, -INF], 0, MAX, [1.0, 0.0, 0.0]),
    ([INF, INF, 0.0], 0, 0.0, [0.0, 0.0, 0.0]),
    ([INF, INF, INF], 0, -math.log(2), [0.0, 0.0, 0.0]),
    ([-INF, -INF, -INF], 0, -math.log(2), [0.0, 0.0, 0.0]),
    ([MAX, 0.0, -MAX], 1, -MAX, [-1.0, 1.0, 0.0]),
    ([-MAX, -MAX, 0.0], 2, MAX, [-0.5, -0.5, 1.0]),
    ([-MAX, -MAX, -MAX], 1, -math.log(2), [-0.5, 1.0, -0.5]),
]


@pytest.mark.parametrize("form", [one, lambda x, c: margins(x).u.gather(1, c[:, None])[:, 0]])
@pytest.mark.parametrize(("logits", "index", "expected", "slopes"), LIMITS)
def test_infinite_logits(form, logits, index, expected, slopes):
    """They count as the largest numbers, and nothing goes back through them."""
    x, index = torch.tensor([logits], requires_grad=True), torch.tensor([index])
    u = form(x, index)
    torch.testing.assert_close(u, torch.tensor([expected]))
    torch.testing.assert_close(torch.autograd.grad(u.sum(), x)[0], torch.tensor([slopes]))


@pytest.mark.parametrize(("form", "truth"), FORMS)
def test_a_nan_reaches_all_of_its_row_and_no_other(form, truth):
    """Value and gradient, beside infinities too."""
    rows = itertools.product([NAN, INF, -INF, 0.0, 2.0], repeat=3)
    x = torch.tensor([row for row in rows if not all(map(math.isfinite, row))])
    index = torch.zeros(len(x), dtype=torch.int64)
    leaf = x.clone().requires_grad_()
    u = form(leaf, index)
    has_nan = x.isnan().any(1)
    assert torch.equal(u.isnan().view(len(x), -1).all(1), has_nan)
    assert torch.equal(u.isnan().view(len(x), -1).any(1), has_nan)
    gradient = torch.autograd.grad(u, leaf, torch.where(u.isnan(), NAN, 1.0))[0]
    assert torch.equal(gradient.isnan(), has_nan[:, None].expand_as(x))


def test_single_class():
    """It is certain: u is infinite and t 0, with derivatives of 0 to come."""
    x = torch.tensor([[3.0], [-INF]], requires_grad=True)
    for u, t in (margin(x, torch.zeros(2, dtype=torch.int64)), margins(x)):
        assert (u == INF).all()
        assert (t == 0).all()
    assert margin(torch.tensor([[NAN]]), torch.tensor([0])).u.isnan().all()


@pytest.mark.parametrize("form", [one, every])
def test_layouts(form):
    """Expanded and transposed logits, which stay as they are."""
    x, index = drawn(6, 5)
    expanded = x[:1].expand(6, 5)
    torch.testing.assert_close(form(expanded, index), form(expanded.clone(), index))
    turned = x.t().clone().t()
    torch.testing.assert_close(slope(form, turned, index), slope(form, x, index))
    torch.testing.assert_close(turned, x, rtol=0, atol=0)


def launches():
    """The program that counts them."""
    path = Path(__file__).parents[2] / "benchmarks" / "launches.py"
    spec = importlib.util.spec_from_file_location("launches", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_bytes_on_a_device_without_a_kernel():
    """Each full tensor that is read or written is 4 bytes a logit; the rows add a little.

    Forward a copy, its largest, difference, exponential, sum; backward one product in place. The
    exponentials are the gradient: no second tensor of that size is ever there.
    """
    program = launches()
    x, index = program.meta(64, 100_000), program.meta(64, dtype=torch.int64)
    count, saved = program.Case("margin", "parfocal", one, x, index).count()
    (forward, moved), (backward, back) = count.total("forward"), count.total("backward")
    assert round(moved / x.numel(), 1) == 8 + 4 + 8 + 8 + 4
    assert round(back / x.numel(), 1) == 8
    assert (forward, backward) <= (58, 8)
    assert round(count.peak / x.nbytes, 2) == round(saved / x.nbytes, 2) == 1
    count, _ = program.Case("margins", "parfocal", every, x, index).count()
    moved = sum(operation.moved for operation in count.operations)
    assert moved / x.numel() < 340
