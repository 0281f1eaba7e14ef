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

DTYPES = (torch.float32, torch.bfloat16)

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
    "softmax_focal_loss, probabilities": losses.softmax_focal_loss,
    **{f"softmax_focal_loss, {c} classes": losses.softmax_focal_loss for c in (2, 3, 21, 40)},
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
    value, slope = (
        torch.tensor(jax.device_get(result.astype(jnp.float32))).to(x.dtype)
        for result in _value_and_slope(name, _array(x.detach()), _array(y), jnp.float32(exponent))
    )
    value = value[:, 0] if value.ndim == 2 else value
    return _Given.apply(x, value, slope)


@partial(jax.jit, static_argnums=0)
def _value_and_slope(name: str, x: Any, y: Any, exponent: Any) -> tuple[Any, Any]:
    def loss(x: Any) -> Any:
        return LOSSES[name](x, y, gamma=exponent)

    return loss(x), jax.grad(lambda x: loss(x).sum())(x)


def _array(tensor: Tensor) -> Any:
    """An array of the same numbers; JAX has no other way to 16 bits."""
    if not tensor.is_floating_point():
        return jnp.asarray(tensor.numpy(), jnp.int32)
    return jnp.asarray(tensor.float().numpy()).astype(str(tensor.dtype).removeprefix("torch."))


class _Given(torch.autograd.Function):
    """A value with a gradient that was computed elsewhere, of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope
        return value

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slope, None, None
