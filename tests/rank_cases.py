"""What each process of a group does, in a file that it can import: see `ranks`."""

import warnings
from contextlib import contextmanager, nullcontext
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


def accumulated_steps(rank):
    """Three steps of four passes without exchange but the last; the second fails on rank 1."""
    loss = partial(sigmoid_focal_loss, gamma=0.5, reduction="mean")
    for action in ("raise", "skip"):
        guard = FocalGuard(loss, action=action, near=1.0, horizon=0)
        layer = _layer()
        parallel = DistributedDataParallel(layer)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        guard.attach(optimizer)
        weights, stopped = [layer.weight.item()], None
        for step in range(3):
            for part in range(4):
                is_broken = rank == 1 and (step, part) == (1, 1)
                x = torch.tensor([[20.0 if is_broken else 1.0 + rank], [-1.0]])
                with nullcontext() if part == 3 else parallel.no_sync():
                    guard(parallel(x).view(-1), torch.tensor([1.0, 0.0])).backward()
            try:
                with _quiet():
                    optimizer.step()
            except FocalGuardError as error:
                stopped = error
            optimizer.zero_grad()
            weights.append(layer.weight.item())
        assert weights[0] < weights[1] == weights[2] < weights[3], weights
        assert (stopped is not None) == (action == "raise")
        if stopped is not None:
            assert str(stopped).startswith("Step 2, rank 1, "), stopped
            assert stopped.diagnosis.cause == "focal term"
        assert [failure.cause for failure in guard.failures] == ["focal term"]
        assert _is_of_all(layer.weight)


def missing_samples(rank):
    """One process has no samples at first, and one of them never calls the loss."""
    loss = partial(sigmoid_focal_loss, gamma=0.5, reduction="sum")
    guard, other = (FocalGuard(loss, every=1, near=1.0, horizon=0) for _ in range(2))
    layer = _layer()
    parallel = DistributedDataParallel(layer)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    guard.attach(optimizer)
    other.attach(optimizer)
    for count in (0, 3):
        optimizer.zero_grad()
        x = torch.linspace(-1, 1, 4 if rank == 0 else count).view(-1, 1)
        logits, targets = parallel(x).view(-1), (x.view(-1) > 0).float()
        total = guard(logits, targets)
        if rank == 0:
            total = total + other(logits, targets)
        total.backward()
        optimizer.step()
    assert [reading.positions for reading in guard.readings] == [4, 7]
    assert [reading.positions for reading in other.readings] == [4, 4]
    assert guard.step == other.step == 2
    assert guard.limits()[1].cliff < 17
    assert guard.failures == other.failures == []
    assert guard.warnings == [], guard.warnings
    assert _is_of_all(layer.weight)


def collectives_in_the_loss(rank):
    """A loss that asks all processes fails on one, where nobody would answer a trial."""

    def loss(x, y):
        count = y.sum().detach().clone()
        torch.distributed.all_reduce(count)
        return sigmoid_focal_loss(x, y, gamma=0.5, reduction="sum") / count.clamp(min=1)

    layer = _layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    guard = FocalGuard(loss, action="record").attach(optimizer)
    with _quiet():
        for step in range(3):
            optimizer.zero_grad()
            x = layer(torch.ones(8, 1))
            guard(x * 0 + 20 if (rank, step) == (1, 1) else x, torch.ones(8, 1)).backward()
            optimizer.step()
    assert len(guard.failures) >= 1
    assert "focal term" not in [failure.cause for failure in guard.failures]  # none was looked for


def _layer():
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _is_of_all(values):
    """Whether all processes have the same."""
    every = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(every, values.detach())
    return all(torch.equal(one, values) for one in every)


@contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class TiedModel(nn.Module):
    """Words to features, by a weight that is also that of the head."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.layer = nn.Linear(6, 6)

    def forward(self, words):
        """The features of each word."""
        return self.layer(self.words(words))

    def loss(self, features, targets):
        """Of a head without a layer of its own."""
        return parfocal.linear_softmax_focal_loss(features, self.words.weight, targets, gamma=0.5)


def half_of_a_vocabulary_batch(rank, wrapper):
    """Gradients of half of a batch of words, averaged, beside those of the whole; tied weights."""
    torch.manual_seed(0)
    words, targets = torch.randint(11, (2, 8, 5))
    torch.manual_seed(1)
    model = TiedModel().double()
    whole = model.loss(model(words), targets)
    expected = torch.autograd.grad(whole, list(model.parameters()))

    if wrapper == "ddp":
        parallel = DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        # Not gathered any more when the head asks for it, or still so.
        parallel = fully_shard(model, reshard_after_forward=wrapper == "resharded")
    share = slice(4 * rank, 4 * rank + 4)
    model.loss(parallel(words[share]), targets[share]).backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        found = parameter.grad
        found = found.full_tensor() if hasattr(found, "full_tensor") else found
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


def counts_of_a_share(rank):
    """Each of two ranks counts its own labels, and has the counts of all."""
    y = torch.arange(7) % 3
    counts = parfocal.label_counts(y[rank::2], 3)
    assert counts.tolist() == [3, 2, 2]
