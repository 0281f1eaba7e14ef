"""The multiclass loss: many classes, two, and a gamma of each class or sample."""

import pytest
import torch

import parfocal


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_many_classes(reduction):
    """128,000 of them, in float32 against float64: the sum over the others keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 128_000, generator=generator) * 3
    targets = torch.tensor([5, 77, 127_999])
    x[0, 5] = 40.0
    results = []
    for dtype, how in ((torch.float32, reduction), (torch.float64, "none")):
        logits = x.to(dtype, copy=True).requires_grad_()
        value = parfocal.softmax_focal_loss(logits, targets, gamma=0.5, reduction=how).sum()
        results.append((value.detach(), torch.autograd.grad(value, logits)[0]))
    d = float(x.max() - x.min())
    bound = 1.5 * (4 + 0.75 * d) * torch.finfo(torch.float32).eps
    for found, exact in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=bound, atol=1e-37)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_two_classes_are_the_binary_loss(gamma, reduction):
    """Of the difference of the logits, with the weights of the classes as alpha."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(40, 2, generator=generator, dtype=torch.float64) * 5).requires_grad_()
    targets = torch.randint(0, 2, (40,), generator=generator)
    u = x[:, 1] - x[:, 0]
    binary = parfocal.sigmoid_focal_loss(u, targets, None, gamma, reduction)
    both = parfocal.softmax_focal_loss(x, targets, gamma=gamma, reduction=reduction)
    torch.testing.assert_close(both, binary, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in (both, binary)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-15)
    balanced = parfocal.sigmoid_focal_loss(u, targets, 0.25, gamma)
    weighted = parfocal.softmax_focal_loss(
        x, targets, torch.tensor([0.75, 0.25]), gamma, reduction="none"
    )
    torch.testing.assert_close(weighted, balanced, rtol=1e-12, atol=1e-15)


def test_gamma_of_each_class_and_of_each_sample():
    """One number a class is that of the target's class; one a sample broadcasts over classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 4, (30,), generator=generator)
    of_class = torch.tensor([0.0, 0.5, 1.5, 3.0])
    found = parfocal.softmax_focal_loss(x, targets, gamma=of_class, reduction="none")
    of_sample = of_class[targets].unsqueeze(1)
    again = parfocal.softmax_focal_loss(x, targets, gamma=of_sample, reduction="none")
    for i, t in enumerate(targets.tolist()):
        expected = parfocal.softmax_focal_loss(x[i], targets[i], gamma=of_class[t].item())
        torch.testing.assert_close(found[i], expected)
        torch.testing.assert_close(again[i], expected)
    y = torch.randn(30, 4, generator=generator, dtype=torch.float64).softmax(1)
    mixed = parfocal.softmax_focal_loss(x, y, gamma=of_class, reduction="none")
    p = x.softmax(1)
    torch.testing.assert_close(mixed, (y * -((1 - p) ** of_class) * p.log()).sum(1))
