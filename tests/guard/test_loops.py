"""The guard in the loops that people write: told before the step, never in the way.

Each loop runs with the loss alone and with a guard around it. The loss alone is the truth: it says
at which step the parameters break, what they were before, and what a healthy training ends at.
"""

import random
import tempfile
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from rank_cases import accumulated_steps, collectives_in_the_loss, missing_samples
from ranks import run_ranks
from sampled import sampled
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss as original

from parfocal.guard import FocalGuard, FocalGuardError

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's trainers warn of

mean_original = partial(original, gamma=0.5, reduction="mean")

# Of a training, from 0; and the micro-batch of an accumulated one.
BROKEN = 3
STEPS, SAMPLES, PARTS = 6, 24, 4


MODULES = {
    "accelerate": "accelerate",
    "Lightning": "pytorch_lightning",
    "transformers": "transformers.trainer",
}


@pytest.fixture(autouse=True)
def _imported(request):
    """Other people's trainers, before the random streams begin, as their import draws from them."""
    for name, module in MODULES.items():
        if name in request.node.name:
            pytest.importorskip(module)


class Net(nn.Module):
    """Dropout, for random streams, statistics, for buffers, and a logit that data can raise."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        """The first column of the data comes to the logit that the rest makes."""
        return self.head(self.body(x[:, 1:])).squeeze(1) + x[:, 0]


def batches(*, broken):
    """The data; broken: with one answer beyond the cliff of 16.64, right and sure."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS, SAMPLES, 4, generator=generator)
    x[:, :, 0] = 0
    y = (x[:, :, 1] + x[:, :, 2] > 0).float()
    if broken:
        x[BROKEN, 8, 0], y[BROKEN, 8] = 40.0, 1.0
    return list(zip(x, y, strict=True))


class Training:
    """What a loop works with, and what is left of it: the parameters after each step."""

    def __init__(self, *, broken=False, guard=None, left_out=()):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(1)
        self.model, self.guard = Net(), guard
        self.loss = mean_original if guard is None else guard
        data = batches(broken=broken)
        self.batches = [one for i, one in enumerate(data) if i not in left_out]
        self.history = [self.state()]
        self.error = None

    def watched(self, *optimizers):
        """One optimizer, or several, that the guard is attached to."""
        if self.guard is not None:
            self.guard.attach(*optimizers)
        return optimizers[0]

    def state(self):
        """Parameters and buffers, by their bits."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def parameters(self):
        """The parameters alone, which a step changes; of a batch that is skipped buffers know."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def done(self):
        """A step, taken or not."""
        self.history.append(self.state())

    def run(self, loop):
        """To its end, or to the guard's error."""
        try:
            with warnings.catch_warnings(), tempfile.TemporaryDirectory() as self.folder:
                warnings.simplefilter("ignore")
                loop(self)
        except FocalGuardError as error:
            self.error = error
        return self

    @property
    def is_finite(self):
        """Whether all parameters are."""
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    @property
    def streams(self):
        """The next number of each random stream."""
        return torch.rand(1).item(), random.random(), np.random.random()


