"""Where a loss breaks: found to the neighbouring number, in few trials, and anew if it changes."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from kornia.losses import binary_focal_loss_with_logits
from segmentation_models_pytorch.losses import FocalLoss as SmpFocalLoss
from torch import nn
from torch.nn.functional import softplus
from torchvision.ops import sigmoid_focal_loss as original

from parfocal import sigmoid_focal_loss, softmax_focal_loss
from parfocal.guard import FocalGuard, FocalGuardWarning, Form, LossCall, limits_of
from parfocal.guard.trial import value_and_gradient

ELEMENTWISE = Form("elementwise")


def call_of(loss, logits):
    """A call with a target of 0 for each of the logits."""
    return LossCall(loss, logits, torch.zeros_like(logits))


@pytest.fixture
def trials(monkeypatch):
    """The logits of each trial of limits; what a loss itself counts is put back after a trial."""
    made = []

    def trial(call, logits, *rest):
        made.append(logits)
        return value_and_gradient(call, logits, *rest)

    monkeypatch.setattr("parfocal.guard.limits.value_and_gradient", trial)
    return made


def naive(logits, targets, gamma=2.0):
    """The textbook's formula, as it is written in most repositories."""
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    return (-((1 - p_t) ** gamma) * p_t.log()).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "loss",
    [
        partial(original, gamma=0.5),
        partial(binary_focal_loss_with_logits, alpha=None, gamma=0.5),
        SmpFocalLoss("binary", gamma=0.3),
        partial(naive, gamma=0.5),
    ],
    ids=["torchvision", "kornia", "segmentation_models_pytorch", "naive"],
)
def test_limits_are_the_first_numbers_at_which_the_gradient_breaks(loss, dtype):
    """Both neighbours of each limit, one call each, with no search."""

    def gradient(u, target):
        x = torch.tensor([[u if target else -u]], dtype=dtype, requires_grad=True)
        loss(x, torch.full_like(x, target, requires_grad=False)).sum().backward()
        return x.grad.item()

    found = limits_of(call_of(loss, torch.zeros(8, 1, dtype=dtype)), ELEMENTWISE)
    for target, limits in enumerate(found):
        for limit, sign, is_so in (
            (limits.cliff, 1, lambda g: not math.isfinite(g)),
            (limits.cliff_wrong, -1, lambda g: not math.isfinite(g)),
            (limits.dead, 1, lambda g: g == 0),
            (limits.dead_wrong, -1, lambda g: g == 0),
        ):
            if limit < math.inf:
                at = torch.tensor(sign * limit, dtype=dtype)
                before = torch.nextafter(at, torch.zeros_like(at))
                assert is_so(gradient(at.item(), target))
                assert not is_so(gradient(before.item(), target))
    assert any(limits != limits._replace(cliff=math.inf, dead=math.inf) for limits in found) or any(
        math.isfinite(x) for limits in found for x in limits
    )


def test_limits_of_known_cliffs():
    """The paper's losses: torchvision's below 1, none from 1 on, none of the exact one."""
    x = torch.zeros(4)
    none, one = limits_of(call_of(partial(original, gamma=0.5), x), ELEMENTWISE)
    assert (none.cliff, one.cliff) == pytest.approx((17.3287, 16.6355), abs=1e-4)
    for loss in (partial(original, gamma=1.0), partial(sigmoid_focal_loss, gamma=0.1)):
        for limits in limits_of(call_of(loss, x), ELEMENTWISE):
            assert limits.cliff == limits.cliff_wrong == limits.dead_wrong == math.inf
    rows = torch.zeros(4, 5, 2, 2)
    call = LossCall(partial(softmax_focal_loss, gamma=0.5), rows, torch.zeros(4, 2, 2).long())
    for limits in limits_of(call, Form("index")):
        assert limits.cliff == limits.cliff_wrong == math.inf


def test_limits_where_an_argument_belongs_to_the_batch():
    """A mask of the batch's shape is left out; a weight a class stays."""
    logits = torch.zeros(7, 3)
    keywords = {"mask": torch.ones(7, 3, dtype=torch.bool), "weight": torch.tensor([1.0, 2, 3])}
    call = call_of(sigmoid_focal_loss, logits)._replace(keywords=keywords)
    assert limits_of(call, ELEMENTWISE) is not None
    assert limits_of(call_of(lambda x, y: x.nonsense(), logits), ELEMENTWISE) is None


