"""What a guard remembers from one step to the next: which checks and optimizers belong together."""

import weakref
from typing import Any

import torch
from torch import Tensor

from parfocal.guard.notices import FocalGuardError


class Round:
    """Where a guard is between two steps.

    is_checked, is_fine: whether a check has been since the last pass, and what it said. late: a
    failure that was found when its step had been left out. stepped: the optimizers that took
    their step since; asked: those for which somebody called `check`. hooked: those that call the
    guard. stepping: the one whose step has begun; is_inside, is_counted: whether it is calling its
    closure, and whether its step has been counted.
    withheld: parameters and their gradients, for the time of a step that is to change nothing.
    unchecked: passes since the last check. broken: of these in a row, not finite. steps, failures:
    so far.
    """

    def __init__(self) -> None:
        self.is_checked, self.is_fine = False, True
        self.is_inside = self.is_counted = False
        self.stepping: torch.optim.Optimizer | None = None
        self.late: FocalGuardError | None = None
        self.stepped: set[int] = set()
        self.asked: set[int] = set()
        self.hooked: weakref.WeakSet[Any] = weakref.WeakSet()
        self.withheld: list[tuple[Tensor, Tensor]] = []
        self.unchecked = self.broken = self.steps = self.failures = 0

    def begin(self) -> None:
        """A pass."""
        self.unchecked += 1
        self.is_checked = False

    def give_back_gradients(self) -> None:
        """After a step that has changed nothing: other code may look at them."""
        for parameter, gradient in self.withheld:
            if parameter.grad is None:
                parameter.grad = gradient
        self.withheld.clear()

    def is_new(self, optimizer: Any, *, is_step: bool) -> bool:
        """Whether it is a step of its own, and not the part of another optimizer, or its second."""
        seen = self.stepped if is_step else self.asked
        is_new = not self.is_checked or optimizer is None or id(optimizer) in seen
        if is_new:
            self.stepped.clear()
            self.asked.clear()
        if optimizer is not None:
            seen.add(id(optimizer))
        return is_new

    def end(self, is_fine: bool) -> None:
        """A check, of an optimizer's step or before it."""
        self.is_checked, self.is_fine = True, is_fine
        self.is_counted = True
        self.unchecked = self.broken = 0
        self.steps += 1
