"""A loss that is watched while it trains."""

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from parfocal import extras
from parfocal.guard import ranks
from parfocal.guard.capture import save_capture
from parfocal.guard.checks import Checks
from parfocal.guard.diagnosis import Diagnosis, diagnose
from parfocal.guard.limits import Limits, limits_of
from parfocal.guard.loss_call import Call, Pass
from parfocal.guard.prior import forgotten_prior
from parfocal.guard.statistics import Reading
from parfocal.guard.tally import Tally
from parfocal.guard.trend import Trend

Action = Literal["raise", "record", "skip"]


class Notice(NamedTuple):
    """What a guard warned of.

    kind: a cliff on the right or the wrong side of the answers; prior, a first loss far above that
        of a head that knows the classes' frequencies; outside, a gradient that came into the loss
        broken; unknown, a loss that can't be tried by itself.
    distance, steps_left: to the cliff, the second by the trend.
    """

    step: int
    kind: Literal["right", "wrong", "prior", "outside", "unknown"]
    text: str
    distance: float = math.nan
    steps_left: float = math.nan

    @property
    def is_ahead(self) -> bool:
        """Whether it is of a cliff."""
        return self.kind in ("right", "wrong")


class FocalGuardWarning(UserWarning):
    """A loss is near a margin at which it breaks, or began far from where it should."""


class FocalGuardError(FloatingPointError):
    """A loss or its gradient isn't finite; `diagnosis` says why, `capture` is the file of it."""

    def __init__(self, text: str, diagnosis: Diagnosis, capture: Path | None) -> None:
        super().__init__(text)
        self.diagnosis, self.capture = diagnosis, capture


