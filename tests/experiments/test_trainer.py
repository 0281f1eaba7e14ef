"""Trainings fail where they must, are repeatable, and see every failure at once."""

from dataclasses import replace

import pytest
import torch

from parfocal.experiments import trainer
from parfocal.experiments.data import Images, MissingDataError, mnist, mnist5k
from parfocal.experiments.models import digit_cnn
from parfocal.experiments.spec import MnistSpec
from parfocal.experiments.trainer import Epoch, Failure, Step, noisy, parameter_vector, train


@pytest.fixture(scope="module")
def digits():
    return mnist5k()


@pytest.fixture(scope="module")
def few(digits):
    return Images(digits.pixels[::25], digits.labels[::25])


def test_mnist5k_is_five_thousand_real_digits(digits):
    """500 of each, bytes that use the whole range, and the ink where digits are."""
    assert digits.pixels.shape == (5000, 28, 28)
    assert digits.pixels.dtype == torch.uint8
    assert digits.labels.bincount().tolist() == [500] * 10
    assert digits.pixels.max() == 255
    assert digits.pixels[:, 8:20, 8:20].float().mean() > 3 * digits.pixels.float().mean() / 2


def test_missing_mnist_names_both_ways(tmp_path):
    """With a network, and without."""
    with pytest.raises(MissingDataError, match=r"--download.*copy the four idx files"):
        mnist(tmp_path)


def test_original_dies_in_bfloat16_and_the_exact_one_does_not(digits):
    """On real digits, at a logit of 6.25 or a little more, by its gradient: the loss is finite."""
    spec = MnistSpec(loss="original", gamma=0.1, logits_dtype="bfloat16", learning_rate=0.02)
    *_, failure = train(spec, digits)
    assert isinstance(failure, Failure)
    assert failure.quantity == "gradient"
    assert 0 < failure.loss < 1
    assert 6.25 <= abs(failure.logit) <= failure.largest_logit < 8
    assert failure.digit == digits.labels[failure.sample]
    for event in train(replace(spec, loss="exact"), digits):
        assert not isinstance(event, Failure)
        if event.step > failure.step * 3:
            break
    assert event.largest_logit > failure.largest_logit
    assert event.accuracy > 0.95


def test_same_seed_same_events(few):
    """Noise and order included; another seed is another training; no global generator moves."""
    spec = MnistSpec(loss="exact", epochs=2, noise=0.5, seed=3)
    before = torch.get_rng_state()
    first = list(train(spec, few))
    torch.rand(7)
    torch.set_rng_state(before)
    assert list(train(spec, few)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert list(train(replace(spec, seed=4), few)) != first


def test_events_add_up(few):
    """Each image once an epoch, the last batch smaller; the epoch's numbers are its last step's."""
    events = list(train(MnistSpec(loss="exact", epochs=2), few))
    steps = [e for e in events if isinstance(e, Step)]
    epochs = [e for e in events if isinstance(e, Epoch)]
    assert [s.images for s in steps[:4]] == [64, 64, 64, 8]
    assert [s.step for s in steps] == list(range(1, 9))
    assert [(e.epoch, e.step) for e in epochs] == [(0, 4), (1, 8)]
    assert (epochs[0].loss, epochs[0].accuracy) == (steps[3].loss, steps[3].accuracy)


def test_training_is_that_of_a_plain_loop(few):
    """Same batches, the layers' own parameters, PyTorch's optimizer over them: the same losses."""
    spec = MnistSpec(loss="exact", gamma=0.5, epochs=2, threshold=4)
    model = digit_cnn(spec.seed_of("parameters"))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9)
    order = torch.Generator().manual_seed(spec.seed_of("order"))
    targets = (few.labels <= 4).float()
    losses = []
    loss_function = trainer.compared_loss("exact", alpha=0.5, gamma=0.5, reduction="mean")
    for _ in range(2):
        total = 0.0
        for indices in torch.randperm(200, generator=order).split(64):
            inputs = few.pixels[indices].unsqueeze(1) / 255
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
            trainer, "compared_loss", lambda *_, **__: lambda x, y: 1e20 * (x - y).mean()
        )
        rate = 1e30
    *_, failure = train(MnistSpec(epochs=1, learning_rate=rate), few)
    assert isinstance(failure, Failure)
    assert failure.quantity == quantity
    assert failure.step == (1 if quantity == "parameters" else 3)


def test_one_parameter_without_a_finite_gradient_is_enough(few):
    """A NaN in any single number of the vector is seen, and a large finite gradient isn't one."""
    vector = parameter_vector(digit_cnn(0))
    assert trainer._first_nonfinite(0.1, vector) is None
    vector.grad[123] = 3e38
    vector.grad[124] = 3e38
    assert trainer._first_nonfinite(0.1, vector) is None
    vector.grad[124] = float("nan")
    assert trainer._first_nonfinite(0.1, vector) == "gradient"


def test_vector_and_layers_share_their_numbers():
    """Parameters and gradients both ways."""
    model = digit_cnn(0)
    before = [p.clone() for p in model.parameters()]
    vector = parameter_vector(model)
    assert torch.equal(torch.cat([p.flatten() for p in before]), vector)
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert torch.equal(torch.cat([p.grad.flatten() for p in model.parameters()]), vector.grad)
    vector.data.zero_()
    assert all(not p.any() for p in model.parameters())


@pytest.mark.parametrize("amplitude", [0.0, 0.5, 0.75])
def test_noise_is_uniform_and_clipped(amplitude):
    """On black its mean is half the amplitude; nothing leaves [0, 1]; white stays white."""
    pixels = torch.zeros(100, 28, 28, dtype=torch.uint8)
    pixels[50:] = 255
    images = noisy(pixels, amplitude, torch.Generator().manual_seed(0))
    assert images.shape == (100, 1, 28, 28)
    assert abs(images[:50].mean() - amplitude / 2) < 0.005
    assert images[:50].max() <= amplitude
    assert (images[50:] == 1).all()
    if amplitude:
        shares = torch.histc(images[:50] / amplitude, bins=16, min=0, max=1) / images[:50].numel()
        assert (shares - 1 / 16).abs().max() < 0.005


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 9},
        {"gamma": -1},
        {"gamma": float("inf")},
        {"noise": -0.1},
        {"loss": "other"},
        {"batch_size": 0},
    ],
)
def test_spec_refuses_what_means_nothing(wrong):
    """The error names the field and what came."""
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"`{name}`.*{value}"):
        MnistSpec(**wrong)


def test_digest_names_the_whole_spec():
    """Each field changes it; the record gives the spec back; unknown keys are errors."""
    spec = MnistSpec()
    changed = [
        replace(spec, **change)
        for change in (
            {"loss": "exact"},
            {"gamma": 0.2},
            {"alpha": 0.4},
            {"threshold": 1},
            {"noise": 0.5},
            {"epochs": 2},
            {"batch_size": 32},
            {"learning_rate": 1e-2},
            {"momentum": 0.0},
            {"seed": 1},
            {"logits_dtype": "bfloat16"},
            {"data": "mnist"},
        )
    ]
    assert len({s.digest for s in (spec, *changed)}) == len(changed) + 1
    assert MnistSpec.from_record(spec.as_record()) == spec
    with pytest.raises(ValueError, match="unknown"):
        MnistSpec.from_record({**spec.as_record(), "gama": 1})
