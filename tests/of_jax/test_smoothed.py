"""The smoothing constant in JAX: beside the oracle, PyTorch, and differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.test_util import check_grads

import parfocal
from parfocal.audit.oracle import focal_truth
from parfocal.floats import representable
from parfocal.jax import sigmoid_focal_loss, softmax_focal_loss
from scan import worst_error


@jax.jit
def value_and_slope(x, gamma, epsilon):
    """Of a positive."""

    def loss(x):
        return sigmoid_focal_loss(x, 1.0, gamma=gamma, epsilon=epsilon)

    return loss(x), jax.grad(lambda x: loss(x).sum())(x)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_value_and_slope_are_those_of_the_oracle(gamma):
    """In float32, to what the exact loss keeps and two roundings more for the sum."""
    x = representable(torch.float32, 200, smallest=2.0**-6, largest=60.0)
    epsilon = 2.0**-10
    truth = focal_truth(x.double().tolist(), 1.0, gamma, epsilon)
    found = value_and_slope(jnp.asarray(x.numpy()), gamma, epsilon)
    for computed, exact in zip(found, (truth.value, truth.gradient), strict=True):
        worst = worst_error(x, torch.tensor(np.asarray(computed)), exact, headroom=2.0**28)
        assert worst.ulp <= 6 + 2 * gamma


@pytest.mark.parametrize("loss", ["sigmoid", "indices", "smoothing"])
def test_it_is_that_of_torch(loss):
    """Values and gradients in float64, of soft labels, of class indices, and of smoothed ones."""
    x = np.random.default_rng(0).normal(0, 4, (6, 5))
    y = np.random.default_rng(1).random(x.shape) if loss == "sigmoid" else np.arange(6) % 5
    options = {"gamma": 0.5, "epsilon": 1e-3}
    options |= {"label_smoothing": 0.1} if loss == "smoothing" else {}
    ours, theirs = (
        (sigmoid_focal_loss, parfocal.sigmoid_focal_loss)
        if loss == "sigmoid"
        else (softmax_focal_loss, parfocal.softmax_focal_loss)
    )
    options_of_torch = options | ({"alpha": -1} if loss == "sigmoid" else {})
    leaf = torch.tensor(x, requires_grad=True)
    expected = theirs(leaf, torch.tensor(y), reduction="none", **options_of_torch)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    with jax.enable_x64(True):
        found = ours(x, y, **options)
        found_slope = jax.grad(lambda x: ours(x, y, **options).sum())(x)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-10, atol=1e-14)


def test_every_order_by_differences():
    """In logits, labels, gamma and the constant, in float64."""
    with jax.enable_x64(True):
        x, y = jnp.array([0.3, -4.0, 6.0, -1.5]), jnp.array([0.2, 0.9, 0.5, 0.7])

        @jax.jit
        def loss(x, y, gamma, epsilon):
            return sigmoid_focal_loss(x, y, gamma=gamma, epsilon=epsilon).sum()

        arguments = x, y, jnp.float64(0.3), jnp.float64(0.01)
        check_grads(loss, arguments, order=2, modes=["fwd"], atol=1e-4, rtol=1e-4)
        check_grads(loss, arguments, order=3, modes=["rev"], atol=1e-3, rtol=1e-3)


def test_no_derivative_is_nan_at_any_logit():
    """Three orders in logits, and in labels, gamma and the constant, which may be 0."""
    x = jnp.array([0.0, 1e-30, 17.5, 88.5, 104.0, 3e4, 1e30, 1.7e38, 3.4028235e38, jnp.inf])
    labels, gammas = jnp.array([0.0, 1.0, 0.5, 1e-6]), jnp.array([0.0, 0.1, 1.0, 5.0, 200.0])
    constants = jnp.array([0.0, 1e-30, 1e-3, 0.1])

    def loss(x, y, gamma, epsilon):
        return sigmoid_focal_loss(x, y, gamma=gamma, epsilon=epsilon)

    functions = [loss]
    for _ in range(3):
        functions.append(jax.grad(functions[-1]))
    functions += [jax.grad(loss, place) for place in (1, 2, 3)]
    functions += [jax.grad(jax.grad(loss, place)) for place in (1, 2, 3)]

    @jax.jit
    def results(x):
        for place in range(4):
            axes = tuple(0 if one == place else None for one in range(4))
            functions[:] = [jax.vmap(function, axes) for function in functions]
        return [function(x, labels, gammas, constants) for function in functions]

    for place, result in enumerate(results(jnp.concatenate([x, -x]))):
        assert not jnp.isnan(result).any(), place
