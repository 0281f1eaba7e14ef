"""Every loss of the package, once: how it is called, what it means, and what it replaces.

A case feeds every generic test of `tests/losses/test_contract.py`. Its formula is the textbook's,
from probabilities, which is right in float64 at mild logits; its original is the public
implementation that it replaces, called so that both mean the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import original_losses as original
import parfocal
import parfocal.jax as parfocal_jax
import textbook_losses as textbook
from parfocal.numerics import replicate_beside

CLASSES = 3
SHAPES = {
    "binary": (4, 5),
    "classes": (6, CLASSES),
    "multilabel maps": (2, CLASSES, 4, 3),
    "class maps": (2, CLASSES, 4, 3),
    "likelihoods": (4, 5),
}


class Case(NamedTuple):
    """A loss with one set of options.

    kind: the shape of its inputs, a key of SHAPES. Likelihoods are >= 0, and have no targets: what
        is drawn of these isn't looked at.
    targets: how targets of a shape are drawn.
    formula: the textbook's, of logits and targets; a loss a position, a region, or a scalar.
    original: the public implementation, of logits and targets, reduced or not like `formula`.
    options: which of weight, mask, normalizer, ignore_index and reduction it takes.
    tolerance: how closely the original can agree.
    jax: the same of JAX arrays, without its reduction.
    """

    name: str
    loss: Callable[..., Tensor]
    kind: str
    targets: Callable[[tuple[int, ...], torch.Generator], Tensor]
    formula: Callable[[Tensor, Tensor], Tensor]
    original: Callable[[Tensor, Tensor], Tensor] | None = None
    options: frozenset[str] = frozenset()
    tolerance: float = 1e-12
    jax: Callable[..., Any] | None = None

    def draw(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Logits up to about 3, and targets."""
        generator = torch.Generator().manual_seed(seed)
        shape = SHAPES[self.kind]
        logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        logits = logits.abs() if self.kind == "likelihoods" else logits
        return logits, self.targets(shape, generator)

    def unreduced(self, *arguments: Any, **options: Any) -> Tensor:
        """The loss without its reduction, where it has one."""
        if "reduction" in self.options:
            options = {"reduction": "none", **options}
        return self.loss(*arguments, **options)


def way_of(case: Case) -> tuple[str, bool, bool]:
    """Those of one way have their arithmetic in common."""
    return case.kind, "unified" in case.name, "tversky" in case.name


HELPERS = {
    *("alpha_from_counts", "gradient_scale", "init_prior_bias_", "label_counts"),
    *("positive_count", "target_margins"),
}
"""What stands beside the losses."""

FUNCTIONS = [name for name in parfocal.__all__ if name.islower() and name not in HELPERS]
"""The names of all losses, and of the cost of a matcher."""

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


