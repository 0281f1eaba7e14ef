"""`trainer_loss` in real steps of transformers' Trainer, each beside the step by the formula."""

from functools import partial

import pytest
import torch
from ranks import run_ranks
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from trainer_ranks import CLASSES, RATE, step, step_of_a_group, tagged_sequences, tagger

import parfocal
from parfocal.guard import FocalGuard
from parfocal.integrations.transformers import trainer_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's trainers warn of

GAMMA = 0.5
FOCAL = partial(parfocal.softmax_focal_loss, gamma=GAMMA)


def textbook(logits, labels):
    """The sum of -(1 - p_t)^gamma log p_t over the labels that count."""
    counts = labels != -100
    log_p = logits[counts].log_softmax(-1).gather(1, labels[counts].unsqueeze(1))
    return -((1 - log_p.exp()) ** GAMMA * log_p).sum()


def of_formula(model, total):
    """The parameters after a step along the gradient of a loss."""
    gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return {
        name: parameter.detach() - RATE * (0 if gradient is None else gradient)
        for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True)
    }


def batch(samples):
    return (torch.stack([sample[name] for sample in samples]) for name in ("input_ids", "labels"))


def assert_same(model, expected):
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-14)


def expected_of_tagger():
    model = tagger()
    words, labels = batch(tagged_sequences())
    logits = model(words)["logits"]
    return of_formula(model, textbook(logits, labels) / (labels != -100).sum())


@pytest.mark.parametrize("accumulated", [1, 4])
def test_a_step_is_that_of_all_its_words(accumulated, tmp_path):
    """However its eight sequences, of 1 to 7 words, come: 1 x 8 or 4 x 2."""
    model = tagger()
    logged = step(model, tagged_sequences(), trainer_loss(FOCAL), tmp_path, accumulated=accumulated)
    assert_same(model, expected_of_tagger())
    words, labels = batch(tagged_sequences())
    mean = textbook(tagger()(words)["logits"], labels) / (labels != -100).sum()
    assert logged["loss"] == pytest.approx(mean.item(), rel=1e-4)  # the Trainer rounds it


def test_two_processes_are_one(tmp_path):
    """Two batches of two sequences on each."""
    torch.save(expected_of_tagger(), tmp_path / "expected.pt")
    run_ranks(step_of_a_group, 2, tmp_path, str(tmp_path))


@pytest.mark.parametrize("average_tokens", [True, False])
def test_two_devices_of_one_process_are_one(average_tokens, tmp_path):
    """DataParallel gathers the logits, and the Trainer gives the items of each device."""
    model, loss = tagger(), trainer_loss(FOCAL)
    step(model, tagged_sequences(), loss, tmp_path, devices=2, average_tokens=average_tokens)
    assert_same(model, expected_of_tagger())


def test_a_guard_around_it_changes_nothing(tmp_path):
    """And is called before the step."""
    from parfocal.guard.transformers import FocalGuardCallback

    guard, model = FocalGuard(FOCAL), tagger()
    step(
        model,
        tagged_sequences(),
        trainer_loss(guard),
        tmp_path,
        accumulated=4,
        callbacks=[FocalGuardCallback(guard)],
    )
    assert_same(model, expected_of_tagger())
    assert (guard.step, guard.failures) == (1, [])


def test_a_linear_loss_takes_the_features(tmp_path):
    """The logits of the model aren't looked at; its head is the weight of the loss."""
    model = tagger()
    loss = partial(
        parfocal.linear_softmax_focal_loss,
        weight=model.head.weight,
        bias=model.head.bias,
        gamma=GAMMA,
    )
    step(
        model,
        tagged_sequences(),
        trainer_loss(loss, logits="last_hidden_state"),
        tmp_path,
        accumulated=4,
    )
    assert_same(model, expected_of_tagger())


def causal_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).double()


def test_a_causal_model_has_its_own_loss_at_gamma_0(tmp_path):
    """Shifted by one, in each value and in an accumulated step of the Trainer."""
    samples = tagged_sequences()
    words, labels = batch(samples)
    loss = trainer_loss(partial(parfocal.softmax_focal_loss, gamma=0), shift=True)
    theirs, ours = causal_model(), causal_model()
    outputs = theirs(words, labels=labels)
    torch.testing.assert_close(loss(outputs, labels).float(), outputs.loss.float())
    step(theirs, samples, None, tmp_path, accumulated=4)
    step(ours, samples, loss, tmp_path, accumulated=4)
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # theirs is made in float32


def test_a_causal_model_accumulates_focal_losses(tmp_path):
    """The first word of a sequence is predicted by none, and isn't counted."""
    samples, model = tagged_sequences(), causal_model()
    words, labels = batch(samples)
    next_labels = labels[:, 1:]
    mean = textbook(model(words).logits[:, :-1], next_labels) / (next_labels != -100).sum()
    expected = of_formula(model, mean)
    step(model, samples, trainer_loss(FOCAL, shift=True), tmp_path, accumulated=4)
    assert_same(model, expected)


