"""`create_loss` beside timm's own losses, and in a training with Mixup."""

import pytest
import timm
import torch
from timm.data import Mixup
from timm.loss import (
    AsymmetricLossMultiLabel,
    AsymmetricLossSingleLabel,
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)

import parfocal
from parfocal.integrations.timm import SIGMOID_LOSSES, SOFTMAX_LOSSES, create_loss

CLASSES = 5


def logits():
    return torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))


def index():
    return torch.tensor([0, 4, 2, 1, 1, 3])


def mixture():
    return logits().flip(0).softmax(1)


def multi_hot():
    return (logits().flip(0) > 0).float()


BINARY = {"alpha": None, "gamma": 0}
CASES = {
    "smoothed": (("softmax_focal_loss", 0.1, {"gamma": 0}), LabelSmoothingCrossEntropy(0.1), index),
    "mixed": (("softmax_focal_loss", 0.1, {"gamma": 0}), SoftTargetCrossEntropy(), mixture),
    "module": (("SoftmaxFocalLoss", 0.0, {"gamma": 0}), torch.nn.CrossEntropyLoss(), index),
    "binary": (("sigmoid_focal_loss", 0.1, BINARY), BinaryCrossEntropy(0.1), index),
    "binary mixed": (("sigmoid_focal_loss", 0.1, BINARY), BinaryCrossEntropy(0.1), mixture),
    "threshold": (
        ("sigmoid_focal_loss", 0.1, BINARY | {"target_threshold": 0.2}),
        BinaryCrossEntropy(0.1, target_threshold=0.2),
        mixture,
    ),
    "sum of classes": (
        ("sigmoid_focal_loss", 0.0, BINARY | {"reduction": "batchmean"}),
        BinaryCrossEntropy(0.0, sum_classes=True),
        index,
    ),
    "multi-label": (
        ("asymmetric_loss", 0.0, {"reduction": "batchmean"}),
        AsymmetricLossMultiLabel(),
        multi_hot,
    ),
    "single-label": (
        ("softmax_asymmetric_loss", 0.1, {"gamma_pos": 1}),
        AsymmetricLossSingleLabel(),
        index,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loss_of_timm(name):
    """Where timm has one: at gamma 0, and the asymmetric losses."""
    (loss, smoothing, options), theirs, target = CASES[name]
    ours = create_loss(loss, smoothing=smoothing, **options)
    torch.testing.assert_close(ours(logits(), target()), theirs(logits(), target()))


def test_a_batchmean_of_a_softmax_is_its_mean():
    x, y = logits(), index()
    losses = [
        create_loss("softmax_focal_loss", reduction=r, gamma=0.5)(x, y)
        for r in ("mean", "batchmean")
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("name", [*SOFTMAX_LOSSES, *SIGMOID_LOSSES])
def test_names_are_those_of_the_package(name):
    """That of a function and that of its module are the loss with its defaults."""
    module = (SOFTMAX_LOSSES | SIGMOID_LOSSES)[name]
    assert {name, module.__name__} <= set(parfocal.__all__)
    x, y = logits(), index()
    torch.testing.assert_close(create_loss(name)(x, y), create_loss(module.__name__)(x, y))
    if name in SOFTMAX_LOSSES:
        expected = module(label_smoothing=0.0)(x, y)
    else:
        expected = module()(x, torch.nn.functional.one_hot(y, CLASSES))
    torch.testing.assert_close(create_loss(name)(x, y), expected)


@pytest.mark.parametrize(
    ("name", "options", "kind", "words"),
    [
        ("sigmoid_focal", {}, ValueError, "did you mean 'sigmoid_focal_loss'?"),
        ("softmax_tversky_loss", {}, ValueError, "expected one of softmax_asymmetric_loss"),
        ("softmax_focal_loss", {"target_threshold": 0.5}, ValueError, "no `target_threshold`"),
        ("softmax_focal_loss", {"smoothing": 1.5}, ValueError, r"`smoothing` in \[0, 1\]"),
        ("softmax_focal_loss", {"reduction": "average"}, ValueError, "`reduction`"),
        ("softmax_focal_loss", {"gama": 2}, TypeError, "gama"),
        ("softmax_focal_loss", {"label_smoothing": 0.1}, TypeError, "`smoothing`, as timm"),
        ("sigmoid_focal_loss", {"target_threshold": 5}, ValueError, r"`target_threshold` in \[0"),
    ],
)
def test_what_there_is_not_is_refused(name, options, kind, words):
    with pytest.raises(kind, match=words):
        create_loss(name, **options)


@pytest.mark.parametrize("name", ["softmax_focal_loss", "sigmoid_focal_loss"])
def test_a_criterion_is_scheduled(name):
    """It keeps the exponent of the loss within it, and nothing twice."""
    criterion = (
        create_loss(name, weight=torch.ones(CLASSES)) if "soft" in name else create_loss(name)
    )
    parfocal.GammaSchedule({0: 0.25}).set_gamma(criterion, 0)
    torch.testing.assert_close(
        criterion(logits(), index()), create_loss(name, gamma=0.25)(logits(), index())
    )
    assert list(criterion.state_dict()) == (["loss.weight"] if "soft" in name else [])


@pytest.mark.parametrize("wrong", [CLASSES, -100])
def test_an_index_that_is_no_class_is_refused(wrong):
    """Of a sigmoid loss, which has none for what is ignored."""
    with pytest.raises(IndexError, match=f"create_loss: expected .*, got {wrong}"):
        create_loss("sigmoid_focal_loss")(logits(), torch.full_like(index(), wrong))


def test_nothing_has_a_batchmean_of_0():
    loss = create_loss("sigmoid_focal_loss", reduction="batchmean")
    assert loss(torch.zeros(0, CLASSES), torch.zeros(0, CLASSES)) == 0


def test_mixtures_have_no_single_label_asymmetric_loss():
    with pytest.raises(ValueError, match="`softmax_focal_loss` takes those"):
        create_loss("softmax_asymmetric_loss")(logits(), mixture())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax_focal_loss", {"gamma": 0.5}),
        ("sigmoid_focal_loss", {"gamma": 0.5, "reduction": "batchmean"}),
        ("asymmetric_loss", {"margin": 0.0, "gamma_neg": 2, "target_threshold": 0.2}),
    ],
)
def test_a_model_of_timm_trains_with_mixup(name, options):
    """Soft targets while it trains, class indices while it is validated; the loss goes down."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=CLASSES, img_size=32, drop_path_rate=0.0)
    images = torch.randn(10, 3, 32, 32)
    labels = torch.arange(10) % CLASSES
    mixup = Mixup(mixup_alpha=0.2, label_smoothing=0.1, num_classes=CLASSES)
    loss = create_loss(name, smoothing=0.1, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def validate():
        with torch.no_grad():
            return loss(model.eval()(images), labels).item()

    before = validate()
    for _ in range(12):
        x, y = mixup(images.clone(), labels.clone())
        assert y.shape == (10, CLASSES)
        optimizer.zero_grad()
        loss(model.train()(x), y).backward()
        optimizer.step()
    assert validate() < 0.8 * before
