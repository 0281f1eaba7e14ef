"""The loss of a linear map is that of its logits, made over chunks, in little memory."""

import pytest
import torch
import torch.nn.functional as F
from allocations import memory_of
from rank_cases import half_of_a_vocabulary_batch
from ranks import run_ranks

import parfocal
from parfocal.numerics import linear, products

ROWS, FEATURES, CLASSES = (3, 23), 12, 31


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Chunks of 16 rows, 8 classes widened at a time, gradients in two parts, smoothed rows."""
    monkeypatch.setattr(linear, "_ROWS", 16)
    monkeypatch.setattr(linear, "_LOGITS", 1)
    monkeypatch.setattr(linear, "_SMOOTHED", 1)
    monkeypatch.setattr(products, "_WIDENED", 8 * FEATURES)
    monkeypatch.setattr(products, "_LARGE", 1)


def draw(dtype=torch.float64):
    """Input, weight and bias as leaves, and class indices of which some don't count."""
    torch.manual_seed(0)
    shapes = ((*ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,))
    leaves = [torch.randn(s, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]
    targets = torch.randint(CLASSES, ROWS)
    targets[0, :9] = -100
    return *leaves, targets


def composed(x, weight, targets, bias, gamma=2, class_weight=None, **options):
    """The loss of all logits at once, in float64 where all is widened before."""
    logits = F.linear(x, weight, bias).movedim(-1, 1)
    if isinstance(gamma, torch.Tensor):
        gamma = gamma.expand(ROWS).unsqueeze(1)
    return parfocal.softmax_focal_loss(logits, targets, class_weight, gamma, **options)


def results(loss, leaves, targets, options):
    """Loss and gradients, of a loss whose elements count differently."""
    x, weight, bias = (leaf.detach().requires_grad_() for leaf in leaves)
    result = loss(x, weight, targets, bias, **options)
    factors = torch.arange(1, result.numel() + 1).view(result.shape) / 8  # exact in 16 bits
    return result, *torch.autograd.grad((result * factors).sum(), (x, weight, bias))


GENERATOR = torch.Generator().manual_seed(1)
OF_CLASSES = torch.rand(CLASSES, generator=GENERATOR)
OF_POSITIONS = torch.rand(ROWS, generator=GENERATOR)
COUNTS = OF_POSITIONS > 0.3
GAMMA = 2 * torch.rand(ROWS[1], generator=GENERATOR)
OPTIONS = {
    "gamma 0": {"gamma": 0},
    "gamma 0.5": {"gamma": 0.5},
    "gamma of positions": {"gamma": GAMMA},
    "class weights": {"class_weight": OF_CLASSES},
    "mask, position weights": {"mask": COUNTS, "position_weight": OF_POSITIONS},
    "smoothing": {"label_smoothing": 0.1, "gamma": 0.5},
    "smoothing of all": {
        "label_smoothing": 0.1,
        "class_weight": OF_CLASSES,
        "position_weight": OF_POSITIONS,
        "mask": COUNTS,
        "gamma": GAMMA,
    },
    "ignored": {"ignore_index": (-100, 3)},
    "normalizer": {"reduction": "sum", "normalizer": torch.tensor(7.0)},
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_loss_of_the_logits(name, reduction, dtype):
    """In value and gradients within the ledger's bound and the rounding of the products.

    A product of K terms in float32 is off by at most K units of the sum of their sizes; a logit of
    12 terms by 1e-6, which all that follows feels. In 16 bits the results are rounded beside.
    """
    *leaves, targets = draw(dtype)
    options = {"reduction": reduction, **OPTIONS[name]}
    wide = {
        k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in options.items()
    }
    ours = results(parfocal.linear_softmax_focal_loss, leaves, targets, options)
    truth = results(composed, [leaf.double() for leaf in leaves], targets, wide)
    unit = 1e-13 if dtype == torch.float64 else 3e-6
    rounding = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0
    for mine, right in zip(ours, truth, strict=True):
        assert mine.dtype == dtype
        allowed = unit * right.abs().max() + rounding * right.abs()
        assert ((mine.double() - right).abs() <= allowed).all()


@pytest.mark.covering
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("dtype", "smoothing", "of_weight", "of_input"),
    [
        (torch.float64, 0.0, 1, 1),
        (torch.float32, 0.0, 1, 1),
        (torch.float32, 0.1, 1, 1),
        (torch.bfloat16, 0.0, 4 / 3, 1),  # the last third is accumulated in float32
        (torch.bfloat16, 0.1, 2, 1),
        (torch.float16, 0.0, 2, 2),  # all is in float32 until it is scaled
    ],
)
def test_memory_is_that_of_a_chunk(dtype, smoothing, of_weight, of_input, reduction):
    """Beside gradients logits of 16 rows of 256, and their gradient; of all logits it is more."""
    rows, classes = 256, 1000
    torch.manual_seed(0)
    x = torch.randn(rows, FEATURES, dtype=dtype, requires_grad=True)
    weight = torch.randn(classes, FEATURES, dtype=dtype, requires_grad=True)
    targets = torch.randint(classes, (rows,))
    options = {"reduction": reduction, "label_smoothing": smoothing}

    def peak(loss):
        def step():
            x.grad = weight.grad = None
            loss(x, weight, targets, None, **options).sum().backward()

        step()  # a first call loads what stays
        x.grad = weight.grad = None
        return memory_of(step).peak

    chunk = 16 * classes * max(4, dtype.itemsize)
    of_rows = 32 * rows  # a few numbers of each
    smoothed = 25 / 16 * chunk if smoothing else 0  # temporaries of one row
    allowed = 2 * chunk + smoothed + of_weight * weight.nbytes + of_input * x.nbytes + of_rows
    assert peak(parfocal.linear_softmax_focal_loss) <= allowed
    assert peak(composed) > 2 * allowed


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_compiled_loss_is_one_operator(reduction):
    """Whole graph, no logits in it, and the same results."""
    *leaves, targets = draw()
    sizes = []

    def backend(graph, inputs):
        for node in graph.graph.nodes:
            value = node.meta.get("example_value")
            sizes.extend([value.numel()] if isinstance(value, torch.Tensor) else [])
        return graph

    torch.compiler.reset()
    for kind in (backend, "aot_eager"):
        compiled = torch.compile(
            parfocal.linear_softmax_focal_loss, fullgraph=True, backend=kind, dynamic=False
        )
        options = {"gamma": 0.5, "reduction": reduction}
        found = results(compiled, leaves, targets, options)
        expected = results(parfocal.linear_softmax_focal_loss, leaves, targets, options)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    logits = targets.numel() * CLASSES
    # A tensor that is one number, expanded, stands for the logits where shapes are looked at.
    assert [size for size in sizes if size > logits] == []


def test_cross_entropy_is_that_of_torch():
    """At gamma 0, by its own function of a linear map where it has one."""
    x, weight, bias, targets = draw()
    ours = parfocal.linear_softmax_focal_loss(x, weight, targets, bias, gamma=0)
    theirs = F.cross_entropy(F.linear(x, weight, bias).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    if hasattr(F, "linear_cross_entropy"):
        theirs = F.linear_cross_entropy(
            x.flatten(0, 1), weight, targets.flatten(), linear_bias=bias
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)


def test_what_does_not_count_may_hold_anything():
    """NaN at ignored and masked positions, and at those of weight 0, reaches nothing."""
    *leaves, targets = draw()
    mask, weight = torch.ones(ROWS, dtype=torch.bool), torch.ones(ROWS, dtype=torch.float64)
    mask[1, 3], weight[2, 5] = False, 0.0
    options = {"mask": mask, "position_weight": weight, "reduction": "none"}
    clean = results(parfocal.linear_softmax_focal_loss, leaves, targets, options)
    with torch.no_grad():
        leaves[0][0, :9] = torch.nan
        leaves[0][1, 3] = torch.nan
        leaves[0][2, 5] = torch.inf
    for one, other in zip(
        results(parfocal.linear_softmax_focal_loss, leaves, targets, options), clean, strict=True
    ):
        assert torch.equal(one, other)
    assert not clean[1][0, :9].any()


def test_nothing_counts():
    """A mean of nothing is NaN as in PyTorch, and its gradients are 0."""
    *leaves, targets = draw()
    result, *gradients = results(
        parfocal.linear_softmax_focal_loss, leaves, torch.full_like(targets, -100), {}
    )
    assert result.isnan()
    assert not any(gradient.any() for gradient in gradients)


def test_float16_under_a_loss_scale_has_the_gradients_of_float32():
    """What is below the range of float16 before the scale comes in is not lost."""
    x, weight, bias, targets = draw(torch.float16)
    leaves = [leaf.detach() * 4 for leaf in (x, weight, bias)]
    scale = 2.0**16

    def gradients(*leaves):
        leaves = [leaf.requires_grad_() for leaf in leaves]
        loss = parfocal.linear_softmax_focal_loss(leaves[0], leaves[1], targets, leaves[2])
        return torch.autograd.grad(loss * scale / 2**14, leaves)

    wide = gradients(*(leaf.float() for leaf in leaves))
    for mine, right in zip(gradients(*leaves), wide, strict=True):
        spacing = torch.maximum(right.abs() * 2.0**-10, torch.tensor(2.0**-24))
        assert ((mine.float() - right).abs() <= spacing).all()


def test_a_large_gradient_in_bfloat16_is_rounded_once():
    """Both parts of the classes, each of which is accumulated in float32 over all chunks."""
    x, weight, bias, targets = draw(torch.bfloat16)
    parfocal.linear_softmax_focal_loss(x, weight, targets, bias, reduction="sum").backward()
    wide = [leaf.detach().double().requires_grad_() for leaf in (x, weight, bias)]
    composed(wide[0], wide[1], targets, wide[2], reduction="sum").backward()
    right = wide[1].grad
    close = right.bfloat16()
    neighbours = (right - close.double()).abs() + 3e-6 * right.abs().max()
    assert ((weight.grad.double() - right).abs() <= neighbours).all()


def test_twice_and_to_any_order():
    """A graph that is kept gives its gradients again; second derivatives are the composition's."""
    *leaves, targets = draw()
    loss = parfocal.linear_softmax_focal_loss(leaves[0], leaves[1], targets, leaves[2])
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, leaves), strict=True):
        assert torch.equal(one, other)
    few = [leaves[0][:1, 8:12], leaves[1], leaves[2]]
    few = [leaf.detach().requires_grad_() for leaf in few]

    def of_few(x, weight, bias):
        return parfocal.linear_softmax_focal_loss(x, weight, targets[:1, 8:12], bias, gamma=0.5)

    assert torch.autograd.gradcheck(of_few, few)
    assert torch.autograd.gradgradcheck(of_few, few)
    jacobian = torch.func.jacfwd(of_few)(*few)
    torch.testing.assert_close(jacobian, torch.autograd.grad(of_few(*few), few[0])[0])