class Classifier(nn.Module):
    """Logits of a sample, in a tuple."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, classes).double()

    def forward(self, x, labels=None):
        """The logits come first."""
        return self.layer(x), "more"


def features():
    return torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def distribution():
    return torch.randn(8, 3, dtype=torch.float64).softmax(1)


def multi_label():
    """Two labels of 24 are unknown."""
    labels = (features()[:, :3] > 0).double()
    labels[0, 1] = labels[5, 2] = -100
    return labels


def of_distribution(logits, labels):
    log_p = logits.log_softmax(1)
    return -(labels * (1 - log_p.exp()) ** GAMMA * log_p).sum() / 8


def of_multi_label(logits, labels):
    counts = labels != -100
    bce = binary_cross_entropy_with_logits(logits[counts], labels[counts], reduction="none")
    return ((1 - (-bce).exp()) ** GAMMA * bce).sum() / 22


def indices():
    """One sample is unknown."""
    return torch.tensor([0, 1, 2, -100, 0, 1, 2, 2])


def of_class_index(logits, labels):
    """Each class against the rest, over the samples."""
    counts = labels != -100
    y = nn.functional.one_hot(labels[counts], 3).double()
    bce = binary_cross_entropy_with_logits(logits[counts], y, reduction="none")
    return ((1 - (-bce).exp()) ** GAMMA * bce).sum() / 7


SIGMOID = partial(parfocal.sigmoid_focal_loss, alpha=None, gamma=GAMMA)
CASES = {
    "class": (FOCAL, indices, lambda x, y: textbook(x, y) / 7),
    "probabilities": (FOCAL, distribution, of_distribution),
    "multi-label": (SIGMOID, multi_label, of_multi_label),
    "one against the rest": (SIGMOID, indices, of_class_index),
    "module": (
        parfocal.SoftmaxFocalLoss(gamma=GAMMA, reduction="sum"),
        indices,
        lambda x, y: textbook(x, y) / 7,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_of_samples(name, tmp_path):
    """4 x 2 of each kind that a sample may have."""
    torch.manual_seed(0)
    loss, make, formula = CASES[name]
    model, x, labels = Classifier(), features(), make()
    expected = of_formula(model, formula(model(x)[0], labels))
    samples = [{"x": a, "labels": b} for a, b in zip(x, labels, strict=True)]
    step(model, samples, trainer_loss(loss), tmp_path, accumulated=4)
    assert_same(model, expected)


def test_one_logit_a_sample():
    """Labels without the dimension of the logit are 0 and 1, in any dtype."""
    logits, labels = features()[:, :1], torch.arange(8) % 2
    expected = SIGMOID(logits.squeeze(1), labels).mean()
    for y in (labels, labels.double(), labels.double().unsqueeze(1)):
        torch.testing.assert_close(trainer_loss(SIGMOID)((logits,), y), expected)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (lambda x: x, "logits"),
        (lambda x: (x, None), "logits"),
        (lambda x: (None, x), 1),
        (lambda x: {"scores": x}, "scores"),
    ],
)
def test_logits_are_found(outputs, name):
    """In whatever a model gives, without `num_items_in_batch` too."""
    x, y = features(), torch.tensor([0, 1, -100, 3, -100, 2, 0, 1])
    loss = trainer_loss(partial(parfocal.softmax_focal_loss, gamma=0), logits=name)
    torch.testing.assert_close(loss(outputs(x), y), cross_entropy(x, y))


def test_nothing_that_counts_is_0():
    """A mean of PyTorch is NaN there, and with it the gradient of the whole step."""
    x = torch.full((2, CLASSES), torch.nan, requires_grad=True)
    loss = trainer_loss(FOCAL)(x, torch.tensor([-100, -100]), num_items_in_batch=0)
    loss.backward()
    assert (loss.item(), x.grad.abs().sum().item()) == (0, 0)


@pytest.mark.parametrize(
    ("loss", "kind", "words"),
    [
        (cross_entropy, TypeError, "such as softmax_focal_loss, got cross_entropy"),
        (parfocal.likelihood_focal_loss, TypeError, "got likelihood_focal_loss"),
        (parfocal.SoftmaxTverskyLoss(), TypeError, "got SoftmaxTverskyLoss"),
        (parfocal.SoftmaxFocalLoss(), ValueError, "got SoftmaxFocalLoss with reduction='mean'"),
        (FocalGuard(parfocal.SigmoidFocalLoss()), ValueError, "got SigmoidFocalLoss with"),
        ("softmax_focal_loss", TypeError, "got str"),
        (partial(FOCAL, reduction="none"), ValueError, "a loss without `reduction`"),
        (FocalGuard(partial(FOCAL, normalizer=3)), ValueError, "a loss without `normalizer`"),
    ],
    ids=["foreign", "likelihood", "region", "mean", "guarded mean", "text", "none", "divided"],
)
def test_a_loss_of_another_kind_is_refused(loss, kind, words):
    with pytest.raises(kind, match=f"trainer_loss: expected .*{words}"):
        trainer_loss(loss)


def test_labels_of_samples_are_not_shifted():
    """A shift would go over the batch."""
    with pytest.raises(ValueError, match=r"logits \(B, T, C\).*got \(4, 3\) and \(4,\)"):
        trainer_loss(FOCAL, shift=True)(torch.zeros(4, 3), torch.zeros(4).long())


def test_a_compiled_module_is_taken():
    """As `torch.compile` wraps it; nothing is compiled before it is called."""
    compiled = torch.compile(parfocal.SoftmaxFocalLoss(reduction="sum"), backend="eager")
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, -100])
    torch.testing.assert_close(trainer_loss(compiled)(x, y), parfocal.softmax_focal_loss(x, y))


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        ({"scores": torch.zeros(2, 3)}, torch.zeros(2), r"'logits' among .*, got \['scores'\]"),
        ({"logits": torch.zeros(2, 3)}, None, "`labels`, got None"),
        ({"logits": torch.zeros(2, 3)}, torch.zeros(4), r"shape \(2,\) or \(2, 3\), got \(4,\)"),
    ],
    ids=["name", "no labels", "shape"],
)
def test_a_batch_of_another_kind_is_refused(outputs, labels, words):
    with pytest.raises(ValueError, match=f"trainer_loss: expected .*{words}"):
        trainer_loss(FOCAL)(outputs, labels)
