"""The guard: what it says before a failure, at one, and after it, and that it changes nothing."""

import copy
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from kornia.losses import binary_focal_loss_with_logits
from rank_cases import guarded_steps
from ranks import run_ranks
from segmentation_models_pytorch.losses import FocalLoss as SmpFocalLoss
from torch import nn
from torch.nn.functional import softplus
from torchvision.ops import sigmoid_focal_loss as original

from parfocal import init_prior_bias_, sigmoid_focal_loss, softmax_focal_loss
from parfocal.guard import (
    FocalGuard,
    FocalGuardError,
    FocalGuardWarning,
    Form,
    LossCall,
    limits_of,
)
from parfocal.guard.trial import value_and_gradient

mean_original = partial(original, gamma=0.5, reduction="mean")


def head(weight=1.0, bias=0.0):
    """A layer of one weight, so that logits are what is put in."""
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)
    return layer


def training(guard, momentum=0.0, **options):
    """A layer and an optimizer with the guard attached."""
    layer = head(**options)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=momentum)
    guard.attach(optimizer)

    def step(logits, targets, **keywords):
        optimizer.zero_grad()
        guard(layer(torch.as_tensor(logits).view(-1, 1)).view(-1), targets, **keywords).backward()
        optimizer.step()

    return layer, step


# Limits

ELEMENTWISE = Form("elementwise")


def call_of(loss, logits):
    """A call with a target of 0 for each of the logits."""
    return LossCall(loss, logits, torch.zeros_like(logits))


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


# It changes nothing


