"""The losses of JAX: beside those of PyTorch, under its transformations, in its dtypes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.test_util import check_grads

import parfocal
from parfocal.audit.oracle import focal_truth
from parfocal.floats import representable
from parfocal.jax import sigmoid_focal_loss, softmax_focal_loss
from scan import worst_error

GAMMAS = (0.0, 0.5, 2.0)


def normal(shape, seed=0):
    """Logits of a usual size."""
    return np.random.default_rng(seed).normal(0, 4, shape).astype(np.float32)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_sigmoid_is_that_of_torch(gamma, alpha):
    """Hard and soft labels, values and gradients."""
    x, y = normal(200), np.tile([0.0, 1.0, 0.3, 0.9], 50).astype(np.float32)
    leaf = torch.from_numpy(x).requires_grad_()
    expected = parfocal.sigmoid_focal_loss(leaf, torch.from_numpy(y), alpha, gamma)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)

    def loss(x):
        return sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma)

    np.testing.assert_allclose(loss(x), expected.detach(), rtol=3e-6)
    np.testing.assert_allclose(jax.grad(lambda x: loss(x).sum())(x), slope, rtol=1e-5, atol=1e-7)


def test_gradient_in_gamma_where_the_base_is_nearly_1():
    """q = 1 - 1e-6 at a label smoothed by as much; log q from 1 - q, beside PyTorch in float64."""
    x, y = np.array([20.0, -20.0], np.float32), np.array([1e-6, 1 - 1e-6], np.float32)
    gamma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    doubles = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    (expected,) = torch.autograd.grad(
        parfocal.sigmoid_focal_loss(*doubles, None, gamma).sum(), gamma
    )
    found = jax.grad(lambda gamma: sigmoid_focal_loss(x, y, gamma=gamma).sum())(0.5)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_is_that_of_optax_where_that_is_right(gamma):
    """Mild logits; the same call."""
    x, y = normal(100) / 4, (normal(100, 1) > 0).astype(np.float32)
    for alpha in (None, 0.25):
        ours, theirs = (
            loss(x, y, alpha=alpha, gamma=gamma)
            for loss in (sigmoid_focal_loss, optax.losses.sigmoid_focal_loss)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_is_that_of_torch(gamma):
    """Values and gradients, with weights of classes, and classes in the middle."""
    x, y = normal((6, 5, 7)), np.arange(42).reshape(6, 7) % 5
    weight = np.linspace(0.5, 2, 5).astype(np.float32)
    leaf = torch.from_numpy(x).requires_grad_()
    expected = parfocal.softmax_focal_loss(
        leaf, torch.from_numpy(y), torch.from_numpy(weight), gamma, reduction="none"
    )
    (slope,) = torch.autograd.grad(expected.sum(), leaf)

    def loss(x):
        return softmax_focal_loss(x, y, alpha=weight, gamma=gamma, axis=1)

    np.testing.assert_allclose(loss(x), expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda x: loss(x).sum())(x), slope, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
def test_softmax_far_into_saturation(gamma):
    """The margin of (x, 0) is x: the binary oracle's truth, to the bound of the docstring."""
    x = representable(torch.float32, 300, smallest=2.0**-6, largest=40.0)
    truth = focal_truth(x.double().tolist(), 1.0, gamma)
    rows = jnp.stack([jnp.asarray(x.numpy()), jnp.zeros(len(x))], 1)
    index = jnp.zeros(len(x), jnp.int32)

    def total(rows):
        return softmax_focal_loss(rows, index, gamma=gamma).sum()

    value = softmax_focal_loss(rows, index, gamma=gamma)
    slope = jax.grad(total)(rows)[:, 0]
    for computed, exact in ((value, truth.value), (slope, truth.gradient)):
        worst = worst_error(x, torch.tensor(np.asarray(computed)), exact, headroom=2.0**28)
        assert worst.ulp <= (1 + gamma) * (4 + 40)


def test_every_order_by_differences():
    """Both modes and two orders in logits, labels and gamma, three in logits, in float64."""
    with jax.enable_x64(True):
        x, y = jnp.asarray(normal(6), jnp.float64), jnp.array([0.2, 0.9, 0.5, 0.3, 0.7, 0.1])
        index = jnp.array([0, 1])

        @jax.jit
        def binary(x, y, gamma):
            return sigmoid_focal_loss(x, y, gamma=gamma).sum()

        @jax.jit
        def hard(x):
            return sigmoid_focal_loss(x, (y > 0.5).astype(x.dtype), gamma=0.3).sum()

        @jax.jit
        def classes(x, gamma):
            return softmax_focal_loss(x.reshape(2, 3), index, gamma=gamma).sum()

        gamma = jnp.float64(0.3)
        for loss, arguments in ((binary, (x, y, gamma)), (classes, (x, gamma))):
            check_grads(loss, arguments, order=1, modes=["fwd"], atol=1e-4, rtol=1e-4)
            check_grads(loss, arguments, order=2, modes=["rev"], atol=1e-4, rtol=1e-4)
        check_grads(hard, (x,), order=3, modes=["rev"], atol=1e-3, rtol=1e-3)


