"""One class index a row as the target of a one-vs-rest loss: the loss of its one-hot targets."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import parfocal

LOSSES = [
    partial(parfocal.sigmoid_focal_loss, gamma=0.5),
    partial(parfocal.sigmoid_focal_loss, alpha=None, gamma=1.7),
    partial(parfocal.sigmoid_focal_loss, epsilon=1e-3),
    partial(parfocal.sigmoid_focal_loss, gamma=torch.tensor([0.5, 1.0, 2.0])),
    partial(parfocal.sigmoid_focal_loss, alpha=torch.tensor([0.2, 0.5, 0.9])),
    partial(parfocal.poly_focal_loss, alpha=0.25, epsilon_1=0.5),
    parfocal.asymmetric_loss,
    partial(parfocal.asymmetric_loss, gamma_neg=0.5, margin=0.0),
]
SHAPES = [(40, 3), (3, 3, 7, 3), (5, 3, 3), (2, 3, 2, 2, 3)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def draw(shape, dtype=torch.float32, seed=0):
    """Logits, and indices of which C says that there is no class."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype)
    return logits, torch.randint(0, shape[1] + 1, shape[:1] + shape[2:], generator=generator)


def one_hot(index, classes):
    """The targets that users make, in the layout of logits, which is the order of a sum."""
    return F.one_hot(index, classes + 1)[..., :classes].movedim(-1, 1).contiguous()


def assert_same(loss, logits, index, targets, **options):
    """Value and gradient to the bit, and nothing that isn't finite."""
    results = []
    for y in (index, targets):
        x = logits.detach().clone().requires_grad_()
        value = loss(x, y, **options)
        results.append((value, *torch.autograd.grad(value.sum(), x)))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
        assert found.isfinite().all()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(getattr(loss, "keywords", "")))
def test_an_index_is_its_one_hot_targets(loss, shape, dtype, reduction):
    """With weight and mask, of rows or of elements, and without."""
    logits, index = draw(shape, dtype)
    targets = one_hot(index, 3)
    weight = torch.rand(shape[-1:])
    mask = logits > -2
    for options in (
        {},
        {"weight": weight},
        {"mask": mask},
        {"mask": mask.any(1, keepdim=True), "weight": weight},
    ):
        assert_same(loss, logits, index, targets, reduction=reduction, **options)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_every_integer_dtype(kind):
    """With more classes than the narrow ones can tell."""
    logits, index = draw((50, 300))
    index = index % 100
    assert_same(parfocal.sigmoid_focal_loss, logits, index.to(kind), one_hot(index, 300))


@pytest.mark.parametrize("shape", [(7, 1), (0, 3), (4, 0), (2, 3, 0)], ids=str)
@pytest.mark.filterwarnings("ignore:.*indices of a single class")
def test_few_classes_and_no_rows(shape):
    """One class, no class at all, no position."""
    logits, index = draw(shape)
    for reduction in ("none", "sum"):
        options = {"reduction": reduction}
        targets = one_hot(index, shape[1]) if shape[1] and index.numel() else torch.zeros(shape)
        assert_same(parfocal.sigmoid_focal_loss, logits, index, targets, **options)


def test_background_has_no_positive():
    """C is the loss of zeros."""
    logits, index = draw((6, 3))
    zeros = torch.zeros_like(logits)
    assert_same(parfocal.sigmoid_focal_loss, logits, torch.full_like(index, 3), zeros)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8, torch.int8], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_what_is_masked_may_have_any_index(kind, reduction):
    """255, -1, and what would wrap around onto a class; a mask of elements may leave none."""
    logits, index = draw((60, 3))
    void = torch.arange(60) % 4 == 0
    beyond = {torch.int64: 2**32 + 1, torch.int32: -1, torch.uint8: 255, torch.int8: -100}[kind]
    spoiled = torch.where(void, beyond, index).to(kind)
    logits[void] = torch.nan
    targets = one_hot(index, 3)
    for mask in (~void.unsqueeze(1), ~void.unsqueeze(1).expand(60, 3), (~void).long()[:, None]):
        assert_same(
            parfocal.sigmoid_focal_loss, logits, spoiled, targets, mask=mask, reduction=reduction
        )


def test_a_mean_divides_by_elements():
    """N C of them, or those that count."""
    logits, index = draw((40, 3))
    total = parfocal.sigmoid_focal_loss(logits, index, reduction="sum")
    mean = parfocal.sigmoid_focal_loss(logits, index, reduction="mean")
    torch.testing.assert_close(mean, total / 120)
    mask = index.unsqueeze(1) != 3
    total = parfocal.sigmoid_focal_loss(logits, index, reduction="sum", mask=mask)
    mean = parfocal.sigmoid_focal_loss(logits, index, reduction="mean", mask=mask)
    torch.testing.assert_close(mean, total / (3 * int(mask.sum())))


MODULES = [parfocal.SigmoidFocalLoss, parfocal.PolyFocalLoss, parfocal.AsymmetricLoss]


