"""Whatever goes wrong in the guard, the training is that of the loss alone, to the bit."""

import gc
import math
import random
import sys
import warnings
import weakref
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import sigmoid_focal_loss as original

from parfocal.guard import FocalGuard, FocalGuardError, FocalGuardWarning

mean_original = partial(original, gamma=0.5, reduction="mean")
PARTS, STEPS, BROKEN = 2, 6, 4


class PlantedError(Exception):
    """What no code of the guard expects."""


def train(loss, *, guard=None, broken=False):
    """A training of accumulated passes; its parameters as bytes, and the next random numbers."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    if guard is not None:
        guard.attach(optimizer)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for _ in range(PARTS):
            x = torch.randn(32, 3, generator=generator)
            y = (x[:, 0] > 0).float()
            added = torch.zeros(32)
            if broken and step == BROKEN:
                added[5], y[5] = 40.0, 1.0
            (loss if guard is None else guard)(model(x).squeeze(1) + added, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    left = (torch.rand(1).item(), random.random(), np.random.random())
    return [p.detach().numpy().tobytes() for p in model.parameters()], left


def quietly(guard, **options):
    """A guarded training, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = train(None, guard=guard, **options)
    return result, [str(one.message) for one in caught]


GUARD = "parfocal.guard.focal_guard"

PLACES = [
    "parfocal.guard.measures.measure_form",
    "parfocal.guard.measures.limits_of",
    f"{GUARD}.forgotten_prior",
    f"{GUARD}.places_of",
    f"{GUARD}.broken_parameters",
    f"{GUARD}.Pass",
    "parfocal.guard.tally.Tally.read",
    "parfocal.guard.tally.Tally.add",
    "parfocal.guard.tally.statistics_of",
    "parfocal.guard.checks.Checks.add",
    "parfocal.guard.checks.Checks.failing",
    "parfocal.guard.checks.Checks.done",
    "parfocal.guard.form.Form.outside",
    "parfocal.guard.ranks.together",
]


def planted(*_, **__):
    """Fail."""
    raise PlantedError("planted")


def own_errors(guard, told):
    """What the guard says of itself: once for each place, and warned of as often."""
    own = [notice.text for notice in guard.warnings if notice.kind == "own"]
    assert len(own) == len(set(own)) <= 2
    assert all("PlantedError: planted" in text for text in own)
    assert sum("planted" in text for text in told) == len(own)
    return own


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_the_guard_ends_no_training(place, monkeypatch):
    """It is told once, with its place, and the parameters are those without a guard."""
    expected = train(mean_original)
    monkeypatch.setattr(place, planted)
    if place.endswith("largest"):  # of a group that has lost its connection
        monkeypatch.setattr("parfocal.guard.ranks.is_group", lambda: True)
        monkeypatch.setattr("parfocal.guard.ranks.rank", lambda: 0)
    guard = FocalGuard(mean_original, every=1)
    found, told = quietly(guard)
    assert found == expected
    assert guard.failures == []
    assert own_errors(guard, told) or [notice.kind for notice in guard.warnings] == ["unknown"]


@pytest.mark.parametrize("place", [f"{GUARD}.save_capture", "parfocal.guard.causes.Causes._of"])
def test_an_error_at_a_failure_ends_no_training(place, monkeypatch, tmp_path):
    """The parameters are those that the failure makes of them."""
    expected = train(mean_original, broken=True)
    monkeypatch.setattr(place, planted)
    guard = FocalGuard(mean_original, action="record", near=1.0, capture=tmp_path)
    found, told = quietly(guard, broken=True)
    assert found == expected
    assert own_errors(guard, told)
    assert len(guard.failures) == STEPS - BROKEN


