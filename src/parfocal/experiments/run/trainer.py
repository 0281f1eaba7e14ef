"""One training, as a stream of what happened.

The caller draws events, may ask for the state between two of them, and decides when to stop;
nothing here writes, prints or keeps time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parfocal.experiments.data import Images
from parfocal.experiments.losses import Loss, compared_loss
from parfocal.experiments.models import network
from parfocal.experiments.run.events import Epoch, Event, Failure, Quantity, Step
from parfocal.experiments.run.tasks import task_of
from parfocal.experiments.spec import RunSpec
from parfocal.guard import FocalGuard


class _Batch(NamedTuple):
    """This process's share of a batch, and what came of the whole: mean loss, number of logits."""

    indices: Tensor
    targets: Tensor
    logits: Tensor
    loss: float
    numbers: int
    correct: int
    largest_logit: float
    stop: bool


class Trainer:
    """A training that can be stopped between two steps and taken up again, to the bit.

    In a process group each rank makes one: all draw the same batches, each computes its share, and
    DistributedDataParallel averages the gradients; all ranks give the same events.
    """

    def __init__(
        self,
        spec: RunSpec,
        images: Images,
        device: str = "cpu",
        watch: Callable[[Loss], FocalGuard] | None = None,
    ) -> None:
        """Make the network and all generators from the spec's seed.

        watch: makes a guard of the loss, that records; it changes no number.

        Raises:
            ValueError: spec and images don't go together.
        """
        objective, training = spec.objective, spec.training
        self.spec = spec
        self._device = torch.device(device)
        self._autocast = objective.logits == "autocast"
        self._dtype = torch.float32 if self._autocast else getattr(torch, objective.logits)
        self._task = task_of(spec.data, images, self._dtype)
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

    @property
    def parameters(self) -> Tensor:
        """A copy of all parameters, as one vector."""
        return self._vector.detach().clone()

    @property
    def images(self) -> int:
        """How many images an epoch has."""
        return len(self._task.images.labels)

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
        if self.guard is not None:
            self.guard.step = self._step

    def events(self) -> Iterator[Event]:
        """Train until the last epoch, the first failure or `stop`; a Step a batch, an Epoch a pass.

        The state is whole whenever an event has been given out.
        """
        count, size = self.images, self.spec.training.batch_size
        steps_per_epoch = math.ceil(count / size)
        while self._epoch < self.spec.training.epochs:
            self._epoch_order = self._order.get_state()
            batches = torch.randperm(count, generator=self._order).split(size)
            for indices in batches[self._position :]:
                if self._stop and self._ranks == 1:
                    return
                batch = self._forward_backward(indices)
                self._step += 1
                if self.guard is not None:
                    self.guard.check()
                quantity = _first_nonfinite(batch.loss, self._vector)
                if quantity is None:
                    self._optimizer.step()
                    quantity = None if _is_finite(self._vector) else "parameters"
                self._largest = max(self._largest, batch.largest_logit)
                if quantity is not None:
                    yield self._failure(quantity, batch)
                    return
                self._position += 1
                self._totals = self._totals.plus(batch)
                yield Step(
                    self._epoch,
                    self._step,
                    steps_per_epoch,
                    len(indices),
                    self._totals.mean_loss,
                    self._totals.mean_accuracy,
                    self._largest,
                )
                if batch.stop:
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

    def _parallel(self, model: nn.Module) -> nn.Module:
        """The same with its gradients averaged over the ranks."""
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            if self._device.type == "cpu":
                raise ValueError(
                    "Expected a network without batch normalisation for several processes on CPUs: "
                    "torch synchronises its statistics on GPUs alone"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)

    def _forward_backward(self, indices: Tensor) -> _Batch:
        """Gradients of one batch, of which this rank sees its share."""
        share = indices.tensor_split(self._ranks)[self._rank]
        # Drawn for the whole batch, so that no image's noise depends on the number of ranks.
        inputs = self._task.inputs(indices, self._draws)
        inputs = inputs.tensor_split(self._ranks)[self._rank].to(self._device)
        targets = self._task.targets(share).to(self._device)
        with self._precision():
            logits = self._network(inputs).reshape(targets.shape)
            if not self._autocast:
                logits = logits.to(self._dtype)
            loss = self._watched(logits, targets)
        numbers = math.prod(targets.shape[1:]) * len(indices)
        if self._ranks > 1:  # the average over the ranks of this is the mean over the batch
            loss = loss * (self._ranks / numbers)
        self._optimizer.zero_grad(set_to_none=False)  # the layers' gradients are views of it
        loss.backward()
        seen = logits.detach()
        largest = seen.abs().max().item() if seen.numel() else 0.0
        correct = int(((seen > 0) == (targets > 0)).sum())
        value, stop = loss.item() / self._ranks, self._stop
        if self._ranks > 1:
            value, correct, largest, stop = self._gathered(value, correct, largest, stop)
        return _Batch(share, targets, seen, value, numbers, correct, largest, stop)

    def _precision(self) -> AbstractContextManager[Any]:
        if not self._autocast:
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _gathered(
        self, loss: float, correct: int, largest: float, stop: bool
    ) -> tuple[float, int, float, bool]:
        """Sums over the ranks, the largest of the largest, and whether any wants to stop."""
        own = torch.tensor([loss, correct, largest, stop], dtype=torch.float64)
        own = own.to(self._device)
        rows = [torch.empty_like(own) for _ in range(self._ranks)]
        dist.all_gather(rows, own)
        table = torch.stack(rows).cpu()
        sums = table.sum(dim=0).tolist()
        return sums[0], int(sums[1]), table[:, 2].max().item(), sums[3] > 0

    def _failure(self, quantity: Quantity, batch: _Batch) -> Failure:
        """Look at the failing batch once more, logit by logit, and at that of each rank."""
        found = self._culprit(quantity, batch) if batch.logits.numel() else None
        if self._ranks == 1:
            assert found is not None
            return found[1]
        of_ranks: list[tuple[bool, Failure] | None] = [None] * self._ranks
        dist.all_gather_object(of_ranks, found)
        # A broken logit before a large one; of several ranks the one with the largest logit.
        seen = [one for one in of_ranks if one is not None]
        return max(seen, key=lambda one: (one[0], one[1].largest_logit))[1]

    def _culprit(self, quantity: Quantity, batch: _Batch) -> tuple[bool, Failure]:
        """Whether a logit of this rank's has a gradient that isn't finite, and the failure."""
        leaf = batch.logits.clone().requires_grad_()
        with self._precision():
            loss = self._loss(leaf, batch.targets)
        (gradient,) = torch.autograd.grad(loss, leaf)
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
            loss=batch.loss,
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

    def plus(self, batch: _Batch) -> "_Totals":
        return _Totals(
            self.numbers + batch.numbers,
            self.loss + batch.loss * batch.numbers,
            self.correct + batch.correct,
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


def _first_nonfinite(loss: float, vector: nn.Parameter) -> Quantity | None:
    if not math.isfinite(loss):
        return "loss"
    assert vector.grad is not None
    return None if _is_finite(vector.grad) else "gradient"


def _is_finite(vector: Tensor) -> bool:
    """By the sum, through which NaN and infinities come; one that overflowed is looked at again."""
    return math.isfinite(vector.detach().sum().item()) or bool(vector.isfinite().all())


def _index_of_largest(values: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(values.argmax(), values.shape))
