"""What every loss of the package keeps, whichever it is; the table is `loss_cases`."""

import copy
import fractions
import functools
import inspect
import math
import pickle

import jax
import jax.numpy as jnp
import numpy
import pytest
import torch
from jax.test_util import check_grads
from loss_cases import FUNCTIONS, LOSSES, SHAPES, Case, batch_of, way_of
from sampled import first_of_each, sampled

import parfocal

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# Logits at which the usual formulas have no gradient in any of the dtypes.
CLIFFS = (0.0, 6.25, -8.5, 17.5, -38.0, 90.0, -110.0, 800.0)

# The binary loss and the multiclass one: what else is compiled is made of the same operations.
TO_MACHINE_CODE = ("sigmoid_focal_loss", "softmax_focal_loss, indices")

every_case = pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)

# Of what is compiled for seconds each.
every_way = pytest.mark.parametrize(
    "case", first_of_each(LOSSES, way_of), ids=lambda case: case.name
)


def cases_with(*options: str) -> pytest.MarkDecorator:
    chosen = [case for case in LOSSES if case.options & set(options)]
    assert chosen
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def with_gradient(case: Case, logits, targets, **options):
    """The loss, and the gradient of its sum."""
    logits = logits.detach().clone().requires_grad_()
    loss = case.loss(logits, targets, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def test_every_exported_loss_has_a_case():
    """A new one can't be forgotten; the cost of a matcher has no gradient."""
    covered = {case.name.partition(",")[0] for case in LOSSES}
    assert covered == set(FUNCTIONS) - {"focal_matching_cost"}


@every_case
@pytest.mark.parametrize("seed", [0, 1])
def test_meaning_is_the_textbooks(case, seed):
    """In float64 at mild logits: values and gradients of the formula as it is printed."""
    logits, targets = case.draw(seed)
    logits.requires_grad_()
    ours, theirs = case.unreduced(logits, targets), case.formula(logits, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "case", [case for case in LOSSES if case.original], ids=lambda case: case.name
)
@pytest.mark.filterwarnings("ignore")
def test_original_is_replaced(case):
    """The public implementation agrees at mild logits, to the precision in which it computes."""
    logits, targets = case.draw()
    ours, theirs = case.unreduced(logits, targets), case.original(logits, targets)
    torch.testing.assert_close(
        ours.to(theirs.dtype), theirs, rtol=case.tolerance, atol=case.tolerance
    )


@functools.cache
def of_jax(loss):
    """Value, gradient, and derivative of the sum of the gradient, of logits and targets."""

    def slope(x, y):
        return jax.grad(lambda x: loss(x, y).sum())(x)

    def second(x, y):
        return jax.grad(lambda x: slope(x, y).sum())(x)

    return jax.jit(lambda x, y: (loss(x, y), slope(x, y), second(x, y)))


def to_jax(values, dtype):
    """An array of the same numbers; JAX has no other way to 16 bits."""
    return jnp.asarray(values.double().numpy() if values.is_floating_point() else values).astype(
        str(dtype).removeprefix("torch.") if values.is_floating_point() else jnp.int32
    )


in_jax = pytest.mark.parametrize(
    "case", [case for case in LOSSES if case.jax], ids=lambda case: case.name
)


@in_jax
def test_the_jax_version_means_the_same(case):
    """Values and gradients of the textbook's formula, in float64."""
    logits, targets = case.draw()
    logits.requires_grad_()
    theirs = case.formula(logits, targets)
    (gradient,) = torch.autograd.grad(theirs.sum(), logits)
    with jax.enable_x64(True):
        arrays = (to_jax(values.detach(), torch.float64) for values in (logits, targets))
        found = [torch.from_numpy(numpy.array(one)) for one in of_jax(case.jax)(*arrays)]
    torch.testing.assert_close(found[0], theirs.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[1], gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.covering
@in_jax
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("right", [True, False])
def test_the_jax_version_is_finite_at_every_cliff(case, dtype, right):
    """As below, in JAX's arrays of the dtype, which is kept."""
    logits, targets = at_cliffs(case, right)
    with jax.enable_x64(dtype == torch.float64):
        for result in of_jax(case.jax)(to_jax(logits, dtype), to_jax(targets, dtype)):
            assert jnp.isfinite(result).all()
            assert str(result.dtype) == str(dtype).removeprefix("torch.")


# A loss a position; regions have tests of their own.
in_jax_by_position = pytest.mark.parametrize(
    "case",
    first_of_each(
        [case for case in LOSSES if case.jax and "normalizer" in case.options],
        lambda case: (*way_of(case), "asymmetric" in case.name),
    ),
    ids=lambda case: case.name,
)


@in_jax_by_position
def test_the_jax_version_is_mapped_scanned_weighed_and_masked(case):
    """A map and a scan over calls are the calls; a weight multiplies, what is masked is 0."""
    calls = [[to_jax(values, torch.float32) for values in case.draw(seed)] for seed in range(2)]
    rows = [jnp.stack(values) for values in zip(*calls, strict=True)]
    expected = jnp.stack([case.jax(*call) for call in calls])
    mapped = jax.vmap(case.jax)(*rows)
    scanned = jax.lax.scan(lambda carry, row: (carry, case.jax(*row)), 0, rows)[1]
    weight = jnp.linspace(0.5, 2, expected[0].size).reshape(expected[0].shape)
    where = weight > 1
    weighed = case.jax(*calls[0], weight=weight, where=where)
    for found, wanted in (
        (mapped, expected),
        (scanned, expected),
        (weighed, jnp.where(where, weight * expected[0], 0)),
    ):
        numpy.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@in_jax_by_position
def test_the_jax_version_has_three_orders(case):
    """By differences, in float64."""
    logits, targets = case.draw()
    with jax.enable_x64(True):
        x, y = (to_jax(values[:2], torch.float64) for values in (logits, targets))
        total = jax.jit(lambda x: case.jax(x, y).sum())
        check_grads(total, (x,), order=3, modes=["rev"], atol=1e-3, rtol=1e-3)


@every_case
def test_derivatives_agree_with_differences(case):
    """Once and twice, in reverse, forward and batched mode; a column of a map is enough."""
    logits, targets = case.draw()
    if "maps" in case.kind:
        logits, targets = logits[..., :1], targets[..., :1]
    logits = logits.clone().requires_grad_()

    def loss(logits):
        return case.unreduced(logits, targets)

    assert torch.autograd.gradcheck(loss, (logits,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(loss, (logits,))


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("right", [True, False])
def test_first_and_second_derivatives_are_finite_at_every_cliff(case, dtype, right):
    """Logits far into saturation, on the right side of their targets and on the wrong one."""
    logits, targets = at_cliffs(case, right)
    logits = logits.to(dtype).requires_grad_()
    loss = case.unreduced(logits, targets).sum()
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    assert right or (gradient != 0).any()


def at_cliffs(case, right):
    """Logits of the sizes of CLIFFS, on the right side of their targets or on the wrong one."""
    drawn, targets = case.draw()
    flat = torch.tensor(CLIFFS).repeat(drawn.numel())[: drawn.numel()].view_as(drawn)
    if targets.shape == drawn.shape:
        sign = torch.where(targets >= 0.5, 1.0, -1.0)
    else:
        classes = torch.arange(drawn.shape[1]).view(-1, *[1] * (drawn.ndim - 2))
        sign = torch.where(targets.unsqueeze(1) == classes, 1.0, -1.0)
    if case.kind == "likelihoods":  # of which each is right where it is 0
        return flat.abs(), targets
    return flat.abs() * sign * (1 if right else -1), targets


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_is_kept_and_rounded_once(case, dtype):
    """16-bit results are those of float64, rounded; a scalar has the dtype of the logits."""
    logits, targets = case.draw(dtype=dtype)
    loss, gradient = with_gradient(case, logits, targets)
    assert (loss.dtype, gradient.dtype) == (dtype, dtype)
    exact, exact_gradient = with_gradient(case, logits.double(), targets)
    eps = torch.finfo(dtype).eps
    if dtype.itemsize == 2:
        torch.testing.assert_close(loss, exact.to(dtype), rtol=eps, atol=0)
    else:
        torch.testing.assert_close(loss.double(), exact, rtol=64 * eps, atol=64 * eps)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=64 * eps, atol=4 * eps)


@every_case
def test_autocast_gives_float32(case):
    """Like PyTorch's own losses, from 16-bit logits."""
    logits, targets = case.draw(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(logits, targets)
    assert loss.dtype == torch.float32


@cases_with("reduction")
def test_reductions_are_those_of_the_unreduced_loss(case):
    """Its mean and its sum; a normalizer divides the sum."""
    logits, targets = case.draw()
    whole = case.unreduced(logits, targets)
    torch.testing.assert_close(case.loss(logits, targets, reduction="mean"), whole.mean())
    total = case.loss(logits, targets, reduction="sum")
    torch.testing.assert_close(total, whole.sum())
    if "normalizer" in case.options:
        halved = case.loss(logits, targets, reduction="sum", normalizer=2.0)
        torch.testing.assert_close(halved, total / 2)


@cases_with("weight", "class weight")
def test_weights_multiply(case):
    """A factor a position, or a factor a class, as the formula has it."""
    logits, targets = case.draw()
    generator = torch.Generator().manual_seed(1)
    if "weight" in case.options:
        weight = torch.rand(SHAPES[case.kind][-1], generator=generator).double()
        expected = weight * case.unreduced(logits, targets)
        torch.testing.assert_close(case.unreduced(logits, targets, weight=weight), expected)
        return
    weight = torch.rand(SHAPES[case.kind][1], generator=generator).double()
    ours = case.unreduced(logits, targets, weight=weight)
    plain = case.unreduced(logits, targets)
    if ours.shape[-1] == weight.numel() and "tversky" in case.name:
        expected = weight * plain
    elif targets.shape == logits.shape or "softmax_asymmetric" in case.name:  # of several terms
        one = torch.eye(weight.numel(), dtype=torch.float64)
        parts = [case.unreduced(logits, targets, weight=w) for w in one]
        expected = sum(w * part for w, part in zip(weight, parts, strict=True))
        torch.testing.assert_close(sum(parts), plain)
    else:
        expected = weight[targets] * plain
    torch.testing.assert_close(ours, expected)


@cases_with("weight of classes")
def test_weights_of_classes_add_up(case):
    """A scalar loss is a sum over its classes, each with its factor; ones change nothing."""
    logits, targets = case.draw()
    one = torch.eye(SHAPES[case.kind][1], dtype=torch.float64)
    parts = torch.stack([case.loss(logits, targets, weight=row) for row in one])
    assert (parts > 0).all()
    torch.testing.assert_close(parts.sum(), case.loss(logits, targets))
    weight = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    found = case.loss(logits, targets, weight=weight)
    torch.testing.assert_close(found, (weight * parts).sum())
    if case.kind == "multilabel maps":  # each class is a problem of its own
        alone = case.loss(logits[:, 1:2], targets[:, 1:2])
        torch.testing.assert_close(parts[1] * len(one), alone)
    with pytest.raises(ValueError, match="`weight` to have one number for each of the 3 classes"):
        case.loss(logits, targets, weight=weight[:2])


def hidden(case, targets, logits):
    """A mask, of the shape that the case takes, that hides every third position."""
    shape = logits.shape
    if "row mask" in case.options:
        shape = shape[:1] + shape[2:]
    mask = torch.ones(shape, dtype=torch.bool).flatten()
    mask[::3] = False
    return mask.view(shape)


@cases_with("mask", "row mask")
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 60.0])
def test_masked_position_adds_exactly_nothing(case, garbage):
    """Whatever stands there: value and gradient are those of any other thing standing there."""
    logits, targets = case.draw()
    mask = hidden(case, targets, logits)
    over_logits = mask if mask.shape == logits.shape else mask.unsqueeze(1).expand_as(logits)
    spoiled = torch.where(over_logits, logits, garbage)
    expected, expected_gradient = with_gradient(case, logits, targets, mask=mask)
    loss, gradient = with_gradient(case, spoiled, targets, mask=mask)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)
    assert (gradient[~over_logits] == 0).all()
    assert (gradient != 0).any()


@cases_with("mask", "row mask")
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 740.0), *((dtype, 110.0) for dtype in DTYPES[1:])], ids=str
)
def test_masked_position_is_left_out_of_a_saturated_batch(case, dtype, size):
    """All that counts is right and far into saturation: the loss of what is left, cut out."""
    logits, targets = at_cliffs(case, right=True)
    logits = logits.sign().mul(size).to(dtype)
    mask = torch.ones_like(hidden(case, targets, logits))
    last = 0 if case.kind in ("binary", "classes") else -1
    mask.transpose(last, -1)[..., -1] = False
    loss, gradient = with_gradient(case, logits, targets, mask=mask)
    count = logits.shape[last] - 1
    cut, cut_gradient = with_gradient(
        case, logits.narrow(last, 0, count), targets.narrow(last, 0, count)
    )
    assert (gradient.narrow(last, count, 1) == 0).all()
    if loss.ndim and loss.shape != cut.shape:
        loss = loss.narrow(last, 0, count)
    torch.testing.assert_close(loss, cut)
    torch.testing.assert_close(gradient.narrow(last, 0, count), cut_gradient, atol=0, rtol=1e-5)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@every_case
