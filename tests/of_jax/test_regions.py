"""The region losses of JAX: beside those of PyTorch in float64, and as their papers print them."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch
from jax.experimental import checkify
from jax.test_util import check_grads
from sampled import first_of_each, sampled

import parfocal
import parfocal.jax
import textbook_losses as textbook

TVERSKY = ("sigmoid_tversky_loss", "softmax_tversky_loss")
FOCAL = ("sigmoid_focal_tversky_loss", "softmax_focal_tversky_loss")
UNIFIED = (
    "sigmoid_unified_focal_loss",
    "sigmoid_asymmetric_unified_focal_loss",
    "softmax_unified_focal_loss",
    "softmax_asymmetric_unified_focal_loss",
)
NAMES = (*TVERSKY, *FOCAL, *UNIFIED)

# One of each way: the others differ by numbers, and their values and gradients are compared below.
WAYS = (*FOCAL, "sigmoid_asymmetric_unified_focal_loss", "softmax_asymmetric_unified_focal_loss")
of_each_kind = pytest.mark.parametrize("name", first_of_each(NAMES, lambda name: name[:7]))
each_way = pytest.mark.parametrize(
    "name",
    sampled(
        WAYS,
        ("softmax_focal_tversky_loss", "sigmoid_asymmetric_unified_focal_loss").__contains__,
    ),
)


@pytest.fixture(autouse=True)
def strict():
    """No promotion of ranks or dtypes that isn't written; of float32, whatever the default is."""
    no_dtype = jax.numpy_dtype_promotion("strict")
    with jax.enable_x64(False), jax.numpy_rank_promotion("raise"), no_dtype:
        yield


def logits(shape, seed=0, size=4.0):
    """Of a usual size."""
    return np.random.default_rng(seed).normal(0, size, shape).astype(np.float32)


def labels_of(name, x, seed=1):
    """Binary ones of the shape of logits (N, ..., C), or class indices."""
    random = np.random.default_rng(seed)
    if name.startswith("softmax"):
        return random.integers(0, x.shape[-1], x.shape[:-1]).astype(np.int32)
    return (random.random(x.shape) < 0.3).astype(np.float32)


def torch_labels(y):
    """The same with classes in dim 1, where PyTorch has them."""
    tensor = torch.from_numpy(np.array(y))
    return tensor.movedim(-1, 1).double() if tensor.is_floating_point() else tensor.long()


def torch_truth(name, x, y, **options):
    """Losses and the gradient of their sum, in float64."""
    leaf = torch.from_numpy(np.asarray(x, np.float64)).requires_grad_()
    loss = getattr(parfocal, name)(
        leaf.movedim(-1, 1), torch_labels(y), reduction="none", **options
    )
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach().numpy(), slope.numpy()


def value_and_slope(name, x, y, **options):
    """Losses and the gradient of their sum, of JAX."""
    arrays = {key: options.pop(key) for key in ("where", "weight") if key in options}
    return _value_and_slope(name, tuple(options.items()), x, y, arrays)


# What is compiled for one test is there for the next.
@partial(jax.jit, static_argnums=(0, 1))
def _value_and_slope(name, options, x, y, arrays):
    def loss(x):
        return getattr(parfocal.jax, name)(x, y, **dict(options), **arrays)

    return loss(x), jax.grad(lambda x: loss(x).sum())(x)


def assert_close(found, truth, rtol):
    """Each within rtol of the truth, or of a hundredth of its largest number."""
    for result, exact in zip(found, truth, strict=True):
        smallest = float(jnp.finfo(result.dtype).smallest_subnormal)
        atol = max(rtol * np.abs(exact).max() / 100, smallest)
        np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol, atol)


