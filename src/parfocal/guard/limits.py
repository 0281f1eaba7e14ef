"""Where a loss breaks, by trial: the smallest margins at which its gradient is no number, or 0.

Nothing has to be known of the loss: it is called with logits that grow, and the first at which
something happens is found to the neighbouring number.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.floats import between, representable
from parfocal.guard.form import Form
from parfocal.guard.loss_call import LossCall
from parfocal.guard.trial import value_and_gradient
from parfocal.guard.window import rows

# Samples of a trial at most, and margins of a side at least, where each takes a trial of its own.
_SAMPLES = 256
_LEAST = 64
_LARGEST = 120.0

# Classes that are tried at first: a loss that has a weight for each of its own dislikes fewer.
_CLASSES = 64

# Logits of a trial at most.
_NUMBERS = 1 << 16


class Limits(NamedTuple):
    """Margins from which on a loss of one target breaks or dies; infinite where it doesn't.

    cliff: of confident right answers, where the gradient stops being finite.
    cliff_wrong: of confident wrong answers, as a positive number.
    dead, dead_wrong: where the gradient becomes exactly 0.
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


def limits_of(call: LossCall, form: Form) -> tuple[Limits, Limits] | None:
    """The limits at targets 0 and 1, for calls like this one; None if the loss can't be tried.

    For a softmax both are those of the true class. Where the call has an argument per sample or
    per position, the trials use its first entry.

    >>> from functools import partial
    >>> import torch
    >>> from parfocal.guard import Form, LossCall, limits_of
    >>> from torchvision.ops import sigmoid_focal_loss
    >>> call = LossCall(partial(sigmoid_focal_loss, gamma=0.5), torch.zeros(8), torch.zeros(8))
    >>> [round(limits.cliff, 4) for limits in limits_of(call, Form("elementwise"))]
    [17.3287, 16.6355]
    """
    if form.kind == "unknown":
        return None
    zero = torch.zeros(4, dtype=call.logits.dtype)
    for shape in _shapes(call.logits, form):
        for size in (
            _margins_at_once(shape),
            1,
        ):  # one alone where a broken one breaks all others, as in a region
            try:
                probe = _Probe(call, form, shape, size).as_alone()
                if any(bool(probe.is_broken(zero, target).any()) for target in (0, 1)):
                    break
                one = _limits(probe, 1, zero.dtype)
                none = _limits(probe, 0, zero.dtype) if form.is_binary else one
            except Exception:  # whatever a loss that dislikes the shape may raise
                break
            if none is not None and one is not None:
                return none, one
    return None


class _Probe(NamedTuple):
    """A way to call the loss at margins of our own choice.

    shape: of the logits of a sample. size: how many samples of a trial have one of these margins;
    one more is calm, and of the other target, so that no mean is over nothing.
    factors: of the gradients of targets 0 and 1, which make them those of a margin alone.
    """

    call: LossCall
    form: Form
    shape: tuple[int, ...]
    size: int
    factors: tuple[float, float] = (1.0, 1.0)

    def as_alone(self) -> "_Probe":
        """With the factor that a mean over fewer samples has, if that is a power of two.

        Without it the gradients of a mean would underflow earlier together than they do alone.
        """
        calm = torch.zeros(1, dtype=self.call.logits.dtype)
        alone = self._replace(size=1)

        def factor(target: int) -> float:
            one, many = (float(p.gradient(calm, target).abs().max()) for p in (alone, self))
            ratio = one / many if many > 0 and math.isfinite(one) else 1.0
            return ratio if math.frexp(ratio)[0] == 0.5 else 1.0

        return self._replace(factors=(factor(0), factor(1)))

    def gradient(self, u: Tensor, target: int) -> Tensor:
        """Of each margin, (N, ...), at the logit that has it."""
        missing = u.new_zeros(-len(u) % self.size)  # calm ones: each trial has as many samples
        parts = torch.cat([u, missing]).split(self.size)
        return torch.cat([self._gradient(part, target) for part in parts])[: len(u)]

    def _gradient(self, u: Tensor, target: int) -> Tensor:
        call, form, count = self.call, self.form, len(u) + 1
        own = torch.cat([u, u.new_zeros(1)]).to(call.logits.device)
        own = own.view(-1, *(1,) * len(self.shape))
        x = own.new_zeros((count, *self.shape))
        at: tuple[Any, ...] = (Ellipsis,)
        if form.kind == "elementwise":
            x += own if target else -own
            y = self._elementwise_targets(x, target)
        else:
            x = form.over_classes(x)
            true = next(c for c in range(x.shape[1]) if c not in form.ignored)
            place = true if target or not form.is_binary else (true + 1) % x.shape[1]
            at = (slice(None), slice(place, place + 1))
            own = own[:, :1]
            x[at] += (own if target else -own) if form.is_binary else own + _level(x)
            y = self._class_targets(x, true)
            x = x.movedim(1, form.dim) if form.dim != 1 else x
        factor = x.new_tensor(self.factors[target])
        _, gradient = value_and_gradient(rows(call, count), x, y, factor)
        return form.over_classes(gradient)[at][:-1].cpu()

    def _elementwise_targets(self, x: Tensor, target: int) -> Tensor:
        """One target for all logits but the last sample's, laid out as those of the call."""
        like = self.call.targets
        y = torch.full_like(x, target).to(like.dtype)
        y[-1] = 1 - target
        if like.shape == self.call.logits.shape:
            return y
        inner = tuple(like.shape[1:])
        if y[:1].numel() == 1:
            inner = (1,) * len(inner)
        return y.reshape(len(y), *inner)

    def _class_targets(self, x: Tensor, true: int) -> Tensor:
        """Targets of one class for all rows, in the dtype and layout of those of the call."""
        form, dtype = self.form, self.call.targets.dtype
        if form.kind == "probabilities":
            y = torch.zeros_like(x)
            y[:, true] = 1
            return y.movedim(1, form.dim).to(dtype)
        y = torch.full((len(x), *x.shape[2:]), true, dtype=dtype, device=x.device)
        return y.unsqueeze(form.dim) if form.has_channel else y

    def is_broken(self, u: Tensor, target: int) -> Tensor:
        """Whether the gradient at each margin isn't finite."""
        return _is_broken(self.gradient(u, target))