@pytest.mark.parametrize("classes", [10, 50_000])
def test_limits_of_many_classes_are_those_of_few(classes, trials):
    """A trial of all would take a gigabyte."""
    call = LossCall(softmax_focal_loss, torch.zeros(2, classes), torch.zeros(2).long())
    limits, _ = limits_of(call, Form("index"))
    assert limits.dead == pytest.approx(34.4264, abs=1e-2)
    assert sum(x.numel() for x in trials) < 2**20


def test_limits_of_a_mean_are_found_in_few_trials(trials):
    """Those of a batch are those of an answer alone: a mean of 256 underflows 2 ** 7 earlier."""

    def loss(x, y):
        return softplus((1 - 2 * y) * x).mean()

    found = limits_of(call_of(loss, torch.zeros(8, 1)), ELEMENTWISE)
    assert len(trials) < 100
    for target, limits in enumerate(found):
        dead = torch.tensor(limits.dead)
        assert dead > 100
        for u, is_dead in ((dead, True), (torch.nextafter(dead, torch.zeros(())), False)):
            x = torch.stack([u if target else -u, torch.zeros(())]).requires_grad_()
            loss(x, torch.tensor([target, 1.0 - target])).backward()
            assert (x.grad[0] == 0) == is_dead


# A loss that changes


def test_a_gamma_that_changes_is_measured_anew():
    """Scheduled from 2 down to 0.5: a cliff appears."""
    guard = FocalGuard(original, every=1, near=0.8)
    x = torch.tensor([15.0], requires_grad=True)
    y = torch.ones(1)
    for gamma, cliff in ((2.0, math.inf), (0.5, 16.6355)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FocalGuardWarning)
            guard(x, y, gamma=gamma, reduction="mean").backward()
            guard.check()
        assert guard.limits()[1].cliff == pytest.approx(cliff, abs=1e-4)
    assert len(guard.warnings) == 1


class StoredGamma(nn.Module):
    """A loss that keeps its exponent."""

    gamma = 2.0

    def forward(self, inputs, targets):
        """With the exponent that it has now."""
        return original(inputs, targets, gamma=self.gamma, reduction="mean")


def test_a_gamma_that_the_loss_keeps_is_measured_anew(trials):
    """And not at each of a hundred steps: those of one eighth have the limits of its first."""
    guard = FocalGuard(StoredGamma(), every=1, near=1.0)
    x, y = torch.tensor([1.0], requires_grad=True), torch.ones(1)
    measured = 0
    for step in range(101):
        guard.gamma = 2.0 - step / 100
        before = len(trials)
        guard(x, y).backward()
        guard.check()
        measured += len(trials) > before
        assert guard.limits()[1].cliff == math.inf
    assert measured == 10  # eighths from 2 to 1, and both ends
    guard.gamma = 0.99
    guard(x, y).backward()
    guard.check()
    assert guard.limits()[1].cliff == pytest.approx(16.6355, abs=1e-4)


class Outer(nn.Module):
    """A user's own wrapper."""

    def __init__(self):
        super().__init__()
        self.inner = StoredGamma()

    def forward(self, inputs, targets):
        """The loss within."""
        return self.inner(inputs, targets)


@pytest.mark.parametrize("kind", ["module within", "method", "numpy", "keyword of numpy", "tensor"])
def test_a_gamma_is_found_where_it_is_kept(kind):
    """From 0.5 to 2 the cliff goes."""
    x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.ones(2)
    outer, stored, options = Outer(), StoredGamma(), {}
    guard = FocalGuard(
        {"module within": outer, "method": stored.forward, "keyword of numpy": original}.get(
            kind, stored
        ),
        every=1,
        near=1.0,
    )
    for gamma, cliff in ((0.5, 16.6355), (2.0, math.inf)):
        outer.inner.gamma = gamma
        stored.gamma = {"numpy": np.float32(gamma), "tensor": torch.full((2,), gamma)}.get(
            kind, gamma
        )
        if kind == "keyword of numpy":
            options = {"gamma": np.float32(gamma), "reduction": "mean"}
        guard(x, y, **options).backward()
        guard.check()
        assert guard.limits()[1].cliff == pytest.approx(cliff, abs=1e-4)


def test_a_divisor_that_changes_is_not_measured_anew(trials):
    """A count of items is another at each step; its limits are those of its power of two."""
    guard = FocalGuard(sigmoid_focal_loss, every=1, near=1.0)
    x, y = torch.randn(8, requires_grad=True), torch.ones(8)
    measured = 0
    for count in range(65, 128):
        before = len(trials)
        guard(x, y, reduction="sum", normalizer=torch.tensor(float(count))).backward()
        guard.check()
        measured += len(trials) > before
    assert measured == 1
