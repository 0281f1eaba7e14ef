"""Where a loss breaks, by trial: the smallest margins at which its gradient is no number, or 0.

Nothing has to be known of the loss: it is called with logits that grow, and the first at which
something happens is found to the neighbouring number.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from parfocal.floats import between, representable
from parfocal.guard.loss_call import Call, Kind

# Logits that are looked at at once; the search between two of them takes as many at a time.
_PROBES = 256
_SEARCHED = 32
_LARGEST = 120.0


class Limits(NamedTuple):
    """Margins at which something happens to the loss of one target; infinite where nothing does.

    cliff: of a right and sure answer, from where on the gradient isn't finite.
    cliff_wrong: of a wrong and sure answer, as a positive number.
    dead, dead_wrong: from where on the gradient is exactly 0.
    """

    cliff: float = math.inf
    cliff_wrong: float = math.inf
    dead: float = math.inf
    dead_wrong: float = math.inf


def saturation(dtype: torch.dtype) -> float:
    """The margin from which on p_t rounds to 1: 1 - p_t is half the spacing below 1.

    >>> round(saturation(torch.float32), 4), round(saturation(torch.bfloat16), 4)
    (17.3287, 6.2383)
    """
    return -math.log(torch.finfo(dtype).eps / 4)


def limits_of(call: Call, logits: Tensor, kind: Kind) -> tuple[Limits, Limits] | None:
    """The limits of targets 0 and 1, for logits like these; None if the loss can't be tried.

    Of classes both are those of the true class. What has an entry for each sample of a batch,
    such as a mask, is left out where that can be.

    >>> from functools import partial
    >>> import torch
    >>> from parfocal.guard import Call, limits_of
    >>> from torchvision.ops import sigmoid_focal_loss
    >>> call = Call(partial(sigmoid_focal_loss, gamma=0.5))
    >>> [round(limits.cliff, 4) for limits in limits_of(call, torch.zeros(8), "binary")]
    [17.3287, 16.6355]
    """
    for probe in _probes(call, logits, kind):
        try:
            if not bool(probe.is_broken(torch.zeros(4, dtype=logits.dtype), 1).any()):
                targets = (1, 1) if kind == "multiclass" else (0, 1)
                none, one = (_limits(probe, target, logits.dtype) for target in targets)
                return none, one
        except Exception:  # whatever a loss that dislikes the shape may raise
            continue
    return None


class _Probe(NamedTuple):
    """A way to call the loss at margins of our own choice. shape: of the logits of one sample."""

    call: Call
    kind: Kind
    shape: tuple[int, ...]
    device: torch.device

    def gradient(self, u: Tensor, target: int) -> Tensor:
        """Of each margin, (N, ...)."""
        sign = 1 if target else -1
        size = (len(u), *self.shape)
        own = u.to(self.device).view(-1, *(1,) * len(self.shape))
        if self.kind == "binary":
            x = (sign * own).expand(size).contiguous().requires_grad_()
            y = torch.full_like(x, target, requires_grad=False)
        else:
            x = torch.zeros(size, dtype=u.dtype, device=self.device)
            x[:, :1] = own + math.log(max(self.shape[0] - 1, 1))
            x.requires_grad_()
            y = torch.zeros((len(u), *self.shape[1:]), dtype=torch.int64, device=self.device)
        with torch.enable_grad():
            loss = self.call(x, y)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        if self.kind == "multiclass":
            gradient = gradient[:, :1]
        return gradient.cpu()

    def is_broken(self, u: Tensor, target: int) -> Tensor:
        """Whether the gradient at each margin isn't finite."""
        return ~self.gradient(u, target).isfinite().flatten(1).all(1)

    def is_dead(self, u: Tensor, target: int) -> Tensor:
        """Whether it is exactly 0."""
        return (self.gradient(u, target) == 0).flatten(1).all(1)


def _probes(call: Call, logits: Tensor, kind: Kind) -> Iterator[_Probe]:
    """Ways to call it, the likeliest first."""
    call = call.without_batch(len(logits) if logits.ndim else 0)
    inner = logits.shape[1:]
    shapes = [tuple(inner[:1]) + (1,) * len(inner[1:]), tuple(inner), (), (1,)]
    if kind == "multiclass":
        shapes = [shape for shape in shapes[:2] if shape]
    for shape in dict.fromkeys(shapes):
        yield _Probe(call, kind, shape, logits.device)


def _limits(probe: _Probe, target: int, dtype: torch.dtype) -> Limits:
    numbers = representable(dtype, _PROBES, smallest=2.0**-6, largest=_LARGEST)
    right, wrong = numbers[numbers > 0], numbers[numbers < 0].flip(0)
    found = [
        _first(is_so, side, target, dtype)
        for is_so in (probe.is_broken, probe.is_dead)
        for side in (right, wrong)
    ]
    return Limits(*found)


def _first(
    is_so: Callable[[Tensor, int], Tensor], side: Tensor, target: int, dtype: torch.dtype
) -> float:
    """The margin closest to 0 of which something is so, to the neighbouring number."""
    found = is_so(side, target)
    if not bool(found.any()):
        return math.inf
    at = int(found.int().argmax())
    high = float(side[at])
    low = float(side[at - 1]) if at else math.copysign(0.0, high)
    while len(numbers := between(low, high, dtype, _SEARCHED)):
        found = is_so(numbers, target)
        at = int(found.int().argmax()) if bool(found.any()) else len(numbers)
        if at < len(numbers):
            high = float(numbers[at])
        if at > 0:
            low = float(numbers[at - 1])
    return abs(high)