def are_equal(one, other):
    """Whether two states are, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


AdamW, SGD, LBFGS = torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS


def plain(t, make=AdamW, **options):
    """The loop of every tutorial."""
    optimizer = t.watched(make(t.model.parameters(), **options))
    for x, y in t.batches:
        optimizer.zero_grad()
        t.loss(t.model(x), y).backward()
        optimizer.step()
        t.done()


def scaled(t, clip=False, **options):
    """Mixed precision in float16, with its scale."""
    optimizer = t.watched(torch.optim.AdamW(t.model.parameters(), lr=0.01, **options))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)  # too high for a few steps
    for x, y in t.batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = t.loss(t.model(x), y)
        scaler.scale(loss).backward()
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(t.model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        t.done()
    t.scale = scaler.get_scale()


def accumulated(t):
    """A step of four backward passes, whose loss is divided in place."""
    optimizer = t.watched(torch.optim.AdamW(t.model.parameters(), lr=0.01))
    for x, y in t.batches:
        for part, labels in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
            loss = t.loss(t.model(part), labels)
            loss /= PARTS
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        t.done()


def if_finite(t):
    """A step where the norm of the gradients is a number."""
    optimizer = t.watched(torch.optim.SGD(t.model.parameters(), lr=0.1))
    for x, y in t.batches:
        optimizer.zero_grad()
        t.loss(t.model(x), y).backward()
        if nn.utils.clip_grad_norm_(t.model.parameters(), 1.0).isfinite():
            optimizer.step()
        t.done()


def with_closure(t, make, **options):
    """An optimizer that calls for the loss itself, once or several times."""
    optimizer = t.watched(make(t.model.parameters(), **options))
    for x, y in t.batches:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = t.loss(t.model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        t.done()


def alternating(t):
    """Two optimizers that take turns, as of a generator and its critic."""
    body = torch.optim.Adam(t.model.body.parameters(), lr=0.01)
    head = torch.optim.Adam(t.model.head.parameters(), lr=0.01)
    t.watched(body, head)
    for x, y in t.batches:
        for optimizer in (body, head):
            optimizer.zero_grad()
            t.loss(t.model(x), y).backward()
            optimizer.step()
            t.model.zero_grad()
        t.done()


def together(t):
    """Two optimizers that take their steps after one pass."""
    body = torch.optim.Adam(t.model.body.parameters(), lr=0.01)
    head = torch.optim.SGD(t.model.head.parameters(), lr=0.01)
    t.watched(body, head)
    for x, y in t.batches:
        t.loss(t.model(x), y).backward()
        for optimizer in (head, body):
            optimizer.step()
            optimizer.zero_grad()
        t.done()


def twice_backward(t):
    """Two backward passes through one graph."""
    optimizer = t.watched(torch.optim.SGD(t.model.parameters(), lr=0.1))
    for x, y in t.batches:
        optimizer.zero_grad()
        loss = t.loss(t.model(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        t.done()


def checkpointed(t, *, reentrant):
    """The network's activations are computed again in the backward pass, and with them the loss."""
    optimizer = t.watched(torch.optim.SGD(t.model.parameters(), lr=0.1))
    for x, y in t.batches:
        optimizer.zero_grad()
        x.requires_grad_()
        # The square keeps the loss, so that all of it is made again.
        loss = checkpoint(lambda x, y=y: t.loss(t.model(x), y).square(), x, use_reentrant=reentrant)
        loss.backward()
        optimizer.step()
        t.done()


def compiled(t):
    """Network and loss in one graph."""
    optimizer = t.watched(torch.optim.SGD(t.model.parameters(), lr=0.1))

    def loss_of(x, y):
        return t.loss(t.model(x), y)

    call = torch.compile(loss_of, backend="aot_eager")
    for x, y in t.batches:
        optimizer.zero_grad()
        call(x, y).backward()
        optimizer.step()
        t.done()


class Engine:
    """An optimizer in another's clothes, as DeepSpeed's, which isn't one of torch."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        """That of the optimizer within."""
        self.steps += 1
        self.optimizer.step()


def engine(t):
    """A wrapper with a step of its own."""
    optimizer = Engine(torch.optim.AdamW(t.model.parameters(), lr=0.01))
    t.watched(optimizer)
    for x, y in t.batches:
        t.model.zero_grad()
        t.loss(t.model(x), y).backward()
        optimizer.step()
        t.done()


def prepared(t):
    """accelerate's loop, with accumulation."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
    optimizer = torch.optim.AdamW(t.model.parameters(), lr=0.01)
    model, optimizer = accelerator.prepare(t.model, optimizer)
    t.watched(optimizer)
    for x, y in t.batches:
        for part, labels in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
            with accelerator.accumulate(model):
                accelerator.backward(t.loss(model(part), labels))
                optimizer.step()
                optimizer.zero_grad()
        t.done()


def lightning(t, *, manual=False, parts=1, attached=True, callback=True):
    """PyTorch Lightning, which calls for the loss in the optimizer's step, or leaves it to you."""
    import pytorch_lightning as pl

    from parfocal.guard.lightning import FocalGuardCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.automatic_optimization = t.model, not manual

        def training_step(self, batch, index):
            x, y = batch
            loss = t.loss(self.model(x), y)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def on_train_batch_end(self, outputs, batch, index):
            if (index + 1) % parts == 0:
                t.done()

        def configure_optimizers(self):
            optimizer = AdamW(self.parameters(), lr=0.01)
            return t.watched(optimizer) if attached else optimizer

    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        accumulate_grad_batches=parts,
        callbacks=[FocalGuardCallback(t.guard)] if callback and t.guard is not None else [],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    data = [part for x, y in t.batches for part in zip(x.chunk(parts), y.chunk(parts), strict=True)]
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=None))


