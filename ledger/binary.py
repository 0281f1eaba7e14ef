"""The errors of the binary loss, its derivatives and its JAX version against the oracle.

A line is a quantity, a dtype and a gamma. The 16-bit dtypes are measured at all of
their finite logits, float32 and float64 at logits spaced over the representable numbers and at
each bound of a branch or of underflow with its neighbours; always for both hard targets. "soft"
cells are at the targets of SOFT_TARGETS.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from optax.losses import sigmoid_focal_loss as optax_loss
from record import Line
from torch import Tensor

import parfocal.jax as parfocal_jax
from parfocal import sigmoid_focal_loss
from parfocal.audit.oracle import FocalTruth, Truth, focal_truth
from parfocal.floats import every_finite, neighbourhood, representable
from parfocal.numerics import BRANCH_BOUNDS
from scan import Worst, worst_error

LOSS = "sigmoid_focal_loss"
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
GAMMAS = ("0", "0.001", "0.1", "0.5", "1-", "1", "1+", "1.5", "2", "5")
SOFT_TARGETS = (1e-6, 0.3, 0.5, 0.999)
SOFT_GAMMAS = ("0", "0.1", "1", "2")

# Logits of each part of a grid; with fewer, not all of the 16-bit ones are measured.
COUNT = 3000

# Quantities whose terms cancel are measured against the sum of their absolute values.
OF_SCALE = {"curvature", "soft curvature", "soft gradient", "soft target_gradient"}


# The gradient as torch.func, torch.compile and create_graph form it, by another binding.
COMPOSITION = " (composition)"

# The gradient that a sum makes in its own forward pass.
SUMMED = " (summed)"

# The same of `parfocal.jax`, and of optax, whose errors are recorded and not bounded. XLA takes
# subnormal numbers for 0, terms too, so that results are held to the truth from some binades above.
JAX = " (jax)"
OPTAX = " (optax)"
_FLUSHED = 16.0
LOSSES_OF_JAX = {JAX: parfocal_jax.sigmoid_focal_loss, OPTAX: optax_loss}

# Up to there float32 has a form of its own for hard targets.
NEAR = 80.0


def gamma_of(name: str, dtype: torch.dtype) -> float:
    """The number that a name in the ledger stands for, in the dtype of the computation."""
    computation = torch.float64 if dtype == torch.float64 else torch.float32
    one = torch.ones((), dtype=computation)
    if name in ("1-", "1+"):
        return torch.nextafter(one, one * (0 if name == "1-" else 2)).item()
    return torch.tensor(float(name), dtype=computation).item()


def bound(quantity: str, dtype: torch.dtype, gamma_name: str) -> float:
    """The error that is allowed, in ULP; for a second derivative half as much again."""
    if OPTAX in quantity:
        return math.inf
    if JAX in quantity and "gamma_gradient" in quantity and dtype.itemsize > 2:
        # XLA's log1p is less accurate, at soft targets in float64 by far.
        return 256.0 if "soft" in quantity else 5 + 2 * gamma_of(gamma_name, dtype)
    if dtype.itemsize == 2:
        return 1.0
    return (4 + 2 * gamma_of(gamma_name, dtype)) * (1.5 if "curvature" in quantity else 1.0)


def bound_below(quantity: str, gamma_name: str) -> float:
    """The error that is allowed below the normal numbers, in smallest subnormals.

    The closed forms round exp(-a), a product and the result, half a unit each. A derivative of
    the composition multiplies rounded ones by gamma, and the second one by 3 gamma, at most.
    """
    if JAX in quantity or OPTAX in quantity:
        return math.inf
    if "curvature" in quantity or "composition" in quantity:
        return 1.5 + 3 * gamma_of(gamma_name, torch.float64)
    return 1.5


def grid(dtype: torch.dtype, count: int) -> Tensor:
    """The logits of a dtype, symmetric about 0; of 16 bits all, unless fewer are wanted."""
    if dtype.itemsize == 2:
        numbers = every_finite(dtype)
        return numbers if count >= COUNT else _thinned(numbers, len(numbers) // (2 * count))
    info = torch.finfo(dtype)
    smallest_subnormal = info.tiny * info.eps
    bounds = [
        *BRANCH_BOUNDS,
        -math.log(info.tiny),
        -math.log(smallest_subnormal),
        -math.log(info.eps),
        1.0,
        info.tiny,
        smallest_subnormal,
    ]
    inner = 1.05 * -math.log(smallest_subnormal)
    parts = [
        representable(dtype, count),
        representable(dtype, 3 * count, smallest=2.0**-10, largest=inner),
        neighbourhood(dtype, bounds, reach=8),
    ]
    numbers = torch.cat(parts)
    return torch.cat([-numbers, numbers]).unique()


def _thinned(numbers: Tensor, step: int) -> Tensor:
    chosen = numbers[numbers > 0][::step]
    return torch.cat([-chosen.flip(0), chosen])


def mirrored(truth: FocalTruth) -> FocalTruth:
    """The truth at target 0 on a symmetric grid: L(x, 0) = L(-x, 1)."""
    return FocalTruth(
        value=truth.value.flip(),
        gradient=-truth.gradient.flip(),
        curvature=truth.curvature.flip(),
        gamma_gradient=truth.gamma_gradient.flip(),
        target_gradient=-truth.target_gradient.flip(),
    )


def derivatives(x: Tensor, target: float, gamma: float) -> dict[str, Tensor]:
    """What the public functions give, by the ways in which users ask for it."""
    whole = torch_derivatives(x, target, gamma)
    for suffix, loss in LOSSES_OF_JAX.items():
        of_jax = jax_derivatives(loss, x, target, gamma)
        whole |= {name + suffix: result for name, result in of_jax.items()}
    return whole


def torch_derivatives(x: Tensor, target: float, gamma: float) -> dict[str, Tensor]:
    """The same of PyTorch's.

    Ordinary logits by themselves: one that is far sends all of a tensor through another form.
    """
    is_far = x.abs() > NEAR
    near, far = (_derivatives(x[chosen], target, gamma) for chosen in (~is_far, is_far))
    return {
        name: torch.empty_like(x)
        .masked_scatter_(~is_far, near[name])
        .masked_scatter_(is_far, far[name])
        for name in near
    }


def _derivatives(x: Tensor, target: float, gamma: float) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = torch.full_like(x, target, requires_grad=True)
    computation = torch.float64 if x.dtype == torch.float64 else torch.float32
    exponent = torch.full_like(x, gamma, dtype=computation, requires_grad=True)
    loss = sigmoid_focal_loss(x, y, None, gamma)
    gradient, in_target = torch.autograd.grad(loss.sum(), (x, y), create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), x)
    plain = sigmoid_focal_loss(x, y, None, gamma)
    (closed,) = torch.autograd.grad(plain.sum(), x, retain_graph=True)
    (target_gradient,) = torch.autograd.grad(plain.sum(), y)
    summed = sigmoid_focal_loss(x, y.detach(), None, gamma, "sum")
    (in_sum,) = torch.autograd.grad(summed, x)
    with_exponent = sigmoid_focal_loss(x, y, None, exponent)
    (gamma_gradient,) = torch.autograd.grad(with_exponent.sum(), exponent)
    return {
        "value": loss.detach(),
        "gradient": closed,
        "gradient" + COMPOSITION: gradient.detach(),
        "gradient" + SUMMED: in_sum,
        "curvature": curvature,
        "gamma_gradient": gamma_gradient.to(x.dtype),
        "target_gradient": target_gradient,
        "target_gradient" + COMPOSITION: in_target.detach(),
    }


def jax_derivatives(
    loss: Callable[..., Any], x: Tensor, target: float, gamma: float
) -> dict[str, Tensor]:
    """The same of a loss of JAX arrays."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    name = str(wide).removeprefix("torch.")
    with jax.enable_x64(x.dtype == torch.float64):
        given = jnp.asarray(x.to(wide).numpy()).astype(str(x.dtype).removeprefix("torch."))
        exponent = jnp.full(given.shape, gamma, name)
        found = _of_jax(loss, given, jnp.full_like(given, target), exponent)
        return {
            quantity: torch.tensor(jax.device_get(result.astype(name))).to(x.dtype)
            for quantity, result in found.items()
        }


