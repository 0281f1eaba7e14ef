"""
Where the gradient ends
=======================

The gradient of the focal loss at gamma 0.5, as five libraries compute it in float32, divided by the
true one: 1 is right, 0 is a gradient that is lost, a cross is where it becomes NaN. The target is
1, so that a large logit is a sure and right answer, which is what a training makes of most samples.

    python examples/plot_gradient.py [FILE]

Needs `pip install '.[experiments,jax,peers]'`, which bring the libraries and matplotlib.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import kornia
import matplotlib.pyplot as plt
import monai
import numpy as np
import optax
import segmentation_models_pytorch as smp
import torch
import torchvision
from matplotlib.axes import Axes
from torch import Tensor

import parfocal
from parfocal.audit.oracle import focal_truth

GAMMA = 0.5
Gradient = Callable[[Tensor], Tensor]

# %%
# The libraries
# -------------
#
# Each loss is called as its documentation has it, without a factor for the class. What is asked
# for is the gradient of its sum, from PyTorch's autograd or from JAX's.


def of_torch(loss: Callable[[Tensor, Tensor], Tensor]) -> Gradient:
    """The gradient of a loss of logits and targets."""

    def gradient(logits: Tensor) -> Tensor:
        x = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(x, torch.ones_like(x)).sum(), x)[0]

    return gradient


def of_optax(logits: Tensor) -> Tensor:
    """The gradient of optax's loss."""

    def loss(x: jax.Array) -> jax.Array:
        return optax.losses.sigmoid_focal_loss(x, jnp.ones_like(x), gamma=GAMMA).sum()

    return torch.from_numpy(np.array(jax.grad(loss)(jnp.asarray(logits.numpy()))))


monai_loss = monai.losses.FocalLoss(gamma=GAMMA, reduction="none")
smp_loss = smp.losses.FocalLoss("binary", gamma=GAMMA, reduction="none")
kornia_loss = kornia.losses.binary_focal_loss_with_logits
GRADIENTS: dict[str, Gradient] = {
    "torchvision": of_torch(lambda x, y: torchvision.ops.sigmoid_focal_loss(x, y, -1, GAMMA)),
    "segmentation_models_pytorch": of_torch(smp_loss),
    "MONAI": of_torch(lambda x, y: monai_loss(x[:, None], y[:, None])),
    "kornia": of_torch(lambda x, y: kornia_loss(x[:, None], y[:, None], None, GAMMA, "none")),
    "optax": of_optax,
    "parfocal": of_torch(lambda x, y: parfocal.sigmoid_focal_loss(x, y, None, GAMMA)),
}

# %%
# The truth
# ---------
#
# In ball arithmetic, which encloses it: from the textbook's formula, in as many digits as it takes.


class Share(NamedTuple):
    """A gradient divided by the true one at each logit, and the logit of the first NaN."""

    of_truth: Tensor
    ends_at: float | None


def shares(logits: Tensor) -> dict[str, Share]:
    """What each library gives of the true gradient."""
    truth = focal_truth(logits.tolist(), target=1.0, gamma=GAMMA).gradient.hi
    found = {}
    for name, gradient in GRADIENTS.items():
        of_truth = gradient(logits).double() / truth
        lost = logits[of_truth.isnan()]
        found[name] = Share(of_truth, lost[0].item() if len(lost) else None)
    return found


# %%
# The picture
# -----------

COLOURS = ("#c1121f", "#e07b00", "#7b2cbf", "#1d6fb8", "#2f7d4f", "#111111")
DASHES = ("-", "-", "-", (0, (6, 4)), (3, (2, 4)), "-")


def draw(axes: Axes, logits: Tensor) -> None:
    """A line for each library; those that are right lie on one another."""
    for (name, share), colour, dash in zip(shares(logits).items(), COLOURS, DASHES, strict=True):
        is_right = name in ("kornia", "optax", "parfocal")
        width, order = (5, 1) if name == "parfocal" else (2, 3 if is_right else 2)
        axes.plot(logits, share.of_truth, label=name, color=colour, ls=dash, lw=width, zorder=order,
                  alpha=0.25 if name == "parfocal" else 1)  # fmt: skip
        if share.ends_at is not None:
            last = share.of_truth[share.of_truth.isfinite()][-1]
            axes.plot(share.ends_at, last, "X", color=colour, ms=10, zorder=4)
            axes.annotate(f"NaN from {share.ends_at:.2f}", (share.ends_at, last), (8, 4),
                          textcoords="offset points", color=colour)  # fmt: skip
    axes.set(xlabel="logit", ylabel="gradient / true gradient", ylim=(-0.1, 2.5))
    axes.set_title(f"Focal loss, gamma {GAMMA}, float32, target 1", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)


plt.rcParams |= {"font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "parfocal"}
figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
draw(axes, torch.linspace(8, 24, 801))
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], metadata={"Date": None})

# %%
# The NaN is the ``0 ** (gamma - 1)`` of autograd, times 0. The steps before it are ``1 - p_t``, of
# which the subtraction leaves fewer bits the nearer ``p_t`` is to 1. parfocal's ``1 - p_t`` is
# ``sigmoid(-x)``, in which nothing cancels.