class FocalGuard(nn.Module):
    r"""A loss of logits and targets, watched: warns before it breaks, explains when it has broken.

    It takes the place of the loss and gives what the loss gives. Beside that it follows the margin
    u of the true class, `+-x` of a binary logit and `x_t - logsumexp(others)` of classes: how far
    the largest is from the cliff of this loss, the smallest margin at which its gradient isn't
    finite, in the dtype of these logits. Cliffs are measured by trial, at the first step, with the
    arguments that the loss is called with; no loss has to be known. When the arguments change,
    as a scheduled gamma does, they are measured anew at the next reading.

    Args:
        loss: Called as ``loss(logits, targets, ...)``: a function or a module, parfocal's or not.
        action: What to do at a number that isn't finite: ``"raise"`` `FocalGuardError` before the
            optimizer's step; ``"record"`` it and go on; ``"skip"`` the step, by removing the
            gradients.
        every: Steps between two readings of the statistics, which stay on the device until then.
        near: Warn when the largest margin is beyond this share of the cliff.
        horizon: Warn when the trend has at most so many steps left.
        capture: Folder for captures of failures, which `parfocal replay` turns back into them;
            needs safetensors. None for none.
        writer: Where each reading goes as scalars: a ``SummaryWriter`` of TensorBoard, or anything
            with its ``add_scalar``.

    Shape:
        logits (N, ...) with targets of the same shape, or (N, C, ...) with class indices (N, ...).

    Attributes:
        step: Steps so far.
        readings: All readings, each a `Reading`.
        warnings: All warnings, each a `Notice`.
        failures: A `Diagnosis` each.
        samples: Set it before a call to what you call the samples of the batch, and a failure is
            told by that.

    Call `attach` with the optimizer, and the loop needs no other change; or call `check` between
    ``backward`` and ``step``. In a process group all ranks do the same at each step, as they do in
    the optimizer's: the readings are those of all ranks together, and a failure of one is one of
    all. Of each pass two numbers are read from the device at each step: the loss,
    and the sum of the gradient of the logits.

    Under ``torch.compile(fullgraph=True)`` the statistics are part of the graph. Without gradients,
    as in an evaluation, the loss alone is called.

    Example:
        >>> import torch
        >>> from parfocal.guard import FocalGuard, FocalGuardError
        >>> from torchvision.ops import sigmoid_focal_loss
        >>> head = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        >>> guard = FocalGuard(sigmoid_focal_loss).attach(optimizer)
        >>> inputs, targets = torch.tensor([[40.0, 40.0]]), torch.ones(1, 1)
        >>> with torch.no_grad():
        ...     _ = head.weight.fill_(0.25), head.bias.zero_()
        >>> guard(head(inputs), targets, gamma=0.5, reduction="sum").backward()
        >>> try:
        ...     optimizer.step()
        ... except FocalGuardError as error:
        ...     print(error.diagnosis.cause, error.diagnosis.logit)
        focal term 20.0
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        *,
        action: Action = "raise",
        every: int = 20,
        near: float = 0.8,
        horizon: int = 500,
        capture: str | Path | None = None,
        writer: Any = None,
    ) -> None:
        super().__init__()
        if capture is not None and importlib.util.find_spec("safetensors") is None:
            raise ImportError(f"captures need safetensors: {extras.install('guard')}")
        if not callable(loss):
            raise TypeError(f"FocalGuard: expected a loss that can be called, got {loss!r}")
        if action not in get_args(Action):
            known = ", ".join(get_args(Action))
            raise ValueError(f"FocalGuard: expected `action` out of {known}, got {action!r}")
        if every < 1 or not 0 < near <= 1 or horizon < 0:
            raise ValueError(
                "FocalGuard: expected `every` >= 1, `near` in (0, 1] and `horizon` >= 0, got "
                f"{every}, {near} and {horizon}"
            )
        self.loss = loss
        self.action: Action = action
        self.every, self.near, self.horizon = every, near, horizon
        self.capture = None if capture is None else Path(capture)
        self.writer = writer
        self.samples: Tensor | None = None
        self.readings: list[Reading] = []
        self.warnings: list[Notice] = []
        self.failures: list[Diagnosis] = []
        self._tally = Tally()
        self._checks = Checks()
        self._limits: dict[Any, tuple[Limits, Limits] | None] = {}
        self._measured: Any = None
        self._trends = Trend(), Trend()
        self._hooks: list[Any] = []

    def forward(self, logits: Tensor, targets: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """The loss."""
        if not (torch.is_grad_enabled() and logits.requires_grad):
            return self.loss(logits, targets, *arguments, **keywords)
        tally = self._tally
        if logits.device != tally.device:
            self._place(logits.device)
        call = Call(self.loss, arguments, keywords, _autocast(tally.device_type))
        seen = Pass(call, logits.detach(), targets, self.samples)
        if torch.compiler.is_compiling():
            tally.count(seen)
            return self.loss(self._checks.traced(seen, logits), targets, *arguments, **keywords)
        loss = self.loss(logits, targets, *arguments, **keywords)
        tally.add(seen)
        self._checks.add(seen, logits, loss)
        return loss

    @property
    def step(self) -> int:
        """Steps so far; a training that goes on sets it."""
        return self._tally.step

    @step.setter
    def step(self, steps: int) -> None:
        self._tally.step = steps

    def attach(self, *optimizers: torch.optim.Optimizer) -> "FocalGuard":
        """Call `check` before each step of an optimizer; gives the guard itself."""
        for optimizer in optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._before))
        return self

    def detach(self) -> None:
        """Leave the optimizers alone again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @contextmanager
    def patching(self, target: str) -> Iterator["FocalGuard"]:
        """Put the guard in the place of a name that some module calls the loss by.

        ``guard.patching("torchvision.models.detection.retinanet.sigmoid_focal_loss")`` watches a
        detector whose code can't be changed.
        """
        from unittest.mock import patch

        with patch(target, self):
            yield self

    def check(self, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Between ``backward`` and ``step``: whether the step may be taken.

        Raises:
            FocalGuardError: it may not, and the action is ``"raise"``.
        """
        tally = self._tally
        tally.step += 1
        failing = self._checks.failing()
        is_fine = not ranks.is_on_any(bool(failing), tally.device)
        if not is_fine:
            is_fine = self._failed(failing, optimizer)
        if tally.step % self.every == 0 or tally.step == 1:
            self._read()
        return is_fine

    def read(self) -> Reading | None:
        """The statistics since the last reading, now; None if there was no pass."""
        before = len(self.readings)
        self._read()
        return self.readings[-1] if len(self.readings) > before else None

    def scalars(self) -> dict[str, float]:
        """The last reading, as loggers take it; without what is infinite."""
        if not self.readings:
            return {}
        named = self.readings[-1]._asdict()
        del named["step"], named["positions"]
        return {f"focal_guard/{name}": v for name, v in named.items() if math.isfinite(v)}

    def limits(self) -> tuple[Limits, Limits] | None:
        """Where the loss breaks at targets 0 and 1, as it was called last; None if unknown."""
        seen = self._tally.last
        if seen is None:
            raise RuntimeError("FocalGuard.limits: the loss hasn't been called yet")
        key = _form(seen)
        if key not in self._limits:
            self._limits[key] = limits_of(seen.call, seen.logits, seen.kind)
        return self._limits[key]

    def extra_repr(self) -> str:
        """The settings, as they are given to the constructor."""
        name = "" if isinstance(self.loss, nn.Module) else f"{getattr(self.loss, '__name__', '')}, "
        return (
            f"{name}action={self.action!r}, every={self.every}, near={self.near}, "
            f"horizon={self.horizon}"
        )

    def _place(self, device: torch.device) -> None:
        """Where logits are from now on."""
        self._tally.place(device)
        self._checks.place(device)
        self._measured = None

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """What an optimizer calls before its step, and wants nothing from."""
        self.check(optimizer)

    def _explained(self, failing: list[Pass]) -> tuple[Diagnosis, Path | None] | None:
        """The cause of the first pass that fails again, and the capture of it."""
        for one in failing:
            seen = one._replace(step=self.step, rank=ranks.rank())
            found = diagnose(seen)
            if found is not None:
                name = f"failure-step{self.step}-rank{seen.rank}.safetensors"
                return found, self.capture and save_capture(self.capture / name, seen, found)
        return None

    def _failed(self, failing: list[Pass], optimizer: torch.optim.Optimizer | None) -> bool:
        """Find the cause, and act; whether the step may be taken."""
        told = ranks.first_found(self._explained(failing))
        if told is None:
            self._warn(
                "outside",
                "a gradient that isn't finite came into the loss from behind: a factor after the "
                "loss, or the scale of mixed precision. The loss itself is finite.",
            )
            return True
        found, path = told
        self.failures.append(found)
        text = found.paragraph + (f" Replay it: parfocal replay {path}" if path else "")
        if self.action == "raise":
            raise FocalGuardError(text, found, path)
        warnings.warn(text, FocalGuardWarning, stacklevel=3)
        if self.action == "record":
            return True
        for group in [] if optimizer is None else optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return False

    def _read(self) -> None:
        """Fetch the statistics, look at the trend, begin anew."""
        seen = self._tally.last
        if seen is not None:
            self._measure(seen)  # before anything is counted
            if self.step == 1 and (text := forgotten_prior(seen)):
                self._warn("prior", text)
        found = self._tally.read()
        if found is None:
            return
        self.readings.append(found)
        if seen is not None:
            self._look_ahead(found, seen)
        if self.writer is not None:
            for name, value in self.scalars().items():
                self.writer.add_scalar(name, value, self.step)

    def _measure(self, seen: Pass) -> None:
        """Where the loss breaks, as it is called now."""
        form = _form(seen)
        if form == self._measured:
            return
        self._measured = form
        self._tally.measure_by(self.limits(), seen.logits.dtype)

    def _look_ahead(self, found: Reading, seen: Pass) -> None:
        """Warn of a cliff that is near, or that the trend will reach soon."""
        limits = self.limits()
        if limits is None:
            self._warn("unknown", "this loss can't be tried by itself: its cliffs are unknown")
            return
        sides = (
            ("right", found.distance, min(t.cliff for t in limits)),
            ("wrong", found.distance_wrong, min(t.cliff_wrong for t in limits)),
        )
        for trend, (side, distance, cliff) in zip(self._trends, sides, strict=True):
            is_told = distance <= 0 and self.failures
            if math.isinf(cliff) or not math.isfinite(distance) or is_told:
                continue
            trend.add(self.step, -distance)
            left = trend.steps_left(self.step, 0.0)
            soon = left <= self.horizon and len(self.readings) >= 10
            if distance <= (1 - self.near) * cliff or soon:
                self._warn(side, _ahead(seen, side, distance, cliff, left), distance, left)

    def _warn(self, kind: Any, text: str, *numbers: float) -> None:
        """Once of each kind, on the first rank."""
        if any(before.kind == kind for before in self.warnings):
            return
        self.warnings.append(Notice(self.step, kind, text, *numbers))
        if ranks.rank() == 0:
            warnings.warn(f"Step {self.step}: {text}", FocalGuardWarning, stacklevel=2)


def _ahead(seen: Pass, side: str, distance: float, cliff: float, left: float) -> str:
    dtype = str(seen.logits.dtype).removeprefix("torch.")
    steps = f"; at its pace so far it gets there in about {left:.0f} steps" if left < 1e6 else ""
    gamma = "" if seen.call.gamma is None else f" at gamma {seen.call.gamma:g}"
    return (
        f"the surest {side} answer is {max(distance, 0):.3g} from the cliff of this loss: from a "
        f"margin of {cliff:.6g} on its gradient isn't finite in {dtype}{gamma}{steps}."
    )


def _form(seen: Pass) -> tuple[Any, ...]:
    """All on which the limits of a pass may depend."""
    return seen.logits.dtype, seen.kind, seen.call.autocast, *_numbers(seen.call)


def _numbers(call: Call) -> tuple[Any, ...]:
    """The numbers and words among the arguments of a loss."""
    given = [*enumerate(call.arguments), *sorted(call.keywords.items())]
    return tuple(
        (name, value.item() if isinstance(value, Tensor) else value)
        for name, value in given
        if isinstance(value, str | int | float) or (isinstance(value, Tensor) and value.ndim == 0)
    )


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