@pytest.mark.covering
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_torch(name, wide, per_image):
    """Of every option, in both widths: (N, C), or (C) over the batch."""
    x = logits((3, 5, 4, 3))
    y = labels_of(name, x)
    # A power of two of them, by which PyTorch divides without rounding in float32.
    where = np.random.default_rng(2).permutation(y.size).reshape(y.shape) < 32
    weight = np.array([0.5, 1.0, 2.0])
    options = {"smooth": 0.5, "per_image": per_image}
    options |= {"gamma": 0.7} if name not in TVERSKY else {}
    options |= {"delta": 0.7, "balance": 0.3} if "unified" in name else {"alpha": 0.6, "beta": 0.2}
    mask = torch.from_numpy(where).movedim(-1, 1) if y.ndim == x.ndim else torch.from_numpy(where)
    truth = torch_truth(name, x, y, **options, weight=torch.from_numpy(weight), mask=mask)
    with jax.enable_x64(wide):
        given = jnp.asarray(x, jnp.float64 if wide else jnp.float32)
        found = value_and_slope(name, given, y, **options, weight=weight, where=where)
        assert found[0].dtype == given.dtype
        assert found[0].shape == ((3, 3) if per_image else (3,))
        assert_close(found, truth, 1e-12 if wide else 1e-5)


