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
from sampled import sampled

import parfocal
import parfocal.jax as losses

REGIONS = ("tversky", "unified")
ELEMENTWISE = [
    getattr(losses, name)
    for name in losses.__all__
    if not any(word in name for word in ("softmax", "likelihood", *REGIONS))
]
each = pytest.mark.parametrize("loss", ELEMENTWISE, ids=lambda loss: loss.__name__)
# Of what is compiled for seconds each.
some = pytest.mark.parametrize(
    "loss",
    sampled(ELEMENTWISE, {ELEMENTWISE[0], losses.asymmetric_loss}.__contains__),
    ids=lambda loss: loss.__name__,
)

X = np.array([[np.nan, 1.0, -3.0], [200.0, 0.5, -90.0]], np.float32)
Y = np.array([[1.0, 0.25, np.nan], [0.0, 1.0, 0.0]], np.float32)
COUNTS = np.array([[False, True, False], [True, True, True]])

# Logits up to the largest number.
FAR = [0.0, 1e-30, 1.0, 17.5, 88.5, 104.0, 3e4, 1e30, 1.7e38, 3.4028235e38]


def both(loss):
    """Value, and gradient of the sum."""
    return lambda x: (loss(x), jax.grad(lambda x: loss(x).sum())(x))


@some
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


@some
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


@pytest.mark.covering
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
        ("softmax_asymmetric_loss", {"gamma_neg": -1}, "`gamma_neg` >= 0, got -1"),
        ("softmax_asymmetric_loss", {"gamma_pos": np.ones(3)}, "`gamma_pos` to broadcast to the"),
        (
            "softmax_asymmetric_loss",
            {"label_smoothing": 2},
            r"`label_smoothing` in \[0, 1\], got 2",
        ),
        ("softmax_focal_loss", {"axis": 2}, "`axis` to be an axis of logits of shape"),
        ("softmax_focal_loss", {"axis": 1.0}, "`axis` to be an integer, got 1.0"),
        ("softmax_focal_loss", {"label_smoothing": np.full(3, 0.1)}, "to broadcast to the shape"),
        ("sigmoid_focal_loss", {"gamma": 2**21}, r"at most 2 \*\* 20, got 2097152$"),
        (
            "sigmoid_focal_loss",
            {"weight": [[1.0], [1.0, 2.0]]},
            "`weight` to be an array, got a list",
        ),
        ("sigmoid_focal_loss", {"epsilon": -0.1}, "`epsilon` finite and >= 0, got -0.1"),
        (
            "sigmoid_focal_loss",
            {"epsilon": [0.1]},
            r"`epsilon` to be one number, got the shape \(1,",
        ),
        (
            "softmax_focal_loss",
            {"epsilon": 1.0, "gamma": 100.0},
            r"\(1 \+ epsilon\) \*\* gamma to be at most 2 \*\* 64",
        ),
    ],
)
def test_wrong_options_are_refused(name, options, words):
    """In the name of the call and of the option."""
    labels = np.array([0, 1]) if "softmax" in name else np.float32([[0, 1, 1], [1, 0, 0]])
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*{words}"):
        getattr(losses, name)(np.zeros((2, 3), np.float32), labels, **options)


def test_logits_without_classes_are_refused():
    """Over which no softmax can be taken."""
    for name in ("softmax_focal_loss", "softmax_tversky_loss"):
        with pytest.raises(ValueError, match=f"^{name}: expected logits of at least one class"):
            getattr(losses, name)(np.zeros((2, 3, 0), np.float32), np.zeros((2, 3), int))


def test_lists_are_arrays():
    """Wherever an array may be given."""
    x, y = [[1.0, -2.0], [0.5, 3.0]], [[1, 0], [0, 1]]
    options = {"weight": [1.0, 2.0], "where": [True, False], "gamma": [0.5, 2.0]}
    arrays = {name: np.array(value) for name, value in options.items()}
    for loss, labels in ((losses.sigmoid_focal_loss, y), (losses.softmax_focal_loss, [0, 1])):
        found, expected = loss(x, labels, **options), loss(np.array(x), np.array(labels), **arrays)
        np.testing.assert_array_equal(found, expected)
    maps = losses.softmax_tversky_loss([x], [[0, 1]], weight=[1.0, 2.0])
    arrays = np.array([x]), np.array([[0, 1]])
    np.testing.assert_array_equal(
        maps, losses.softmax_tversky_loss(*arrays, weight=np.array([1.0, 2.0]))
    )


def test_label_smoothing_of_each_position():
    """Each is as with its own number."""
    x, index, share = X[1] * np.float32([[0.1], [0.2]]), np.array([0, 2]), np.float32([0.1, 0.4])
    found = losses.softmax_focal_loss(x, index, label_smoothing=share)
    for place, one in enumerate(share):
        alone = losses.softmax_focal_loss(x, index, label_smoothing=float(one))[place]
        assert float(found[place]) == pytest.approx(float(alone), rel=1e-6)


