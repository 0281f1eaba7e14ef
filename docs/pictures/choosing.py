"""The pictures of docs/choosing.md, drawn from the losses themselves.

python docs/pictures/choosing.py              # into its own folder
python docs/pictures/choosing.py FOLDER
"""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from drawing import chosen_folder, draw
from parfocal import gradient_scale, sigmoid_focal_loss

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
COLOURS = ("#444444", "#0a7e8c", "#4c956c", "#e09f3e", "#c1121f")


def margins() -> Tensor:
    """From a wrong answer to a sure one."""
    return torch.linspace(-6, 6, 241, dtype=torch.float64)


def loss_and_gradient(gamma: float) -> tuple[Tensor, Tensor]:
    """At each margin; the gradient without its sign."""
    u = margins().requires_grad_()
    loss = sigmoid_focal_loss(u, torch.ones_like(u), None, gamma)
    loss.sum().backward()
    assert u.grad is not None
    return loss.detach(), u.grad.abs()


def scales(gamma: float) -> Tensor:
    """The gradient at each margin as a multiple of the cross-entropy's."""
    return torch.stack([gradient_scale(gamma, u) for u in margins()])


def truths(gamma: float) -> Tensor:
    """The probability t of the event at which each margin has the smallest expected loss.

    There t L'(u) = (1 - t) L'(-u).
    """
    _, gradient = loss_and_gradient(gamma)
    other = gradient.flip(0)
    return other / (gradient + other)


def lines(axis: Axes, places: list[Tensor], curves: list[Tensor]) -> None:
    """One a gamma."""
    for gamma, colour, x, y in zip(GAMMAS, COLOURS, places, curves, strict=True):
        style = "--" if gamma == 0 else "-"
        axis.plot(x.numpy(), y.numpy(), style, color=colour, lw=1.8, label=f"gamma {gamma:g}")


def loss_figure() -> Figure:
    """Loss and gradient against the margin."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, gradients = map(list, zip(*map(loss_and_gradient, GAMMAS), strict=True))
    same = [margins()] * len(GAMMAS)
    lines(left, same, losses)
    lines(right, same, gradients)
    left.set(title="loss", xlabel="margin (logit of p_t)", ylim=(0, 6.2))
    right.set(title="|gradient|", xlabel="margin (logit of p_t)")
    left.legend(frameon=False)
    return figure


def scale_figure() -> Figure:
    """The gradient beside that of the cross-entropy."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    lines(axis, [margins()] * len(GAMMAS), [scales(gamma) for gamma in GAMMAS])
    axis.set(
        xlabel="margin (logit of p_t)", ylabel="times the cross-entropy's gradient", ylim=(0, 1.9)
    )
    axis.legend(frameon=False)
    return figure


def calibration_figure() -> Figure:
    """What the loss would have a model answer, beside what is true."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axis = figure.subplots()
    lines(axis, [*map(truths, GAMMAS)], [margins().sigmoid()] * len(GAMMAS))
    axis.set(xlabel="true probability", ylabel="probability of the smallest loss", aspect="equal")
    axis.legend(frameon=False)
    return figure


FIGURES = {
    "gamma.svg": loss_figure,
    "scale.svg": scale_figure,
    "calibration.svg": calibration_figure,
}


if __name__ == "__main__":
    draw(FIGURES, chosen_folder())
