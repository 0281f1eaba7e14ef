"""`parfocal.integrations.segmentation_models.FocalLoss` beside that of the library."""

import pytest
import torch
from segmentation_models_pytorch.losses import FocalLoss as Theirs

from parfocal import SoftmaxFocalLoss
from parfocal.integrations.segmentation_models import FocalLoss

SHAPE = (2, 3, 4, 5)


def logits():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def classes():
    """Class indices, of which some are 255."""
    index = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    index[0, 0, :3] = index[1, 3, 2] = 255
    return index


def labels():
    return (torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.3).long()


def binary():
    y = classes().clamp(max=1)
    return torch.where(classes() == 255, 255, y)


MODES = {
    "binary": (lambda: logits()[:, :1], binary, {"ignore_index": 255}),
    "multiclass": (logits, classes, {"ignore_index": 255}),
    "multilabel": (logits, labels, {}),
    "weighted": (logits, classes, {"ignore_index": 255, "class_weights": [1.0, 2.0, 4.0]}),
}


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", MODES)
def test_value_and_gradient_are_those_of_the_library(name, reduction, normalized, alpha):
    """At mild logits and gamma 2; the normalizer has a gradient there, too."""
    inputs, targets, options = MODES[name]
    mode = "multiclass" if name == "weighted" else name
    options = options | {"reduction": reduction, "normalized": normalized, "alpha": alpha}
    x, y = inputs().requires_grad_(), targets()
    loss, expected = FocalLoss(mode, **options)(x, y), Theirs(mode, **options)(x, y)
    torch.testing.assert_close(loss, expected, rtol=3e-6, atol=1e-7)
    (slope,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(slope, *torch.autograd.grad(expected, x), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_normalized_has_a_gradient_where_answers_are_sure(dtype):
    """Where 1 - p_t is 0 in float32; the truth is the quotient of both sums in float64."""
    x = torch.tensor([[20.0, 1.0]], dtype=dtype, requires_grad=True)
    y = torch.ones(1, 2, dtype=torch.long)
    options = {"gamma": 0.5, "normalized": True, "reduction": "sum"}
    (slope,) = torch.autograd.grad(FocalLoss("binary", **options)(x, y), x)

    u = x.detach().double().requires_grad_()
    log_q = torch.nn.functional.logsigmoid(-u)
    factor = (0.5 * log_q).exp()
    truth = (factor * -torch.nn.functional.logsigmoid(u)).sum() / factor.sum()
    (expected,) = torch.autograd.grad(truth, u)
    torch.testing.assert_close(
        slope.double(), expected, rtol=1e-12 if dtype == torch.float64 else 2**-8, atol=0
    )


def test_labels_may_be_ignored_one_by_one():
    """In mode "multilabel", where the library fails; as by hand, class by class."""
    x, y = logits(), labels()
    y[0, 1, 0, :] = y[1, 2, 3, 3] = 255
    expected = torch.stack(
        [Theirs("binary", ignore_index=255)(x[:, c], y[:, c]) for c in range(3)]
    ).mean()
    torch.testing.assert_close(FocalLoss("multilabel", ignore_index=255)(x, y), expected)


def test_without_a_reduction_it_has_the_shape_of_the_logits():
    x, y = logits(), classes()
    losses = FocalLoss("multiclass", ignore_index=255, reduction="none")(x, y)
    assert losses.shape == x.shape
    total = FocalLoss("multiclass", ignore_index=255, reduction="sum")(x, y)
    torch.testing.assert_close(losses.sum() / 3, total)


def test_nothing_that_counts_is_0():
    loss = FocalLoss("multiclass", ignore_index=0, normalized=True)
    assert loss(torch.full(SHAPE, torch.nan), torch.zeros_like(classes())).item() == 0


def test_a_softmax_takes_the_same_maps():
    """As the docstring says; which is another function."""
    x, y = logits(), classes()
    softmax = SoftmaxFocalLoss(gamma=0, ignore_index=255)(x, y)
    torch.testing.assert_close(softmax, torch.nn.functional.cross_entropy(x, y, ignore_index=255))
    assert not torch.isclose(softmax, FocalLoss("multiclass", gamma=0, ignore_index=255)(x, y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FocalLoss("multi"), "`mode` .* got 'multi'"),
        (lambda: FocalLoss("binary", class_weights=[1.0]), "no `class_weights`"),
        (lambda: FocalLoss("multiclass", class_weights=[0.0, 0.0]), "`class_weights` >= 0, with"),
        (lambda: FocalLoss("multiclass", class_weights=[-1.0, 2.0]), "`class_weights` >= 0"),
        (lambda: FocalLoss("binary", normalized=True, reduction="none"), "reduction='mean' or"),
        (lambda: FocalLoss("binary", reduction="batchmean"), "`reduction` .* got 'batchmean'"),
    ],
    ids=["mode", "weights", "zeros", "negative", "normalized", "reduction"],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=f"FocalLoss: expected {words}"):
        make()


@pytest.mark.parametrize("index", [3, 255, -1])
def test_an_index_that_is_no_class_is_refused(index):
    """3 would be the background of a detector, for which all classes are negatives."""
    y = torch.full((2, 4, 5), index)
    with pytest.raises(IndexError, match=rf"FocalLoss: expected .* in \[0, 3\), got {index}"):
        FocalLoss("multiclass")(logits(), y)