def test_a_failure_whose_cause_is_not_found_is_a_failure(monkeypatch):
    """The step isn't taken, though the guard can't say why."""
    for place, told in (("diagnose", "called again"), ("Causes._of", "look at it again")):
        monkeypatch.setattr(f"parfocal.guard.causes.{place}", planted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(FocalGuardError, match=told) as raised:
                train(None, guard=FocalGuard(mean_original, near=1.0), broken=True)
        assert raised.value.diagnosis.cause == "loss"


class Writer:
    """As TensorBoard's, which has lost its disk."""

    add_scalar = planted


def test_a_writer_that_fails_ends_no_training():
    """And the readings go on."""
    guard = FocalGuard(mean_original, every=1, writer=Writer())
    found, told = quietly(guard)
    assert found == train(mean_original)
    assert len(own_errors(guard, told)) == 1
    assert len(guard.readings) == STEPS


@pytest.mark.parametrize("is_full", [False, True])
def test_a_folder_that_can_not_be_written_ends_no_training(is_full, monkeypatch, tmp_path):
    """A file in its place, and a disk without room: the failure is told all the same."""
    folder = tmp_path / "folder"
    if is_full:
        monkeypatch.setattr("safetensors.torch.save_file", planted)
    else:
        folder.touch()
    guard = FocalGuard(mean_original, near=1.0, capture=folder)
    with (
        pytest.warns(FocalGuardWarning, match="couldn't write a capture"),
        pytest.raises(FocalGuardError, match="at sample 5 of the batch") as raised,
    ):
        train(None, guard=guard, broken=True)
    assert raised.value.capture is None


# What is given to it


@pytest.mark.parametrize(
    "samples", [torch.arange(3), torch.arange(100), list("abc"), list("a" * 32), torch.tensor(1), 7]
)
def test_samples_of_another_length_are_told(samples):
    """The cause is found, and the sample has its number in the batch."""
    guard = FocalGuard(mean_original, near=1.0)
    guard.samples = samples
    with (
        pytest.warns(FocalGuardWarning, match="`guard.samples`"),
        pytest.raises(FocalGuardError, match="at sample 5 of the batch, target 1") as raised,
    ):
        train(None, guard=guard, broken=True)
    assert raised.value.diagnosis.cause == "focal term"


class Once:
    """A loss that can't be called a second time for one step."""

    def __init__(self, error):
        self.error, self.tokens = error, deque()

    def __call__(self, x, y):
        """The loss, and the token of the loop is spent."""
        if not self.tokens:
            raise self.error("called again")
        self.tokens.pop()
        return mean_original(x, y)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError, StopIteration])
def test_a_loss_that_can_not_be_called_again(error):
    """What it means isn't measured, and a failure is told without a cause."""
    loss = Once(error)

    guard = FocalGuard(loss, near=1.0)
    x = torch.tensor([1.0, 20.0], requires_grad=True)
    loss.tokens.append(None)
    guard(x, torch.ones(2)).backward()
    with pytest.raises(FocalGuardError, match="can't be called again"):
        guard.check()
    with pytest.warns(FocalGuardWarning, match="couldn't measure what the targets"):
        guard.read()


# What a loss keeps


class Buffers(nn.Module):
    """A running mean, by which the loss is divided, and a count in Python."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.calls, self.recent, self.sums = 0, deque(maxlen=3), {"all": [0.0]}

    def forward(self, x, y):
        """The loss over its mean so far."""
        loss = mean_original(x, y)
        # As old code does, of which a tensor's version knows nothing.
        self.mean.data.mul_(0.9).add_(loss.detach(), alpha=0.1)
        self.calls += 1
        self.recent.append(loss.item())
        self.sums["all"][0] += loss.item()
        return loss / self.mean * (1 + 0.1 * len(self.recent) + 0.01 * self.sums["all"][0])


class Holder:
    """A plain object that has a module, which has a plain object."""

    def __init__(self):
        self.inner = Buffers()
        self.inner.meter = Meter()

    def __call__(self, x, y):
        """The loss by both."""
        self.inner.meter.count += 1
        return self.inner(x, y) * (1 + 0.1 * self.inner.meter.count)


class Meter:
    """A count and a list of its own."""

    def __init__(self):
        self.count, self.values = 0, []

    def loss(self, x, y):
        """A bound method that counts."""
        self.count += 1
        self.values.append(self.count)
        return mean_original(x, y) * (1 + 0.1 * sum(self.values))


class Slots:
    """A count without a dictionary."""

    __slots__ = ("count",)

    def __init__(self):
        self.count = 0

    def __call__(self, x, y):
        """The loss by its count."""
        self.count += 1
        return mean_original(x, y) * (1 + 0.1 * self.count)


def of_generator(make, draw):
    """A loss with random weights from a generator of its own."""

    class Drawing:
        def __init__(self):
            self.generator = make()

        def __call__(self, x, y):
            return mean_original(x, y) * (0.5 + draw(self.generator))

    return Drawing()


def of_closure():
    """A count in a variable of a closure, and a queue in another."""
    count, queue = 0, deque(maxlen=2)

    def loss(x, y):
        nonlocal count
        count += 1
        queue.append(count)
        return mean_original(x, y) * (1 + 0.1 * sum(queue))

    return loss


def of_attribute():
    """A count that is an attribute of the function, as a decorator's."""

    def loss(x, y):
        loss.calls += 1
        return mean_original(x, y) * (1 + 0.1 * loss.calls)

    loss.calls = 0
    return loss


