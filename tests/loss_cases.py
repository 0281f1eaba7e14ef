"""Every loss of the package, once: how it is called, what it means, and what it replaces.

A case feeds every generic test of `tests/losses/test_contract.py`. Its formula is the textbook's,
from probabilities, which is right in float64 at mild logits; its original is the public
implementation that it replaces, called so that both mean the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import parfocal

CLASSES = 3
SHAPES = {
    "binary": (4, 5),
    "classes": (6, CLASSES),
    "multilabel maps": (2, CLASSES, 4, 3),
    "class maps": (2, CLASSES, 4, 3),
}


class Case(NamedTuple):
    """A loss with one set of options.

    kind: the shape of its inputs, a key of SHAPES.
    targets: how targets of a shape are drawn.
    formula: the textbook's, of logits and targets; a loss a position, a region, or a scalar.
    original: the public implementation, of logits and targets, reduced or not like `formula`.
    per_position: whether an unreduced loss has an entry a position.
    options: which of weight, mask, normalizer, ignore_index and reduction it takes.
    """

    name: str
    loss: Callable[..., Tensor]
    kind: str
    targets: Callable[[tuple[int, ...], torch.Generator], Tensor]
    formula: Callable[[Tensor, Tensor], Tensor]
    original: Callable[[Tensor, Tensor], Tensor] | None = None
    options: frozenset[str] = frozenset()

    def draw(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Logits up to about 3, and targets."""
        generator = torch.Generator().manual_seed(seed)
        shape = SHAPES[self.kind]
        logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return logits, self.targets(shape, generator)

    def unreduced(self, *arguments: Any, **options: Any) -> Tensor:
        """The loss without its reduction, where it has one."""
        if "reduction" in self.options:
            options = {"reduction": "none", **options}
        return self.loss(*arguments, **options)


ELEMENTWISE = frozenset({"weight", "mask", "normalizer", "reduction"})
OF_CLASSES = frozenset({"class weight", "row mask", "normalizer", "reduction"})
OF_REGIONS = frozenset({"class weight", "mask", "reduction"})
OF_CLASS_REGIONS = frozenset({"class weight", "row mask", "ignore_index", "reduction"})


