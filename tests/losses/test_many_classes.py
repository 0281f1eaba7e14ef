"""The multiclass loss where the sum over the other classes is long."""

import torch

import parfocal


def test_softmax_focal_loss_of_many_classes():
    """128,000 of them, in float32 against float64: the sum over the others keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 128_000, generator=generator) * 3
    targets = torch.tensor([5, 77, 127_999])
    x[0, 5] = 40.0
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = x.to(dtype, copy=True).requires_grad_()
        value = parfocal.softmax_focal_loss(logits, targets, gamma=0.5, reduction="none")
        results.append((value.detach(), torch.autograd.grad(value.sum(), logits)[0]))
    d = float(x.max() - x.min())
    bound = 1.5 * (4 + 0.75 * d) * torch.finfo(torch.float32).eps
    for found, exact in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=bound, atol=1e-37)