def test_the_loss_is_what_it_was():
    """Value and gradient, to the bit, and an evaluation isn't watched."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, generator=generator, requires_grad=True)
    targets = (torch.rand(64, generator=generator) > 0.5).float()
    guard = FocalGuard(original)
    plain = original(logits, targets, gamma=0.5, reduction="mean")
    watched = guard(logits, targets, gamma=0.5, reduction="mean")
    assert plain.item() == watched.item()
    expected, found = (torch.autograd.grad(loss, logits)[0] for loss in (plain, watched))
    assert torch.equal(expected, found)
    with torch.no_grad():
        guard(logits, targets, gamma=0.5)
    assert guard.check()
    assert guard.readings[0].positions == 64


def test_parameters_of_a_loss_are_its_own():
    """A module keeps its state, and the guard adds none."""
    inner = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    assert set(FocalGuard(inner).state_dict()) == {"pos_weight"}


# Readings


def test_a_reading_counts_what_there_is():
    """Margins, shares and the distance, over passes of other sizes."""
    guard = FocalGuard(mean_original, every=2, near=1.0, horizon=0)
    _, step = training(guard)
    y = torch.tensor([1.0, 1, 0, 0])
    step([1.0, 2, 3, 4], y)
    step([15.0, 2, 3, 4, 16.0], torch.tensor([1.0, 1, 0, 0, 1]))
    step([1.0, 2, -3, 4], y)
    first, second = guard.readings
    assert (first.step, first.positions, first.largest_margin) == (1, 4, pytest.approx(2.0))
    assert (second.positions, second.positives) == (5, pytest.approx(3 / 5))
    assert second.largest_margin == pytest.approx(16.0, abs=0.1)
    assert second.distance == pytest.approx(16.6355 - 16.0, abs=0.1)
    assert math.isinf(second.distance_wrong)
    third = guard.read()
    assert (third.positions, third.largest_margin) == (4, pytest.approx(3.0, abs=0.1))
    assert guard.read() is None


def test_distance_on_the_wrong_side():
    """A loss of log p_t breaks where a wrong answer is so sure that p_t is 0: an infinite loss."""
    guard = FocalGuard(log_of_probability, near=1.0, horizon=0)
    cliff = limits_of(call_of(log_of_probability, torch.zeros(2)), ELEMENTWISE)[1].cliff_wrong
    assert not log_of_probability(torch.tensor([-cliff]), torch.ones(1)).isfinite()
    x = torch.tensor([2 - cliff, 3.0], requires_grad=True)
    guard(x, torch.ones(2)).backward()
    guard.check()
    assert guard.readings[0].distance_wrong == pytest.approx(2.0, abs=1e-4)


def test_shares_of_saturated_and_dead():
    """p_t rounds to 1 from 17.33 on; the loss that clamps has no gradient beyond."""

    def clamped(x, y):
        return original(x.clamp(-10, 10), y, gamma=2.0, reduction="mean")

    guard = FocalGuard(clamped)
    x = torch.tensor([17.4, 17.2, -12.0, 1.0], requires_grad=True)
    guard(x, torch.tensor([1.0, 1.0, 1.0, 1.0])).backward()
    guard.check()
    assert (guard.readings[0].saturated, guard.readings[0].dead) == (0.25, 0.75)


def test_margins_of_classes():
    """u of the true class; a position that is ignored has none."""
    guard = FocalGuard(partial(softmax_focal_loss, gamma=0.5))
    rows = torch.tensor([[9.0, 0.0, 0.0], [0.0, 99.0, 0.0]], requires_grad=True)
    guard(rows, torch.tensor([0, -100])).backward()
    guard.check()
    assert guard.readings[0].largest_margin == pytest.approx(9 - math.log(2))


# Before


def grow(guard, rate, steps, start=0.0):
    """Logits whose largest grows by a rate a step, to where the loss breaks."""
    targets = torch.tensor([1.0, 0.0, 0.0])
    for i in range(steps):
        x = torch.tensor([start + rate * i, -1.0, 0.5], requires_grad=True)
        guard(x, targets).backward()
        try:
            guard.check()
        except FocalGuardError:
            return i + 1
    return None


def test_the_warning_comes_before_the_cliff_and_tells_the_steps():
    """At a constant pace the estimate is right."""
    guard = FocalGuard(mean_original, every=5, horizon=100)
    with pytest.warns(FocalGuardWarning, match="most confident correct answer is"):
        failed = grow(guard, 0.05, 1000)
    notice = guard.warnings[0]
    assert failed == math.ceil(16.6355 / 0.05) + 1
    assert failed - notice.step >= 50
    assert f"in about {notice.steps_left:.0f} steps" in notice.text
    assert notice.step + notice.steps_left == pytest.approx(failed, abs=5)


@pytest.mark.parametrize(
    "loss",
    [
        partial(sigmoid_focal_loss, gamma=0.1, reduction="mean"),
        partial(original, gamma=1.0, reduction="mean"),
        partial(original, gamma=2.0, reduction="mean"),
    ],
    ids=["exact", "gamma 1", "gamma 2"],
)
def test_no_warning_where_there_is_no_cliff(loss):
    """Though the logits go far beyond; filterwarnings makes an error of any."""
    guard = FocalGuard(loss, every=5)
    assert grow(guard, 0.5, 200) is None
    assert guard.warnings == guard.failures == []


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


@pytest.fixture
def trials(monkeypatch):
    """The logits of each trial of limits; what a loss itself counts is put back after a trial."""
    made = []

    def trial(call, logits, *rest):
        made.append(logits)
        return value_and_gradient(call, logits, *rest)

    monkeypatch.setattr("parfocal.guard.limits.value_and_gradient", trial)
    return made


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


def test_a_forgotten_prior_is_told():
    """1 of 100 is positive, and the head says a half; with its bias set, nothing is said."""
    targets = torch.zeros(400)
    targets[:4] = 1
    loss = partial(sigmoid_focal_loss, alpha=None, gamma=2.0, reduction="mean")
    forgotten = FocalGuard(loss)
    _, step = training(forgotten)
    with pytest.warns(FocalGuardWarning, match="init_prior_bias_"):
        step(torch.zeros(400), targets)
    guard = FocalGuard(loss)
    layer, step = training(guard)
    init_prior_bias_(layer, 0.01)
    step(torch.zeros(400), targets)
    assert guard.warnings == []


def test_each_kind_of_warning_comes_once():
    """A forgotten prior first, then a cliff, which isn't told again."""
    guard = FocalGuard(mean_original, every=1)
    _, step = training(guard)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FocalGuardWarning)
        for logit in (0.0, 15.0, 15.5):
            step(torch.full((400,), logit), torch.ones(400))
    assert [notice.kind for notice in guard.warnings] == ["prior", "right"]


# At a failure


def test_raise_comes_before_the_parameters_change():
    """And says which sample, with which logit, and why."""
    guard = FocalGuard(mean_original)
    layer, step = training(guard)
    with pytest.raises(FocalGuardError, match=r"sample 1 of the batch, target 1") as raised:
        step([1.0, 20.0, -3.0], torch.tensor([1.0, 1, 0]))
    found = raised.value.diagnosis
    assert (found.cause, found.sample, found.logit, found.broken) == ("focal term", 1, 20.0, 1)
    assert "(1 - p_t) ** (-0.5)" in found.paragraph
    assert "16.6355" in found.paragraph
    # The true derivative at 20: (1 - p) ** 0.5 (0.5 log p p - (1 - p)), about -1.5 exp(-30).
    assert f"{-1.5 * math.exp(-30):.3g}" in found.paragraph
    assert layer.weight.item() == 1.0


def test_skip_leaves_parameters_and_momentum():
    """As if the batch had not been there."""
    good, bad = ([0.5, -1.0], torch.tensor([1.0, 0.0])), ([20.0, 0.0], torch.tensor([1.0, 0.0]))
    results = []
    for batches in ((good, good), (good, bad, good)):
        guard = FocalGuard(mean_original, action="skip", near=1.0)
        layer, step = training(guard, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FocalGuardWarning)
            for batch in batches:
                step(*batch)
        results.append(layer.weight.item())
        assert len(guard.failures) == len(batches) - 2
    assert results[0] == results[1]


