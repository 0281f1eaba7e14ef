"""Trainings fail where they must, are repeatable, and see every failure at once."""

import contextlib
import types

import pytest
import torch

from parfocal.experiments.data import Images, mnist5k
from parfocal.experiments.models import cnn, network
from parfocal.experiments.run import replay, trainer
from parfocal.experiments.run.devices import reproducible
from parfocal.experiments.run.events import Epoch, Failure, Step
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.steps import StepLog
from parfocal.experiments.run.trainer import Trainer, parameter_vector
from parfocal.experiments.spec import RunSpec
from parfocal.guard import FocalGuard, FocalGuardWarning


@pytest.fixture(scope="module")
def digits():
    return mnist5k()


@pytest.fixture(scope="module")
def few(digits):
    return Images(digits.pixels[::25], digits.labels[::25], digits.classes)


def spec_of(**settings):
    return RunSpec().with_settings({"source": "mnist5k", "gamma": 0.1, **settings})


def train(spec, images, look=1):
    return Trainer(spec, images, look=look).events()


def test_original_dies_in_bfloat16_and_the_exact_one_does_not(digits):
    """On real digits, at a logit of 6.25 or a little more, by its gradient: the loss is finite."""
    spec = spec_of(loss="original", gamma=0.1, logits="bfloat16", learning_rate=0.02)
    *_, failure = train(spec, digits)
    assert isinstance(failure, Failure)
    assert failure.quantity == "gradient"
    assert 0 < failure.loss < 1
    assert 6.25 <= abs(failure.logit) <= failure.largest_logit < 8
    assert failure.label == str(digits.labels[failure.sample].item())
    for event in train(spec.with_settings({"loss": "exact"}), digits):
        assert not isinstance(event, Failure)
        if event.step > failure.step * 3:
            break
    assert event.largest_logit > failure.largest_logit
    assert event.accuracy > 0.95


def test_original_dies_under_autocast(digits):
    """The logits are bfloat16 there, so the cliff is where it is in bfloat16."""
    spec = spec_of(logits="autocast", learning_rate=0.02, batch_size=128)
    *_, failure = train(spec, digits)
    assert isinstance(failure, Failure)
    assert failure.quantity == "gradient"
    assert 6.25 <= abs(failure.logit) < 8
    assert torch.tensor(failure.logit).bfloat16().item() == failure.logit


def test_failing_pixel_of_a_mask_is_named(digits):
    """Sample, row and column of the logit whose gradient isn't finite."""
    spec = read_grid("segmentation-quick-bfloat16").base
    images = Images(digits.pixels[::10], digits.labels[::10], digits.classes)
    *_, failure = train(spec, images)
    assert isinstance(failure, Failure)
    row, column = failure.pixel
    assert 0 <= row < 28
    assert 0 <= column < 28
    assert failure.label == str(images.labels[failure.sample].item())
    assert 6.25 <= abs(failure.logit) <= failure.largest_logit < 8


