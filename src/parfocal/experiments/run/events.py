"""What happens in a training."""

from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

# Epochs, steps and images are counted from 0.
Index = Annotated[int, Meta(ge=0, le=2**63 - 1)]
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

    epoch: Index
    step: Index
    loss: float
    accuracy: float
    largest_logit: float


class Failure(NamedTuple):
    """The first thing that wasn't finite, and the sample behind it.

    quantity: what failed first in the step: loss, gradient or parameters.
    largest_logit, largest_logit_sample: over the failing batch, as an absolute value.
    sample, label, logit: the sample whose logit has the gradient that isn't finite, its index
        among the images and its class; if there is none, the one with the largest |logit|.
    pixel: row and column of that logit, where each pixel has one.
    """

    epoch: Index
    step: Index
    quantity: Quantity
    loss: float
    largest_logit: float
    largest_logit_sample: Index
    sample: Index
    label: str
    pixel: tuple[Index, Index] | None
    logit: float


Event = Step | Epoch | Failure