@of_each_kind
def test_soft_labels_and_classes_in_the_middle(name):
    """Probabilities of the shape of the logits, where `axis` says that classes are."""
    x = logits((2, 6, 3))
    y = np.random.default_rng(1).random(x.shape).astype(np.float32)
    y = y / y.sum(-1, keepdims=True) if name.startswith("softmax") else y
    arrays = (np.moveaxis(array, -1, 1) for array in (x, y))
    value, slope = value_and_slope(name, *arrays, axis=1)
    found = value, np.moveaxis(slope, 1, -1)
    assert_close(found, torch_truth(name, x, y), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_papers(name):
    """From probabilities, at mild logits."""
    x = logits((2, 6, 3), size=1.0)
    y = labels_of(name, x)
    inputs, targets = torch.from_numpy(x).movedim(-1, 1).double(), torch_labels(y)
    if name.startswith("softmax"):
        p, targets = inputs.softmax(1), textbook.one_hot(targets)
    else:
        p = inputs.sigmoid()
    asymmetric = "asymmetric" in name
    if "unified" not in name:
        expected = textbook.tversky(p, targets, 0.75 if name in FOCAL else 1.0, (2,))
    elif name.startswith("softmax"):
        expected = textbook.unified(p, targets, 0, asymmetric)
    else:
        expected = textbook.sigmoid_unified(inputs, targets, asymmetric)
    np.testing.assert_allclose(getattr(parfocal.jax, name)(x, y), expected, rtol=1e-5)


# Margins of a perfect match, of one wrong position in it, of all wrong, and of several sizes.
SATURATED = {
    "perfect": [60.0, 61.5, -70.25, -64.0],
    "one wrong": [60.0, 61.5, -70.25, 3.0],
    "all wrong": [-60.0, -61.5, 70.25, 64.0],
    "far and near": [20.0, 90.0, -25.0, -100.0],
    "beyond exp": [120.0, 150.5, -119.0, -300.0],
    "nothing found": [-100.0, -98.5, -90.0, -91.0],
}


@pytest.mark.parametrize("exponent", [2.0, 0.77, 0.14])
def test_focal_tversky_in_saturation(exponent):
    """Within the bound of the docstring where the result is a normal number of float32."""
    gamma = 1 / float(np.float32(exponent))  # of which no rounding is felt
    name, y = "sigmoid_focal_tversky_loss", np.array([[[1], [1], [0], [0]]], np.float32)

    @jax.jit
    def computed(x, alpha, smooth):
        options = {"alpha": alpha, "gamma": gamma, "smooth": smooth}
        loss = partial(getattr(parfocal.jax, name), labels=y, **options)
        return loss(x), jax.grad(lambda x: loss(x).sum())(x)

    for margins in SATURATED.values():
        x = np.array(margins, np.float32).reshape(y.shape)
        # Without weight of FN both E and G are far where nothing is found.
        for alpha, smooth in ((0.75, 0.0), (0.75, 2.0**-10), (0.0, 0.0)):
            truth = torch_truth(name, x, y, alpha=alpha, gamma=gamma, smooth=smooth)
            for result, exact in zip(computed(x, alpha, smooth), truth, strict=True):
                bound = (8 + 6 * exponent) * np.spacing(np.abs(exact).astype(np.float32))
                is_normal = np.abs(exact) > 2.0**-98
                assert (np.abs(np.asarray(result) - exact) <= bound)[is_normal].all()
                assert (np.abs(result) <= 2.0**-97)[~is_normal].all()


@jax.jit
@partial(jax.grad, argnums=(0, 1, 2))
def slopes_in_weights(alpha, beta, smooth, x, y, gamma):
    """Of the loss of one region, in alpha, beta and smooth."""
    options = {"alpha": alpha, "beta": beta, "smooth": smooth, "gamma": gamma}
    return parfocal.jax.sigmoid_focal_tversky_loss(x, y, **options).sum()


def true_slopes(alpha, beta, smooth, x, y, gamma):
    """Of (E / (G + E)) ** k in as many digits as it takes, from E on that is not 0."""
    with mpmath.workdps(300):
        p = [1 / (1 + mpmath.exp(-mpmath.mpf(float(u)))) for u in x]
        q = [1 / (1 + mpmath.exp(mpmath.mpf(float(u)))) for u in x]
        y = [mpmath.mpf(float(label)) for label in y]
        fn, fp = mpmath.fdot(y, q), mpmath.fdot([1 - label for label in y], p)
        e = alpha * fn + beta * fp
        s, k = mpmath.fdot(y, p) + smooth + e, 1 / mpmath.mpf(gamma)
        in_e = k * (e / s) ** (k - 1) * (s - e) / s**2 if e else 0  # k is 1 there
        in_e = in_e if e else 1 / s
        return [in_e * fn, in_e * fp, -k * (e / s) ** k / s]


@pytest.mark.parametrize("labels", [[1, 1, 0, 0], [0, 0, 0, 0], [0.5, 1, 0, 0.25]], ids=str)
@pytest.mark.parametrize("weights", [(0.0, 0.5, 1.0), (0.75, 0.0, 1.0), (0.75, 0.25, 0.0)], ids=str)
def test_slope_in_a_weight_of_0(weights, labels):
    """The limit, also where errors with that weight are of another size than all others."""
    y = np.float32(labels).reshape(1, 4, 1)
    for margins in ([1.0, -0.5, -2.0, 0.75], *SATURATED.values(), [-3.0, 2.0, -120.0, -130.0]):
        x = np.float32(margins)
        for gamma in (1.0, 2.0, 0.5):
            numbers = *map(np.float32, weights), x.reshape(y.shape), y, np.float32(gamma)
            found = slopes_in_weights(*numbers)
            if not any(labels) and weights[1] == 0:  # nothing is wrong, and nothing would be
                continue
            truth = true_slopes(*weights, x, labels, gamma)
            for place in np.flatnonzero(np.array(weights) == 0):
                if abs(truth[place]) < 1e18:  # beyond, where the truth grows to infinity, a bound
                    assert float(found[place]) == pytest.approx(float(truth[place]), 2e-4, 1e-36)


def test_slope_in_logits_and_a_weight_of_0():
    """The mixed derivative, in both orders, beside the value a little above 0."""
    x, y = np.float32([[[20.0], [0.5], [-18.0], [-2.0]]]), np.float32([[[1], [1], [0], [0]]])

    def loss(smooth, x):
        return parfocal.jax.sigmoid_tversky_loss(x, y, alpha=0.7, smooth=smooth).sum()

    mixed = jax.jit(jax.grad(lambda s, x: (jax.grad(loss, 1)(s, x) * x).sum()))
    other = jax.jit(lambda s, x: (jax.grad(jax.grad(loss), 1)(s, x) * x).sum())
    near = mixed(np.float32(1e-3), x)
    for found in (mixed(np.float32(0), x), other(np.float32(0), x)):
        assert float(found) == pytest.approx(float(near), rel=5e-3)


@pytest.mark.parametrize("name", UNIFIED)
def test_infinite_cross_entropy(name):
    """The part of a class whose logit rules its label out is infinite, and no other."""
    inf = np.inf
    x = np.float32([[[-inf, 0.0, 1.0], [0.0, 3.0, 2.0]]])
    y = np.array([[0, 1]]) if "softmax" in name else np.float32([[[1, 0, 0], [1, 1, 0]]])

    @jax.jit
    def loss(weight, balance):
        return getattr(parfocal.jax, name)(x, y, weight=weight, balance=balance)

    found = loss(np.array([1e-30, 1.0, 1.0]), 0.5)
    assert found[0, 0] == inf
    assert jnp.isfinite(found[0, 1:]).all()
    assert loss(np.array([0.0, 1.0, 1.0]), 0.5)[0, 0] == 0
    assert jnp.isfinite(loss(np.ones(3), 1.0)).all()


@pytest.mark.covering
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_saturation_in_every_dtype(name, dtype):
    """Right by 40, but for one position: as in float64, in the dtype of the logits."""
    index = np.arange(12).reshape(2, 6) % 3
    hot = np.eye(3, dtype=np.float32)[index]
    y = index if name.startswith("softmax") else hot
    x = jnp.asarray((2 * hot - 1) * (40 + logits(hot.shape, size=1.0)))
    x = x.at[0, 0].multiply(-1).astype(dtype)
    truth = torch_truth(name, np.asarray(x, np.float32), y, smooth=0.0)
    found = value_and_slope(name, x, y, smooth=0.0)
    assert all(result.dtype == dtype for result in found)
    assert_close(found, truth, {"bfloat16": 2.0**-8, "float16": 2.0**-10}.get(dtype, 3e-5))
    assert (truth[0][1] < 1e-6).all()


@each_way
def test_second_derivatives_by_differences(name):
    """In both modes, in the logits and in the numbers, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(logits((1, 4, 3)), jnp.float64)
        y = labels_of(name, x)
        numbers = {"smooth": 0.5}
        numbers |= {"delta": 0.7, "gamma": 0.3} if "unified" in name else {"alpha": 0.6}
        numbers |= {"gamma": 1.4} if name in FOCAL else {}
        numbers = {key: jnp.float64(value) for key, value in numbers.items()}

        @jax.jit
        def loss(x, numbers):
            return getattr(parfocal.jax, name)(x, y, **numbers).sum()

        check_grads(loss, (x, numbers), order=1, modes=["fwd"], atol=1e-5, rtol=1e-5)
        check_grads(loss, (x, numbers), order=2, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FOCAL)
def test_second_derivative_in_saturation(name):
    """The gradient of the gradient's square, beside PyTorch in float64, where E is about e^-30."""
    x = np.where(np.eye(3), 30.0, -30.0).astype(np.float32)[None] + logits((1, 3, 3), size=1.0)
    y = np.eye(3, dtype=np.float32)[None] if "sigmoid" in name else np.arange(3)[None]
    loss = partial(getattr(parfocal.jax, name), labels=y, smooth=0.0, gamma=2.0)

    @jax.jit
    @jax.grad
    def found(x):
        return ((1e7 * jax.grad(lambda x: loss(x).sum())(x)) ** 2).sum()

    leaf = torch.from_numpy(x).double().requires_grad_()
    values = getattr(parfocal, name)(
        leaf.movedim(-1, 1), torch_labels(y), smooth=0.0, gamma=2.0, reduction="sum"
    )
    (slope,) = torch.autograd.grad(values, leaf, create_graph=True)
    (expected,) = torch.autograd.grad(((1e7 * slope) ** 2).sum(), leaf)
    assert expected.abs().max() > 1e-15
    assert_close([found(x)], [expected.numpy()], 3e-5)


@of_each_kind
def test_what_does_not_count(name):
    """Whatever stands where a position doesn't count, results are those of the others alone."""
    x = logits((2, 6, 3))
    y = labels_of(name, x)
    counts = np.array([True, False, True, True, False, True])
    where = counts if y.ndim == 2 else counts[:, None]
    hidden, wrong = x.copy(), y.copy()
    hidden[:, ~counts] = np.nan
    wrong[:, ~counts] = 7
    found = value_and_slope(name, hidden, wrong, where=where)
    value, slope = value_and_slope(name, x[:, counts], y[:, counts])
    assert_close([found[0], found[1][:, counts]], [value, slope], 1e-6)
    assert (found[1][:, ~counts] == 0).all()
    value, slope = value_and_slope(name, hidden, y, where=np.zeros_like(where))
    assert (value == 0).all()
    assert (slope == 0).all()


@pytest.mark.covering
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("softmax")])
@pytest.mark.parametrize(
    ("dtype", "ignored"), [("int32", -100), ("int8", -100), ("uint8", 255), ("uint32", 255)]
)
def test_ignored_labels(name, dtype, ignored):
    """A mark, or a class that isn't counted: as with a mask."""
    x = logits((2, 6, 3))
    y = labels_of(name, x)
    y[:, 1] = 2
    marked = y.astype(dtype)
    marked[:, 3] = ignored
    options = {"where": (y != 2) & (np.arange(6) != 3)}
    found = value_and_slope(name, x, marked, ignore_index=(2, ignored))
    assert_close(found, value_and_slope(name, x, y, **options), 1e-6)