def of_default(x, y, *, kept=None):
    """A list that a partial gives."""
    kept.append(len(kept))
    return mean_original(x, y) * (1 + 0.1 * len(kept))


def of_streams(x, y):
    """The random streams of Python, NumPy and torch."""
    drawn = random.random() + np.random.random() + torch.rand(()).item()
    return mean_original(x, y) * (0.5 + drawn)


STATEFUL = {
    "buffers": Buffers,
    "holder": Holder,
    "bound method": lambda: Meter().loss,
    "slots": Slots,
    "closure": of_closure,
    "attribute": of_attribute,
    "partial": lambda: partial(of_default, kept=[]),
    "partial of a method": lambda: partial(Meter().loss),
    "streams": lambda: of_streams,
    "torch.Generator": lambda: of_generator(
        lambda: torch.Generator().manual_seed(3), lambda g: torch.rand((), generator=g).item()
    ),
    "random.Random": lambda: of_generator(lambda: random.Random(3), lambda g: g.random()),
    "numpy.Generator": lambda: of_generator(lambda: np.random.default_rng(3), lambda g: g.random()),
    "numpy.RandomState": lambda: of_generator(
        lambda: np.random.RandomState(3), lambda g: g.random_sample()
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.filterwarnings("ignore::parfocal.guard.FocalGuardWarning")
def test_what_a_loss_keeps_is_what_it_was(name):
    """A loss that depends on all its calls so far makes the same parameters."""
    assert train(STATEFUL[name]()) == train(None, guard=FocalGuard(STATEFUL[name](), every=1))


# What is left of it


def few_steps(guard, model, optimizer, count, start=0):
    """Steps on ever larger logits."""
    y = torch.tensor([1.0, 0.0])
    for i in range(start, start + count):
        x = torch.tensor([[1.0], [-1.0]]) * (1 + i / 4096)
        optimizer.zero_grad()
        guard(model(x).view(-1), y).backward()
        optimizer.step()


@pytest.mark.exhaustive
def test_memory_does_not_grow():
    """Between 5,000 and 20,000 steps whose margin grows, with a reading each fifth."""
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    guard = FocalGuard(mean_original, every=5, near=1.0, horizon=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    guard.attach(optimizer)
    used = []
    for start in range(0, 20_000, 5_000):
        few_steps(guard, model, optimizer, 5_000, start)
        gc.collect()
        used.append(sys.getallocatedblocks())
    assert len(guard.readings) <= 2000
    assert used[-1] - used[1] < 2000, used
    assert guard.readings[-1].largest_margin > guard.readings[-2].largest_margin


def test_nothing_is_left_after_detach():
    """No hook, no graph, no gradient of the logits; and the training goes on without it."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = FocalGuard(mean_original).attach(optimizer)
    few_steps(guard, model, optimizer, 3)
    logits = model(torch.ones(2, 1)).view(-1)
    loss = guard(logits, torch.ones(2))
    loss.backward()
    assert logits.grad_fn is not None
    assert not logits.retains_grad
    guard.detach()
    gone = weakref.ref(logits), weakref.ref(loss)
    del logits, loss
    assert [one() for one in gone] == [None, None]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    before = guard.step
    few_steps(guard, model, optimizer, 3)
    assert guard.step == before
    assert math.isfinite(model.weight.item())
