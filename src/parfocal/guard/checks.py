"""Whether the losses of a step and their gradients are finite, asked before the step."""

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from parfocal.guard.loss_call import LossCall

# Passes that are held at most. One of many micro-batches fails as the others do.
_MOST = 64


class Pass:
    """A call whose backward is to come, and what its loss and its logits get then.

    incoming: what came into the loss from downstream, a factor after it or the scale of mixed
    precision; None before its backward pass.

    The graph of the training holds it by hooks, and it holds nothing of the graph, which may be
    large and is gone as soon as the training forgets it.
    """

    __slots__ = ("_hook", "_leaf", "_sum", "call", "incoming", "losses", "thread", "versions")

    def __init__(
        self, call: LossCall, logits: Tensor, losses: Sequence[Tensor], version: int
    ) -> None:
        self.call, self.losses = call, [loss.detach() for loss in losses]
        self.thread = threading.get_ident()
        self.versions = call.targets._version, version, losses[0]._version
        self.incoming: Tensor | None = None
        self._sum: Tensor | None = None
        self._leaf = logits if logits.is_leaf else None  # may stay, and hooks with it
        hook = Incoming(self)
        for loss in losses:
            loss.register_hook(hook)
        if self._leaf is None:
            logits.register_hook(Outgoing(self))
        self._hook = weakref.ref(hook)

    @property
    def gradient(self) -> Tensor | None:
        """The sum of the gradient of the logits; None before it."""
        leaf = self._leaf
        if leaf is None:
            return self._sum
        return None if leaf.grad is None else _sum(leaf.grad)

    @property
    def is_over(self) -> bool:
        """Whether its backward pass has been, or can't come any more."""
        return self.incoming is not None or self._sum is not None or self._hook() is None

    @property
    def is_open(self) -> bool:
        """Whether a backward pass is still to come to the logits."""
        return self._sum is None and self._leaf is None and self._hook() is not None

    @property
    def is_lost(self) -> bool:
        """Whether its backward pass can't come any more: it was logged, and harms no step."""
        return self.incoming is None and self._sum is None and self._hook() is None

    @property
    def changed(self) -> str:
        """What has been written into since the loss was called; nothing, if nobody has."""
        now = self.call.targets._version, self.call.logits._version, self.losses[0]._version
        names = ("targets", "logits", "loss")
        pairs = zip(names, self.versions, now, strict=True)
        return " and ".join(name for name, was, is_now in pairs if was != is_now)

    def is_finite(self) -> bool:
        """Whether loss and gradient are, as far as there is one."""
        gradient = self._sum if self._leaf is None else self.gradient
        if gradient is not None and not math.isfinite(gradient.item()):
            return False
        return all(math.isfinite((_sum(x) if x.ndim else x).item()) for x in self.losses)


class _Hook:
    """What a graph holds of a pass."""

    __slots__ = ("__weakref__", "_pass")

    # As by `torch.utils.hooks.unserializable_hook`, which writes to functions alone.
    __torch_unserializable__ = True

    def __init__(self, one: Pass) -> None:
        self._pass = one


class Incoming(_Hook):
    """Of a loss: keeps the gradient that comes to it."""

    __slots__ = ()

    def __call__(self, gradient: Tensor) -> None:
        """In the backward pass."""
        one, new = self._pass, gradient.detach() if gradient.requires_grad else gradient
        if one.incoming is None:
            one.incoming = new
        elif len(one.losses) > 1:  # the largest, or NaN, without a look at it
            one.incoming = torch.maximum(one.incoming, new)
        else:
            one.incoming = one.incoming + new


class Outgoing(_Hook):
    """Of logits: keeps the sum of the gradient that leaves the loss."""

    __slots__ = ()

    def __call__(self, gradient: Tensor) -> None:
        """In the backward pass."""
        one, new = self._pass, _sum(gradient)
        one._sum = new if one._sum is None else one._sum + new


def _sum(values: Tensor) -> Tensor:
    """A number that isn't finite if one of them isn't; of float16 the sum itself may overflow."""
    is_half = values.dtype == torch.float16
    return values.detach().sum(dtype=torch.float32 if is_half else None)


def is_in_backward() -> bool:
    """Whether this thread is in a backward pass, where checkpoints compute anew."""
    return bool(torch._C._current_graph_task_id() != -1)


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
        if one.call.is_large or len(self._passes) >= _MOST:
            # Those that are fine need not be held until the step, which may be far or never come.
            self._passes = [p for p in self._passes if not p.is_over or not p.is_finite()]
            del self._passes[:-_MOST]
        self._passes.append(one)

    def traced(self, call: LossCall, logits: Tensor) -> Tensor:
        """The logits of a pass in a compiled graph, whose gradient flags what isn't finite."""
        self._traced = call
        watched: Callable[..., Tensor] = _Flagging.apply
        return watched(logits, self._flag)

    def is_any_over(self) -> bool:
        """Whether a pass of this thread has had its backward."""
        return self._traced is not None or any(p.is_over for p in self._own())

    def is_again(self, call: LossCall) -> bool:
        """Whether a call in a backward pass is one of these passes, made again by a checkpoint."""
        shape = call.logits.shape
        return any(p.is_open and p.call.logits.shape == shape for p in self._own())

    def done(self) -> list[Pass]:
        """The passes of this thread that are over, and not finite; all that are over are forgotten.

        Not those of a backward pass that is under way.
        """
        if not self._passes:
            return []
        done = [p for p in self._own() if p.is_over]
        if not done:
            return []
        thread = threading.get_ident()
        self._passes = [p for p in self._passes if p.thread != thread or not p.is_over]
        return [p for p in done if not (p.is_lost or p.is_finite())]

    def failing(self) -> list[Pass | LossCall]:
        """The passes of this thread that aren't finite; all of them are forgotten."""
        thread, passes, self._passes = threading.get_ident(), self._passes, []
        failing: list[Pass | LossCall] = []
        for one in passes:
            if one.thread != thread:
                self._passes.append(one)
            elif not (one.is_lost or one.is_finite()):
                failing.append(one)
        if self._traced is not None:
            if not math.isfinite(self._flag.item()):
                failing.append(self._traced)
            self._flag.zero_()
            self._traced = None
        return failing

    def _own(self) -> list[Pass]:
        """Those of this thread."""
        thread = threading.get_ident()
        return [p for p in self._passes if p.thread == thread]

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
