"""The loss of a linear map on a GPU: whether it is right, and its time and memory beside others."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_session import Loss, Session, measure
from torch import Tensor

import parfocal

# Seconds of the times, of the whole program's. What is asked for last may do without.
SECONDS = 40.0


def draw(device: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Any:
    """Features (N, D), a weight (C, D) that keeps logits moderate, and classes (N)."""
    rows, features, classes = shape
    x = torch.empty(rows, features, device=device, dtype=dtype).normal_()
    weight = torch.empty(classes, features, device=device, dtype=dtype)
    weight.normal_(0, 2 * features**-0.5)
    targets = torch.randint(0, classes, (rows,), device=device)
    return x.requires_grad_(), weight.requires_grad_(), targets


def ours(x: Tensor, weight: Tensor, index: Tensor, smoothing: float = 0.0) -> Tensor:
    """Ours."""
    return parfocal.linear_softmax_focal_loss(x, weight, index, label_smoothing=smoothing)


def composed(x: Tensor, weight: Tensor, index: Tensor, smoothing: float = 0.0) -> Tensor:
    """The same of all logits."""
    return parfocal.softmax_focal_loss(F.linear(x, weight), index, label_smoothing=smoothing)


def cross_entropy(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """PyTorch's, of all logits."""
    return F.cross_entropy(F.linear(x, weight), index)


def linear_cross_entropy(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """PyTorch's of a linear map, in chunks."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(x, weight, index, options=options)


def liger(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """Liger-Kernel's."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss: Tensor = liger_fused_linear_cross_entropy(x, weight, index)
    return loss


def linear_is_right(session: Session) -> None:
    """Both gradients against float64 and all logits, relative to the largest number of each.

    In 16 bits the gradient of a chunk is rounded before its products, and these once: two halves of
    a unit. The bounds are twice that, and hold from torch 2.8 on, where logits aren't rounded.
    """
    for dtype, bound in (
        (torch.float32, 2.0**-16),
        (torch.bfloat16, 2.0**-7),
        (torch.float16, 2.0**-10),
    ):
        for smoothing in (0.0, 0.1):
            shape = session.size.linear_checked
            name = f"linear {dtype} {shape}".replace("torch.", "")
            name += ", smoothed" if smoothing else ""
            with session.trying(name):
                x, weight, index = draw(session.device, shape, dtype)
                got = gradients(ours, x, weight, index, smoothing)
                want = gradients(composed, x.double(), weight.double(), index, smoothing)
                error = max(
                    ((a.double() - b).abs().max() / b.abs().max()).item()
                    for a, b in zip(got, want, strict=True)
                )
                session.note("correct", name, [error, error <= bound])


def gradients(
    loss: Callable[..., Tensor], x: Tensor, weight: Tensor, index: Tensor, smoothing: float
) -> tuple[Tensor, ...]:
    """Those in features and weight, of a sum that keeps float16 within its range."""
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight)]
    total = loss(*leaves, index, smoothing) * len(index)
    return torch.autograd.grad(total, leaves)


def linear_times(session: Session) -> None:
    """A language model's head in bfloat16; who is the slowest on a CPU comes last."""
    losses: dict[str, Loss] = {
        "parfocal": ours,
        "composed": composed,
        "cross_entropy": cross_entropy,
    }
    if session.found["machine"].get("liger_kernel") is not None:
        losses["Liger"] = liger
    if hasattr(F, "linear_cross_entropy"):
        losses["linear_cross_entropy"] = linear_cross_entropy
    shape = session.size.linear
    data = draw(session.device, shape, torch.bfloat16)
    with session.at_most(SECONDS):
        for name, loss in losses.items():
            measure(session, f"{name} linear bfloat16 {shape}", loss, *data)
