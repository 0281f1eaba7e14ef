"""What each process of a group does, in a file that it can import: see `ranks`."""

from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import sigmoid_focal_loss

import parfocal
from parfocal.guard import FocalGuard, FocalGuardError


def quarter_of_a_batch(rank):
    """Gradients of a quarter of the batch, averaged, beside those of the whole."""
    for positives in (3, 0):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64)
        targets = torch.zeros(12, 2, dtype=torch.float64)
        targets.view(-1)[:positives] = 1.0  # all of them on the first process

        torch.manual_seed(1)
        model = nn.Linear(5, 2).double()
        options = {"gamma": 0.5, "reduction": "sum"}
        whole = parfocal.sigmoid_focal_loss(
            model(inputs), targets, **options, normalizer=max(1, positives)
        )
        expected = torch.autograd.grad(whole, list(model.parameters()))

        # 4, 4 and 4 samples, and none.
        share = slice(4 * rank, 4 * rank + 4)
        parallel = DistributedDataParallel(model)
        own = targets[share]
        loss = parfocal.sigmoid_focal_loss(
            parallel(inputs[share]), own, **options, normalizer=parfocal.positive_count(own)
        )
        loss.backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)
        assert len(own) == (4 if rank < 3 else 0)


def guarded_steps(rank):
    """A step that is fine, and one that fails on rank 1 alone."""
    loss = partial(sigmoid_focal_loss, gamma=0.5, reduction="mean")
    guard = FocalGuard(loss, every=1, near=1.0, horizon=0)
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    parallel = DistributedDataParallel(layer)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-3)
    guard.attach(optimizer)
    stopped = None
    for largest in (3.0 + rank, 20.0 if rank else 1.0):
        before = layer.weight.item()
        optimizer.zero_grad()
        guard(parallel(torch.tensor([[1.0], [largest]])).view(-1), torch.ones(2)).backward()
        try:
            optimizer.step()
        except FocalGuardError as error:
            stopped = error
    assert stopped is not None
    assert "rank 1" in str(stopped), stopped
    assert stopped.diagnosis.sample == 1
    assert (guard.readings[0].largest_margin, guard.readings[0].positions) == (4.0, 4)
    assert layer.weight.item() == before
