"""The options that JAX's losses share, where numbers are refused, and what XLA makes of them."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.experimental import checkify

import parfocal
import parfocal.jax as losses

REGIONS = ("tversky", "unified")
ELEMENTWISE = [
    getattr(losses, name)
    for name in losses.__all__
    if not any(word in name for word in ("softmax", *REGIONS))
]
each = pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda loss: loss.__name__)

X = np.array([[np.nan, 1.0, -3.0], [200.0, 0.5, -90.0]], np.float32)
Y = np.array([[1.0, 0.25, np.nan], [0.0, 1.0, 0.0]], np.float32)
COUNTS = np.array([[False, True, False], [True, True, True]])

# Logits up to the largest number.
FAR = [0.0, 1e-30, 1.0, 17.5, 88.5, 104.0, 3e4, 1e30, 1.7e38, 3.4028235e38]


def both(loss):
    """Value, and gradient of the sum."""
    return lambda x: (loss(x), jax.grad(lambda x: loss(x).sum())(x))


@each
def test_what_is_left_out_is_0_whatever_stands_there(loss):
    """NaN among logits, labels and weights; none arises inside."""
    weight = np.where(COUNTS, 2.0, np.nan).astype(np.float32)

    def masked(x):
        return loss(x, Y, weight=weight, where=COUNTS)

    with jax.debug_nans(True):
        value, slope = both(masked)(X)
    kept = np.where(COUNTS, X, 0), np.where(COUNTS, Y, 0)
    plain, plain_slope = both(lambda x: 2 * loss(x, kept[1]))(kept[0])
    np.testing.assert_allclose(value, np.where(COUNTS, plain, 0), rtol=1e-6)
    np.testing.assert_allclose(slope, np.where(COUNTS, plain_slope, 0), rtol=1e-6)
    error, _ = checkify.checkify(jax.jit(both(masked)), errors=checkify.float_checks)(X)
    assert error.get() is None


@each
def test_weight_and_where_broadcast(loss):
    """Of other ranks than the logits."""
    x, y = X[1], Y[1]
    weight, where = np.float32([[1.0], [3.0]]), np.array([True, False, True])
    found = loss(x, y, weight=weight, where=where)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, weight * np.where(where, loss(x, y), 0), rtol=1e-6)


@each
def test_no_derivative_is_nan_at_any_logit(loss):
    """Three orders, forward mode, and derivatives in labels and exponents, up to infinity."""
    name = {"quality_focal_loss": "beta", "asymmetric_loss": "gamma_pos"}
    name = name.get(loss.__name__, "gamma")

    def one(x, y, exponent):
        return loss(x, y, **{name: exponent})

    functions = [one]
    for _ in range(3):
        functions.append(jax.grad(functions[-1]))
    functions.append(lambda x, y, e: jax.jvp(lambda x: one(x, y, e), (x,), (jnp.ones_like(x),))[1])
    functions += [jax.grad(one, 1), jax.grad(one, 2), jax.grad(jax.grad(one, 2))]
    x = jnp.array([*FAR, jnp.inf])
    x = jnp.concatenate([x, -x])
    labels = jnp.array([0.0, 1.0, 0.5, 1e-6])
    exponents = jnp.array([1.0, 1.5, 2.0, 5.0, 2.0**20])
    if loss.__name__ != "quality_focal_loss":
        exponents = jnp.concatenate([jnp.array([0.0, 1e-3, 0.1]), exponents])

    @jax.jit
    def results(x):
        for axes in ((0, None, None), (None, 0, None), (None, None, 0)):
            functions[:] = [jax.vmap(function, axes) for function in functions]
        return [function(x, labels, exponents) for function in functions]

    for place, result in enumerate(results(x)):
        assert not jnp.isnan(result).any(), place


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_options_are_those_of_torch(soft, smoothing):
    """Probabilities, smoothing, weights of classes and positions, masks; classes in the middle."""
    generator = np.random.default_rng(0)
    x = generator.normal(0, 4, (6, 5, 7))
    index = generator.integers(0, 5, (6, 7))
    index[0] = -100
    y = generator.dirichlet(np.ones(5), (6, 7)).transpose(0, 2, 1) if soft else index
    alpha, weight = np.linspace(0.5, 2, 5), generator.random((6, 7))
    where = generator.random((6, 7)) > 0.3
    leaf = torch.tensor(x, requires_grad=True)
    expected = parfocal.softmax_focal_loss(
        leaf,
        torch.tensor(np.ascontiguousarray(y)),
        torch.tensor(alpha),
        0.5,
        label_smoothing=smoothing,
        position_weight=torch.tensor(weight),
        mask=torch.tensor(where),
        reduction="none",
    )
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    counts = where if soft else where & (index != -100)
    spoiled = np.where(counts[:, None], x, np.nan)

    def loss(x):
        options = {"weight": weight, "where": where, "label_smoothing": smoothing}
        return losses.softmax_focal_loss(x, y, alpha=alpha, gamma=0.5, axis=1, **options)

    with jax.enable_x64(True):
        with jax.debug_nans(True):
            found, found_slope = both(loss)(spoiled)
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-12)
        np.testing.assert_allclose(found_slope, slope, rtol=1e-10, atol=1e-14)
        error, _ = checkify.checkify(jax.jit(both(loss)), errors=checkify.float_checks)(spoiled)
        assert error.get() is None


def test_where_of_the_logits_says_which_classes_count():
    """The softmax over them, as if the others weren't there; NaN where the label is ruled out."""
    x = np.float32([[1.0, np.nan, -1.0], [2.0, 0.5, 9.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    where = np.array([[True, False, True], [True, True, False], [True, False, True], [False] * 3])
    index = np.array([0, 1, 1, 0])
    found, slope = both(lambda x: losses.softmax_focal_loss(x, index, where=where))(x)
    pairs = np.float32([[1.0, -1.0], [2.0, 0.5]])
    alone, alone_slope = both(lambda x: losses.softmax_focal_loss(x, index[:2]))(pairs)
    np.testing.assert_allclose(found[:2], alone, rtol=1e-6)
    np.testing.assert_allclose(slope[0, ::2], alone_slope[0], rtol=1e-6)
    assert slope[0, 1] == 0
    assert jnp.isnan(found[2])
    assert found[3] == 0
    assert (slope[3] == 0).all()


@pytest.mark.parametrize("labels", ["indices", "probabilities"])
def test_infinite_class_logits_give_the_limit(labels):
    """That of torch, value and gradient."""
    inf = np.inf
    rows = [[inf, 0, 1], [-inf, 0, 1], [0, inf, 1], [0, -inf, 1], [inf, inf, 1], [-inf] * 3]
    x = np.array([*rows, [200, 0, 0], [0, 200, 0]], np.float32)
    index = np.zeros(len(x), np.int32)
    y = index if labels == "indices" else np.eye(3, dtype=np.float32)[index]
    leaf = torch.tensor(x, requires_grad=True)
    target = torch.tensor(y if y.ndim == 2 else y.astype(np.int64))
    expected = parfocal.softmax_focal_loss(leaf, target, gamma=0.5, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    found, found_slope = both(lambda x: losses.softmax_focal_loss(x, y, gamma=0.5))(x)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-5, atol=1e-30)


@each
@pytest.mark.parametrize("wrong", [-1, float("nan"), 2.0**21, np.float32([1, -1])], ids=str)
def test_wrong_exponents_are_refused(loss, wrong):
    """Where their value is known; and not where it is traced."""
    parameters = set(loss.__kwdefaults__) & {"gamma", "beta", "gamma_neg", "gamma_pos"}
    assert parameters
    x, y = X[1, :2], Y[1, :2]
    for name in parameters:
        with pytest.raises(ValueError, match=rf"^{loss.__name__}: expected `{name}` .*, got"):
            loss(x, y, **{name: wrong})
        jax.jit(lambda value, name=name: loss(x, y, **{name: value}))(wrong)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sigmoid_focal_loss", {"gamma": -1}, "`gamma` >= 0, got -1"),
        ("sigmoid_focal_loss", {"alpha": 1.5}, r"`alpha` in \[0, 1\], got 1.5"),
        ("varifocal_loss", {"alpha": -0.5}, r"`alpha` in \[0, 1\], got -0.5"),
        ("poly_focal_loss", {"epsilon_1": -2.0}, "`epsilon_1` finite and >= -1, got -2"),
        ("quality_focal_loss", {"beta": 0.5}, "`beta` >= 1 at labels of a floating dtype"),
        ("asymmetric_loss", {"margin": 1.0}, r"`margin` in \[0, 1\), got 1"),
        ("asymmetric_loss", {"gamma_neg": 0.5}, "`gamma_neg` 0 or >= 1 with a margin"),
        ("gaussian_focal_loss", {"where": np.ones(3)}, "boolean `where`, got"),
        ("gaussian_focal_loss", {"weight": np.ones(4)}, "arrays that broadcast together"),
        ("sigmoid_focal_loss", {"gamma": True}, "`gamma` to be a number or an array, got bool"),
        ("softmax_focal_loss", {"gamma": -1}, "`gamma` >= 0, got -1"),
        ("asymmetric_loss", {"margin": np.ones(3)}, r"`margin` in \[0, 1\), got 1"),
        ("asymmetric_loss", {"gamma_neg": 0.5, "margin": np.full(3, 0.05)}, "with a margin"),
        ("softmax_focal_loss", {"label_smoothing": 2}, r"`label_smoothing` in \[0, 1\], got 2"),
        ("softmax_focal_loss", {"alpha": 0.25}, "one number for each of the 3 classes"),
        ("softmax_focal_loss", {"ignore_index": 1.5}, "`ignore_index` to be an integer, got 1.5"),
        ("softmax_focal_loss", {"weight": np.ones(3)}, "`weight` to broadcast to the shape"),
        ("softmax_focal_loss", {"axis": 2}, "`axis` to be one of logits of shape"),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    """In the name of the call and of the option."""
    labels = np.array([0, 1]) if "softmax" in name else np.float32([[0, 1, 1], [1, 0, 0]])
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*{words}"):
        getattr(losses, name)(np.zeros((2, 3), np.float32), labels, **options)


@pytest.mark.parametrize(
    "loss", [*ELEMENTWISE, losses.softmax_focal_loss], ids=lambda loss: loss.__name__
)
def test_complex_logits_are_refused(loss):
    """Whose loss would be no number that has an order."""
    with pytest.raises(TypeError, match="expected real `logits`, got complex64"):
        loss(jnp.zeros((2, 3), jnp.complex64), jnp.zeros((2, 3)))


def compiled(loss, x, y):
    """The program of value and gradient of the mean."""
    mean = jax.value_and_grad(lambda x: loss(x, y).mean())
    return jax.jit(mean).lower(x).compile()


def test_less_is_read_and_written_than_by_optax():
    """Bytes of the compiled programs, and the loops of the elementwise one."""
    x = jnp.zeros(2**16)
    ours, theirs = (
        compiled(functools.partial(loss, gamma=0.5), x, x)
        for loss in (losses.sigmoid_focal_loss, optax.losses.sigmoid_focal_loss)
    )
    assert ours.cost_analysis()["bytes accessed"] < theirs.cost_analysis()["bytes accessed"]
    assert ours.cost_analysis()["transcendentals"] <= 3 * x.size
    text = ours.as_text()
    assert text[text.index("ENTRY") :].count(" fusion(") <= 9
    rows, index = jnp.zeros((256, 1000)), jnp.zeros(256, int)
    ours = compiled(losses.softmax_focal_loss, rows, index)
    plain = compiled(optax.losses.softmax_cross_entropy_with_integer_labels, rows, index)
    assert ours.cost_analysis()["bytes accessed"] < plain.cost_analysis()["bytes accessed"]
    assert "scatter(" not in ours.as_text()


SHARDED = """
import jax, jax.numpy as jnp
from parfocal.jax import softmax_focal_loss
logits, labels = jnp.arange(12.0).reshape(4, 3) % 5, jnp.array([0, 1, 2, 1])
loss = lambda x, y, alpha: softmax_focal_loss(x, y, alpha=alpha).sum()
alpha = jnp.array([1.0, 2.0, 3.0])
expected = jax.grad(loss, (0, 2))(logits, labels, alpha)
with jax.set_mesh(jax.make_mesh((2,), ("batch",), (jax.sharding.AxisType.Explicit,))):
    x, y = (jax.device_put(array, jax.P("batch")) for array in (logits, labels))
    found = jax.jit(jax.grad(loss, (0, 2)))(x, y, alpha)
assert all(jnp.allclose(jax.device_get(a), b) for a, b in zip(found, expected))
print("the same")
"""


def test_class_weights_of_a_batch_on_two_devices():
    """An explicit sharding, under which a gather has to say where its result is."""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, **devices}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "the same\n", done.stderr