def indices_or_none(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Class indices, C where there is no class."""
    return torch.randint(0, shape[1] + 1, shape[:1] + shape[2:], generator=generator)


def one_vs_rest(index: Tensor) -> Tensor:
    """A target of each class; at C all are 0."""
    return textbook.one_hot(index, CLASSES + 1)[:, :CLASSES]


def probabilities(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Class probabilities."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)


def of_nll(loss: Callable[..., Any], nll: Any, _: Any, **options: Any) -> Any:
    """A loss without targets, called as one with."""
    return loss(nll, **options)


def of_identity(x: Tensor, y: Tensor, weight: Tensor | None = None, **options: Any) -> Tensor:
    """The loss of a linear map that gives its input."""
    classes = x.shape[-1] if isinstance(x, Tensor) and not x.is_nested else CLASSES
    device = x.device if isinstance(x, Tensor) else None
    dtype = x.dtype if isinstance(x, Tensor) else None
    same = torch.eye(classes, device=device).to(dtype)
    same = replicate_beside(x, same) if isinstance(x, Tensor) else same
    return parfocal.linear_softmax_focal_loss(x, same, y, class_weight=weight, **options)


LOSSES = [
    Case(
        "sigmoid_focal_loss",
        partial(parfocal.sigmoid_focal_loss, alpha=0.25, gamma=0.5),
        "binary",
        soft,
        lambda x, y: (0.25 * y + 0.75 * (1 - y)) * textbook.focal(x, y, 0.5),
        original.torchvision_loss,
        ELEMENTWISE,
        jax=partial(parfocal_jax.sigmoid_focal_loss, alpha=0.25, gamma=0.5),
    ),
    Case(
        "sigmoid_focal_loss, class indices",
        partial(parfocal.sigmoid_focal_loss, alpha=0.25, gamma=0.5),
        "classes",
        indices_or_none,
        lambda x, y: (0.75 - 0.5 * one_vs_rest(y)) * textbook.focal(x, one_vs_rest(y), 0.5),
        lambda x, y: original.torchvision_loss(x, one_vs_rest(y)),
        ELEMENTWISE,
    ),
    Case(
        "softmax_focal_loss, indices",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "classes",
        indices,
        lambda x, y: textbook.softmax_focal(x, textbook.one_hot(y), 0.5),
        original.kornia_softmax,
        OF_CLASSES | {"ignore_index"},
        jax=partial(parfocal_jax.softmax_focal_loss, gamma=0.5),
    ),
    Case(
        "softmax_focal_loss, maps",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "class maps",
        indices,
        lambda x, y: textbook.softmax_focal(x, textbook.one_hot(y), 0.5),
        original.monai_softmax,
        OF_CLASSES | {"ignore_index"},
        tolerance=1e-6,  # it computes in float32
        jax=partial(parfocal_jax.softmax_focal_loss, gamma=0.5, axis=1),
    ),
    Case(
        "softmax_focal_loss, probabilities",
        partial(parfocal.softmax_focal_loss, gamma=0.5),
        "classes",
        probabilities,
        lambda x, y: textbook.softmax_focal(x, y, 0.5),
        None,
        OF_CLASSES,
        jax=partial(parfocal_jax.softmax_focal_loss, gamma=0.5, axis=1),
    ),
    Case(
        "linear_softmax_focal_loss",
        partial(of_identity, gamma=0.5),
        "classes",
        indices,
        lambda x, y: textbook.softmax_focal(x, textbook.one_hot(y), 0.5),
        original.kornia_softmax,
        OF_CLASSES | {"ignore_index"},
    ),
    Case(
        "varifocal_loss",
        partial(parfocal.varifocal_loss, gamma=0.5),
        "binary",
        soft,
        textbook.varifocal,
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.varifocal_loss, gamma=0.5),
    ),
    Case(
        "gaussian_focal_loss",
        partial(parfocal.gaussian_focal_loss, gamma=0.5),
        "binary",
        soft,
        textbook.gaussian,
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.gaussian_focal_loss, gamma=0.5),
    ),
    Case(
        "quality_focal_loss, soft",
        partial(parfocal.quality_focal_loss, beta=1.5),
        "binary",
        soft,
        lambda x, y: textbook.quality(x, y, 1.5),
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.quality_focal_loss, beta=1.5),
    ),
    Case(
        "quality_focal_loss, hard",
        partial(parfocal.quality_focal_loss, beta=0.5),
        "binary",
        lambda shape, generator: hard(shape, generator).long(),
        lambda x, y: textbook.quality(x, y, 0.5),
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.quality_focal_loss, beta=0.5),
    ),
    Case(
        "asymmetric_loss, margin",
        partial(parfocal.asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
        "binary",
        soft,
        lambda x, y: textbook.asymmetric(x, y, 1.5, 0.5, 0.05),
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
    ),
    Case(
        "asymmetric_loss, no margin",
        partial(parfocal.asymmetric_loss, gamma_neg=0.5, gamma_pos=0.1, margin=0.0),
        "binary",
        hard,
        lambda x, y: textbook.asymmetric(x, y, 0.5, 0.1, 0.0),
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.asymmetric_loss, gamma_neg=0.5, gamma_pos=0.1, margin=0.0),
    ),
    Case(
        "poly_focal_loss",
        partial(parfocal.poly_focal_loss, alpha=0.25, gamma=0.5),
        "binary",
        soft,
        lambda x, y: textbook.poly(x, y, 0.25),
        None,
        ELEMENTWISE,
        jax=partial(parfocal_jax.poly_focal_loss, alpha=0.25, gamma=0.5),
    ),
    Case(
        "asymmetric_loss, class indices of maps",
        partial(parfocal.asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
        "multilabel maps",
        indices_or_none,
        lambda x, y: textbook.asymmetric(x, one_vs_rest(y), 1.5, 0.5, 0.05),
        None,
        ELEMENTWISE,
    ),
    Case(
        "poly_focal_loss, class indices of maps",
        partial(parfocal.poly_focal_loss, alpha=0.25, gamma=0.5),
        "multilabel maps",
        indices_or_none,
        lambda x, y: textbook.poly(x, one_vs_rest(y), 0.25),
        None,
        ELEMENTWISE,
    ),
    Case(
        "likelihood_focal_loss",
        partial(of_nll, parfocal.likelihood_focal_loss, gamma=0.5),
        "likelihoods",
        hard,
        lambda nll, _: textbook.likelihood(nll, 0.5),
        None,
        ELEMENTWISE,
        jax=partial(of_nll, parfocal_jax.likelihood_focal_loss, gamma=0.5),
    ),
    Case(
        "softmax_asymmetric_loss",
        partial(parfocal.softmax_asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
        "classes",
        indices,
        lambda x, y: textbook.softmax_asymmetric(x, textbook.one_hot(y), 1.5, 0.5, 0.1),
        original.timm_single_label,
        OF_CLASSES | {"ignore_index"},
        jax=partial(parfocal_jax.softmax_asymmetric_loss, gamma_neg=1.5, gamma_pos=0.5),
    ),
    Case(
        "softmax_asymmetric_loss, maps",
        partial(parfocal.softmax_asymmetric_loss, gamma_neg=0.5, label_smoothing=0.3),
        "class maps",
        indices,
        lambda x, y: textbook.softmax_asymmetric(x, textbook.one_hot(y), 0.5, 0.0, 0.3),
        None,
        OF_CLASSES | {"ignore_index"},
        jax=partial(
            parfocal_jax.softmax_asymmetric_loss, gamma_neg=0.5, label_smoothing=0.3, axis=1
        ),
    ),
    Case(
        "sigmoid_tversky_loss",
        parfocal.sigmoid_tversky_loss,
        "multilabel maps",
        hard,
        lambda x, y: textbook.tversky(x.sigmoid(), y, 1.0, (2, 3)),
        original.monai_tversky,
        OF_REGIONS,
        jax=partial(parfocal_jax.sigmoid_tversky_loss, axis=1),
    ),
    Case(
        "softmax_tversky_loss",
        parfocal.softmax_tversky_loss,
        "class maps",
        indices,
        lambda x, y: textbook.tversky(x.softmax(1), textbook.one_hot(y), 1.0, (2, 3)),
        original.monai_softmax_tversky,
        OF_CLASS_REGIONS,
        jax=partial(parfocal_jax.softmax_tversky_loss, axis=1),
    ),
    Case(
        "sigmoid_focal_tversky_loss",
        parfocal.sigmoid_focal_tversky_loss,
        "multilabel maps",
        soft,
        lambda x, y: textbook.tversky(x.sigmoid(), y, 0.75, (2, 3)),
        None,
        OF_REGIONS,
        jax=partial(parfocal_jax.sigmoid_focal_tversky_loss, axis=1),
    ),
    Case(
        "softmax_focal_tversky_loss, batch",
        partial(parfocal.softmax_focal_tversky_loss, per_image=False),
        "class maps",
        indices,
        lambda x, y: textbook.tversky(x.softmax(1), textbook.one_hot(y), 0.75, (0, 2, 3)),
        None,
        OF_CLASS_REGIONS,
        jax=partial(parfocal_jax.softmax_focal_tversky_loss, axis=1, per_image=False),
    ),
    Case(
        "softmax_unified_focal_loss",
        parfocal.softmax_unified_focal_loss,
        "class maps",
        indices,
        lambda x, y: textbook.unified(x.softmax(1), textbook.one_hot(y), 0, asymmetric=False),
        None,
        frozenset({"row mask", "ignore_index", "weight of classes", "reduction"}),
        jax=partial(parfocal_jax.softmax_unified_focal_loss, axis=1),
    ),
    Case(
        "softmax_asymmetric_unified_focal_loss",
        partial(parfocal.softmax_asymmetric_unified_focal_loss, background=2),
        "class maps",
        probabilities,
        lambda x, y: textbook.unified(x.softmax(1), y, 2, asymmetric=True),
        None,
        frozenset({"row mask", "weight of classes", "reduction"}),
        jax=partial(parfocal_jax.softmax_asymmetric_unified_focal_loss, background=2, axis=1),
    ),
    Case(
        "sigmoid_unified_focal_loss",
        parfocal.sigmoid_unified_focal_loss,
        "multilabel maps",
        hard,
        lambda x, y: textbook.sigmoid_unified(x, y, asymmetric=False),
        None,
        frozenset({"mask", "weight of classes", "reduction"}),
        jax=partial(parfocal_jax.sigmoid_unified_focal_loss, axis=1),
    ),
    Case(
        "sigmoid_asymmetric_unified_focal_loss",
        parfocal.sigmoid_asymmetric_unified_focal_loss,
        "multilabel maps",
        soft,
        lambda x, y: textbook.sigmoid_unified(x, y, asymmetric=True),
        None,
        frozenset({"mask", "weight of classes", "reduction"}),
        jax=partial(parfocal_jax.sigmoid_asymmetric_unified_focal_loss, axis=1),
    ),
]


def batch_of(name: str) -> tuple[Tensor, ...]:
    """A call of a loss of this name, in float32: logits and targets, and what else it needs."""
    if name == "focal_matching_cost":
        return torch.linspace(-3, 3, 8).view(4, 2), torch.tensor([0, 1, 1])
    case = next(case for case in LOSSES if case.name.partition(",")[0] == name)
    inputs, targets = case.draw(dtype=torch.float32)
    if name == "linear_softmax_focal_loss":
        return inputs, torch.eye(CLASSES), targets
    return (inputs,) if case.kind == "likelihoods" else (inputs, targets)