def test_nan_is_not_hidden(case):
    """A logit that is not a number is seen in the loss, and in the gradient."""
    logits, targets = case.draw()
    for position in range(logits.numel()):
        spoiled = logits.clone()
        spoiled.view(-1)[position] = math.nan
        loss, gradient = with_gradient(case, spoiled, targets)
        assert loss.isnan().any()
        assert gradient.isnan().any()


@cases_with("ignore_index")
@pytest.mark.parametrize("ignored", [-100, 255, -1])
def test_ignored_index_is_a_mask(case, ignored):
    """The same numbers, to the bit."""
    logits, targets = case.draw()
    mask = hidden(case, targets, logits)
    expected = with_gradient(case, logits, targets, mask=mask)
    marked = torch.where(mask, targets, ignored)
    found = with_gradient(case, logits, marked, ignore_index=ignored)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@cases_with("ignore_index")
@pytest.mark.parametrize(
    ("dtype", "ignored"), [(torch.uint8, -100), (torch.int8, 156), (torch.int32, -100 + 2**32)]
)
def test_an_index_beyond_a_narrow_dtype_ignores_nothing(case, dtype, ignored):
    """Wrapped around to the dtype of the labels, it would be one of their classes."""
    wrapped = torch.tensor(ignored).to(dtype).item()
    labels = max(wrapped, 0) * torch.ones(SHAPES[case.kind][:1] + SHAPES[case.kind][2:])
    logits = torch.linspace(-1, 1, 200).expand(*labels.shape, 200).movedim(-1, 1)
    if wrapped < 0:  # no class: what counts is refused, where it costs nothing to see
        with pytest.raises(IndexError, match=f"got {wrapped}, which is out of bounds"):
            case.loss(logits, labels.to(dtype).fill_(wrapped), ignore_index=ignored)
        return
    found = with_gradient(case, logits, labels.to(dtype), ignore_index=ignored)
    expected = with_gradient(case, logits, labels.long(), ignore_index=ignored)
    assert (found[1] != 0).any()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@cases_with("mask", "row mask")
