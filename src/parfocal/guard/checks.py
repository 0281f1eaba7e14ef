"""Whether the losses of a step and their gradients are finite, asked before the step."""

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parfocal.guard.loss_call import SMALL, LossCall

# Passes that are held at most. One of many micro-batches fails as the others do.
_MOST = 64


class Pass:
    """A call whose backward is to come, with its logits and its loss, which get gradients.

    That of the loss is what comes into it from downstream: a factor after it, or the scale of
    mixed precision.
    """

    __slots__ = ("call", "logits", "loss", "thread", "versions")

    def __init__(self, call: LossCall, logits: Tensor, loss: Tensor) -> None:
        self.call, self.logits, self.loss = call, logits, loss
        self.thread = threading.get_ident()
        self.versions = call.targets._version, call.logits._version
        logits.retain_grad()
        loss.retain_grad()

    @property
    def incoming(self) -> Tensor | None:
        """What came into the loss; None before its backward pass."""
        return self.loss.grad

    @property
    def is_as_it_was(self) -> bool:
        """Whether nobody has written into its logits or targets since."""
        return self.versions == (self.call.targets._version, self.call.logits._version)

    def is_finite(self) -> bool:
        """Whether loss and gradient are, as far as there is one."""
        gradient, loss = self.logits.grad, self.loss
        if gradient is not None and not math.isfinite(gradient.sum().item()):
            return False
        return math.isfinite((loss.detach().sum() if loss.ndim else loss).item())


class Checks:
    """The passes of a step that are to be checked, each by the thread that it is of."""

    def __init__(self) -> None:
        self._passes: list[Pass] = []
        self._traced: LossCall | None = None
        self._flag = torch.zeros(())

    def place(self, device: torch.device) -> None:
        """Where the passes are from now on."""
        self._flag = torch.zeros((), device=device)

    def add(self, one: Pass) -> None:
        """A pass whose backward is to come."""
        if one.logits.numel() > SMALL or len(self._passes) >= _MOST:
            # Those that are fine need not be held until the step, which may be far or never come.
            self._passes = [p for p in self._passes if p.incoming is None or not p.is_finite()]
            del self._passes[:-_MOST]
        self._passes.append(one)

    def traced(self, call: LossCall, logits: Tensor) -> Tensor:
        """The logits of a pass in a compiled graph, whose gradient flags what isn't finite."""
        self._traced = call
        watched: Callable[..., Tensor] = _Flagging.apply
        return watched(logits, self._flag)

    def done(self) -> list[Pass]:
        """The passes of this thread whose backward has been, not finite; all done are forgotten."""
        if not self._passes:
            return []
        thread = threading.get_ident()
        done = [p for p in self._passes if p.incoming is not None and p.thread == thread]
        if not done:
            return []
        self._passes = [p for p in self._passes if p.incoming is None or p.thread != thread]
        return [p for p in done if not p.is_finite()]

    def failing(self) -> list[Pass | LossCall]:
        """The passes of this thread that aren't finite; all of them are forgotten."""
        thread = threading.get_ident()
        own = [p for p in self._passes if p.thread == thread]
        self._passes = [p for p in self._passes if p.thread != thread]
        failing: list[Pass | LossCall] = [p for p in own if not p.is_finite()]
        if self._traced is not None:
            if not math.isfinite(self._flag.item()):
                failing.append(self._traced)
            self._flag.zero_()
            self._traced = None
        return failing

    def clear(self) -> None:
        """Forget all passes."""
        self._passes.clear()
        self._traced = None

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