def test_learned_weights_take_the_composition():
    """Gradients in gamma and in weights of classes and positions are those of all logits."""
    *leaves, targets = draw()
    learned = {
        "gamma": GAMMA.double(),
        "class_weight": OF_CLASSES.double(),
        "position_weight": OF_POSITIONS.double(),
    }
    gradients = []
    for loss in (parfocal.linear_softmax_focal_loss, composed):
        options = {name: tensor.clone().requires_grad_() for name, tensor in learned.items()}
        result = loss(*leaves[:2], targets, leaves[2], **options)
        gradients.append(torch.autograd.grad(result, (*options.values(), *leaves)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    """The loss and the gradients of weights in float32 are in float32, and those of float32."""
    *leaves, targets = draw(torch.float32)
    plain = results(parfocal.linear_softmax_focal_loss, leaves, targets, {})
    with torch.autocast("cpu", dtype=dtype):
        cast = results(parfocal.linear_softmax_focal_loss, leaves, targets, {})
        mixed = [leaves[0].detach().to(dtype), *leaves[1:]]
        assert results(parfocal.linear_softmax_focal_loss, mixed, targets, {})[0].dtype == (
            torch.float32
        )
    for one, other in zip(cast, plain, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=8 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"weight": torch.ones(4, 3)}, ValueError, r"`weight` of shape \(C, 12\)"),
        ({"weight": torch.ones(31, 12).half()}, TypeError, "`weight` in the dtype of `input`"),
        ({"bias": torch.ones(4)}, ValueError, "`bias` to have one number for each of the 31"),
        ({"targets": torch.rand(*ROWS, 31)}, ValueError, "`targets` to be class indices"),
        ({"targets": torch.full(ROWS, 31)}, IndexError, r"`targets` in \[0, 31\)"),
        ({"class_weight": torch.ones(4)}, ValueError, "`class_weight` to have one number"),
        ({"mask": torch.ones(5).bool()}, ValueError, "`mask` to broadcast"),
        ({"gamma": torch.full(ROWS, -1.0)}, ValueError, "`gamma` to be >= 0"),
        ({"input": torch.tensor(1.0)}, ValueError, r"`input` of shape \(..., D\)"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_error_says_what_came(change, error, match):
    """In the name of the call."""
    x, weight, bias, targets = draw(torch.float32)
    arguments = {"input": x, "weight": weight, "targets": targets, "bias": bias, **change}
    with pytest.raises(error, match=f"^linear_softmax_focal_loss: expected {match}"):
        parfocal.linear_softmax_focal_loss(**arguments)


@pytest.mark.parametrize("wrapper", ["ddp", "gathered", "resharded"])
def test_tied_weights_over_two_processes(tmp_path, wrapper):
    """Under DDP, and under FSDP with a weight that is there or has to be gathered."""
    run_ranks(half_of_a_vocabulary_batch, 2, tmp_path, wrapper)