def test_transformations():
    """jit, vmap and hessian give what plain calls give."""
    x, y = normal((8, 4)), (normal((8, 4), 1) > 0).astype(np.float32)
    plain = sigmoid_focal_loss(x, y, gamma=0.5)
    np.testing.assert_allclose(
        jax.jit(lambda x, y, g: sigmoid_focal_loss(x, y, gamma=g))(x, y, 0.5), plain, rtol=1e-6
    )
    np.testing.assert_allclose(
        jax.vmap(lambda x, y: sigmoid_focal_loss(x, y, gamma=0.5))(x, y), plain, rtol=1e-6
    )
    matrix = jax.hessian(lambda x: sigmoid_focal_loss(x, y[0], gamma=0.5).sum())(x[0])
    assert np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    index = np.arange(8) % 4
    one = jax.vmap(lambda x, y: softmax_focal_loss(x, y, gamma=0.5))(x, index)
    np.testing.assert_allclose(one, softmax_focal_loss(x, index, gamma=0.5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_and_far_logits(dtype):
    """The dtype of the logits; finite derivatives of three orders at every size."""
    x = jnp.array([0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 3e4, -3e4]).astype(dtype)

    def loss(x, label, gamma):
        return sigmoid_focal_loss(x, label, gamma=gamma)

    functions = [loss]
    for _ in range(3):
        functions.append(jax.grad(functions[-1]))
    for function in functions:
        of_all = jax.jit(jax.vmap(function, (0, None, None)))
        for label in (0.0, 1.0, 0.5):
            for gamma in (0.0, 0.5, 2.0):
                result = of_all(x, label, gamma)
                assert result.dtype == dtype
                assert jnp.isfinite(result).all()


def test_infinite_logits():
    """The limit of the loss, with no gradient through it; NaN stays NaN."""
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan])
    value = sigmoid_focal_loss(x, 1.0, gamma=0.5)
    assert value[0] == 0
    assert value[1] == jnp.inf
    assert jnp.isnan(value[2])
    slope = jax.grad(lambda x: sigmoid_focal_loss(x, 1.0, gamma=0.5).sum())(x)
    assert (slope[:2] == 0).all()


def test_labels_out_of_range_and_wrong_ones():
    """One that is no class gives NaN, in the gradient too; a wrong dtype or shape is refused."""
    x = jnp.asarray(normal((4, 4)))
    index = jnp.array([0, -100, 4, -1])
    loss = softmax_focal_loss(x, index)
    slope = jax.grad(lambda x: softmax_focal_loss(x, index).sum())(x)
    assert loss[0] > 0
    assert loss[1] == 0
    assert (slope[1] == 0).all()
    assert jnp.isnan(loss[2:]).all()
    assert jnp.isnan(slope[2:]).all()
    assert not jnp.isnan(slope[:2]).any()
    assert jnp.isnan(softmax_focal_loss(x, index, ignore_index=None)[1])
    assert (softmax_focal_loss(x[:, :1], jnp.zeros(4, int)) == 0).all()
    with pytest.raises(TypeError, match="integer labels"):
        softmax_focal_loss(x, jnp.zeros(4, bool))
    for labels in (jnp.zeros(2, int), jnp.zeros(4)):
        with pytest.raises(ValueError, match="shape"):
            softmax_focal_loss(x, labels)


def test_a_training_with_optax():
    """Adam to saturation at gamma 0.1, in the place of optax's own loss."""
    x = jnp.asarray(normal((64, 3)))
    y = (x.sum(1) > 0).astype(jnp.float32)
    optimizer = optax.adam(0.5)
    weights = jnp.zeros(3)
    state = optimizer.init(weights)

    def loss(weights):
        return sigmoid_focal_loss(x @ weights, y, gamma=0.1).mean()

    @jax.jit
    def step(weights, state):
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    before = loss(weights)
    with jax.numpy_dtype_promotion("standard"):  # Adam of optax isn't strict
        for _ in range(100):
            weights, state = step(weights, state)
    assert loss(weights) < before / 10
    assert jnp.abs(x @ weights).max() > 30


def test_torch_need_not_be_imported_first():
    """By a user who only knows JAX, in a process of its own."""
    code = (
        "from parfocal.jax import sigmoid_focal_loss; import jax; "
        "print(jax.grad(lambda x: sigmoid_focal_loss(x, 1.0, gamma=0.5))(20.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(-1.40364344e-13, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "classes"), [("uint8", 256), ("uint8", 300), ("int8", 200), ("uint16", 70_000)]
)
def test_labels_of_a_narrow_dtype_are_classes(dtype, classes):
    """Where the number of classes is none of the dtype's, and would wrap around."""
    labels = np.array([0, 100], dtype)
    logits = jnp.linspace(-1, 1, classes)[None].repeat(2, 0)
    found = softmax_focal_loss(logits, labels, gamma=0.5)
    expected = softmax_focal_loss(logits, labels.astype("int32"), gamma=0.5)
    assert (found > 0).all()
    assert (found == expected).all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_no_nan_arises_and_no_dtype_is_promoted(dtype, wide):
    """Values and gradients at saturation, where a NaN inside would be an error, in both widths."""
    if dtype == "float64" and not wide:
        pytest.skip("no float64 without jax_enable_x64")
    with jax.enable_x64(wide), jax.debug_nans(True):
        x = jnp.asarray([[-3e4, 0.0, 90.0], [17.5, -88.0, 1.0]]).astype(dtype)
        y, index = (x > 0).astype(dtype), jnp.asarray([0, 1])
        for gamma in (0.0, 0.5, 2.0):
            for loss, labels in ((sigmoid_focal_loss, y), (softmax_focal_loss, index)):
                value, slope = jax.value_and_grad(
                    lambda x, f=loss, t=labels, g=gamma: f(x, t, gamma=g).sum()
                )(x)
                assert value.dtype == slope.dtype == x.dtype
                assert bool(jnp.isfinite(slope).all())
