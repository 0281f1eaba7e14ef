"""The pictures of docs/why-it-breaks.md and docs/why-it-is-exact.md, computed, not sketched.

python docs/pictures/derivations.py              # into its own folder
python docs/pictures/derivations.py FOLDER
"""

import math

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from drawing import chosen_folder, draw
from parfocal import sigmoid_focal_loss
from parfocal.audit.oracle import focal_truth
from parfocal.audit.ulp import spacing

RED, ORANGE, BLUE, TEAL, BLACK = "#c1121f", "#b35c00", "#1d6fb8", "#0a7e8c", "#222222"
SATURATED = 24 * math.log(2)  # where p rounds to 1 in float32


def margins(low: float, high: float, count: int = 321) -> Tensor:
    """Spaced numbers of float32."""
    return torch.linspace(low, high, count)


def ulps(computed: Tensor, truth: Tensor) -> Tensor:
    """Errors in units in the last place of the true numbers."""
    return (computed.double() - truth).abs() / spacing(truth, computed.dtype)


def usual_factors(u: Tensor, gamma: float) -> dict[str, Tensor]:
    """What the chain rule multiplies, each computed in the dtype of u."""
    p = u.sigmoid()
    return {
        "gamma (1 - p)^(gamma - 1)": gamma * (1 - p) ** (gamma - 1),
        "p (1 - p)": p * (1 - p),
        "-log p": -p.log(),
    }


def true_gradient(u: Tensor, gamma: float) -> Tensor:
    """Its absolute value, from ball arithmetic."""
    return focal_truth(u.tolist(), target=1.0, gamma=gamma).gradient.hi.abs()


def gradients(u: Tensor, gamma: float) -> dict[str, Tensor]:
    """The gradient of the loss in float32, in three ways, without its sign."""
    leaf = u.clone().requires_grad_()
    p = leaf.sigmoid()
    (usual,) = torch.autograd.grad((-((1 - p) ** gamma) * p.log()).sum(), leaf)
    p, q, c = u.sigmoid(), (-u).sigmoid(), torch.nn.functional.softplus(-u)
    log_q = -torch.nn.functional.softplus(u)
    by_logarithm = (gamma * log_q).exp() * (gamma * p * c + q)
    (closed,) = torch.autograd.grad(
        sigmoid_focal_loss(leaf, torch.ones_like(u), None, gamma).sum(), leaf
    )
    return {
        "autograd of (1 - p)^gamma": usual.abs(),
        "exp(gamma log q)": by_logarithm,
        "closed form": closed.abs(),
    }


def region_complements(u: Tensor, pixels: int = 1000) -> dict[str, Tensor]:
    """1 - T of a region whose pixels all have the margin u, a third of them in the object.

    With alpha = beta = 1/2 and no smoothing: T is Dice's index. In float32, divided by the truth.
    """
    inside = pixels // 3
    outside = pixels - inside
    p, q = u.sigmoid(), (-u).sigmoid()
    hits, errors = inside * p, (inside * q + outside * q) / 2
    exact = (-u.double()).sigmoid()
    truth = pixels * exact / 2 / (inside * u.double().sigmoid() + pixels * exact / 2)
    return {
        "1 - TP / (TP + ...)": (1 - hits / (hits + errors)) / truth,
        "(FN + FP) / (2 TP + FN + FP)": errors / (hits + errors) / truth,
    }


def saturation(axis: Axes, words: str, height: float) -> None:
    """A line where p becomes 1."""
    axis.axvline(SATURATED, color=BLACK, lw=1, ls=":")
    axis.annotate(words, (SATURATED, height), (6, 0), textcoords="offset points", color=BLACK)


def factors_figure() -> Figure:
    """The three factors of the chain rule, and the gradient that they should give."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axis = figure.subplots()
    u = margins(0, 24)
    styles = (
        (RED, "-", 2),
        (ORANGE, "-", 4),
        (BLUE, "--", 2),
    )  # the last two soon lie on each other
    for (name, factor), (colour, dash, width) in zip(
        usual_factors(u, 0.5).items(), styles, strict=True
    ):
        there = factor.isfinite() & (factor > 0)
        axis.semilogy(u[there], factor[there], dash, color=colour, lw=width, label=name)
    axis.semilogy(u, true_gradient(u, 0.5), ":", color=BLACK, lw=2, label="true gradient")
    saturation(axis, "1 - p is 0:\ninfinity x 0 x 0", 1e1)
    axis.set(xlabel="margin u", title="gamma 0.5, float32", ylim=(1e-17, 1e5))
    axis.legend(frameon=False, loc="lower left")
    return figure


def constant_figure() -> Figure:
    """The weight of a sample with the paper's constant, as a multiple of the true one."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    u = margins(0, 24).double()
    q = (-u).sigmoid()
    for gamma, colour in ((0.1, RED), (0.5, ORANGE), (2.0, BLUE)):
        axis.semilogy(u, ((q + 1e-3) / q) ** gamma, color=colour, lw=2, label=f"gamma {gamma:g}")
    axis.set(
        xlabel="margin u",
        title="epsilon = 1e-3",
        ylabel="weight / true weight",
        ylim=(0.5, 1e8),
    )
    axis.legend(frameon=False, loc="upper left")
    return figure


def complement_figure() -> Figure:
    """The complement of a probability, subtracted and computed."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    u = margins(0, 24)
    truth = (-u.double()).sigmoid()
    ways = (("1 - sigmoid(u)", 1 - u.sigmoid(), RED), ("sigmoid(-u)", (-u).sigmoid(), TEAL))
    for name, q, colour in ways:
        axis.semilogy(u, ulps(q, truth).clamp(min=1e-2), color=colour, lw=1.6, label=name)
    saturation(axis, "nothing is left", 10)
    axis.set(xlabel="margin u", ylabel="error of q in ULP", title="float32")
    axis.legend(frameon=False, loc="upper left")
    return figure


def gradient_figure() -> Figure:
    """The error of the gradient at a large gamma, where a logarithm loses its digits."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axis = figure.subplots()
    u = margins(-2, 14, 361)
    truth = true_gradient(u, 5.0)
    colours = (RED, ORANGE, TEAL)
    for (name, found), colour in zip(gradients(u, 5.0).items(), colours, strict=True):
        axis.semilogy(u, ulps(found, truth).clamp(min=1e-2), color=colour, lw=1.2, label=name)
    axis.axhline(14, color=BLACK, lw=1, ls=":")
    axis.annotate("4 + 2 gamma", (-2, 14), (0, 4), textcoords="offset points", color=BLACK)
    axis.set(xlabel="margin u", ylabel="error in ULP", title="gradient at gamma 5, float32")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.85))
    return figure


def region_figure() -> Figure:
    """What is left of 1 - T where a segmentation is nearly right."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    u = margins(6, 20)
    for (name, share), colour in zip(region_complements(u).items(), (RED, TEAL), strict=True):
        axis.plot(u, share, color=colour, lw=1.8, label=name)
    axis.set(xlabel="margin u of every pixel", ylabel="1 - T / the true one", ylim=(-0.1, 2.5))
    axis.legend(frameon=False, loc="upper left")
    return figure


FIGURES = {
    "factors.svg": factors_figure,
    "constant.svg": constant_figure,
    "complement.svg": complement_figure,
    "closed-form.svg": gradient_figure,
    "regions.svg": region_figure,
}


if __name__ == "__main__":
    draw(FIGURES, chosen_folder())
