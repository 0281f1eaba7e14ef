"""The family's losses of JAX arrays, as subjects of the ledger: at the points of PyTorch's."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from family import Subject
from torch import Tensor

import parfocal.jax as losses

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def of_maps(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The first class of regions, of rows of pixels."""

    def losses(x: Any, y: Any, gamma: Any) -> Any:
        return loss(*_maps(x, y), gamma=1 / gamma, axis=1)[:, 0]

    return losses


def of_each(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A unified loss, whose mean over positions is that of all, of each row by itself."""

    def losses(x: Any, y: Any, gamma: Any) -> Any:
        def of_row(x: Any, y: Any) -> Any:
            return loss(*_maps(x[None], y[None]), delta=0.5, gamma=gamma, axis=1).mean()

        return jax.vmap(of_row)(x, y)

    return losses


def _maps(x: Any, y: Any) -> tuple[Any, Any]:
    """Rows of six pixels as maps of one class, those of three times four as maps of three."""
    return (x[:, None], y[:, None]) if x.shape[1] == 6 else (x.reshape(len(x), 3, -1), y)


# By the name of the subject: of logits, labels and the exponent, one loss a position.
LOSSES: dict[str, Callable[..., Any]] = {
    "varifocal_loss, negatives and full quality": losses.varifocal_loss,
    "varifocal_loss, positives": losses.varifocal_loss,
    "gaussian_focal_loss, exact penalty": losses.gaussian_focal_loss,
    "gaussian_focal_loss": losses.gaussian_focal_loss,
    "quality_focal_loss, hard": lambda x, y, gamma: losses.quality_focal_loss(
        x, y.astype(int), beta=gamma
    ),
    "quality_focal_loss, soft": lambda x, y, gamma: losses.quality_focal_loss(x, y, beta=gamma),
    "asymmetric_loss, no margin": lambda x, y, gamma: losses.asymmetric_loss(
        x, y, gamma_neg=gamma, gamma_pos=0.3, margin=0.0
    ),
    "asymmetric_loss, margin": lambda x, y, gamma: losses.asymmetric_loss(
        x, y, gamma_neg=gamma, margin=2.0**-4
    ),
    "poly_focal_loss, epsilon_1 1.0": losses.poly_focal_loss,
    "poly_focal_loss, epsilon_1 -0.5": partial(losses.poly_focal_loss, epsilon_1=-0.5),
    "likelihood_focal_loss": lambda x, y, gamma: losses.likelihood_focal_loss(x, gamma=gamma),
    **{
        f"softmax_asymmetric_loss, {c} classes": lambda x, y, gamma: losses.softmax_asymmetric_loss(
            x, y, gamma_neg=gamma, gamma_pos=0.5, label_smoothing=0.125
        )
        for c in (3, 21)
    },
    "softmax_focal_loss, probabilities": losses.softmax_focal_loss,
    **{f"softmax_focal_loss, {c} classes": losses.softmax_focal_loss for c in (2, 3, 21, 40)},
    "sigmoid_focal_tversky_loss": of_maps(losses.sigmoid_focal_tversky_loss),
    "softmax_focal_tversky_loss": of_maps(losses.softmax_focal_tversky_loss),
    "sigmoid_unified_focal_loss": of_each(losses.sigmoid_unified_focal_loss),
    "sigmoid_asymmetric_unified_focal_loss": of_each(losses.sigmoid_asymmetric_unified_focal_loss),
    "softmax_unified_focal_loss": of_each(losses.softmax_unified_focal_loss),
    "softmax_asymmetric_unified_focal_loss": of_each(losses.softmax_asymmetric_unified_focal_loss),
}


def subjects(dtype: torch.dtype, family: Iterable[Subject]) -> Iterator[Subject]:
    """Those of the family that have a partner, with it in their place."""
    if dtype not in DTYPES:
        return
    for subject in family:
        if subject.name in LOSSES:
            name = f"{subject.name} (jax)"
            yield subject._replace(name=name, loss=partial(of_torch, subject.name), flushes=True)


def of_torch(name: str, x: Tensor, y: Tensor, exponent: float) -> Tensor:
    """A loss of JAX as one of PyTorch, with its gradient."""
    wide = "float64" if x.dtype == torch.float64 else "float32"
    with jax.enable_x64(x.dtype == torch.float64):
        arrays = _array(x.detach(), wide), _array(y, wide), jnp.asarray(exponent, wide)
        value, slope = (
            torch.tensor(jax.device_get(result.astype(wide))).to(x.dtype)
            for result in _value_and_slope(name, *arrays)
        )
    value = value[:, 0] if value.ndim == 2 else value
    return _Given.apply(x, value, slope)


@partial(jax.jit, static_argnums=0)
def _value_and_slope(name: str, x: Any, y: Any, exponent: Any) -> tuple[Any, Any]:
    def loss(x: Any) -> Any:
        return LOSSES[name](x, y, gamma=exponent)

    return loss(x), jax.grad(lambda x: loss(x).sum())(x)


def _array(tensor: Tensor, wide: str) -> Any:
    """An array of the same numbers; JAX has no other way to 16 bits."""
    if not tensor.is_floating_point():
        return jnp.asarray(tensor.numpy(), jnp.int32)
    return jnp.asarray(tensor.to(getattr(torch, wide)).numpy()).astype(
        str(tensor.dtype).removeprefix("torch.")
    )


class _Given(torch.autograd.Function):
    """A value with a gradient that was computed elsewhere, of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope
        return value

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slope, None, None
