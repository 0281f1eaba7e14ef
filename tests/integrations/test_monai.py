"""MONAI's call of the focal loss, beside its own where that is accurate, and in its engine."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from parfocal.integrations.monai import FocalLoss

pytestmark = pytest.mark.filterwarnings("ignore")  # what importing MONAI warns of

SHAPE = (2, 4, 3, 5)
LABELS = {"to_onehot_y": True}


def logits(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def labels(shape=SHAPE):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(shape[1], (shape[0], 1, *shape[2:]), generator=generator)


def one_hot(shape=SHAPE):
    index = labels(shape)
    return torch.zeros(shape).scatter(1, index, 1.0)


def holes(shape=SHAPE):
    """Labels of which some are 255, more in one image than in the other."""
    index = labels(shape)
    index[0, 0, 0, :4] = index[1, 0, 2, 1] = 255
    return index


def one_hot_holes():
    """Voxels of no class in the same places."""
    counts = holes() != 255
    return one_hot() * counts


CASES = {
    "labels": (LABELS, labels),
    "one-hot": ({}, one_hot),
    "no background": (LABELS | {"include_background": False}, labels),
    "one-hot without background": ({"include_background": False}, one_hot),
    "alpha": (LABELS | {"alpha": 0.3}, labels),
    "alphas": (LABELS | {"alpha": [0.1, 0.2, 0.3, 4.0]}, labels),
    "alphas without background": (
        LABELS | {"alpha": [0.2, 0.3, 0.4], "include_background": False},
        labels,
    ),
    "weights": (LABELS | {"weight": [1.0, 2.0, 3.0, 0.0]}, labels),
    "one weight": (LABELS | {"weight": 2.0, "alpha": 0.3}, labels),
    "weights without background": (
        LABELS | {"weight": [2.0, 3.0, 4.0], "include_background": False},
        labels,
    ),
    "holes": (LABELS | {"ignore_index": 255}, holes),
    "a class ignored": (LABELS | {"ignore_index": 2, "weight": [1.0, 2.0, 3.0, 4.0]}, labels),
    "a class ignored in one-hot": ({"ignore_index": 2}, one_hot),
    "holes in one-hot": ({"ignore_index": 255}, one_hot_holes),
    "holes without background": (
        LABELS | {"ignore_index": 255, "include_background": False},
        holes,
    ),
}


@pytest.mark.parametrize("use_softmax", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_monai(name, reduction, use_softmax):
    """At mild logits and gamma 2, where its float32 is accurate."""
    from monai.losses import FocalLoss as Theirs

    options, target = CASES[name]
    options = options | {"reduction": reduction, "use_softmax": use_softmax}
    x, y = logits().requires_grad_(), target()
    expected, loss = Theirs(**options)(x, y), FocalLoss(**options)(x, y)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected.sum(), x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{}, LABELS, {"include_background": False}])
def test_a_single_channel_is_binary(options):
    """Its labels are the targets, and 255 may be ignored."""
    from monai.losses import FocalLoss as Theirs

    x, y = logits((2, 1, 3, 5)), holes((2, 2, 3, 5))
    options = options | {"ignore_index": 255, "alpha": 0.25}
    with pytest.warns(UserWarning, match="single channel") if len(options) > 2 else nullcontext():
        loss = FocalLoss(**options)(x, y)
    torch.testing.assert_close(loss, Theirs(**options)(x, y))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_one_class_is_left_of_a_background_and_another(reduction):
    """Each voxel is that class or not."""
    from monai.losses import FocalLoss as Theirs

    shape, options = (2, 2, 3, 5), LABELS | {"include_background": False, "reduction": reduction}
    x, y = logits(shape), labels(shape)
    torch.testing.assert_close(FocalLoss(**options)(x, y), Theirs(**options)(x, y))


@pytest.mark.parametrize("use_softmax", [False, True])
def test_a_sure_answer_has_the_gradient_of_the_formula(use_softmax):
    """At gamma 0.5 MONAI's is NaN under a softmax; the truth is that of float64 in closed form."""
    from monai.losses import FocalLoss as Theirs

    options = {"to_onehot_y": True, "gamma": 0.5, "use_softmax": use_softmax, "reduction": "sum"}
    x = torch.tensor([[[20.0], [0.0]]], requires_grad=True)
    y = torch.tensor([[[0]]])
    (slope,) = torch.autograd.grad(FocalLoss(**options)(x, y), x)
    # q = 1 - p_t: d/du of -q^g log p = -q^g (1 - p) - g q^g p (-log p), u the margin.
    q = torch.tensor(-20.0, dtype=torch.float64).sigmoid()
    truth = -(q**0.5) * q + 0.5 * q**0.5 * (1 - q) * torch.log1p(-q)
    assert slope[0, 0, 0].item() == pytest.approx(truth.item(), rel=1e-5)
    (theirs,) = torch.autograd.grad(Theirs(**options)(x, y), x)
    assert theirs.isnan().any().item() == use_softmax


@pytest.mark.parametrize("use_softmax", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_that_counts_is_0(use_softmax, reduction):
    loss = FocalLoss(ignore_index=0, reduction=reduction, use_softmax=use_softmax, **LABELS)
    assert loss(torch.full(SHAPE, torch.nan), torch.zeros_like(labels())).item() == 0
    empty = FocalLoss(reduction=reduction, use_softmax=use_softmax)
    assert empty(torch.zeros(0, 3, 4), torch.zeros(0, 3, 4)).item() == 0


@pytest.mark.parametrize(
    ("options", "target", "words"),
    [
        ({}, labels, r"`target` of shape \(2, 4, 3, 5\), got \(2, 1, 3, 5\)"),
        (LABELS, one_hot, r"`target` of shape \(2, 1, 3, 5\), got \(2, 4, 3, 5\)"),
        (LABELS | {"weight": [1.0, 2.0]}, labels, r"`weight` .* 4 classes that count, got \(2,\)"),
        (LABELS | {"weight": -1.0}, labels, "`weight` >= 0, got -1"),
        (LABELS | {"alpha": 2.0}, labels, r"`alpha` in \[0, 1\]"),
        (LABELS | {"reduction": "average"}, labels, "`reduction` .* got 'average'"),
        (LABELS | {"gamma": -1}, labels, "`gamma`"),
    ],
    ids=["labels", "one-hot", "weights", "negative", "alpha", "reduction", "gamma"],
)
def test_what_does_not_fit_is_refused(options, target, words):
    with pytest.raises(ValueError, match=f"FocalLoss: expected {words}"):
        FocalLoss(**options)(logits(), target())


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(IndexError, match=r"FocalLoss: expected `target` in \[0, 4\), got 255"):
        FocalLoss(**LABELS)(logits(), holes())


def test_the_reduction_may_be_that_of_monai():
    from monai.utils import LossReduction

    loss = FocalLoss(reduction=LossReduction.SUM)
    torch.testing.assert_close(
        loss(logits(), one_hot()), FocalLoss(reduction="sum")(logits(), one_hot())
    )


def test_its_engine_trains_with_it():
    """A `SupervisedTrainer` of images with labels (N, 1, ...), to the right answers."""
    from monai.engines import SupervisedTrainer

    torch.manual_seed(0)
    image = torch.randn(4, 2, 8, 8)
    label = image.argmax(1, keepdim=True)
    network = nn.Conv2d(2, 2, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=40,
        train_data_loader=[{"image": image, "label": label}],
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.1),
        loss_function=FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0.5),
    )
    trainer.run()
    assert (network(image).argmax(1, keepdim=True) == label).float().mean() > 0.97