def _is_broken(gradient: Tensor) -> Tensor:
    """Of each margin, whether the gradient isn't finite."""
    return ~gradient.isfinite().reshape(len(gradient), -1).all(1)


def _is_dead(gradient: Tensor) -> Tensor:
    """Of each margin, whether the gradient is exactly 0."""
    return (gradient == 0).reshape(len(gradient), -1).all(1)


def _level(x: Tensor) -> float:
    """The logit of a class at which its margin is 0, beside others of 0."""
    return math.log(x.shape[1] - 1)


def _margins_at_once(shape: tuple[int, ...]) -> int:
    """How many a trial has: with the calm one a power of two, by which a mean divides exactly."""
    samples = min(_SAMPLES, max(2, _NUMBERS // max(1, math.prod(shape))))
    return (1 << samples.bit_length() - 1) - 1


def _shapes(logits: Tensor, form: Form) -> list[tuple[int, ...]]:
    """Shapes of a sample's logits, the likeliest first: one place of a map, a whole one, a number.

    Whole maps are tried if a sample isn't large; of many classes a part, since the limits are those
    of a margin, whatever the number of classes is.
    """
    inner = tuple(logits.shape[1:])
    one = tuple(n if dim == form.dim else 1 for dim, n in enumerate(inner, 1))
    few = tuple(min(n, _CLASSES) for n in one)
    shapes = [few, one] if inner else []
    if math.prod(inner) <= _NUMBERS:
        shapes.append(inner)
    if form.kind == "elementwise":
        shapes += [(), (1,)]
    return list(dict.fromkeys(shapes))


def _limits(probe: _Probe, target: int, dtype: torch.dtype) -> Limits | None:
    """The limits of one target; None if margins that are tried together change each other."""
    numbers = representable(dtype, max(probe.size, _LEAST), smallest=2.0**-6, largest=_LARGEST)
    sides = numbers[numbers > 0], numbers[numbers < 0].flip(0)
    gradients = [probe.gradient(side, target) for side in sides]
    limits = []
    for is_so in (_is_broken, _is_dead):
        for side, gradient in zip(sides, gradients, strict=True):
            search = _Search(probe, target, is_so)
            before, limit = search.first(side, is_so(gradient))
            if limit < math.inf and not search.is_alone(before, limit, float(side[0])):
                return None
            limits.append(limit)
    return Limits(*limits)


class _Search(NamedTuple):
    """A search for the first margin of which something is so."""

    probe: _Probe
    target: int
    is_so: Callable[[Tensor], Tensor]

    def first(self, side: Tensor, flags: Tensor) -> tuple[float, float]:
        """Its neighbour of which it isn't so, and the margin closest to 0 of which it is."""
        if not bool(flags.any()):
            return math.inf, math.inf
        at = int(flags.int().argmax())
        high = float(side[at])
        low = float(side[at - 1]) if at else math.copysign(0.0, high)
        while len(numbers := between(low, high, side.dtype, self.probe.size)):
            flags = self.is_so(self.probe.gradient(numbers, self.target))
            at = int(flags.int().argmax()) if bool(flags.any()) else len(numbers)
            if at < len(numbers):
                high = float(numbers[at])
            if at > 0:
                low = float(numbers[at - 1])
        return abs(low), abs(high)

    def is_alone(self, before: float, limit: float, sign: float) -> bool:
        """Whether it is so of a margin by itself, and not of the one before."""
        probe = self.probe._replace(size=1, factors=(1.0, 1.0))
        dtype = probe.call.logits.dtype
        margins = [torch.tensor([math.copysign(u, sign)], dtype=dtype) for u in (before, limit)]
        flags = [bool(self.is_so(probe.gradient(u, self.target))) for u in margins]
        return flags == [False, True]