def test_nothing_that_counts_leaves_no_gradient(case):
    """All masked: a mean of positions is NaN as in PyTorch, a sum 0, and so is its gradient."""
    logits, targets = case.draw()
    mask = torch.zeros_like(hidden(case, targets, logits))
    if "reduction" in case.options:
        total, gradient = with_gradient(case, logits, targets, mask=mask, reduction="sum")
        assert total == 0
        assert (gradient == 0).all()
    if "normalizer" in case.options:
        assert case.loss(logits, targets, mask=mask, reduction="mean").isnan()


@cases_with("normalizer")
def test_empty_batch(case):
    """No positions: an empty loss, a sum of 0, a mean of NaN."""
    logits, targets = case.draw()
    logits, targets = logits[:0], targets[:0]
    assert case.unreduced(logits, targets).numel() == 0
    total, gradient = with_gradient(case, logits, targets, reduction="sum")
    assert (total.item(), gradient.shape) == (0, logits.shape)
    assert case.loss(logits, targets, reduction="mean").isnan()


@every_case
def test_layout_does_not_matter(case):
    """Transposed logits give the numbers of a copy."""
    logits, targets = case.draw()
    strided = logits.transpose(0, -1).contiguous().transpose(0, -1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        case.loss(strided, targets), case.loss(logits, targets), rtol=1e-15, atol=1e-16
    )