def test_record_goes_on():
    """The failure is kept, and the parameters are what the loss makes of them."""
    guard = FocalGuard(mean_original, action="record")
    layer, step = training(guard)
    with pytest.warns(FocalGuardWarning, match="isn't finite at sample 0"):
        step([20.0], torch.ones(1))
    assert layer.weight.isnan().all()
    assert guard.failures[0].cause == "focal term"
    with pytest.warns(FocalGuardWarning, match="before the loss saw them"):
        step([1.0], torch.ones(1))
    assert guard.failures[1].cause == "logits"


def normalised(x, y):
    return original(x, y, gamma=2.0, reduction="sum") / y.sum()


def cusp(x, y):
    return ((x - 1).abs().sqrt() * 0 + x.square()).mean()


def sixteenth_power(x, y):
    return ((x / 4) ** 16).mean()


def log_of_probability(x, y):
    return -(y * x.sigmoid().log() + (1 - y) * (1 - x.sigmoid()).log()).mean()


@pytest.mark.parametrize(
    ("cause", "loss", "logits", "targets", "dtype"),
    [
        ("logits", mean_original, [math.nan, 1.0], [1, 0], torch.float32),
        ("overflow", mean_original, [math.inf, 1.0], [1, 0], torch.float32),
        ("targets", mean_original, [1.0, 1.0], [math.nan, 0], torch.float32),
        ("normaliser", normalised, [1.0, 1.0], [0, 0], torch.float32),
        ("logarithm", log_of_probability, [-120.0, 1.0], [1, 0], torch.float32),
        ("logarithm", log_of_probability, [120.0, 1.0], [1, 0], torch.float32),
        ("logarithm", log_of_probability, [-20.0, 1.0], [1, 0], torch.float16),
        ("loss", cusp, [1.0, 0.0], [1, 0], torch.float32),
        ("overflow", sixteenth_power, [7.9, 1.0], [1, 0], torch.float16),
        ("overflow", lambda x, y: (x**4 * y).sum(), [20.0, 1.0], [1, 0], torch.float16),
        ("focal term", mean_original, [8.5, 1.0], [1, 0], torch.bfloat16),
        ("focal term", mean_original, [-18.0, 1.0], [0, 0], torch.float32),
    ],
)
def test_the_cause_is_told(cause, loss, logits, targets, dtype):
    """The focal term where it is, and plainly that it isn't where it isn't."""
    guard = FocalGuard(loss)
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    guard(x, torch.tensor(targets, dtype=dtype)).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert raised.value.diagnosis.cause == cause
    told = str(raised.value)
    is_known = "no cause is known" not in told  # where nothing shows it, nothing is ruled out
    assert ("not the focal term" in told) == (is_known and cause != "focal term")


def test_a_class_loss_names_class_and_margin():
    """Of logits of classes, with pixels."""

    def textbook(x, y):
        p = x.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        return (-((1 - p) ** 0.5) * p.log()).mean()

    x = torch.zeros(2, 3, 2, 2)
    x[1, 2, 0, 1] = 30.0
    x.requires_grad_()
    guard = FocalGuard(textbook)
    guard.samples = torch.tensor([700, 701])
    guard(x, torch.full((2, 2, 2), 2)).backward()
    with pytest.raises(
        FocalGuardError, match=r"sample 1 of the batch \(701\), position \(0, 1\), class 2"
    ):
        guard.check()


def test_the_failing_pass_of_an_accumulated_step_is_told():
    """The first of two passes fails; the second's backward isn't made any more."""
    guard = FocalGuard(mean_original)
    x = torch.tensor([20.0], requires_grad=True)
    guard(x, torch.ones(1)).backward()
    loss = guard(torch.tensor([1.0], requires_grad=True), torch.ones(1))
    with pytest.raises(FocalGuardError) as raised:
        loss.backward()
    assert raised.value.diagnosis.logit == 20.0


def test_a_gradient_that_arrives_broken_is_told_as_that():
    """A factor of infinity after the loss: not the loss, and no step."""
    guard = FocalGuard(mean_original)
    x = torch.tensor([1.0], requires_grad=True)
    (guard(x, torch.ones(1)) * math.inf).backward()
    with pytest.raises(FocalGuardError, match="from downstream isn't finite") as raised:
        guard.check()
    assert raised.value.diagnosis.cause == "downstream"


def test_a_loss_scale_that_is_too_large_is_no_failure():
    """As a GradScaler's is at its beginning; whoever scales leaves the step out."""
    guard = FocalGuard(lambda x, y: 16 * original(x, y, gamma=2.0, reduction="sum"))
    x = torch.tensor([-3.0], dtype=torch.float16, requires_grad=True)
    (guard(x, torch.ones(1, dtype=torch.float16)) * 2.0**15).backward()
    assert not x.grad.isfinite()
    with pytest.warns(FocalGuardWarning, match="AMP loss scale"):
        assert guard.check()
    assert guard.failures == []


