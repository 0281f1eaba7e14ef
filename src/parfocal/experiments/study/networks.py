"""The networks of a study: small enough that thousands of trainings take hours."""

from functools import partial

import torch
from torch import nn

from parfocal.experiments.models import Segmenter, cnn, initialised
from parfocal.experiments.study.scenes import CLASSES
from parfocal.experiments.study.spec import (
    Dataset,
    DigitInk,
    DigitThreshold,
    LongTail,
    Shapes,
    Table,
)
from parfocal.losses.setup import init_prior_bias_

# How rare a detector takes an object to be before it has seen one (Lin et al., section 3.3).
PRIOR = 0.01


def study_network(dataset: Dataset, features: int, classes: int, seed: int) -> nn.Module:
    """The network of a data set; the global generator is left as it was.

    Args:
        dataset: of the study.
        features: channels of an image, or columns of a table.
        classes: of a softmax.
        seed: of the initial parameters alone.

    Raises:
        ValueError: it can't be made, or doesn't fit into memory.
    """
    return initialised(partial(_build, dataset, features, classes), seed, str(dataset))


def _build(dataset: Dataset, features: int, classes: int) -> nn.Module:
    match dataset:
        case DigitThreshold():
            return cnn(features, 28)
        case LongTail(pixels=pixels):
            trunk = list(cnn(features, pixels).children())[:-2]
            return nn.Sequential(*trunk, nn.Linear(84, classes))
        case DigitInk(width=width):
            return Segmenter(features, width)
        case Table(width=width):
            return _perceptron(features, width)
        case Shapes(width=width):
            return detector(width)


def _perceptron(columns: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(columns, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 1),
        nn.Flatten(0),
    )


def detector(width: int) -> nn.Module:
    """Scenes (N, 1, 64, 64) to (N, CLASSES + 4, 8, 8): logits of classes, then a box, a cell."""
    head = nn.Conv2d(4 * width, CLASSES + 4, 1)
    prior = torch.full((CLASSES + 4,), 0.5, dtype=torch.float64)  # log(p / (1 - p)) = 0 of a box
    prior[:CLASSES] = PRIOR
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        init_prior_bias_(head, prior, head="sigmoid"),
    )