@every_way
def test_compiles_in_one_graph(case):
    """fullgraph=True, value and gradient; two of them down to machine code, which takes longest."""
    logits, targets = case.draw()
    backend = "inductor" if case.name in TO_MACHINE_CODE else "aot_eager"
    compiled = case._replace(loss=torch.compile(case.loss, fullgraph=True, backend=backend))
    for found, expected in zip(
        with_gradient(compiled, logits, targets), with_gradient(case, logits, targets), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


@every_case
def test_vmap_and_func_grad(case):
    """A batch of calls is one call a slice."""
    first, second = case.draw(0), case.draw(1)
    logits, targets = (torch.stack(pair) for pair in zip(first, second, strict=True))

    def total(logits, targets):
        return case.unreduced(logits, targets).sum()

    found = torch.vmap(torch.func.grad(total))(logits, targets)
    for gradient, (x, y) in zip(found, (first, second), strict=True):
        options = {"reduction": "sum"} if "reduction" in case.options else {}
        _, expected = with_gradient(case, x, y, **options)
        torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-14)


@every_case
def test_call_changes_nothing_else(case):
    """Neither arguments nor the generator nor a mode."""
    logits, targets = case.draw()
    before = copy.deepcopy((logits, targets)), torch.get_rng_state()
    case.loss(logits, targets)
    assert all(torch.equal(a, b) for a, b in zip(before[0], (logits, targets), strict=True))
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.is_grad_enabled()