def test_wrong_arguments():
    """Each says what was expected."""
    with pytest.raises(TypeError, match="that can be called"):
        FocalGuard(3)
    with pytest.raises(ValueError, match="raise, record, skip"):
        FocalGuard(original, action="panic")
    with pytest.raises(ValueError, match="every"):
        FocalGuard(original, every=0)
    with pytest.raises(RuntimeError, match="hasn't been called"):
        FocalGuard(original).limits()


def test_patching_watches_a_loss_that_is_called_by_name():
    """A detector's, without touching its code."""
    from torchvision.models.detection import retinanet

    guard = FocalGuard(original)
    with guard.patching("torchvision.models.detection.retinanet.sigmoid_focal_loss"):
        assert retinanet.sigmoid_focal_loss is guard
    assert retinanet.sigmoid_focal_loss is original


# Elsewhere


def test_compiled_without_a_break():
    """The statistics of the graph are those of eager, and a failure is seen."""
    data = torch.randn(5, 32, generator=torch.Generator().manual_seed(2)) * 4
    targets = (data > 1).float()
    guards = []
    for compile_it in (False, True):
        guard = FocalGuard(mean_original, every=1)
        layer = head()

        def loss(x, y, layer=layer, guard=guard):
            return guard(layer(x.view(-1, 1)).view(-1), y)

        call = torch.compile(loss, fullgraph=True) if compile_it else loss
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(data[0], targets[0]).backward()
            guard.check()
            for x, y in zip(data[1:], targets[1:], strict=True):
                call(x, y).backward()
                guard.check()
        guards.append(guard)
        with torch.no_grad():
            layer.weight.fill_(30.0)
        call(data[0], targets[0]).backward()
        with pytest.raises(FocalGuardError) as raised:
            guard.check()
        assert raised.value.diagnosis.cause == "focal term"
        with torch.no_grad():
            layer.weight.fill_(1.0)
        call(data[0], targets[0]).backward()
        assert guard.check()
    eager, compiled = ({r.step: r for r in guard.readings} for guard in guards)
    assert compiled.keys() >= {2, 3, 4, 5}  # what the first graph counts isn't known before it runs
    for step in (2, 3, 4, 5):
        assert eager[step] == pytest.approx(compiled[step], rel=1e-5)


def test_ranks_read_and_fail_together(tmp_path):
    """A failure of one of two processes stops both before the step, with the same words."""
    run_ranks(guarded_steps, 2, tmp_path)


def test_readings_go_to_tensorboard(tmp_path):
    """And can be read back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        _, step = training(FocalGuard(mean_original, every=2, writer=writer))
        for logit in (1.0, 2.0):
            step([logit], torch.ones(1))
    events = EventAccumulator(str(tmp_path)).Reload()
    margins = events.Scalars("focal_guard/largest_margin")
    assert [(e.step, pytest.approx(e.value, abs=0.01)) for e in margins] == [(1, 1.0), (2, 2.0)]


def test_after_an_error_the_training_may_go_on():
    """The failing pass is not told again."""
    guard = FocalGuard(mean_original)
    _, step = training(guard)
    with pytest.raises(FocalGuardError):
        step([20.0], torch.ones(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FocalGuardWarning)
        step([1.0], torch.ones(1))
    assert len(guard.failures) == 1


@pytest.mark.parametrize("numbers", [10, 5000])
def test_passes_are_not_held_where_nobody_checks(numbers):
    """Small and large ones; a failure among them is still told."""
    guard = FocalGuard(mean_original)

    def one_pass(logit):
        x = torch.full((numbers,), logit, requires_grad=True)
        guard(x, torch.ones(numbers)).backward()

    for _ in range(100):
        one_pass(1.0)
    assert len(guard._checks) == 1
    assert len(guard._tally) <= (64 if numbers == 10 else 1)
    one_pass(20.0)
    with pytest.raises(FocalGuardError) as raised:
        one_pass(1.0)
    assert raised.value.diagnosis.logit == 20.0


def test_a_model_with_a_guard_can_be_copied_at_any_time():
    """By `deepcopy` and pickle; also between a pass and its step, as averages of weights do."""
    guard = FocalGuard(mean_original)
    layer, step = training(guard)
    model = nn.ModuleList([layer, guard])
    step([1.0], torch.ones(1))
    guard(layer(torch.ones(1, 1)).view(-1), torch.ones(1))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[1].step == 1
        assert other[1].check()
        assert other[1].read().positions == 1
    assert model.state_dict().keys() == {"0.weight", "0.bias"}
