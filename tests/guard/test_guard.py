"""The guard: what it says before a failure, at one, and after it, and that it changes nothing."""

import copy
import math
import pickle
import warnings
from functools import partial

import pytest
import torch
from rank_cases import guarded_steps
from ranks import run_ranks
from torch import nn
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
    cliff = limits_of(
        LossCall(log_of_probability, torch.zeros(2), torch.zeros(2)), Form("elementwise")
    )[1].cliff_wrong
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
    with pytest.raises(TypeError, match="expected a callable loss"):
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
