"""Whether the losses of a step and their gradients are finite, asked before the step."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.guard.loss_call import SMALL, Pass

# Passes that are held at most. One of many micro-batches fails as the others do.
_MOST = 64


class _Unchecked(NamedTuple):
    """A pass, its logits, which get a gradient, and its loss."""

    seen: Pass
    logits: Tensor
    loss: Tensor

    def is_pending(self) -> bool:
        """Whether the backward pass is to come."""
        return self.logits.grad is None

    def is_finite(self) -> bool:
        """Whether loss and gradient are, as far as there is one."""
        gradient, loss = self.logits.grad, self.loss
        if gradient is not None and not math.isfinite(gradient.sum().item()):
            return False
        return math.isfinite((loss.sum() if loss.ndim else loss).item())


class Checks:
    """The passes of a step that are to be checked."""

    def __init__(self) -> None:
        self._passes: list[_Unchecked] = []
        self._traced: Pass | None = None
        self._flag = torch.zeros(())

    def place(self, device: torch.device) -> None:
        """Where the passes are from now on."""
        self._flag = torch.zeros((), device=device)

    def add(self, seen: Pass, logits: Tensor, loss: Tensor) -> None:
        """A pass whose backward is to come."""
        logits.retain_grad()
        if logits.numel() > SMALL or len(self._passes) >= _MOST:
            # Those that are fine need not be held until the step, which may be far or never come.
            self._passes = [one for one in self._passes if one.is_pending() or not one.is_finite()]
            del self._passes[:-_MOST]
        self._passes.append(_Unchecked(seen, logits, loss.detach()))

    def traced(self, seen: Pass, logits: Tensor) -> Tensor:
        """The logits of a pass in a compiled graph, whose gradient flags what isn't finite."""
        self._traced = seen
        watched: Callable[..., Tensor] = _Flagging.apply
        return watched(logits, self._flag)

    def failing(self) -> list[Pass]:
        """Those that aren't finite; all are forgotten."""
        found = [one.seen for one in self._passes if not one.is_finite()]
        self._passes.clear()
        if self._traced is not None:
            if not math.isfinite(self._flag.item()):
                found.append(self._traced)
            self._flag.zero_()
            self._traced = None
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without passes, whose logits belong to a graph that can't be copied."""
        return {**vars(self), "_passes": [], "_traced": None}

    def __len__(self) -> int:
        """Of the passes that are held."""
        return len(self._passes)


class _Flagging(torch.autograd.Function):
    """The identity, whose backward adds the sum of the gradient to a flag: NaN stays."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, flag: Tensor) -> Tensor:
        ctx.flag = flag  # not saved: several passes of a step may change it before their backwards
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        ctx.flag.add_(gradient.detach().sum())
        return gradient, None
