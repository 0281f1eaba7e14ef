"""What the steps of a training found, kept on its device until it is read: no step waits for one.

A step is computed without a look at its numbers, so that a device is never waited for. Each writes
a row; the rows come to the host together, and the first that isn't finite ends the training, though
a few more steps were computed after it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from parfocal.experiments.run.events import Quantity


class Row(NamedTuple):
    """One step: mean loss, right logits, largest |logit|, and two magnitudes.

    gradient, parameters: the largest magnitude in each, which isn't finite if one number isn't.
    """

    loss: float
    correct: float
    largest_logit: float
    gradient: float
    parameters: float

    @property
    def nonfinite(self) -> Quantity | None:
        """What wasn't finite first, in the order in which a step computes it."""
        if not math.isfinite(self.loss):
            return "loss"
        if not math.isfinite(self.gradient):
            return "gradient"
        return None if math.isfinite(self.parameters) else "parameters"


class StepLog:
    """The rows of the steps since the last look, and the parameters at the first failure.

    A gradient that isn't finite leaves the parameters that the step began with, whatever it and the
    steps after it make of them.
    """

    def __init__(self, vector: nn.Parameter, rows: int) -> None:
        """Keep as many rows beside the parameters, which are one vector with its gradient."""
        self._vector = vector
        numbers = torch.zeros(rows, len(Row._fields), dtype=torch.float64, device=vector.device)
        self._rows = numbers
        self._row = numbers[0].clone()
        self._places = torch.arange(rows, device=vector.device).unsqueeze(1)
        self._next = torch.zeros((), dtype=torch.int64, device=vector.device)
        self._failed = torch.zeros((), dtype=torch.bool, device=vector.device)
        self._kept = vector.detach().clone()

    @property
    def tensors(self) -> list[Tensor]:
        """All that a step writes to."""
        return [self._rows, self._row, self._next, self._failed, self._kept]

    def restart(self) -> None:
        """Begin from the parameters as they are now."""
        self._kept.copy_(self._vector.detach())
        self._failed.zero_()
        self._next.zero_()

    def before_update(self, loss: Tensor, correct: Tensor, largest_logit: Tensor) -> None:
        """Note what a step found before the optimizer's turn, its gradient among it."""
        assert self._vector.grad is not None
        gradient = _largest(self._vector.grad)
        for place, value in enumerate((loss, correct, largest_logit, gradient)):
            self._row[place].copy_(value.detach())
        self._failed.logical_or_(~(self._row[0].isfinite() & self._row[3].isfinite()))

    def after_update(self) -> None:
        """Note the parameters, and keep them unless there was a failure before."""
        parameters = self._vector.detach()
        torch.where(self._failed, self._kept, parameters, out=self._kept)
        self._row[4].copy_(_largest(parameters))
        self._failed.logical_or_(~self._row[4].isfinite())
        torch.where(self._places == self._next, self._row, self._rows, out=self._rows)
        self._next.add_(1)

    def read(self, count: int) -> list[Row]:
        """The rows of the last `count` steps, in one transfer; the log is empty then.

        After a failure the parameters are those that it left.
        """
        rows = [Row(*values) for values in self._rows[:count].tolist()]
        self._next.zero_()
        if any(row.nonfinite is not None for row in rows):
            self._vector.detach().copy_(self._kept)
        return rows


def _largest(vector: Tensor) -> Tensor:
    """The largest magnitude; NaN if there is one. No sum, which would overflow."""
    low, high = vector.detach().aminmax()
    return torch.maximum(-low, high)
