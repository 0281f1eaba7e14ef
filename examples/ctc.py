"""Sequences, from a CTC loss
==========================

A reader of noisy strips of symbols: the focal loss of whole sequences, from a CTC loss.

    python examples/ctc.py [EPOCHS]

The length of what is read isn't known, and where each symbol is neither: the CTC loss gives
-log p of a sequence, and no logit of it. Most strips are clean, soon sure to be read; with gamma
0.5 those that aren't have the most to say. Of a sure one -log p is 0, and the usual formula NaN.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parfocal import likelihood_focal_loss

SYMBOLS, STEPS, LENGTH = 5, 12, 3  # 0 is the blank

Loss = Callable[[Tensor], Tensor]


class Epoch(NamedTuple):
    """The mean loss, how many strips are read without a mistake, and those whose -log p is 0."""

    loss: float
    right: float
    sure: float


def usual(nll: Tensor) -> Tensor:
    """The formula as it is printed, gamma 0.5."""
    return (((1 - torch.exp(-nll)) ** 0.5) * nll).mean()


def exact(nll: Tensor) -> Tensor:
    """The same function."""
    return likelihood_focal_loss(nll, gamma=0.5, reduction="mean")


def strips(count: int = 256) -> tuple[Tensor, Tensor]:
    """Strips (N, STEPS, 8), and the symbols on them (N, LENGTH); one strip in 32 is noisy."""
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(1, SYMBOLS, (count, LENGTH), generator=generator)
    looks = torch.randn(SYMBOLS, 8, generator=generator)
    drawn = torch.cat([symbols, symbols.new_zeros(count, STEPS - LENGTH)], 1)
    # Each symbol has four steps to itself, the last of which is blank.
    places = torch.arange(LENGTH) * 4 + torch.randint(0, 3, (count, LENGTH), generator=generator)
    rows = torch.zeros_like(drawn).scatter(1, places, symbols)
    noise = torch.where(torch.arange(count) % 32 == 0, 0.3, 0.02).view(-1, 1, 1)
    pixels = looks[rows] + noise * torch.randn(count, STEPS, 8, generator=generator)
    return pixels, symbols


def train(loss: Loss, epochs: int = 15) -> Iterator[Epoch]:
    """An epoch at a time, up to the first loss that is no number."""
    torch.manual_seed(0)
    pixels, symbols = strips()
    count = len(pixels)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, SYMBOLS))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
    steps, lengths = torch.full((64,), STEPS), torch.full((64,), LENGTH)
    for _ in range(epochs):
        losses, sure = [], 0
        for batch in torch.randperm(count).split(64):
            scores = F.log_softmax(model(pixels[batch]), dim=-1).transpose(0, 1)
            nll = F.ctc_loss(scores, symbols[batch], steps, lengths, reduction="none")
            sure += int((nll <= 0).sum())
            value = loss(nll)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        yield Epoch(sum(losses) / len(losses), accuracy(model, pixels, symbols), sure / count)
        if not math.isfinite(losses[-1]):
            return


def accuracy(model: nn.Module, pixels: Tensor, symbols: Tensor) -> float:
    """The share of strips of which the likeliest symbol of each step, blanks left out, is right."""
    with torch.no_grad():
        best = model(pixels).argmax(-1)
    # A symbol that is seen twice in a row is one; no blank is between.
    is_new = F.pad(best[:, 1:] != best[:, :-1], (1, 0), value=True) & (best > 0)
    read = [row[new] for row, new in zip(best, is_new, strict=True)]
    return sum(torch.equal(a, b) for a, b in zip(read, symbols, strict=True)) / len(symbols)


def main(epochs: int = 15) -> None:
    """Both losses, every fifth epoch and the last."""
    for loss in (usual, exact):
        print(f"{loss.__name__} formula")
        seen = list(train(loss, epochs))
        for number, epoch in enumerate(seen, 1):
            if number % 5 == 0 or number == len(seen):
                shares = f"read {epoch.right:.3f}   sure {epoch.sure:.3f}"
                print(f"  epoch {number:2}   loss {epoch.loss:.2e}   {shares}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
