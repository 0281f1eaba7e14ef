"""Search for the rows of class logits at which `softmax_focal_loss` is farthest from the truth.

    python ledger/search.py            10^6 rows and a climb from the worst; writes hard_rows.csv

float32 is held to float64, which is right to 10^-14. Rows are drawn in several ways, since what
costs most is rare: a difference just above a power of two, whose rounding an exponential feels
most, and rows in which nearly all classes are alike. From the worst of a setting small steps go
on as long as they make it worse. The record measures all rows that were found.
"""

import csv
import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from family import HARD_ROWS, class_bound, summed_beside_far
from torch import Tensor

from parfocal import softmax_focal_loss
from parfocal.audit.ulp import spacing

CLASSES = (2, 3, 21, 40)
GAMMAS = (0.0, 0.1, 0.5, 2.0)
ROWS = 10**6 // (3 * len(CLASSES) * len(GAMMAS))
BATCH = 2**13

# Up to there a sum takes exponentials of the logits as they are, if there are few classes.
NEAR = 39.0

# The forms that the loss of class indices has, where a row is one of many.
FORMS = {
    "none": partial(softmax_focal_loss, reduction="none"),
    "sum, near": partial(softmax_focal_loss, reduction="sum"),
    "sum, far": summed_beside_far,
}


class Setting(NamedTuple):
    """Of which loss a row is the worst, and by which of FORMS it is computed."""

    classes: int
    gamma: float
    form: str


class Found(NamedTuple):
    """The worst row: its class first, and the class with the worst gradient second.

    share: its error as a part of what is allowed.
    """

    setting: Setting
    share: float
    row: tuple[float, ...]


def gradient(x: Tensor, labels: Tensor, gamma: float, form: str) -> Tensor:
    """Of the loss of each row."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(FORMS[form](x, labels, gamma=gamma).sum(), x)[0]


def shares(x: Tensor, labels: Tensor, setting: Setting) -> Tensor:
    """The error of each gradient in float32, as a part of what is allowed; (N, C)."""
    gamma = torch.tensor(setting.gamma).item()
    truth = gradient(x.double(), labels, gamma, "none")
    error = (gradient(x, labels, gamma, setting.form) - truth).abs() / spacing(truth, x.dtype)
    error = torch.where(truth.abs() < torch.finfo(torch.float32).tiny, 0.0, error)
    spread = (x.amax(1) - x.amin(1)).double()
    return error / class_bound(spread, gamma, x.shape[1]).unsqueeze(1)


def draw(count: int, classes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of four kinds, shifted as a whole; more than half have the largest logit's class."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    reach = 60 * uniform(count, 1) + 0.1
    powers = 2.0 ** torch.randint(0, 7, (count, classes), generator=generator)
    kinds = (
        reach * uniform(count, classes),
        12 * uniform(count, 1) * normal(count, classes),
        -powers * (1 + 0.3 * uniform(count, classes)),
        torch.where(uniform(count, classes) < 0.1, reach, -2) * uniform(count, classes),
    )
    kind = torch.randint(0, len(kinds), (count, 1), generator=generator)
    x = sum(torch.where(kind == i, rows, 0.0) for i, rows in enumerate(kinds))
    shift = torch.tensor([0.0, 2.0, 40.0])[torch.randint(0, 3, (count, 1), generator=generator)]
    x = x + shift * (uniform(count, 1) - 0.5)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return x, torch.where(uniform(count) < 0.6, x.argmax(1), labels)


def steps(row: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The row, and others near to it: some logits moved, or all of them together."""
    classes = len(row)
    sizes = 10 ** (-6 * torch.rand(count, 1, generator=generator))
    moves = sizes * torch.randn(count, classes, generator=generator)
    chosen = torch.rand(count, classes, generator=generator) < max(0.05, 1.5 / classes)
    shift = sizes * torch.randn(count, 1, generator=generator)
    shifted = torch.rand(count, 1, generator=generator) < 0.3
    near = row + torch.where(chosen, moves, 0.0) + torch.where(shifted, shift, 0.0)
    near[0] = row
    return near


def bounded(x: Tensor, setting: Setting) -> Tensor:
    """Within the logits that the form is for."""
    return x.clamp(-NEAR, NEAR) if setting.form == "sum, near" else x


def search(setting: Setting, rows: int = ROWS, climb: int = 60, seed: int = 0) -> Found:
    """The worst of so many random rows, and of the steps from it."""
    generator = torch.Generator().manual_seed(seed)
    worst, best, label = -1.0, torch.empty(0), 0
    for _ in range(0, rows, BATCH):
        x, labels = draw(min(rows, BATCH), setting.classes, generator)
        x = bounded(x, setting)
        each = shares(x, labels, setting).amax(1)
        if each.max() > worst:
            worst, i = each.max().item(), int(each.argmax())
            best, label = x[i], int(labels[i])
    for _ in range(climb):
        x = bounded(steps(best, 2**9, generator), setting)
        each = shares(x, torch.full((len(x),), label), setting).amax(1)
        best = x[int(each.argmax())]
    share = shares(best[None], torch.tensor([label]), setting)[0]
    return Found(setting, share.max().item(), _arranged(best, label, int(share.argmax())))


def _arranged(row: Tensor, label: int, worst: int) -> tuple[float, ...]:
    """The row with its class first and the class of the worst gradient second."""
    first = [label] if worst == label else [label, worst]
    return tuple(row[[*first, *(c for c in range(len(row)) if c not in first)]].tolist())


def settings() -> Iterator[Setting]:
    """All that are searched."""
    for classes in CLASSES:
        for gamma in GAMMAS:
            # Rows of many classes are never summed in the form of near logits.
            forms = FORMS if classes <= 32 else ("none", "sum, far")
            yield from (Setting(classes, gamma, form) for form in forms)


def main() -> int:
    """Search all settings, print what was found, and write it."""
    with HARD_ROWS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("classes", "gamma", "form", "share", "logits"))
        for setting in settings():
            found = search(setting)
            print(*setting, f"{found.share:.3f} of what is allowed", flush=True)
            numbers = " ".join(f"{number:.9g}" for number in found.row)
            writer.writerow((*setting, f"{found.share:.3f}", numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
