"""Public implementations whose meaning differs by more than a name, and how ours gives theirs."""

from importlib.metadata import version

import pytest
import torch
import torch.nn.functional as F

import parfocal

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def drawn(classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (2, 5, 4), generator=generator)


@pytest.mark.parametrize("options", ["none", "weight", "ignored", "smoothed", "both"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 5, 2), (2, 5, 3, 2)])
@pytest.mark.parametrize("soft", [False, True])
def test_softmax_focal_at_gamma_zero_is_cross_entropy(shape, soft, reduction, options):
    """For every input shape, target form, reduction and option; with its gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    positions = shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]
    targets = torch.randint(0, 5, positions, generator=generator)
    if soft:
        targets = torch.rand(shape, generator=generator, dtype=torch.float64)
    kept = {"reduction": reduction}
    if options in ("weight", "both"):
        kept["weight"] = torch.rand(5, generator=generator, dtype=torch.float64)
    if options in ("smoothed", "both"):
        kept["label_smoothing"] = 0.1
    if options in ("ignored", "both") and not soft:
        # Another class than that of the only sample: a mean of nothing is tested elsewhere.
        kept["ignore_index"] = (int(targets.flatten()[0]) + 1) % 5
    ours = parfocal.softmax_focal_loss(logits, targets, gamma=0, **kept)
    theirs = F.cross_entropy(logits, targets, **kept)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


def test_softmax_focal_all_ignored_is_nan_like_cross_entropy():
    """And 0 with a sum and a normalizer."""
    logits, targets = drawn(3)
    targets = torch.full_like(targets, -100)
    assert F.cross_entropy(logits, targets).isnan()
    assert parfocal.softmax_focal_loss(logits, targets).isnan()
    assert parfocal.softmax_focal_loss(logits, targets, reduction="sum", normalizer=1) == 0


def test_torchvision_retinanet_head_loss():
    """Summed and divided by the number of positives, as detectors do."""
    from torchvision.ops import sigmoid_focal_loss

    logits, _ = drawn(3)
    targets = (logits > 1).double()
    theirs = sigmoid_focal_loss(logits, targets, reduction="sum") / max(1, targets.sum())
    count = parfocal.positive_count(targets)
    ours = parfocal.sigmoid_focal_loss(logits, targets, reduction="sum", normalizer=count)
    torch.testing.assert_close(ours, theirs)


def test_kornia_alpha_of_softmax():
    """There the background class has 1 - alpha and all others alpha; ours takes class weights."""
    from kornia.losses import focal_loss

    logits, targets = drawn(3)
    weight = torch.tensor([0.75, 0.25, 0.25], dtype=torch.float64)
    theirs = focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="none").sum(1)
    ours = parfocal.softmax_focal_loss(logits, targets, weight, 2, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


def test_kornia_soft_targets_are_another_function():
    """A mixture of two losses there, one loss at a mixed probability here; both can be had."""
    from kornia.losses import binary_focal_loss_with_logits

    logits, _ = drawn(1)
    targets = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)).double()
    theirs = binary_focal_loss_with_logits(logits, targets, alpha=0.5, gamma=2.0, reduction="none")
    one = torch.ones_like(logits)
    mixture = targets * parfocal.sigmoid_focal_loss(logits, one, 0.5, 2)
    mixture = mixture + (1 - targets) * parfocal.sigmoid_focal_loss(logits, 0 * one, 0.5, 2)
    torch.testing.assert_close(mixture, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_monai_sigmoid_focal(gamma):
    """Hard targets agree; alpha is off by default there."""
    from monai.losses import FocalLoss

    logits, targets = drawn(1)
    targets = (targets[:, None] + (logits > 0)).clamp(max=1).double()
    theirs = FocalLoss(gamma=gamma, reduction="none")(logits, targets)
    ours = parfocal.sigmoid_focal_loss(logits, targets, None, gamma)
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(version("monai") < "1.6", reason="another function in older versions of MONAI")
def test_monai_unified_focal():
    """Two classes; its cross-entropy is averaged over the classes too, and the sum weighted."""
    from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss

    logits, targets = drawn(2)
    p, y = logits.softmax(1), F.one_hot(targets, 2).movedim(-1, 1).double()
    theirs = 0.5 * 2 * AsymmetricFocalLoss(delta=0.7, gamma=0.5)(p, y)
    theirs = theirs + 0.5 * AsymmetricFocalTverskyLoss(delta=0.7, gamma=0.5)(p, y)
    ours = parfocal.softmax_asymmetric_unified_focal_loss(
        logits, targets, delta=0.7, gamma=0.5, smooth=1e-7
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_segmentation_models_tversky():
    """Regions of the whole batch; alpha is that of false positives; the power is of the mean."""
    from segmentation_models_pytorch.losses import TverskyLoss

    logits, targets = drawn(3)
    theirs = TverskyLoss("multiclass", smooth=1.0, eps=0.0, alpha=0.3, beta=0.7, gamma=0.75)
    ours = parfocal.softmax_tversky_loss(logits, targets, 0.7, 0.3, per_image=False)
    torch.testing.assert_close(ours**0.75, theirs(logits, targets), rtol=1e-7, atol=1e-9)


def test_segmentation_models_focal():
    """Its binary loss; the default alpha is off."""
    from segmentation_models_pytorch.losses import FocalLoss

    logits, targets = drawn(1)
    targets = (logits[:, 0] > 0.2).long()[:, None]
    theirs = FocalLoss("binary", gamma=0.5)(logits, targets)
    ours = parfocal.sigmoid_focal_loss(logits, targets, None, 0.5, "mean")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_kornia_tversky():
    """alpha is that of false positives there, and the background is a class."""
    from kornia.losses import tversky_loss

    logits, targets = drawn(3)
    theirs = tversky_loss(logits, targets, alpha=0.3, beta=0.7, eps=1e-12)
    ours = parfocal.softmax_tversky_loss(logits, targets, 0.7, 0.3, smooth=1e-12)
    # It averages over the classes that are present; here all are, in both images.
    assert all(image.unique().numel() == 3 for image in targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_timm_asymmetric():
    """Its clip is the margin. It computes in float32."""
    from timm.loss import AsymmetricLossMultiLabel

    logits, _ = drawn(3)
    targets = (logits > 1).double()
    theirs = AsymmetricLossMultiLabel(reduction="none")(logits, targets)
    ours = parfocal.asymmetric_loss(logits, targets)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-7)


def test_positive_weight_of_binary_cross_entropy():
    """As a weight a position."""
    logits, _ = drawn(3)
    targets = (logits > 1).double()
    factor = torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64).view(3, 1, 1)
    theirs = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=factor)
    weight = 1 + (factor - 1) * targets
    ours = parfocal.sigmoid_focal_loss(logits, targets, None, 0, "mean", weight=weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