@every_case
def test_pickles(case):
    """So that it can be sent to another process, options included."""
    logits, targets = case.draw()
    again = pickle.loads(pickle.dumps(case.loss))
    assert torch.equal(again(logits, targets), case.loss(logits, targets))


@every_case
def test_meta_tensors_pass(case):
    """No value is read: forward and backward work where there are none."""
    logits, targets = case.draw()
    logits = logits.to("meta").requires_grad_()
    (gradient,) = torch.autograd.grad(case.loss(logits, targets.to("meta")).sum(), logits)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize(
    "case", [case for case in LOSSES if case.kind != "likelihoods"], ids=lambda case: case.name
)
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda x, y: ([0.0], y), TypeError, r"`inputs?` to be a tensor, got \[0.0\] \(list\)"),
        (lambda x, y: (x.long(), y), TypeError, "`inputs?` to be (logits|features) in float64"),
        (lambda x, y: (x, y.cfloat()), TypeError, "`targets` to be real numbers"),
        (lambda x, y: (x, y[:1]), ValueError, "got a .* tensor of shape"),
        (lambda x, y: (x, y.to("meta")), ValueError, "`targets` on the device of `inputs`"),
    ],
    ids=["list", "integers", "complex", "shape", "device"],
)
def test_error_says_what_came(case, spoil, error, words):
    """In the name of the call."""
    with pytest.raises(error, match=f"^{case.name.partition(',')[0]}: expected .*{words}"):
        case.loss(*spoil(*case.draw()))