def test_same_seed_same_events(few):
    """Noise and order included; another seed is another training; no global generator moves."""
    spec = spec_of(loss="exact", epochs=2, noise=0.5, seed=3)
    before = torch.get_rng_state()
    first = list(train(spec, few))
    torch.rand(7)
    torch.set_rng_state(before)
    assert list(train(spec, few)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert list(train(spec.with_settings({"seed": 4}), few)) != first


def test_reproducible_arithmetic_is_undone_and_works_beside_torchs_own_tests(monkeypatch):
    """Those forbid assignments to the flags; PyTorch's sample inputs import them."""
    flags = torch.backends.cudnn
    before = flags.allow_tf32, flags.deterministic, torch.are_deterministic_algorithms_enabled()
    assert before == (True, False, False)
    theirs = torch.backends.disable_global_flags.__globals__
    monkeypatch.setitem(theirs, "__allow_nonbracketed_mutation_flag", False)
    with pytest.raises(RuntimeError, match="disable_global_flags"):
        flags.allow_tf32 = False
    with reproducible():
        assert (flags.allow_tf32, flags.deterministic) == (False, True)
        assert torch.are_deterministic_algorithms_enabled()
    assert before == (
        flags.allow_tf32,
        flags.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


def test_events_add_up(few):
    """Each image once an epoch, the last batch smaller; the epoch's numbers are its last step's."""
    events = list(train(spec_of(loss="exact", epochs=2), few))
    steps = [e for e in events if isinstance(e, Step)]
    epochs = [e for e in events if isinstance(e, Epoch)]
    assert [s.images for s in steps[:4]] == [64, 64, 64, 8]
    assert [s.step for s in steps] == list(range(1, 9))
    assert [(e.epoch, e.step) for e in epochs] == [(0, 4), (1, 8)]
    assert (epochs[0].loss, epochs[0].accuracy) == (steps[3].loss, steps[3].accuracy)


def test_training_is_that_of_a_plain_loop(few):
    """Same batches, the layers' own parameters, PyTorch's optimizer over them: the same losses."""
    spec = spec_of(loss="exact", gamma=0.5, epochs=2, threshold=4)
    model = network(spec)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)
    order = torch.Generator().manual_seed(spec.seed_of("order"))
    targets = (few.labels <= 4).float()
    losses = []
    loss_function = trainer.compared_loss("exact", alpha=0.5, gamma=0.5, reduction="mean")
    for _ in range(2):
        total = 0.0
        for indices in torch.randperm(200, generator=order).split(64):
            inputs = few.pixels[indices] / 255
            loss = loss_function(model(inputs), targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
        losses.append(total / 200)
    epochs = [e for e in train(spec, few) if isinstance(e, Epoch)]
    assert [e.loss for e in epochs] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("quantity", ["loss", "gradient", "parameters"])
def test_first_failure_is_named(quantity, few, monkeypatch):
    """A NaN that is planted in one place at step 3 is found at step 3, in that place."""
    calls = 0

    def planted(logits, targets):
        nonlocal calls
        calls += 1
        loss = (logits - targets).square().mean()
        if calls < 3:
            return loss
        if quantity == "loss":
            return loss * float("nan")
        if quantity == "gradient":
            return loss + (logits - logits.detach()).abs().sqrt().sum()
        return loss * 1e30 * 1e10 if calls == 3 else loss

    monkeypatch.setattr(trainer, "compared_loss", lambda *_, **__: planted)
    rate = 1e-3
    if quantity == "parameters":  # a finite gradient, and a step that overflows
        monkeypatch.setattr(
            trainer, "compared_loss", lambda *_, **__: lambda x, y: 1e30 * (x - y).mean()
        )
        rate = 1e12
    *_, failure = train(spec_of(epochs=1, learning_rate=rate), few)
    assert isinstance(failure, Failure)
    assert failure.quantity == quantity
    assert failure.step == (1 if quantity == "parameters" else 3)


def test_steps_may_be_looked_at_late(digits, few):
    """However many were taken before it: the same epochs, failure and parameters, to the bit."""
    failing = spec_of(loss="original", logits="bfloat16", learning_rate=0.02, noise=0.1)
    for spec, images in ((failing, digits), (spec_of(loss="exact", epochs=2), few)):
        ends = []
        for look in (1, 3, 32, 10_000):
            training = Trainer(spec, images, look=look)
            events = [e for e in training.events() if not isinstance(e, Step)]
            ends.append((events, training.parameters.tolist(), training.step))
        assert ends[1:] == ends[:1] * 3
    assert isinstance(events[-1], Epoch)


def test_steps_between_two_looks_are_one_event(few, monkeypatch):
    """It has all their images; a look comes when the log is full, and at the end of a pass."""
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 1e9)
    events = [e for e in train(spec_of(loss="exact", epochs=1), few, look=3) if isinstance(e, Step)]
    assert [(e.step, e.images) for e in events] == [(3, 192), (4, 8)]
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 0.0)
    events = [e for e in train(spec_of(loss="exact", epochs=1), few, look=3) if isinstance(e, Step)]
    assert [e.step for e in events] == [1, 2, 3, 4]


@pytest.mark.parametrize("logits", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", ["original", "smoothed", "exact"])
def test_no_step_waits_for_its_device(few, loss, logits, monkeypatch):
    """On a device without numbers a step is computed whole; a look at one is an error."""
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 1e9)
    for spec in (
        spec_of(loss=loss, logits=logits, noise=0.5),
        read_grid("segmentation-quick-bfloat16").base.with_settings({"noise": 0.5, "width": 2}),
    ):
        training = Trainer(spec, few, device="meta", look=4)
        with pytest.raises((NotImplementedError, RuntimeError), match=r"meta|item"):
            next(training.events())
        assert len(training._batches) == 4
        assert training.parameters.device.type == "meta"