def test_an_infinite_logit_of_any_weight():
    """The limit is infinite however small the factors are, 0 of factors of 0, or finite."""
    x, y = np.float32([-np.inf, np.inf, np.inf]), np.float32([1, 0, 1])
    for options in ({"weight": 1e-25}, {"alpha": 1e-25}):
        found = losses.sigmoid_focal_loss(x, y, gamma=0.5, **options)
        np.testing.assert_array_equal(found, [np.inf, np.inf, 0])
    zero = losses.sigmoid_focal_loss(x, y, alpha=0.0, weight=np.float32([1, 0, 1]))
    np.testing.assert_array_equal(zero, [0, 0, 0])
    found = losses.asymmetric_loss(x, y, weight=1e-25)
    of_margin = 1e-25 * 0.95**4 * -np.log(0.05)
    np.testing.assert_allclose(found, [np.inf, of_margin, 0], rtol=1e-6)
    rows = np.float32([[-np.inf, 0, 1], [np.inf, np.inf, 1], [0, -np.inf, 1]])
    smoothed = losses.softmax_focal_loss(rows, np.zeros(3, int), weight=1e-30, label_smoothing=0.1)
    np.testing.assert_array_equal(smoothed, [np.inf, np.inf, np.inf])
    found = losses.softmax_focal_loss(rows, np.zeros(3, int), weight=1e-30, gamma=0.0)
    np.testing.assert_allclose(
        found, [np.inf, 1e-30 * np.log(2), 1e-30 * np.log1p(np.e)], rtol=1e-6
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_slope_in_a_margin_of_0_is_that_from_above(gamma):
    """By automatic differentiation of the formula in float64, also of its mixed derivative."""

    def formula(margin, x):
        p_m = jax.nn.sigmoid(x) - margin
        return (p_m**gamma * -jnp.log1p(-p_m)).sum()

    def ours(margin, x):
        return losses.asymmetric_loss(x, 0.0, gamma_neg=gamma, margin=margin).sum()

    x = np.linspace(-30, 12, 43)
    with jax.enable_x64(True):
        expected, mixed = (
            jax.jit(f)(0.0, x) for f in (jax.grad(formula), jax.grad(jax.grad(formula), 1))
        )
    found, found_mixed = (
        jax.jit(f)(np.float32(0), x.astype(np.float32))
        for f in (jax.grad(ours), jax.grad(jax.grad(ours), 1))
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(found_mixed, mixed, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "loss", [*ELEMENTWISE, losses.softmax_focal_loss], ids=lambda loss: loss.__name__
)
def test_complex_logits_are_refused(loss):
    """Whose loss would be no number that has an order."""
    with pytest.raises(TypeError, match="expected real `logits`, got complex64"):
        loss(jnp.zeros((2, 3), jnp.complex64), jnp.zeros((2, 3)))


def test_likelihoods_at_every_size():
    """0 below 0, NaN where p is no probability; three orders, and the exponent's, without a NaN."""
    loss = losses.likelihood_focal_loss

    def one(x, gamma):
        return loss(x, gamma=gamma)

    functions = [one]
    for _ in range(3):
        functions.append(jax.grad(functions[-1]))
    functions += [jax.grad(one, 1), jax.grad(jax.grad(one, 1), 0)]
    x, gammas = jnp.array([*FAR, jnp.inf]), jnp.array([0.0, 0.1, 1.0, 2.0, 5.0, 2.0**20])
    for place, function in enumerate(functions):
        of_all = jax.jit(jax.vmap(jax.vmap(function, (0, None)), (None, 0)))
        assert not jnp.isnan(of_all(x, gammas)).any(), place
    ends = jnp.array([0.0, -1e-7, -1.0, jnp.nan, jnp.inf])
    for gamma in (0.0, 0.5):
        value, slope = both(lambda x, gamma=gamma: loss(x, gamma=gamma))(ends)
        of_0 = float(gamma == 0)
        np.testing.assert_allclose(value, [0, -1e-7 * of_0, np.nan, np.nan, np.inf])
        np.testing.assert_allclose(slope[:2], [of_0, of_0])
        assert slope[4] == 0
        where = jnp.array([True, True, False, False, True])
        with jax.debug_nans(True):
            masked, masked_slope = both(lambda x, g=gamma, w=where: loss(x, gamma=g, where=w))(ends)
        np.testing.assert_array_equal(masked, jnp.where(where, value, 0))
        np.testing.assert_array_equal(masked_slope, jnp.where(where, slope, 0))


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