class Named(nn.Module):
    """A network as those of transformers are called."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels=None):
        """A dictionary."""
        return {"logits": self.net(x)}


def transformers(t, *, attached=True, callback=True):
    """The Trainer of transformers with accumulation: a loss is a share of the step's samples."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from parfocal.guard.transformers import FocalGuardCallback

    def loss_of(outputs, labels, num_items_in_batch=None):
        return t.loss(outputs["logits"], labels) * len(labels) / num_items_in_batch

    class Done(TrainerCallback):
        def on_step_end(self, *_, **__):
            t.done()

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    optimizer = AdamW(t.model.parameters(), lr=0.01)
    arguments = TrainingArguments(
        t.folder,
        max_steps=len(t.batches),
        per_device_train_batch_size=SAMPLES // PARTS,
        gradient_accumulation_steps=PARTS,
        logging_strategy="no",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    samples = [{"x": a, "labels": b} for x, y in t.batches for a, b in zip(x, y, strict=True)]
    InOrder(
        Named(t.model),
        arguments,
        train_dataset=samples,
        compute_loss_func=loss_of,
        optimizers=(
            t.watched(optimizer) if attached else optimizer,
            torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        ),
        callbacks=[Done(), *([FocalGuardCallback(t.guard)] if callback and t.guard else [])],
    ).train()


# Those that take every step that the guard lets them.
STEPPING = {
    "plain": plain,
    "fused AdamW": partial(plain, fused=True),
    "foreach AdamW": partial(plain, foreach=True),
    "fused SGD": partial(plain, make=SGD, lr=0.1, momentum=0.9, fused=True),
    "foreach SGD": partial(plain, make=SGD, lr=0.1, momentum=0.9, foreach=True),
    "accumulated": accumulated,
    "closure": partial(with_closure, make=AdamW),
    "together": together,
    "twice backward": twice_backward,
    "checkpointed": partial(checkpointed, reentrant=False),
    "checkpointed, reentrant": partial(checkpointed, reentrant=True),
    "compiled": compiled,
    "engine": engine,
    "accelerate": prepared,
}
# Those of other people, with the guard attached to the optimizer, by its callback, and by both.
THEIRS = {
    f"{name}, {how}": partial(loop, **given)
    for how, given in {
        "attached": {"callback": False},
        "callback": {"attached": False},
        "both": {},
    }.items()
    for name, loop in {
        "transformers": transformers,
        "Lightning": lightning,
        "Lightning, accumulated": partial(lightning, parts=PARTS),
        "Lightning, manual": partial(lightning, manual=True),
    }.items()
}
STEPPING |= THEIRS
# Those in which a step is more than a pass and a step.
OTHERS = {
    "LBFGS": partial(with_closure, make=LBFGS, lr=0.01, max_iter=4),
    "LBFGS, strong Wolfe": partial(
        with_closure, make=LBFGS, lr=0.1, max_iter=4, line_search_fn="strong_wolfe"
    ),
    "alternating": alternating,
}
# Those that leave a step out by themselves when its gradient isn't finite.
LEAVING = {
    "scaled": scaled,
    "scaled and clipped": partial(scaled, clip=True),
    "scaled, fused": partial(scaled, fused=True),
    "if finite": if_finite,
}
STEPS_OF = {"alternating": 2 * STEPS}
# Of these each loop and each way of attaching once.
SOME_OF_THEIRS = {
    "transformers, callback",
    "Lightning, attached",
    "Lightning, accumulated, both",
    "Lightning, manual, callback",
}


def is_run_each_time(name):
    """Whether it isn't exhaustive."""
    return name not in THEIRS or name in SOME_OF_THEIRS


def named(*loops):
    """Each loop by its name."""
    every = {name: loop for group in loops for name, loop in group.items()}
    return pytest.mark.parametrize("name", sampled(every, is_run_each_time)), every


every_loop, LOOPS = named(STEPPING, OTHERS, LEAVING)


@every_loop
def test_a_healthy_training_is_what_it_was(name):
    """Parameters, buffers and random streams to the bit; every step counted once, none told of."""
    alone = Training().run(LOOPS[name])
    streams = alone.streams
    guard = FocalGuard(mean_original, every=2)
    watched = Training(guard=guard).run(LOOPS[name])
    assert watched.error is None
    assert watched.streams == streams
    assert len(watched.history) == STEPS + 1
    assert all(map(are_equal, alone.history, watched.history))
    assert guard.failures == []
    assert {notice.kind for notice in guard.warnings} <= {"scale"}
    if name in STEPPING and name != "compiled":  # whose first pass isn't counted
        guard.read()
        assert sum(reading.positions for reading in guard.readings) == STEPS * SAMPLES
    if name not in LEAVING:
        assert guard.step == STEPS_OF.get(name, STEPS)
    assert getattr(alone, "scale", None) == getattr(watched, "scale", None)


@named(STEPPING, OTHERS)[0]
def test_the_error_comes_before_the_step(name):
    """Where the loss alone breaks the parameters, and they are as they were before."""
    alone = Training(broken=True).run(LOOPS[name])
    finite = [all(bool(v.isfinite().all()) for v in state.values()) for state in alone.history]
    assert finite == [True] * (BROKEN + 1) + [False] * (STEPS - BROKEN)
    guard = FocalGuard(mean_original)
    watched = Training(broken=True, guard=guard).run(LOOPS[name])
    assert watched.error is not None
    assert watched.error.diagnosis.cause == "focal term"
    assert len(watched.history) == BROKEN + 1
    assert all(map(are_equal, watched.history, alone.history[: BROKEN + 1]))
    assert watched.is_finite
    if name in STEPPING:
        expected = alone.history[BROKEN]
        now = watched.parameters()
        assert are_equal({key: expected[key] for key in now}, now)
        assert str(watched.error).startswith(f"Step {BROKEN + 1},")


@named(STEPPING)[0]
def test_a_skipped_step_never_was(name):
    """The parameters stay as they were, the next step is taken, and one failure is told once."""
    alone = Training(broken=True).run(LOOPS[name])
    guard = FocalGuard(mean_original, action="skip")
    watched = Training(broken=True, guard=guard).run(LOOPS[name])
    assert watched.error is None
    assert [failure.cause for failure in guard.failures] == ["focal term"]
    assert guard.step == STEPS
    names = list(watched.parameters())
    before, after, later = (
        {key: watched.history[i][key] for key in names} for i in (BROKEN, BROKEN + 1, BROKEN + 2)
    )
    assert all(map(are_equal, watched.history[: BROKEN + 1], alone.history))
    assert are_equal(before, after)
    assert not are_equal(after, later)
    assert watched.is_finite


@named(OTHERS)[0]
def test_a_skipped_step_leaves_parameters_finite(name):
    """Where more than one pass or optimizer makes a step."""
    guard = FocalGuard(mean_original, action="skip")
    watched = Training(broken=True, guard=guard).run(LOOPS[name])
    assert watched.error is None
    assert watched.is_finite
    assert {failure.cause for failure in guard.failures} == {"focal term"}
    assert not are_equal(watched.history[BROKEN + 1], watched.history[BROKEN + 2])


@pytest.mark.parametrize("name", LEAVING)
def test_a_step_that_the_loop_leaves_out_is_told(name):
    """At the next pass: the loop goes on without the guard, and stops with it."""
    alone = Training(broken=True).run(LOOPS[name])
    assert alone.is_finite
    guard = FocalGuard(mean_original)
    watched = Training(broken=True, guard=guard).run(LOOPS[name])
    assert watched.error is not None
    assert watched.error.diagnosis.cause == "focal term"
    assert len(watched.history) - 1 in (BROKEN, BROKEN + 1)
    assert watched.is_finite


@pytest.mark.parametrize("name", LEAVING)
def test_a_step_that_the_loop_leaves_out_is_recorded(name):
    """With the actions that go on, the training is that of the loss alone."""
    alone = Training(broken=True).run(LOOPS[name])
    for action in ("record", "skip"):
        guard = FocalGuard(mean_original, action=action)
        watched = Training(broken=True, guard=guard).run(LOOPS[name])
        assert watched.error is None
        assert [failure.cause for failure in guard.failures] == ["focal term"]
        parameters = watched.parameters()
        assert are_equal({key: alone.history[-1][key] for key in parameters}, parameters)


@pytest.mark.parametrize("case", [accumulated_steps, missing_samples, collectives_in_the_loss])
def test_two_processes(case, tmp_path):
    """A pass fails on one; one has no samples, or never calls the loss; the loss asks all."""
    run_ranks(case, 2, tmp_path)


# What isn't a step


@pytest.mark.parametrize("numbers", [10, 5000])
def test_a_loss_for_the_log_alone_keeps_nothing(numbers):
    """500 passes without a backward, of which no more than the one before is held."""
    guard = FocalGuard(mean_original)
    layer = nn.Linear(1, 1)
    alive = []
    for _ in range(500):
        logits = layer(torch.ones(numbers, 1)).view(-1)
        value = guard(logits, torch.ones(numbers))
        alive.append(weakref.ref(logits))
        assert sum(one() is not None for one in alive[-3:]) <= 2
    del logits, value
    assert not any(one() is not None for one in alive)
    assert guard.failures == []


def test_a_gradient_of_a_gradient_leaves_no_cycle():
    """A penalty on the gradient, by `create_graph`: the graph goes with its step."""
    optimizer = SGD((layer := nn.Linear(3, 1)).parameters(), lr=0.1)
    guard = FocalGuard(mean_original).attach(optimizer)
    alive = []
    for _ in range(5):
        logits = layer(x := torch.ones(4, 3, requires_grad=True)).view(-1)
        loss = guard(logits, torch.ones(4))
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        optimizer.zero_grad()
        (loss + slope.square().sum()).backward()
        optimizer.step()
        alive.append(weakref.ref(logits))
    del logits, loss, slope, x
    assert not any(one() is not None for one in alive)
    assert guard.step == 5


def test_many_gradients_of_float16_are_no_infinity():
    """Each is a number, and their sum is beyond the largest one."""
    guard = FocalGuard(lambda x, y: 100 * (x * y))
    x = torch.ones(2000, dtype=torch.float16, requires_grad=True)
    guard(x, torch.ones(2000, dtype=torch.float16)).sum().backward()
    assert guard.check()
    assert guard.failures == []


def test_a_closure_is_checked_before_a_perturbed_one():
    """Of a sharpness-aware optimizer, which moves the parameters and calls for the loss again."""

    class Sharpness(SGD):
        def step(self, closure):
            parameters = self.param_groups[0]["params"]
            with torch.no_grad():
                moved = [0.05 * p.grad for p in parameters]
                torch._foreach_add_(parameters, moved)
            closure()
            with torch.no_grad():
                torch._foreach_sub_(parameters, moved)
            super().step()

    def loop(t):
        optimizer = t.watched(Sharpness(t.model.parameters(), lr=0.1))
        for x, y in t.batches:

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = t.loss(t.model(x), y)
                loss.backward()
                return loss

            closure()
            optimizer.step(closure)
            t.done()

    alone = Training().run(loop)
    guard = FocalGuard(mean_original)
    watched = Training(guard=guard).run(loop)
    assert all(map(are_equal, alone.history, watched.history))
    broken = Training(broken=True, guard=FocalGuard(mean_original)).run(loop)
    assert broken.error.diagnosis.cause == "focal term"
    expected, now = alone.history[BROKEN], broken.parameters()
    assert are_equal({key: expected[key] for key in now}, now)
    assert guard.step == STEPS


def test_an_optimizer_is_attached_once():
    """Also where somebody else, as a callback, attaches it again."""
    guard, optimizer = FocalGuard(mean_original), SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    guard.attach(optimizer).attach(Engine(optimizer), optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    guard.detach()
    assert len(optimizer._optimizer_step_pre_hooks) == 0


# What breaks beside the loss


class Root(nn.Module):
    """A square root at 0, whose derivative is infinite: the value is fine, and its gradient not."""

    def __init__(self):
        super().__init__()
        self.weight, self.scale = (nn.Parameter(torch.tensor(v)) for v in (0.5, 1.0))

    def forward(self, x):
        """The scale adds its absolute value."""
        return x * self.weight + self.scale.square().sqrt()


def root_step(model, guard, *optimizers):
    """A pass and a step."""
    guard(model(torch.tensor([1.0, -2.0])), torch.tensor([1.0, 0.0])).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("are_two", [False, True])
def test_a_parameter_that_breaks_is_told_by_its_name(are_two):
    """Also that of the second optimizer."""
    model = Root()
    groups = [[model.weight], [model.scale]] if are_two else [[model.weight, model.scale]]
    optimizers = [SGD(group, lr=0.1) for group in groups]
    guard = FocalGuard(mean_original).attach(*optimizers)
    root_step(model, guard, *optimizers)
    with torch.no_grad():
        model.scale.zero_()
    with pytest.raises(FocalGuardError, match="the gradient of parameter scale isn't") as raised:
        root_step(model, guard, *optimizers)
    assert raised.value.diagnosis.cause == "parameter"
    assert model.scale.item() == 0
    assert guard.step == 2


def test_a_parameter_that_breaks_under_a_scale_is_told_by_its_name():
    """Where a GradScaler leaves every step out, and nobody asks."""
    model = Root()
    with torch.no_grad():
        model.scale.zero_()
    optimizer = SGD(model.parameters(), lr=0.1)
    guard = FocalGuard(mean_original).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(12):
        optimizer.zero_grad()
        loss = guard(model(torch.tensor([1.0, -2.0])), torch.tensor([1.0, 0.0]))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    (notice,) = guard.warnings
    assert (notice.kind, guard.failures) == ("skipping", [])
    assert "parameter scale isn't finite" in notice.text