def test_a_photograph_is_cropped_where_it_is_shown(monkeypatch):
    """The images of a run, what is drawn for them and the logits are on its device alone."""
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 1e9)
    pixels = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images = Images(pixels, torch.arange(6) % 3, ("airplane", "bird", "ship"))
    spec = read_grid("cifar10-vit-quick-bfloat16").base.with_settings(
        {"images": 6, "batch_size": 3, "crop": 32, "input_size": 32, "positive": ["ship"]}
    )
    training = Trainer(spec, images, device="meta", look=2)
    with pytest.raises((NotImplementedError, RuntimeError), match=r"meta|item"):
        next(training.events())
    assert len(training._batches) == 2


def test_a_replayed_step_is_the_step(digits, monkeypatch):
    """A graph reads its inputs from places of its own, and its recording changes no number."""
    made = []

    class Graph:
        def __init__(self):
            made.append(self)

        def replay(self):
            self.replayed = getattr(self, "replayed", 0) + 1
            result = self.function(*self.places)
            self.result.copy_(result)

    class Replayed(replay.Replay):
        def __init__(self, function, inputs, state):
            super().__init__(function, inputs, state)
            self._graph.function = function
            self._graph.places, self._graph.result = self._inputs, self._result

    stream = types.SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(trainer, "Replay", Replayed)
    few = Images(digits.pixels[::25], digits.labels[::25], digits.classes)
    masks = read_grid("segmentation-quick-bfloat16").base.with_settings(
        {"noise": 0.5, "width": 2, "epochs": 2, "images": None, "loss": "exact", "batch_size": 64}
    )
    failing = spec_of(loss="original", logits="bfloat16", learning_rate=0.02, noise=0.1)
    for spec, images in ((masks, few), (failing, digits)):
        ends = []
        for graphs in (False, True):
            training = Trainer(spec, images)
            training._graphs = graphs
            events = [e for e in training.events() if not isinstance(e, Step)]
            buffers = [b.tolist() for b in training._model.buffers()]
            ends.append((events, training.parameters.tolist(), buffers))
        assert ends[0] == ends[1]
    assert [graph.replayed > 3 for graph in made] == [True, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_parameter_without_a_finite_gradient_is_enough(value):
    """Any single number of the vector is seen, and large finite gradients are none."""
    model = cnn()
    log = StepLog(parameter_vector(model), rows=4)
    vector = log._vector
    before = vector.detach().clone()

    def step(loss=0.1):
        log.before_update(torch.tensor(loss), torch.tensor(3), torch.tensor(2.0))
        with torch.no_grad():
            vector.add_(1)
        log.after_update()

    step()
    vector.grad[123] = vector.grad[124] = 3e38  # their sum isn't finite
    step()
    vector.grad[124] = value
    step()
    step()
    assert [row.nonfinite for row in log.read(4)] == [None, None, "gradient", "gradient"]
    assert torch.equal(vector, before + 1 + 1)  # as the step found them


def test_vector_and_layers_share_their_numbers():
    """Parameters and gradients both ways."""
    model = cnn()
    before = [p.clone() for p in model.parameters()]
    vector = parameter_vector(model)
    assert torch.equal(torch.cat([p.flatten() for p in before]), vector)
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert torch.equal(torch.cat([p.grad.flatten() for p in model.parameters()]), vector.grad)
    vector.data.zero_()
    assert all(not p.any() for p in model.parameters())


def test_a_guard_sees_the_failure_coming_and_changes_no_number(digits):
    """On real digits: warned before it, the same sample told, the same step and logits."""
    spec = spec_of(loss="original", gamma=0.1, logits="bfloat16", learning_rate=0.02)
    *_, failure = train(spec, digits)
    watched = Trainer(spec, digits, watch=lambda loss: FocalGuard(loss, action="record", every=5))
    with pytest.warns(FocalGuardWarning):
        *_, seen = watched.events()
    assert seen == failure
    (found,) = watched.guard.failures
    assert found.cause == "focal term"
    assert found.logit == failure.logit
    warned = [notice.step for notice in watched.guard.warnings if notice.is_ahead]
    assert warned[0] < failure.step
