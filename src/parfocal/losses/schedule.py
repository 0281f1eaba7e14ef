"""A focusing exponent that changes in the course of a training."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from parfocal.losses import checks, numbers

Shape = Literal["linear", "cosine", "constant"]


class GammaSchedule:
    r"""Gamma as a function of the step, between milestones.

    ::

        gamma(t) = g_i + (g_(i+1) - g_i) f((t - t_i) / (t_(i+1) - t_i))      t_i <= t < t_(i+1)
        f(s) = s                          "linear"
        f(s) = (1 - cos(pi s)) / 2        "cosine"
        f(s) = 0                          "constant"

    Before the first milestone and after the last, gamma keeps their value. It may be 0, and pass
    through (0, 1): the gradient is exact at every gamma.

    Args:
        milestones: Steps, in ascending order, with the gamma of each: ``{0: 0.0, 1000: 2.0}``, or
            pairs. The caller decides whether a step is an update or an epoch.
        shape: As above.

    Raises:
        TypeError: numbers of the wrong type.
        ValueError: no milestone, steps that don't ascend, a gamma out of its range, another shape.

    Example:
        >>> from parfocal import GammaSchedule, SigmoidFocalLoss
        >>> schedule = GammaSchedule({0: 0.0, 100: 2.0})
        >>> schedule(0), schedule(25), schedule(1000)
        (0.0, 0.5, 2.0)
        >>> loss = SigmoidFocalLoss()
        >>> for step in range(51):
        ...     _ = schedule.set_gamma(loss, step)  # then the step of the training
        >>> loss
        SigmoidFocalLoss(alpha=0.25, gamma=1.0, reduction='mean', epsilon=0.0)

    As a callback: `parfocal.integrations.lightning.GammaScheduleCallback`, and that of
    ``transformers``. `FocalGuard` follows the exponent, and measures its cliffs again.
    """

    def __init__(
        self,
        milestones: Mapping[float, float] | Iterable[tuple[float, float]],
        shape: Shape = "linear",
    ) -> None:
        call = "GammaSchedule"
        points = [
            (numbers.number(call, "milestones", t), numbers.exponent(call, "gamma", gamma))
            for t, gamma in _pairs(milestones)
        ]
        self._steps = tuple(float(t) for t, _ in points)
        self._gammas = tuple(float(gamma) for _, gamma in points)
        if not points or not all(map(math.isfinite, self._steps)):
            raise ValueError(f"{call}: expected `milestones` to have finite steps, at least one")
        if any(b <= a for a, b in zip(self._steps, self._steps[1:], strict=False)):
            raise ValueError(
                f"{call}: expected `milestones` in ascending order, got {list(self._steps)}"
            )
        checks.word(call, "shape", shape, get_args(Shape))
        self._shape = shape

    def __call__(self, step: float) -> float:
        """The gamma of a step."""
        step = numbers.number("GammaSchedule", "step", step)
        if math.isnan(step):
            raise ValueError("GammaSchedule: expected `step` to be a number, got nan")
        place = bisect_right(self._steps, step)
        if place in (0, len(self._steps)):
            return self._gammas[max(0, place - 1)]
        (first, last), (low, high) = (
            values[place - 1 : place + 1] for values in (self._steps, self._gammas)
        )
        share = (step - first) / (last - first)
        if self._shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return low if self._shape == "constant" else low + (high - low) * share

    def set_gamma(self, loss: nn.Module, step: float) -> float:
        """Give a loss the gamma of a step, and return it.

        If the loss was created with a tensor, the number is written into it, and `torch.compile`
        doesn't recompile. Otherwise the attribute is set. A `FocalGuard` passes both on to its
        loss.

        Raises:
            TypeError: a loss that keeps no `gamma`, such as a function or a ``partial`` of one, or
                one that keeps several, or integers.
        """
        kept: Any = getattr(loss, "gamma", None)
        is_one = isinstance(kept, Tensor) and kept.numel() == 1 and kept.is_floating_point()
        if not (is_one or isinstance(kept, int | float)):
            raise TypeError(
                f"GammaSchedule.set_gamma: expected a module with one `gamma`, a number or a "
                f"tensor of a floating dtype, such as SigmoidFocalLoss, got {kept!r} of {loss!r}"
            )
        gamma = self(step)
        if isinstance(kept, Tensor):
            with torch.no_grad():
                kept.fill_(gamma)
        else:
            loss.gamma = gamma  # type: ignore[assignment]
        return gamma

    def __repr__(self) -> str:
        """As it is made."""
        milestones = dict(zip(self._steps, self._gammas, strict=True))
        return f"GammaSchedule({milestones}, {self._shape!r})"


def _pairs(milestones: Any) -> list[tuple[Any, Any]]:
    """Steps with their gammas."""
    try:
        pairs = milestones.items() if isinstance(milestones, Mapping) else milestones
        return [(t, gamma) for t, gamma in pairs]
    except (TypeError, ValueError):
        raise TypeError(
            f"GammaSchedule: expected `milestones` to be a mapping from steps to gammas, or pairs, "
            f"got {milestones!r}"
        ) from None