@partial(jax.jit, static_argnums=0)
def _of_jax(loss: Callable[..., Any], x: Any, y: Any, exponent: Any) -> dict[str, Any]:
    def total(x: Any, exponent: Any) -> Any:
        return loss(x, y, gamma=exponent)

    def slope(x: Any) -> Any:
        return jax.grad(lambda x: total(x, exponent).sum())(x)

    return {
        "value": total(x, exponent),
        "gradient": slope(x),
        "curvature": jax.grad(lambda x: slope(x).sum())(x),
        "gamma_gradient": jax.grad(lambda g: total(x, g).sum())(exponent),
    }


def headroom(quantity: str, dtype: torch.dtype) -> float:
    """How many times the smallest normal number a result has to be to count."""
    # float16 is computed in float32, whose smallest normal number is far below its own.
    if dtype == torch.float16 or not (JAX in quantity or OPTAX in quantity):
        return 1.0
    return _FLUSHED / torch.finfo(dtype).eps


def plain(quantity: str) -> str:
    """Without how it was made."""
    return quantity.partition(" (")[0]


def measure(dtype: torch.dtype, gamma_name: str, count: int = COUNT) -> list[Line]:
    """The lines of one dtype and gamma."""
    torch.set_num_threads(1)
    gamma = gamma_of(gamma_name, dtype)
    x = grid(dtype, count)
    truth = focal_truth(x.double().tolist(), 1.0, gamma)
    found: dict[str, Worst] = {}
    for target, exact in ((1.0, truth), (0.0, mirrored(truth))):
        _keep_worst(found, x, derivatives(x, target, gamma), exact, gamma_name)
    if gamma_name in SOFT_GAMMAS and dtype.itemsize > 2:
        few = grid(dtype, count // 8)
        for target in SOFT_TARGETS:
            y = torch.tensor(target, dtype=dtype).item()
            exact = focal_truth(few.double().tolist(), y, gamma)
            _keep_worst(found, few, derivatives(few, y, gamma), exact, gamma_name, prefix="soft ")
    return [_line(quantity, dtype, gamma_name, worst) for quantity, worst in found.items()]


def _line(quantity: str, dtype: torch.dtype, gamma_name: str, worst: Worst) -> Line:
    """The worst of a quantity, as a share of what is allowed above and below the normal numbers."""
    allowed = bound(quantity, dtype, gamma_name), bound_below(quantity, gamma_name)
    errors = zip((worst.ulp, worst.below), allowed, strict=True)
    share = max(0.0 if most == math.inf else error / most for error, most in errors)
    name = str(dtype).removeprefix("torch.")
    numbers = (worst.ulp, share, worst.points, worst.logit, worst.below)
    return Line(LOSS, quantity, name, gamma_name, *numbers)


def _keep_worst(
    found: dict[str, Worst],
    x: Tensor,
    computed: dict[str, Tensor],
    exact: FocalTruth,
    gamma_name: str,
    prefix: str = "",
) -> None:
    for name, result in computed.items():
        truth: Truth = getattr(exact, plain(name))
        quantity = prefix + name
        worst = worst_error(
            x,
            result,
            truth,
            of_scale=plain(quantity) in OF_SCALE,
            relative=bound(plain(quantity), x.dtype, gamma_name),
            headroom=headroom(name, x.dtype),
        )
        before = found.get(quantity, worst)
        found[quantity] = Worst(
            *max(before, worst)[:2],
            points=before.points + (worst.points if before is not worst else 0),
            below=max(before.below, worst.below),
        )
