"""
A training that dies, and its guard
===================================

A small network learns which points of a plane are to the right of a line, by torchvision's focal
loss at gamma 0.5, by parfocal's, and by torchvision's under a guard.

    python examples/plot_training.py [FILE]

Needs `pip install '.[experiments]'`, which brings torchvision and matplotlib.
"""

import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
import torchvision
from torch import Tensor, nn

import parfocal
from parfocal.guard import FocalGuard, FocalGuardError

GAMMA = 0.5
Loss = Callable[..., Tensor]

torch.manual_seed(0)
POINTS = torch.randn(1000, 2)
LABELS = (POINTS[:, :1] > 1.2).float()


class Step(NamedTuple):
    """The loss of a step, and its surest right answer as a margin: the logit, signed."""

    loss: float
    margin: float


def train(loss: Loss, steps: int = 300, guard: FocalGuard | None = None) -> list[Step]:
    """The steps up to the first loss that is no number, or to the last."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if guard is not None:
        guard.attach(optimizer)
    history = []
    for _ in range(steps):
        logits = model(POINTS)
        value = loss(logits, LABELS, gamma=GAMMA, reduction="mean")
        margins = torch.where(LABELS == 1, logits, -logits)
        history.append(Step(value.item(), margins.max().item()))
        if not value.isfinite():
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return history


# %%
# Without a guard
# ---------------
#
# With torchvision's loss everything is fine until one answer is so sure that ``1 - p_t`` is 0 in
# float32. One step later all parameters are NaN.

runs = {
    "torchvision": train(torchvision.ops.sigmoid_focal_loss),
    "parfocal": train(parfocal.sigmoid_focal_loss),
}
for name, steps in runs.items():
    print(f"{name}: step {len(steps)}, loss {steps[-1].loss:.2g}")

# %%
# With a guard
# ------------
#
# It gives what the loss gives, warns before the loss breaks, and stops before the step that would
# have spoiled the parameters.

guard = FocalGuard(torchvision.ops.sigmoid_focal_loss)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they are printed below
    try:
        train(guard, guard=guard)
    except FocalGuardError as error:
        stop = error.diagnosis
        print(stop.paragraph)
for notice in guard.warnings:
    print(f"step {notice.step}: {notice.text}")

# %%
# The picture
# -----------
#
# The margin at which torchvision's gradient breaks isn't looked up: the guard has found it by
# calling the loss with logits that grow.

figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
for (name, steps), colour in zip(runs.items(), ("#c1121f", "#1d6fb8"), strict=True):
    margins = [step.margin for step in steps]
    axes.plot(range(1, len(steps) + 1), margins, label=name, color=colour, lw=2)
    if not steps[-1].loss < float("inf"):
        axes.plot(len(steps) - 1, margins[-2], "X", color=colour, ms=10)
        axes.annotate("NaN", (len(steps) - 1, margins[-2]), (8, -4), textcoords="offset points")
warning = next(notice for notice in guard.warnings if notice.kind == "right")
axes.axvline(warning.step, color="#666666", lw=1, ls="--")
axes.annotate("the guard warns", (warning.step, 1), (-6, 0), textcoords="offset points", ha="right")
axes.set(xlabel="step", ylabel="largest margin", ylim=(0, None))
axes.set_title("The surest right answer of a training at gamma 0.5, float32", loc="left")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], metadata={"Date": None})