@pytest.mark.parametrize("module", MODULES)
def test_modules_take_indices(module):
    """As their functions do."""
    logits, index = draw((2, 3, 4, 5))
    assert_same(module(), logits, index, one_hot(index, 3))


@pytest.mark.parametrize("wrong", [-1, 4, 255, 2**32])
@pytest.mark.parametrize("mask", [None, torch.tensor([[True], [False]])], ids=["all", "masked"])
def test_an_index_that_is_none_is_refused(wrong, mask):
    """Where it counts; C is the largest."""
    loss = parfocal.sigmoid_focal_loss
    index = torch.tensor([wrong, 3])
    words = rf"^sigmoid_focal_loss: expected `targets` in \[0, 3\], .* got {wrong}, .*`mask`"
    for reduction in ("none", "sum"):
        with pytest.raises(IndexError, match=words):
            loss(torch.zeros(2, 3), index, mask=mask, reduction=reduction)
    assert (
        loss(torch.zeros(2, 3), index.flip(0), mask=torch.tensor([[True], [False]]))
        .isfinite()
        .all()
    )


TAKES_NONE = [
    parfocal.varifocal_loss,
    parfocal.gaussian_focal_loss,
    parfocal.quality_focal_loss,
    parfocal.sigmoid_tversky_loss,
    parfocal.sigmoid_unified_focal_loss,
]


@pytest.mark.parametrize("loss", TAKES_NONE, ids=lambda loss: loss.__name__)
def test_losses_of_scores_and_regions_take_no_indices(loss):
    """Their targets have the shape of the logits."""
    logits, index = draw((2, 3, 4))
    with pytest.raises(ValueError, match=r"`targets` to have the shape of `inputs`"):
        loss(logits, index)


@pytest.mark.parametrize(
    ("shape", "targets"),
    [
        ((4, 3), torch.zeros(4)),
        ((4, 3), torch.zeros(4, dtype=torch.bool)),
        ((4, 3), torch.zeros(3, dtype=torch.int64)),
        ((4, 3, 2), torch.zeros(4, dtype=torch.int64)),
        ((4, 3, 2), torch.zeros(4, 3, dtype=torch.int64)),
        ((3,), torch.zeros((), dtype=torch.int64)),
        ((), torch.zeros(1, dtype=torch.int64)),
    ],
    ids=str,
)
def test_other_shapes_and_dtypes_are_refused(shape, targets):
    """An index of logits (C) too: a row has its place in dimension 0."""
    positions = shape[:1] + shape[2:]
    words = f"; class indices need an integer dtype and the shape {positions}"
    with pytest.raises(ValueError, match=re.escape(words) if len(shape) > 1 else "got a int64"):
        parfocal.sigmoid_focal_loss(torch.zeros(shape), targets)


def test_indices_of_a_single_class_warn():
    """Labels of 0 and 1 would be taken for their opposites."""
    logits, labels = torch.randn(5, 1), torch.tensor([0, 1, 1, 0, 1])
    with pytest.warns(UserWarning, match=r"single class: 0 means present.*unsqueeze") as caught:
        found = parfocal.sigmoid_focal_loss(logits, labels)
    assert caught[0].filename == __file__
    assert torch.equal(found, parfocal.sigmoid_focal_loss(logits, 1 - labels.unsqueeze(1)))


@pytest.mark.covering
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_indices_are_one_hot_targets(backend, reduction):
    """And another number of rows."""
    loss = partial(parfocal.sigmoid_focal_loss, gamma=0.5, reduction=reduction)
    compiled = torch.compile(loss, fullgraph=True, backend=backend, dynamic=True)
    for rows in (40, 50):
        logits, index = draw((rows, 3))
        x = logits.requires_grad_()
        expected = loss(x, one_hot(index, 3))
        found = compiled(x, index)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), x)
        )


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.int8], ids=str)
def test_where_nothing_is_looked_at_a_wrong_index_is_nan(kind):
    """Of its row alone, in value and gradient; not where the row is masked."""
    logits, index = draw((6, 3))
    spoiled = index.clone()
    spoiled[2], spoiled[4] = 100, -1 if kind.is_signed else 255
    mask = torch.ones(6, 1, dtype=torch.bool)
    mask[4] = False

    def total(x):
        each = parfocal.sigmoid_focal_loss(x, spoiled.to(kind), mask=mask)
        return each.sum(), each

    gradient, each = torch.func.grad(total, has_aux=True)(logits)
    right = parfocal.sigmoid_focal_loss(logits, index, mask=mask)
    for values in (each, gradient):
        assert values[2].isnan().all()
        assert (values[4] == 0).all()
        assert values[[0, 1, 3, 5]].isfinite().all()
    torch.testing.assert_close(each[[0, 1, 3, 5]], right[[0, 1, 3, 5]])


def test_second_derivatives_are_those_of_one_hot_targets():
    """By create_graph, where the one-hot targets are made again."""
    logits, index = draw((20, 3))
    results = []
    for y in (index, one_hot(index, 3)):
        x = logits.clone().requires_grad_()
        loss = parfocal.sigmoid_focal_loss(x, y, reduction="mean")
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), x)[0])
    assert torch.equal(*results)
