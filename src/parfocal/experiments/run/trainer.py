"""One training run, as a stream of events.

The caller draws events, may ask for the state between two of them, and decides when to stop.
Nothing here writes or prints.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parfocal.experiments.data import Images
from parfocal.experiments.losses import Loss, compared_loss
from parfocal.experiments.models import network
from parfocal.experiments.run.events import Epoch, Event, Failure, Quantity, Step
from parfocal.experiments.run.replay import Replay
from parfocal.experiments.run.steps import Row, StepLog
from parfocal.experiments.run.tasks import task_of, to_device
from parfocal.experiments.spec import RunSpec
from parfocal.guard import FocalGuard

# Steps between two looks at their numbers, and seconds: a network whose steps take long is looked
# at after each.
LOOK_STEPS = 32
LOOK_SECONDS = 0.1


class _Batch(NamedTuple):
    """A batch whose step was computed: how many images, and this process's share of them."""

    images: int
    indices: Tensor
    logits: Tensor


class Trainer:
    """A training run that can be stopped between two steps and resumed, exact to the bit.

    In a process group each rank makes one: all draw the same batches, each computes its share, and
    DistributedDataParallel averages the gradients; all ranks give the same events.

    Nothing in a step waits for the device; what happened is read every so many steps.
    """

    def __init__(
        self,
        spec: RunSpec,
        images: Images,
        device: torch.device | str = "cpu",
        watch: Callable[[Loss], FocalGuard] | None = None,
        look: int = LOOK_STEPS,
    ) -> None:
        """Make the network and all generators from the spec's seed.

        watch: makes a guard of the loss, that records; it changes no number.
        look: how many steps may be taken before one is looked at. It is 1 in a group, whose ranks
            look at the same time, and under a guard, which is to see no step after a failure.

        Raises:
            ValueError: spec and images don't go together.
        """
        objective, training = spec.objective, spec.training
        self.spec = spec
        self._device = torch.device(device)
        self._autocast = objective.logits == "autocast"
        self._dtype = torch.float32 if self._autocast else getattr(torch, objective.logits)
        self._task = task_of(spec.data, images, self._dtype, self._device)
        self._ranks = dist.get_world_size() if dist.is_initialized() else 1
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._model = network(spec).to(self._device)
        self._vector = parameter_vector(self._model)
        self._network = self._parallel(self._model) if self._ranks > 1 else self._model
        self._optimizer = torch.optim.SGD([self._vector], training.learning_rate, training.momentum)
        self._loss = compared_loss(
            objective.loss,
            alpha=objective.alpha,
            gamma=objective.gamma,
            reduction="mean" if self._ranks == 1 else "sum",
            options=objective.options,
        )
        self.guard = None if watch is None else watch(self._loss)
        self._watched = self.guard or self._loss
        self._order = torch.Generator().manual_seed(spec.seed_of("order"))
        self._draws = torch.Generator().manual_seed(spec.seed_of("noise"))
        self._epoch_order = self._order.get_state()
        self._epoch = self._position = self._step = 0
        self._largest = 0.0
        self._totals = _Totals()
        self._stop = False
        alone = self._ranks == 1 and self.guard is None
        self._look = look if alone else 1
        self._graphs = alone and self._device.type == "cuda"
        self._replay: Replay | None = None
        self._log = StepLog(self._vector, self._look)
        self._batches: list[_Batch] = []
        self._looked = 0.0

    @property
    def parameters(self) -> Tensor:
        """A copy of all parameters, as one vector."""
        return self._vector.detach().clone()

    @property
    def images(self) -> int:
        """How many images an epoch has."""
        return len(self._task.images.labels)

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.spec.training.batch_size)

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return self._step

    @property
    def finished(self) -> bool:
        """Whether the last epoch has ended."""
        return self._epoch >= self.spec.training.epochs

    def stop(self) -> None:
        """Ask for the end: on one process at once, in a group after the next step of all ranks."""
        self._stop = True

    def state(self) -> dict[str, Any]:
        """All that the rest of the training depends on; `torch.load` takes it with weights_only."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epoch_order": self._epoch_order,
            "draws": self._draws.get_state(),
            "epoch": self._epoch,
            "position": self._position,
            "step": self._step,
            "largest": self._largest,
            "totals": self._totals._asdict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._model.load_state_dict(state["model"])  # into the views of the vector
        self._optimizer.load_state_dict(state["optimizer"])
        self._epoch_order = state["epoch_order"]
        self._order.set_state(self._epoch_order)
        self._draws.set_state(state["draws"])
        self._epoch, self._position = state["epoch"], state["position"]
        self._step, self._largest = state["step"], state["largest"]
        self._totals = _Totals(**state["totals"])
        self._log.restart()
        if self.guard is not None:
            self.guard.step = self._step

    def events(self) -> Iterator[Event]:
        """Train until the last epoch, the first failure or `stop`; an Epoch a pass.

        A Step is given out at each look, for all steps since the last one. The state is whole
        whenever an event has been given out.
        """
        size = self.spec.training.batch_size
        while self._epoch < self.spec.training.epochs:
            self._epoch_order = self._order.get_state()
            order = to_device(torch.randperm(self.images, generator=self._order), self._device)
            for indices in order.split(size)[self._position :]:
                if self._stop and self._ranks == 1 and not self._batches:
                    return
                self._step_on(indices)
                if self._is_time():
                    event, stop = self._look_at_steps()
                    yield event
                    if isinstance(event, Failure) or stop:
                        return
            ended = Epoch(
                self._epoch,
                self._step,
                self._totals.mean_loss,
                self._totals.mean_accuracy,
                self._largest,
            )
            self._epoch, self._position, self._totals = self._epoch + 1, 0, _Totals()
            self._epoch_order = self._order.get_state()
            yield ended

    def _is_time(self) -> bool:
        """Whether the log is full, the epoch ends, or the last look was long ago."""
        return (
            len(self._batches) == self._look
            or self._position + len(self._batches) == self._steps_per_epoch
            or time.monotonic() - self._looked >= LOOK_SECONDS
        )

    def _look_at_steps(self) -> tuple[Step | Failure, bool]:
        """What came of the steps since the last look, and whether any rank wants to stop."""
        rows, stop = self._log.read(len(self._batches)), self._stop
        if self._ranks > 1:
            rows, stop = self._gathered(rows, stop)
        batches, self._batches = self._batches, []
        for batch, row in zip(batches, rows, strict=True):
            self._step += 1
            self._largest = max(self._largest, row.largest_logit)
            if row.nonfinite is not None:
                return self._failure(row.nonfinite, batch, row.loss), stop
            self._position += 1
            numbers = math.prod(batch.logits.shape[1:]) * batch.images
            self._totals = self._totals.plus(row, numbers)
        self._looked = time.monotonic()
        return (
            Step(
                self._epoch,
                self._step,
                self._steps_per_epoch,
                sum(batch.images for batch in batches),
                self._totals.mean_loss,
                self._totals.mean_accuracy,
                self._largest,
            ),
            stop,
        )

    def _parallel(self, model: nn.Module) -> nn.Module:
        """The same with its gradients averaged over the ranks."""
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            if self._device.type == "cpu":
                raise ValueError(
                    "Expected a network without batch normalisation for several processes on CPUs: "
                    "torch synchronises its statistics only on GPUs"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)

    def _step_on(self, indices: Tensor) -> None:
        """One step on a batch, of which this rank sees its share."""
        # Drawn for the whole batch, so that no image's noise depends on the number of ranks.
        draws = self._task.draw(len(indices), self._draws)
        share = self._share(indices)
        shares = [to_device(self._share(drawn), self._device) for drawn in draws]
        logits = self._replayed(share, *shares)
        if logits is None:
            logits = self._compute(len(indices), share, *shares)
        self._batches.append(_Batch(len(indices), share, logits))

    def _replayed(self, indices: Tensor, *draws: Tensor) -> Tensor | None:
        """The logits of a step by a CUDA graph, where there can be one.

        It is of a whole batch on one GPU, without a guard, which reads numbers; and it is recorded
        after a first step, by which the optimizer has its momentum.
        """
        whole = len(indices) == self.spec.training.batch_size
        begun = bool(self._optimizer.state) or self.spec.training.momentum == 0
        if not (self._graphs and whole and begun):
            return None
        if self._replay is None:
            compute = partial(self._compute, len(indices))
            self._replay = Replay(compute, (indices, *draws), self._changed())
        return self._replay(indices, *draws)

    def _changed(self) -> list[Tensor]:
        """All that a step changes, but for gradients, which the next one makes anew."""
        momentum = [
            value
            for state in self._optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return [self._vector, *momentum, *self._model.buffers(), *self._log.tensors]

    def _share(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch."""
        return rows.tensor_split(self._ranks)[self._rank]

    def _compute(self, images: int, indices: Tensor, *draws: Tensor) -> Tensor:
        """Logits, loss, gradients and the update, noted in the log; no number is looked at."""
        targets = self._task.targets(indices)
        with self._precision():
            logits = self._network(self._task.inputs(indices, *draws)).reshape(targets.shape)
            if not self._autocast:
                logits = logits.to(self._dtype)
            loss = self._watched(logits, targets)
        if self._ranks > 1:  # the average over the ranks of this is the mean over the batch
            loss = loss * (self._ranks / (math.prod(targets.shape[1:]) * images))
        self._optimizer.zero_grad(set_to_none=False)  # the layers' gradients are views of it
        loss.backward()
        if self.guard is not None:
            self.guard.check()
        seen: Tensor = logits.detach()
        largest = seen.abs().max() if seen.numel() else seen.sum()
        correct = ((seen > 0) == (targets > 0)).sum()
        self._log.before_update(self._mean(loss.detach()), correct, largest)
        self._optimizer.step()
        self._log.after_update()
        return seen

    def _mean(self, loss: Tensor) -> Tensor:
        """Over the ranks, so that all see it when it isn't finite."""
        if self._ranks == 1:
            return loss
        total = loss.double()
        dist.all_reduce(total)
        return total / self._ranks

    def _precision(self) -> AbstractContextManager[Any]:
        if not self._autocast:
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _gathered(self, rows: list[Row], stop: bool) -> tuple[list[Row], bool]:
        """One step of all ranks: what is right in all, largest logit, whether any wants to stop."""
        (row,) = rows
        own = [row.correct, row.largest_logit, stop]
        here = torch.tensor(own, dtype=torch.float64, device=self._device)
        ranks = [torch.empty_like(here) for _ in range(self._ranks)]
        dist.all_gather(ranks, here)
        correct, largest, stops = torch.stack(ranks).T.tolist()
        together = row._replace(correct=sum(correct), largest_logit=max(largest))
        return [together], any(stops)

    def _failure(self, quantity: Quantity, batch: _Batch, loss: float) -> Failure:
        """Look at the failing batch once more, logit by logit, and at that of each rank."""
        found = self._culprit(quantity, batch, loss) if batch.logits.numel() else None
        if self._ranks == 1:
            assert found is not None
            return found[1]
        of_ranks: list[tuple[bool, Failure] | None] = [None] * self._ranks
        dist.all_gather_object(of_ranks, found)
        # A broken logit before a large one; of several ranks the one with the largest logit.
        seen = [one for one in of_ranks if one is not None]
        return max(seen, key=lambda one: (one[0], one[1].largest_logit))[1]

    def _culprit(self, quantity: Quantity, batch: _Batch, loss: float) -> tuple[bool, Failure]:
        """Whether a logit of this rank's has a gradient that isn't finite, and the failure."""
        leaf = batch.logits.clone().requires_grad_()
        with self._precision():
            again = self._loss(leaf, self._task.targets(batch.indices))
        (gradient,) = torch.autograd.grad(again, leaf)
        broken = ~gradient.isfinite()
        magnitude = leaf.detach().abs().double().nan_to_num(nan=math.inf)
        largest = _index_of_largest(magnitude)
        culprit = _index_of_largest(broken.int()) if broken.any() else largest
        images = self._task.images
        sample = int(batch.indices[culprit[0]])
        return bool(broken.any()), Failure(
            epoch=self._epoch,
            step=self._step,
            quantity=quantity,
            loss=loss,
            largest_logit=abs(leaf[largest].item()),
            largest_logit_sample=int(batch.indices[largest[0]]),
            sample=sample,
            label=images.classes[int(images.labels[sample])],
            pixel=(culprit[-2], culprit[-1]) if len(culprit) > 1 else None,
            logit=leaf[culprit].item(),
        )


class _Totals(NamedTuple):
    """Sums over one epoch's logits."""

    numbers: int = 0
    loss: float = 0.0
    correct: int = 0

    def plus(self, row: Row, numbers: int) -> "_Totals":
        return _Totals(
            self.numbers + numbers,
            self.loss + row.loss * numbers,
            self.correct + int(row.correct),
        )

    @property
    def mean_loss(self) -> float:
        return self.loss / self.numbers

    @property
    def mean_accuracy(self) -> float:
        return self.correct / self.numbers


def parameter_vector(model: nn.Module) -> nn.Parameter:
    """All parameters as one vector, with a gradient, of which the model's own become views.

    One look at it, and one step of the optimizer, take the place of one for each layer.
    """
    parameters = list(model.parameters())
    vector = nn.Parameter(nn.utils.parameters_to_vector(parameters).detach())
    vector.grad = torch.zeros_like(vector)
    nn.utils.vector_to_parameters(vector.detach(), parameters)
    sizes = [p.numel() for p in parameters]
    for parameter, gradient in zip(parameters, vector.grad.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return vector


def _index_of_largest(values: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(values.argmax(), values.shape))