@pytest.mark.covering
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("softmax")])
@pytest.mark.parametrize("index", [3, -1])
def test_labels_out_of_range_make_their_region_nan(name, index):
    """Value and gradient, as optax's losses; of no other image."""
    x = logits((2, 6, 3))
    y = labels_of(name, x).astype(np.int32)
    y[1, 2] = index
    value, slope = value_and_slope(name, x, y)
    assert np.isnan(value[1]).all()
    assert np.isnan(slope[1]).any()
    expected = value_and_slope(name, x[:1], y[:1])
    np.testing.assert_allclose(value[:1], expected[0], rtol=1e-6)
    np.testing.assert_allclose(slope[:1], expected[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_labels_of_a_narrow_dtype_are_classes(dtype):
    """Where the number of classes is none of the dtype's, and would wrap around."""
    x, y = logits((1, 2, 300)), np.array([[0, 100]])
    loss = jax.jit(parfocal.jax.softmax_tversky_loss)
    found, expected = (loss(x, y.astype(one)) for one in (dtype, np.int32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_are_data():
    """No gradient flows to them, which would be none of a region with a scale."""
    x = logits((1, 4, 3))
    for name in ("sigmoid_focal_tversky_loss", "softmax_unified_focal_loss"):
        slope = jax.jit(jax.grad(lambda y, name=name: getattr(parfocal.jax, name)(x, y).sum()))
        assert (slope(jnp.full(x.shape, 1 / 3)) == 0).all()


@each_way
def test_transformations(name):
    """jit, vmap of an option and of images, and scan give what plain calls give."""
    x = logits((4, 6, 3))
    y = labels_of(name, x)
    loss = getattr(parfocal.jax, name)
    plain = loss(x, y)
    np.testing.assert_allclose(value_and_slope(name, x, y)[0], plain, rtol=1e-6)
    of_smooth = jax.jit(lambda smooth: loss(x, y, smooth=smooth))
    numbers = jnp.array([0.0, 0.5])
    for result, smooth in zip(jax.vmap(of_smooth)(numbers), numbers, strict=True):
        np.testing.assert_allclose(result, of_smooth(smooth), rtol=1e-6)
    # An image by itself; CE is a mean over the batch, so that one of equal images is the same.
    one = jax.jit(lambda x, y: loss(x, y, per_image=False))
    _, scanned = jax.lax.scan(lambda _, pair: (_, one(*pair)), None, (x, y))
    for result in (jax.vmap(one)(x, y), scanned):
        np.testing.assert_allclose(result, plain, rtol=1e-5)


@pytest.mark.covering
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
@each_way
def test_no_nan_arises(name, dtype):
    """Nor a division by zero, at any size: in value, derivatives, and all that is inside."""
    with jax.enable_x64(dtype == "float64"), jax.debug_nans(True):
        index = jnp.array([[0, 1]])
        y = index if name.startswith("softmax") else jax.nn.one_hot(index, 3, dtype=dtype)

        # An exponent of many digits: products with it are split in two.
        options = {"gamma": 1 / 0.7499} if name in FOCAL else {}

        def derivatives(x, smooth):
            loss = partial(getattr(parfocal.jax, name), labels=y, smooth=smooth, **options)
            orders = [loss, jax.grad(lambda x: loss(x).sum())]
            if name in FOCAL and smooth == 0:
                orders.append(jax.grad(lambda x: orders[1](x).sum()))
            return [order(x) for order in orders]

        checked = (
            jax.jit(
                checkify.checkify(partial(derivatives, smooth=smooth), errors=checkify.float_checks)
            )
            for smooth in (0.0, 1.0)
        )
        signs = jnp.array([[[1.0, -1.0, -1.0], [-1.0, 1.0, -0.5]]])
        for of_smooth in checked:
            for size in (0.0, 15.0, -15.0, 90.0, -90.0, 3e4, -3e4, 1e30, -1e30):
                error, results = of_smooth((size * signs).astype(dtype))
                assert error.get() is None
                assert all(bool(jnp.isfinite(result).all()) for result in results)


def test_infinite_logits_and_single_classes():
    """The limits: nothing comes through an infinite logit, and one class alone is always right."""
    x = jnp.array([[[jnp.inf, -jnp.inf], [-jnp.inf, 2.0]]])
    y = jnp.array([[[1.0, 0.0], [1.0, 1.0]]])
    value, slope = value_and_slope("sigmoid_focal_tversky_loss", x, y, gamma=1.0, smooth=0.0)
    wrong = 0.7 / (1 + np.exp(2.0))
    expected = [0.7 / 1.7, wrong / (wrong + 1 / (1 + np.exp(-2.0)))]
    np.testing.assert_allclose(value[0], expected, rtol=1e-6)
    assert slope[0, 1, 1] < 0
    assert np.count_nonzero(slope) == 1
    index, far = jnp.zeros((2, 5), jnp.int32), np.full((2, 5, 2), [np.inf, -np.inf], np.float32)
    tversky = partial(value_and_slope, "softmax_focal_tversky_loss", y=index)
    checked = jax.jit(checkify.checkify(tversky, errors=checkify.float_checks))
    for x in (logits((2, 5, 1)), far):
        error, results = checked(x)
        assert error.get() is None
        for result in (*results, *value_and_slope("softmax_unified_focal_loss", x, index)):
            assert (result == 0).all()


def test_equal_logits_of_classes():
    """No class is the largest: the gradient is that of PyTorch, also of the second order."""
    x = jnp.zeros((1, 2, 3))
    y = np.array([[0, 2]])
    found = value_and_slope("softmax_focal_tversky_loss", x, y)
    assert_close(found, torch_truth("softmax_focal_tversky_loss", x, y), 1e-6)


def test_numbers_of_a_class():
    """alpha, beta, smooth and gamma may be one a class; each class is as with its own number."""
    x = logits((2, 6, 3))
    y = labels_of("sigmoid_focal_tversky_loss", x)
    numbers = {
        "alpha": np.array([0.1, 0.5, 0.9]),
        "beta": jnp.array([0.3, 0.2, 0.1]),
        "smooth": [0.0, 1.0, 2.0],
        "gamma": np.array([1, 2, 3]),
    }
    loss = parfocal.jax.sigmoid_focal_tversky_loss
    found = loss(x, y, **numbers)
    for c in range(3):
        own = {key: float(value[c]) for key, value in numbers.items()}
        np.testing.assert_allclose(found[:, c], loss(x, y, **own)[:, c], rtol=1e-6)


def test_many_positions():
    """A million of them in float32, within what a sum of as many does."""
    x = logits((1, 2**20, 1))
    y = labels_of("sigmoid_tversky_loss", x)
    found = value_and_slope("sigmoid_tversky_loss", x, y)
    assert_close(found, torch_truth("sigmoid_tversky_loss", x, y), 1e-4)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("sigmoid_tversky_loss", {"smooth": -1}, ValueError, "`smooth` finite and >= 0, got -1"),
        (
            "softmax_tversky_loss",
            {"alpha": np.float32(-1)},
            ValueError,
            "`alpha` finite and >= 0, got -1",
        ),
        ("softmax_tversky_loss", {"beta": jnp.nan}, ValueError, "`beta` finite and >= 0, got nan"),
        ("sigmoid_focal_tversky_loss", {"gamma": 0}, ValueError, "`gamma` finite and > 0, got 0"),
        (
            "softmax_focal_tversky_loss",
            {"gamma": [1, -1]},
            ValueError,
            "`gamma` finite and > 0, got -1",
        ),
        ("sigmoid_unified_focal_loss", {"gamma": 1}, ValueError, r"`gamma` in \[0, 1\), got 1"),
        ("softmax_unified_focal_loss", {"delta": 2}, ValueError, r"`delta` in \[0, 1\], got 2"),
        ("softmax_unified_focal_loss", {"background": 3}, ValueError, "one of 3 classes, got 3"),
        ("sigmoid_tversky_loss", {"labels": np.zeros((2, 5))}, ValueError, r"labels of shape"),
        ("softmax_tversky_loss", {"labels": np.zeros((2, 4))}, TypeError, "integer labels"),
        ("softmax_tversky_loss", {"labels": np.zeros(2, int)}, ValueError, r"indices of shape"),
        ("sigmoid_tversky_loss", {"where": np.ones(3)}, TypeError, "boolean `where`, got float64"),
        (
            "softmax_tversky_loss",
            {"where": np.ones(3, bool)},
            ValueError,
            r"broadcast to the shape \(2, 4\)",
        ),
        ("softmax_tversky_loss", {"weight": np.ones(2)}, ValueError, r"`weight` of shape \(3,\)"),
        ("sigmoid_tversky_loss", {"alpha": np.inf}, ValueError, "`alpha` finite and >= 0, got inf"),
        ("sigmoid_tversky_loss", {"alpha": True}, TypeError, "`alpha` to be a number"),
        ("sigmoid_tversky_loss", {"smooth": None}, TypeError, "`smooth` to be a number"),
        ("softmax_tversky_loss", {"x": 1j * logits((2, 4, 3))}, TypeError, "real `logits`"),
        ("softmax_tversky_loss", {"ignore_index": 1.5}, TypeError, "an integer, got 1.5"),
        ("softmax_tversky_loss", {"ignore_index": True}, TypeError, "an integer, got True"),
        ("softmax_unified_focal_loss", {"background": 0.5}, TypeError, "an integer, got 0.5"),
        ("sigmoid_tversky_loss", {"x": logits((2, 3))}, ValueError, r"\(N, d1, ..., C\)"),
        (
            "sigmoid_tversky_loss",
            {"axis": 3},
            ValueError,
            r"`axis` to be an axis of logits of shape",
        ),
        ("softmax_tversky_loss", {"axis": 1.0}, TypeError, "`axis` to be an integer, got 1.0"),
        (
            "sigmoid_focal_tversky_loss",
            {"gamma": [1.0, 2.0]},
            ValueError,
            r"`gamma` to broadcast to the shape \(3,\), got \(2,\)",
        ),
        *(
            (name, {option: [0.1, 0.2]}, ValueError, f"`{option}` to be one number, got the shape")
            for name, option in zip(UNIFIED, ("delta", "gamma", "balance", "smooth"), strict=True)
        ),
    ],
)
def test_what_is_refused(name, options, error, words):
    """With the call, what was expected and what came."""
    x = options.pop("x", logits((2, 4, 3)))
    y = options.pop("labels", labels_of(name, x))
    with pytest.raises(error, match=f"{name}: expected .*{words}"):
        getattr(parfocal.jax, name)(x, y, **options)


def test_probabilities_have_no_class_to_ignore():
    """Positions that count are said by `where`."""
    x = logits((2, 4, 3))
    y = jax.nn.softmax(x)
    with pytest.raises(ValueError, match="expected no `ignore_index` with class probabilities"):
        parfocal.jax.softmax_tversky_loss(x, y, ignore_index=1)
    assert (parfocal.jax.softmax_tversky_loss(x, y, ignore_index=None) > 0).all()


@each_way
def test_a_nan_that_is_left_out_arises_nowhere(name):
    """Neither in the losses nor inside, where `jax.debug_nans` and checkify look."""
    x = logits((2, 4, 3))
    y = labels_of(name, x)
    counts = np.array([[False, True, True, True]] * 2)
    where = counts if name.startswith("softmax") else counts[..., None]
    masked = np.where(counts[..., None], x, np.nan)
    loss = partial(getattr(parfocal.jax, name), labels=y, where=where)
    with jax.debug_nans(True):
        found = loss(masked), jax.grad(lambda x: loss(x).sum())(masked)
    assert_close(found, (loss(x), jax.grad(lambda x: loss(x).sum())(x)), 1e-6)
    error, _ = checkify.checkify(jax.jit(loss), errors=checkify.float_checks)(masked)
    assert error.get() is None
