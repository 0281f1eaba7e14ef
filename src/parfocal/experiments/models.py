"""The networks of the paper."""

import torch
from torch import nn


def digit_cnn(seed: int) -> nn.Module:
    """The paper's network for 28 x 28 grey images: two convolutions, three layers, one logit.

    The seed is used for the initial parameters alone; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 1),
            nn.Flatten(0),
        )