def hard(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """0 and 1."""
    return torch.randint(0, 2, shape, generator=generator).double()


def soft(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """0, 1, and between."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.where(drawn < 0.4, 0.0, torch.where(drawn > 0.9, 1.0, drawn))


def indices(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Class indices."""
    return torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)


def probabilities(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Class probabilities."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)


def one_hot(targets: Tensor) -> Tensor:
    """Indices (N, ...) as probabilities (N, C, ...)."""
    return F.one_hot(targets, CLASSES).movedim(-1, 1).double()


def p_t_of(x: Tensor, y: Tensor) -> Tensor:
    """The probability of what is true."""
    return y * x.sigmoid() + (1 - y) * (1 - x.sigmoid())


def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    """Of a binary target."""
    return -y * x.sigmoid().log() - (1 - y) * (1 - x.sigmoid()).log()


def focal(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """Lin et al., equation 4."""
    return (1 - p_t_of(x, y)) ** gamma * cross_entropy(x, y)


def softmax_focal(x: Tensor, y: Tensor, gamma: float) -> Tensor:
    """The sum over the classes of y_c FL_c."""
    p = x.softmax(1)
    return (y * -((1 - p) ** gamma) * p.log()).sum(1)


def varifocal(x: Tensor, q: Tensor) -> Tensor:
    """Zhang et al., equation 2, gamma 0.5."""
    return torch.where(q > 0, q * cross_entropy(x, q), 0.75 * focal(x, q, 0.5))


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """Law and Deng, equation 1, gamma 0.5."""
    p = x.sigmoid()
    away = -((1 - y) ** 4) * p**0.5 * (1 - p).log()
    return torch.where(y == 1, -((1 - p) ** 0.5) * p.log(), away)


def quality(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """Li et al., equation 4."""
    return (y - x.sigmoid()).abs() ** beta * cross_entropy(x, y)


def asymmetric(x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, margin: float) -> Tensor:
    """Ben-Baruch et al., equations 4 to 7."""
    p = x.sigmoid()
    p_m = (p - margin).clamp(min=0)
    negative = -(p_m**gamma_neg) * (1 - p_m).log()
    return y * -((1 - p) ** gamma_pos) * p.log() + (1 - y) * negative


def poly(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Leng et al., section 4, gamma 0.5, epsilon_1 1."""
    alpha_t = alpha * y + (1 - alpha) * (1 - y)
    return alpha_t * (focal(x, y, 0.5) + (1 - p_t_of(x, y)) ** 1.5)


def tversky(
    p: Tensor, y: Tensor, exponent: float | Tensor, dims: tuple[int, ...], **options: Any
) -> Tensor:
    """(1 - T) ** exponent."""
    alpha, beta, smooth = (options.get(n, d) for n, d in (("a", 0.7), ("b", 0.3), ("s", 1.0)))
    tp = (p * y).sum(dims)
    index = (tp + smooth) / (
        tp + alpha * ((1 - p) * y).sum(dims) + beta * (p * (1 - y)).sum(dims) + smooth
    )
    return (1 - index) ** exponent


def unified(p: Tensor, y: Tensor, background: int, asymmetric: bool) -> Tensor:
    """Yeung et al., delta 0.6, gamma 0.5, balance 0.5; classes along dim 1, maps after it."""

    def along_classes(of_background: float, of_others: float) -> Tensor:
        values = torch.full((p.shape[1],), of_others, dtype=torch.float64)
        values[background] = of_background
        return values

    def over_maps(values: Tensor) -> Tensor:
        return values.view(-1, *[1] * (p.ndim - 2))

    delta = over_maps(along_classes(0.4, 0.6))
    focus = over_maps(along_classes(0.5, 0.0 if asymmetric else 0.5))
    ce = -(delta * y * (1 - p) ** focus * p.log()).sum(1).mean()
    exponent = along_classes(1.0 if asymmetric else 0.5, 0.5)
    dims = tuple(range(2, p.ndim))
    return 0.5 * tversky(p, y, exponent, dims, a=0.6, b=0.4).mean() + 0.5 * ce


def sigmoid_unified(x: Tensor, y: Tensor, asymmetric: bool) -> Tensor:
    """Each class a problem of two, background first."""
    two_p, two_y = (torch.stack([1 - z, z], 2).flatten(0, 1) for z in (x.sigmoid(), y))
    return unified(two_p, two_y, 0, asymmetric)


def torchvision_loss(x: Tensor, y: Tensor) -> Tensor:
    """alpha 0.25, gamma 0.5."""
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(x, y, 0.25, 0.5)


def kornia_softmax(x: Tensor, y: Tensor) -> Tensor:
    """Unreduced, a class: summed here."""
    from kornia.losses import focal_loss

    return focal_loss(x, y, alpha=None, gamma=0.5).sum(1)


def monai_softmax(x: Tensor, y: Tensor) -> Tensor:
    """Unreduced, a class, of one-hot targets: summed here. It computes in float32."""
    from monai.losses import FocalLoss

    loss = FocalLoss(gamma=0.5, use_softmax=True, reduction="none")
    return loss(x, one_hot(y)).sum(1)


def monai_tversky(x: Tensor, y: Tensor) -> Tensor:
    """alpha is that of false positives there."""
    from monai.losses import TverskyLoss

    loss = TverskyLoss(
        sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0, reduction="none"
    )
    return loss(x, y)


def monai_softmax_tversky(x: Tensor, y: Tensor) -> Tensor:
    """The same, of one-hot targets."""
    from monai.losses import TverskyLoss

    loss = TverskyLoss(
        softmax=True,
        to_onehot_y=True,
        alpha=0.3,
        beta=0.7,
        smooth_nr=1.0,
        smooth_dr=1.0,
        reduction="none",
    )
    return loss(x, y.unsqueeze(1))


LOSSES = [
    Case(
        "sigmoid_focal_loss",
        partial(parfocal.sigmoid_focal_loss, alpha=0.25, gamma=0.5),
        "binary",
        soft,
        lambda x, y: (0.25 * y + 0.75 * (1 - y)) * focal(x, y, 0.5),
        torchvision_loss,
        ELEMENTWISE,
    ),
    Case(
        "softmax_focal_loss, indices",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "classes",
        indices,
        lambda x, y: softmax_focal(x, one_hot(y), 0.5),
        kornia_softmax,
        OF_CLASSES | {"ignore_index"},
    ),
    Case(
        "softmax_focal_loss, maps",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "class maps",
        indices,
        lambda x, y: softmax_focal(x, one_hot(y), 0.5),
        monai_softmax,
        OF_CLASSES | {"ignore_index"},
    ),
    Case(
        "softmax_focal_loss, probabilities",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "classes",
        probabilities,
        lambda x, y: softmax_focal(x, y, 0.5),
        None,
        OF_CLASSES,
    ),
    Case(
        "varifocal_loss",
        partial(parfocal.varifocal_loss, gamma=0.5),
        "binary",
        soft,
        varifocal,
        None,
        ELEMENTWISE,
    ),
    Case(
        "gaussian_focal_loss",
        partial(parfocal.gaussian_focal_loss, gamma=0.5),
        "binary",
        soft,
        gaussian,
        None,
        ELEMENTWISE,
    ),
    Case(
        "quality_focal_loss, soft",
        partial(parfocal.quality_focal_loss, beta=1.5),
        "binary",
        soft,
        lambda x, y: quality(x, y, 1.5),
        None,
        ELEMENTWISE,
    ),
    Case(
        "quality_focal_loss, hard",
        partial(parfocal.quality_focal_loss, beta=0.5),
        "binary",
        lambda shape, generator: hard(shape, generator).long(),
        lambda x, y: quality(x, y, 0.5),
        None,
        ELEMENTWISE,
    ),
    Case(
        "asymmetric_loss, margin",
        partial(parfocal.asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
        "binary",
        soft,
        lambda x, y: asymmetric(x, y, 1.5, 0.5, 0.05),
        None,
        ELEMENTWISE,
    ),
    Case(
        "asymmetric_loss, no margin",
        partial(parfocal.asymmetric_loss, gamma_neg=0.5, gamma_pos=0.1, margin=0.0),
        "binary",
        hard,
        lambda x, y: asymmetric(x, y, 0.5, 0.1, 0.0),
        None,
        ELEMENTWISE,
    ),
    Case(
        "poly_focal_loss",
        partial(parfocal.poly_focal_loss, alpha=0.25, gamma=0.5),
        "binary",
        soft,
        lambda x, y: poly(x, y, 0.25),
        None,
        ELEMENTWISE,
    ),
    Case(
        "sigmoid_tversky_loss",
        parfocal.sigmoid_tversky_loss,
        "multilabel maps",
        hard,
        lambda x, y: tversky(x.sigmoid(), y, 1.0, (2, 3)),
        monai_tversky,
        OF_REGIONS,
    ),
    Case(
        "softmax_tversky_loss",
        parfocal.softmax_tversky_loss,
        "class maps",
        indices,
        lambda x, y: tversky(x.softmax(1), one_hot(y), 1.0, (2, 3)),
        monai_softmax_tversky,
        OF_CLASS_REGIONS,
    ),
    Case(
        "sigmoid_focal_tversky_loss",
        parfocal.sigmoid_focal_tversky_loss,
        "multilabel maps",
        soft,
        lambda x, y: tversky(x.sigmoid(), y, 0.75, (2, 3)),
        None,
        OF_REGIONS,
    ),
    Case(
        "softmax_focal_tversky_loss, batch",
        partial(parfocal.softmax_focal_tversky_loss, per_image=False),
        "class maps",
        indices,
        lambda x, y: tversky(x.softmax(1), one_hot(y), 0.75, (0, 2, 3)),
        None,
        OF_CLASS_REGIONS,
    ),
    Case(
        "softmax_unified_focal_loss",
        parfocal.softmax_unified_focal_loss,
        "class maps",
        indices,
        lambda x, y: unified(x.softmax(1), one_hot(y), 0, asymmetric=False),
        None,
        frozenset({"row mask", "ignore_index"}),
    ),
    Case(
        "softmax_asymmetric_unified_focal_loss",
        partial(parfocal.softmax_asymmetric_unified_focal_loss, background=2),
        "class maps",
        probabilities,
        lambda x, y: unified(x.softmax(1), y, 2, asymmetric=True),
        None,
        frozenset({"row mask"}),
    ),
    Case(
        "sigmoid_unified_focal_loss",
        parfocal.sigmoid_unified_focal_loss,
        "multilabel maps",
        hard,
        lambda x, y: sigmoid_unified(x, y, asymmetric=False),
        None,
        frozenset({"mask"}),
    ),
    Case(
        "sigmoid_asymmetric_unified_focal_loss",
        parfocal.sigmoid_asymmetric_unified_focal_loss,
        "multilabel maps",
        soft,
        lambda x, y: sigmoid_unified(x, y, asymmetric=True),
        None,
        frozenset({"mask"}),
    ),
]