# Calls of every loss, by its name, and of the cost of a matcher, which is none.
CALLS = {name: batch_of(name) for name in FUNCTIONS}

# In place of 0.75, which no default is: exponents without a cusp, and indices.
POSSIBLE = {"beta": 1.25, "gamma_neg": 1.25, "ignore_index": -1, "background": 1}


def numbers_of(function):
    """The options of a loss that are numbers: a possible one of each, and what it goes with."""
    for parameter in inspect.signature(function).parameters.values():
        if type(parameter.default) in (int, float):
            yield parameter.name, POSSIBLE.get(parameter.name, 0.75), {}
        elif parameter.name == "normalizer":
            yield parameter.name, 0.75, {"reduction": "sum"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "kind",
    [numpy.float16, numpy.float32, numpy.float64, numpy.array, fractions.Fraction],
    ids=lambda kind: kind.__name__,
)
def test_a_number_is_a_number_whoever_made_it(call, kind):
    """NumPy's and fractions give the bits of Python's floats, in each option that is a number."""
    loss = getattr(parfocal, call)
    for name, value, options in numbers_of(loss):
        made = numpy.int16(value) if isinstance(value, int) else kind(value)
        found = loss(*CALLS[call], **{name: made}, **options)
        assert torch.equal(found, loss(*CALLS[call], **{name: value}, **options)), name


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("no_number", [True, numpy.True_, "1", numpy.ones(2)], ids=repr)
def test_what_is_no_number_is_refused(call, no_number):
    """In the name of the call and of the option."""
    loss = getattr(parfocal, call)
    for name, _, options in numbers_of(loss):
        with pytest.raises(TypeError, match=f"^{call}: expected `{name}` to be an? (number|int)"):
            loss(*CALLS[call], **{name: no_number}, **options)


@pytest.mark.parametrize(
    "call",
    sampled(
        [call for call in CALLS if call != "focal_matching_cost"],
        lambda call: call.startswith(("sigmoid_", "asymmetric", "likelihood")),
    ),
)
def test_a_compiled_loss_takes_other_numbers(call):
    """From the second value on a number is a symbol, of which not every question can be asked."""
    loss = getattr(parfocal, call)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    numbers = {name: value for name, value, options in numbers_of(loss) if not options}
    for step in (0.0, 0.03, 0.06):
        moved = {n: v if isinstance(v, int) else v + step for n, v in numbers.items()}
        torch.testing.assert_close(
            compiled(*CALLS[call], **moved), loss(*CALLS[call], **moved), rtol=1e-5, atol=1e-7
        )


@cases_with("reduction")
def test_unknown_reduction(case):
    """Named, with what is known."""
    with pytest.raises(ValueError, match="'none', 'mean' or 'sum', got 'avg'"):
        case.loss(*case.draw(), reduction="avg")


@every_case
def test_docstring_has_all_its_parts(case):
    """Formula, arguments, result, errors, accuracy, example, source."""
    function = getattr(parfocal, case.name.partition(",")[0])
    text = inspect.getdoc(function)
    for part in ("Args:", "Returns:", "Raises:", "Accuracy:", "Example:", "Source:", ">>>"):
        assert part in text, part
    named = text[text.index("Args:") : text.index("Returns:")]
    for parameter in inspect.signature(function).parameters:
        assert parameter in named, parameter
