"""One training, as a stream of what happened.

The caller draws events and decides when to stop; nothing here writes, prints or keeps time.
"""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from parfocal.experiments.compared import Loss, compared_loss
from parfocal.experiments.data import Images
from parfocal.experiments.models import digit_cnn
from parfocal.experiments.spec import MnistSpec

Quantity = Literal["loss", "gradient", "parameters"]


class Step(NamedTuple):
    """One batch: how far the training is, and how the epoch goes so far."""

    epoch: int
    step: int
    steps_per_epoch: int
    images: int
    loss: float
    accuracy: float
    largest_logit: float


class Epoch(NamedTuple):
    """One pass over the images: mean loss, accuracy while training, largest |logit| so far."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    largest_logit: float


class Failure(NamedTuple):
    """The first thing that wasn't finite, and the sample behind it.

    quantity: what failed first in the step: loss, gradient or parameters.
    largest_logit, largest_logit_sample: over the failing batch, as an absolute value.
    sample, digit, logit: the sample whose logit has the gradient that isn't finite; if there is
        none, the one with the largest |logit|.
    """

    epoch: int
    step: int
    quantity: Quantity
    loss: float
    largest_logit: float
    largest_logit_sample: int
    sample: int
    digit: int
    logit: float


Event = Step | Epoch | Failure


class _Totals:
    """Sums over one epoch."""

    def __init__(self) -> None:
        self.images = 0
        self.loss = 0.0
        self.correct = 0

    def add(self, images: int, loss: float, correct: int) -> None:
        self.images += images
        self.loss += loss * images
        self.correct += correct


def train(spec: MnistSpec, data: Images) -> Iterator[Event]:
    """Train until the last epoch or the first failure; one Step a batch, one Epoch a pass."""
    model = digit_cnn(spec.seed_of("parameters"))
    vector = parameter_vector(model)
    optimizer = torch.optim.SGD([vector], spec.learning_rate, spec.momentum)
    loss_function = compared_loss(spec.loss, alpha=spec.alpha, gamma=spec.gamma, reduction="mean")
    dtype = getattr(torch, spec.logits_dtype)
    targets = (data.labels <= spec.threshold).to(dtype)
    order = torch.Generator().manual_seed(spec.seed_of("order"))
    noise = torch.Generator().manual_seed(spec.seed_of("noise"))
    steps_per_epoch = math.ceil(len(targets) / spec.batch_size)
    step, largest = 0, 0.0
    for epoch in range(spec.epochs):
        totals = _Totals()
        for indices in torch.randperm(len(targets), generator=order).split(spec.batch_size):
            inputs = noisy(data.pixels[indices], spec.noise, noise)
            batch_targets = targets[indices]
            logits = model(inputs).to(dtype)
            loss = loss_function(logits, batch_targets)
            optimizer.zero_grad(set_to_none=False)  # the layers' gradients are views of it
            loss.backward()
            step += 1
            value = loss.item()
            largest = max(largest, logits.detach().abs().max().item())
            quantity = _first_nonfinite(value, vector)
            if quantity is None:
                optimizer.step()
                quantity = None if _is_finite(vector) else "parameters"
            if quantity is not None:
                yield _failure(
                    epoch,
                    step,
                    quantity,
                    value,
                    indices,
                    data,
                    logits,
                    batch_targets,
                    loss_function,
                )
                return
            correct = int(((logits.detach() > 0) == (batch_targets > 0)).sum())
            totals.add(len(indices), value, correct)
            loss_so_far, accuracy = totals.loss / totals.images, totals.correct / totals.images
            yield Step(epoch, step, steps_per_epoch, len(indices), loss_so_far, accuracy, largest)
        yield Epoch(epoch, step, loss_so_far, accuracy, largest)


def noisy(pixels: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    """Bytes (N, H, W) as floats (N, 1, H, W) in [0, 1], plus uniform noise, clipped to [0, 1].

    The noise is amplitude * k / 2 ** 16 with k uniform in 0 ... 2 ** 16 - 1: 256 levels for each
    one of a pixel, four of them from each draw of 64 bits, three times as fast as `torch.rand`.
    """
    images = pixels.unsqueeze(1).float().div_(255)
    if amplitude == 0:
        return images
    count = images.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    levels = draws.view(torch.int16)[:count].view_as(images)  # k - 2 ** 15
    return images.add_(levels, alpha=amplitude / 2**16).add_(amplitude / 2).clamp_(0, 1)


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


def _failure(
    epoch: int,
    step: int,
    quantity: Quantity,
    loss: float,
    indices: Tensor,
    data: Images,
    logits: Tensor,
    targets: Tensor,
    loss_function: Loss,
) -> Failure:
    """Look at the failing batch once more, sample by sample."""
    leaf = logits.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_function(leaf, targets), leaf)
    broken = ~gradient.isfinite()
    magnitude = leaf.detach().abs().double()
    largest = int(magnitude.nan_to_num(nan=math.inf).argmax())
    culprit = int(broken.int().argmax()) if broken.any() else largest
    sample = int(indices[culprit])
    return Failure(
        epoch=epoch,
        step=step,
        quantity=quantity,
        loss=loss,
        largest_logit=magnitude[largest].item(),
        largest_logit_sample=int(indices[largest]),
        sample=sample,
        digit=int(data.labels[sample]),
        logit=leaf[culprit].item(),
    )
