"""A loss that is watched while it trains."""

import importlib.util
import math
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from parfocal import extras
from parfocal.guard import diagnosis, notices, ranks
from parfocal.guard.capture import save_capture
from parfocal.guard.causes import Causes, of_scale
from parfocal.guard.checks import Checks, Pass, is_in_backward
from parfocal.guard.diagnosis import Diagnosis
from parfocal.guard.limits import Limits
from parfocal.guard.loss_call import (
    SMALL,
    Loss,
    LossCall,
    Places,
    loss_tensors,
    places_of,
    usual_places,
)
from parfocal.guard.margins import margins_of
from parfocal.guard.measures import Measures, key_of
from parfocal.guard.notices import FocalGuardError, FocalGuardWarning, Notice
from parfocal.guard.optimizers import (
    broken_parameters,
    closure_of,
    inner_optimizer,
    leaves_out,
    with_closure,
    without_gradients,
)
from parfocal.guard.outlook import Outlook
from parfocal.guard.prior import forgotten_prior
from parfocal.guard.rounds import Round
from parfocal.guard.stand_in import StandIn
from parfocal.guard.statistics import Reading
from parfocal.guard.tally import Tally
from parfocal.guard.trial import is_trial
from parfocal.guard.voice import Voice

Action = Literal["raise", "record", "skip"]

# Passes without a check, and steps without a pass, after which something is said.
_UNCHECKED = 1000
_UNCALLED = 20

# Passes in a row that were followed by no step, after which something is said.
_SKIPPED = 10

# The arguments of most calls, without logits and targets.
_TWO: tuple[Any, ...] = (None, None)

# Captures that are written, failures that warn, and what is kept of readings, at most.
_CAPTURES = 10
_WARNED = 20
_KEPT = 2000


class FocalGuard(StandIn):
    r"""Watches a loss of logits and targets: warns before it breaks, explains when it has broken.

    It takes the place of the loss, and is called like the loss. It also follows the margin u of
    each answer, `+-x` for a sigmoid's logit and `x_t - logsumexp(others)` for a softmax. It tells
    how far the largest is from the cliff of this loss, the smallest margin at which its gradient
    isn't finite, in the dtype of these logits. What the targets mean and where the cliffs are is
    measured by trial at the first step, with the arguments of the call, so it works with any loss.
    When the arguments change, it measures again at the next reading; for a scheduled gamma, an
    argument or stored in the loss, at each eighth, and at 0 and 1. Trials change nothing in the
    loss, nor any random stream.

    Args:
        loss: A function or a module of logits and targets, parfocal's or not. It returns a tensor,
            or a tuple or mapping that contains the loss.
        action: What to do at a number that isn't finite: ``"raise"`` `FocalGuardError` before the
            optimizer's step; ``"record"`` it and continue; ``"skip"`` the step, which then runs
            without gradients.
        every: Steps between two readings of the statistics, which stay on the device until then.
        near: Warn when the largest margin is beyond this share of the cliff.
        horizon: Warn when the trend has at most this many steps left.
        capture: Folder for captures of failures, ten at most, which `parfocal replay` reproduces;
            needs safetensors. None for no captures.
        keep_data: Whether captures hold logits, targets and other tensors of the failing samples.
        writer: Where each reading goes as scalars: a ``SummaryWriter`` of TensorBoard, or anything
            with its ``add_scalar``.

    Shape:
        logits (N, ...) with a target each, or (N, C, ...) with class indices (N, ...) or (N, 1,
        ...), or with class probabilities; the classes may be last. For anything else, only numbers
        that aren't finite are reported, and no margins.

    Attributes:
        step: Steps so far.
        readings: The last readings, each a `Reading`.
        warnings: All warnings, each a `Notice`, one of each kind.
        failures: A `Diagnosis` each.
        samples: Set it before a call to your own names of the samples in the batch; a failure is
            then reported with them.

    All other attributes, parameters and state are those of the loss.

    Call `attach` with the optimizer, and the loop needs no other change; or call `check` between
    ``backward`` and ``step``. If a step is skipped, for example by a GradScaler, a failing pass is
    found at the next call, and the next ``backward`` raises. In a process group all ranks take part
    in each step, as in the optimizer's: the readings cover all ranks together, and a failure of
    one is a failure of all. At each step two numbers are read from the device for each pass, the
    loss and the sum of the gradient of the logits, and one for the gradients of an attached
    optimizer's parameters.

    Raises:
        FocalGuardError: with ``action="raise"``, before a step; the guard raises nothing else.

    Under ``torch.compile(fullgraph=True)`` the statistics are part of the graph. Without gradients,
    as in an evaluation, only the loss is called.

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

    action: Action
    every: int
    near: float
    horizon: int
    capture: Path | None
    keep_data: bool
    writer: Any
    samples: Tensor | None
    readings: list[Reading]
    failures: list[Diagnosis]
    _tally: Tally
    _voice: Voice
    _measures: Measures
    _causes: Causes
    _outlook: Outlook
    _checks: Checks
    _round: Round
    _places: dict[Any, Places]

    def __init__(
        self,
        loss: Loss,
        *,
        action: Action = "raise",
        every: int = 20,
        near: float = 0.8,
        horizon: int = 500,
        capture: str | Path | None = None,
        keep_data: bool = True,
        writer: Any = None,
    ) -> None:
        if capture is not None and importlib.util.find_spec("safetensors") is None:
            raise ImportError(f"captures need safetensors: {extras.install('guard')}")
        if not callable(loss):
            raise TypeError(f"FocalGuard: expected a callable loss, got {loss!r}")
        if action not in get_args(Action):
            known = ", ".join(get_args(Action))
            raise ValueError(f"FocalGuard: expected `action` to be one of {known}, got {action!r}")
        if every < 1 or not 0 < near <= 1 or horizon < 0:
            raise ValueError(
                "FocalGuard: expected `every` >= 1, `near` in (0, 1] and `horizon` >= 0, got "
                f"{every}, {near} and {horizon}"
            )
        tally = Tally()
        voice = Voice(tally)
        measures = Measures(voice)
        super().__init__(
            loss,
            action=action,
            every=every,
            near=near,
            horizon=horizon,
            capture=None if capture is None else Path(capture),
            keep_data=keep_data,
            writer=writer,
            samples=None,
            readings=[],
            failures=[],
            _tally=tally,
            _voice=voice,
            _measures=measures,
            _causes=Causes(voice, measures),
            _outlook=Outlook(voice, measures),
            _checks=Checks(),
            _round=Round(),
            _places={},
            _measured=None,
            _captured=0,
            _hooks=[],
            _lock=threading.RLock(),
        )

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """What the loss returns."""
        if not torch.is_grad_enabled() or is_trial():
            return self.loss(*arguments, **keywords)
        if torch.compiler.is_compiling():
            return self._traced(arguments, keywords)
        pass_ = self._voice.safely("read a call", self._call_of, arguments, keywords)
        is_backward = is_in_backward()
        if pass_ is None or (is_backward and self._checks.is_again(pass_[0])):
            return self.loss(*arguments, **keywords)
        # Those of the step before, if that was left out, or of an accumulated one.
        if self._checks and not is_backward:
            with self._lock:
                self._look_back()
        version = pass_[1]._version
        result = self.loss(*arguments, **keywords)
        with self._lock:
            self._voice.safely("follow a pass", self._follow, *pass_, version, result)
        return result

    def attach(self, *optimizers: torch.optim.Optimizer) -> "FocalGuard":
        """Call `check` before each step of an optimizer, even if wrapped; returns the guard."""
        for optimizer in optimizers:
            inner = inner_optimizer(optimizer)
            if inner not in self._round.hooked:
                self._hooks += (
                    inner.register_step_pre_hook(self._before_step),
                    inner.register_step_post_hook(self._after_step),
                )
                self._round.hooked.add(inner)
        return self

    def detach(self) -> None:
        """Detach from the optimizers, and forget the passes that are held."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._checks.clear()
        self._round = Round()

    def check(self, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Between ``backward`` and ``step``: whether the step may be taken.

        With ``action="skip"``, a step that the optimizer still takes changes nothing.

        Raises:
            FocalGuardError: it may not, and the action is ``"raise"``.
        """
        with self._lock:
            return self._check(optimizer, is_step=False)

    @property
    def warnings(self) -> list[Notice]:
        """All warnings so far, each given once."""
        return self._voice.said

    @property
    def step(self) -> int:
        """Steps so far; set it when a training resumes."""
        return self._tally.step

    @step.setter
    def step(self, steps: int) -> None:
        self._tally.step = steps

    def read(self) -> Reading | None:
        """The statistics since the last reading, now; None if there was no pass."""
        with self._lock:
            return self._voice.safely("read its statistics", self._read)

    def scalars(self) -> dict[str, float]:
        """The last reading, in the form that loggers take, without infinite numbers."""
        if not self.readings:
            return {}
        named = self.readings[-1]._asdict()
        del named["step"], named["positions"]
        return {f"focal_guard/{name}": v for name, v in named.items() if math.isfinite(v)}

    def margins(self) -> dict[str, Any] | None:
        """The margins of the last pass, counted, ready for `json.dumps`; None if unknown.

        The page of docs/explorer draws them under the curves of the losses; `margins_of` in
        `parfocal.guard.margins` has the keys. It reads the device, as a reading does.
        """
        call = self._tally.last
        if call is None:
            raise RuntimeError("FocalGuard.margins: the loss hasn't been called yet")
        form = self._measures.form(call)
        if form.kind == "unknown" or not call.logits.numel():
            return None
        return margins_of(call, form, self.step)

    def limits(self) -> tuple[Limits, Limits] | None:
        """Where the loss breaks at targets 0 and 1, as in its last call; None if unknown."""
        call = self._tally.last
        if call is None:
            raise RuntimeError("FocalGuard.limits: the loss hasn't been called yet")
        return self._measures.limits(call)

    def extra_repr(self) -> str:
        """The loss and the settings."""
        name = getattr(self.loss, "__name__", None) or repr(self.loss)
        return (
            f"{name}, action={self.action!r}, every={self.every}, near={self.near}, "
            f"horizon={self.horizon}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which no optimizer calls."""
        return {**self.__dict__, "_lock": None, "_hooks": [], "_round": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _round=Round())

    # A pass

    def _call_of(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[LossCall, Tensor] | None:
        """The call to be watched and its logits; None if there are none with a gradient."""
        key = len(arguments), *keywords
        places: Places | None = self._places.get(key)
        pair = None if places is None else _pair(places, arguments, keywords)
        if pair is not None and not _has_numbers(pair[0]):
            return None
        if pair is None:
            places = places_of(self.loss, arguments, keywords)
            pair = None if places is None else _pair(places, arguments, keywords)
            if places is None or pair is None:
                if any(isinstance(a, Tensor) and _has_numbers(a) for a in arguments):
                    self._voice.notice("unknown", notices.UNKNOWN)
                return None
            self._places[key] = places
        logits, targets = pair
        if targets.numel() <= SMALL:
            targets = targets.clone()  # a loader may write into them before the step
        return self._call_at(places, logits, targets, arguments, keywords), logits  # type: ignore[arg-type]

    def _call_at(
        self,
        places: Places,
        logits: Tensor,
        targets: Tensor,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> LossCall:
        """The call with logits and targets taken out."""
        tally = self._tally
        if logits.device != tally.device:
            self._place(logits.device)
        left, named = _TWO, keywords
        if keywords or len(arguments) != 2 or places != (0, 1):
            left = tuple([None if i in places else _cut(a) for i, a in enumerate(arguments)])
            named = {name: None if name in places else _cut(v) for name, v in keywords.items()}
        device = tally.device_type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return LossCall(
            self.loss, logits.detach(), targets, left, named, places, autocast, self.samples
        )

    def _follow(self, call: LossCall, logits: Tensor, version: int, result: Any) -> None:
        """Keep a pass until it is checked and counted.

        version: of the logits before the loss saw them.
        """
        losses = loss_tensors(result)
        if not losses:
            if not isinstance(result, Tensor):
                self._voice.notice("unheard", notices.of_unheard(result))
            return
        loss, turn = losses[0], self._round
        turn.begin()
        self._checks.add(Pass(call, logits, losses, version))
        if turn.late is not None and self.action == "raise":
            # The processes of a group stop together, at the next check. If none comes, by itself.
            if not ranks.is_group() or turn.broken >= _SKIPPED:
                loss.register_hook(self._raise_late)
        elif turn.unchecked == _SKIPPED and turn.hooked:
            loss.register_hook(self._look_after)
        if turn.unchecked == _UNCHECKED:
            self._voice.notice("unchecked", notices.of_unchecked(_UNCHECKED))
        if logits._version == version:  # else these aren't the logits that the loss was given
            self._tally.add(call)
        else:
            self._voice.notice("unknown", notices.IN_PLACE)

    def _traced(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The same in a graph."""
        places = usual_places(arguments, keywords)
        pair = None if places is None else _pair(places, arguments, keywords)
        if places is None or pair is None:
            return self.loss(*arguments, **keywords)
        call = self._call_at(places, *pair, arguments, keywords)
        self._tally.count(call)
        place = places.logits
        logits = self._checks.traced(call, pair[0])
        if isinstance(place, int):
            arguments = (*arguments[:place], logits, *arguments[place + 1 :])
        else:
            keywords = {**keywords, place: logits}
        return self.loss(*arguments, **keywords)

    def _place(self, device: torch.device) -> None:
        """Where logits are from now on."""
        self._tally.place(device)
        self._checks.place(device)
        self.__dict__["_measured"] = None

    # A step

    def _before_step(
        self,
        optimizer: torch.optim.Optimizer,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What an optimizer calls before its step; the arguments of that, if they change."""
        if leaves_out(optimizer):
            return None  # as if it hadn't been called, which is told at the next pass
        closure, turn = closure_of(arguments, keywords), self._round
        if turn.stepping is optimizer and turn.is_checked:
            return None  # by the step of a class that it is derived from
        turn.stepping, turn.is_counted = optimizer, False
        with self._lock:
            if closure is None or turn.late is not None or self._checks.is_any_over():
                self._check_step(optimizer)
            elif id(optimizer) in turn.stepped:
                turn.is_checked = False  # a new step, whose passes are still to come
        if closure is None:
            return None
        return with_closure(arguments, keywords, partial(self._call, closure, optimizer))

    def _after_step(self, *_: Any) -> None:
        """What an optimizer calls after its step."""
        self._round.stepping = None
        self._round.give_back_gradients()

    def _call(self, closure: Callable[[], Any], optimizer: torch.optim.Optimizer) -> Any:
        """A closure, and a check of the passes in it; all of a step count as one."""
        turn = self._round
        turn.is_inside = True
        try:
            result = closure()
            with self._lock:
                if not (turn.is_checked and id(optimizer) in turn.stepped):
                    self._check_step(optimizer)
        finally:
            turn.is_inside = False
        return result

    def _check_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A check of an optimizer's step."""
        if not self._check(optimizer, is_step=True) and self.action == "skip":
            self._round.withheld += without_gradients(optimizer)

    def _look_back(self) -> None:
        """At passes whose backward has been, and of which no check was asked: a step left out."""
        failing = self._voice.safely("look back", self._checks.done) or []
        turn = self._round
        if not failing:
            return
        turn.broken += 1
        if turn.broken == _SKIPPED:
            self._voice.notice("skipping", notices.of_skipping(_SKIPPED))
        explanation = self._voice.safely("explain a failure", self._explain, failing, self.step + 1)
        if explanation is None:
            self._voice.notice("scale", notices.SCALE)
        elif explanation[0].cause == "downstream":
            self._voice.notice("outside", notices.DOWNSTREAM)
        else:
            turn.late = self._tell(*explanation)

    def _check(self, optimizer: torch.optim.Optimizer | None, *, is_step: bool) -> bool:
        """Whether the step may be taken; see `check`."""
        turn, tally = self._round, self._tally
        is_new = turn.is_new(optimizer, is_step=is_step)
        if not (is_new or turn.is_fine):
            return False  # another optimizer of a step that has been checked
        is_counted = is_new and not (turn.is_inside and turn.is_counted)
        tally.step += is_counted
        is_fine = self._is_fine(optimizer, is_step=is_step) and (is_counted or turn.is_fine)
        turn.end(is_fine)
        if not is_fine and not is_step and optimizer is not None:
            self._voice.safely("leave a step out", self._leave_out, optimizer)
        if is_counted:
            if is_step and turn.steps == _UNCALLED and tally.last is None:
                self._voice.notice("uncalled", notices.UNCALLED)
            if tally.step % self.every == 0 or tally.step == 1:
                self._voice.safely("read its statistics", self._read)
        return is_fine

    def _is_fine(self, optimizer: torch.optim.Optimizer | None, *, is_step: bool) -> bool:
        """Whether the passes since the last check were, and the gradients of an optimizer are."""
        failing = self._voice.safely("check the passes", self._checks.failing)
        explanation, is_scaled = None, False
        if failing or self._round.late is not None or (is_step and optimizer is not None):
            explanation, is_scaled = self._broken(failing or [], optimizer, is_step=is_step)
        # Averaged over the ranks, a gradient that one loss broke is broken on all of them.
        is_broken = explanation is not None
        if ranks.is_group():
            asked = explanation, self._tally.device, _is_of_parameter
            agreed = self._voice.safely("ask the other processes", ranks.first_on_any, *asked)
            is_broken, explanation = agreed or (is_broken, explanation)
        if is_broken:
            return self.action != "skip" if explanation is None else self._act(*explanation)
        if is_scaled:
            self._voice.notice("scale", notices.SCALE)
        return True

    def _broken(
        self,
        failing: list[Pass | LossCall],
        optimizer: torch.optim.Optimizer | None,
        *,
        is_step: bool,
    ) -> tuple[tuple[Diagnosis, Path | None] | None, bool]:
        """What has broken, with its capture, and whether it is no more than a scale."""
        late, self._round.late = self._round.late, None
        explanation = None
        if failing:
            explanation = self._voice.safely("explain a failure", self._explain, failing, self.step)
        is_scaled = bool(failing) and explanation is None
        if is_scaled and is_step:
            explanation = self._voice.safely("explain a failure", self._of_scale, failing)
        if late is not None and (self.action == "raise" or self._is_there_still(optimizer)):
            return (late.diagnosis, late.capture), is_scaled
        if explanation is None and optimizer is not None and is_step:
            look = self._of_parameters
            explanation = self._voice.safely("look at the gradients", look, optimizer)
        return explanation, is_scaled

    def _is_there_still(self, optimizer: torch.optim.Optimizer | None) -> bool:
        """Whether what has been told late is in the gradients, as in those of accumulated steps."""
        known = list(self._round.hooked) if optimizer is None else [optimizer]
        look = partial(self._voice.safely, "look at the gradients", broken_parameters)
        return not known or any(look(one) is not None for one in known)

    def _leave_out(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the next step of an optimizer change nothing.

        Gradients stay until then: a GradScaler wants to see them, and leaves the step out itself.
        """
        try:
            self.attach(optimizer)
        except TypeError:
            without_gradients(optimizer)

    def _explain(
        self, failing: list[Pass | LossCall], step: int
    ) -> tuple[Diagnosis, Path | None] | None:
        """The cause of the first pass that failed by itself, and the capture of it."""
        for one in failing:
            call, cause = self._causes.find(one, step, ranks.rank())
            if cause is not None:
                return cause, self._voice.safely("write a capture", self._save, call, cause)
        return None

    def _of_scale(self, failing: list[Pass]) -> tuple[Diagnosis, Path | None]:
        """A step that is about to be taken on a gradient which a factor has broken."""
        return of_scale(failing[0], self.step, ranks.rank()), None

    def _of_parameters(
        self, optimizer: torch.optim.Optimizer
    ) -> tuple[Diagnosis, Path | None] | None:
        """Parameters whose gradients broke though those of the logits are fine."""
        broken = broken_parameters(optimizer)
        if broken is None or self._tally.last is None:
            return None
        return diagnosis.of_parameter(self.step, ranks.rank(), *broken), None

    def _look_after(self, _: Tensor) -> None:
        """In a backward pass of many without a step: at its end, whether the network breaks."""
        engine: Any = torch.autograd.Variable._execution_engine
        look = self._look_at_network
        engine.queue_callback(partial(self._voice.safely, "look at the gradients", look))

    def _look_at_network(self) -> None:
        """Where only gradients of parameters are broken, a GradScaler leaves out every step."""
        for optimizer in self._round.hooked:
            broken = broken_parameters(optimizer)
            if broken is not None and self._round.broken == 0:
                self._voice.notice("skipping", notices.of_skipped_parameter(_SKIPPED, broken[0]))

    def _act(self, cause: Diagnosis, path: Path | None) -> bool:
        """Tell of a failure; whether the step may be taken.

        Raises:
            FocalGuardError: the action is ``"raise"``.
        """
        error = self._tell(cause, path)
        if self.action == "raise":
            raise error
        return self.action == "record"

    def _tell(self, cause: Diagnosis, path: Path | None) -> FocalGuardError:
        """Keep a failure, and warn of it unless the error is raised soon."""
        text = cause.paragraph + (f" Replay it: parfocal replay {quote(str(path))}" if path else "")
        if not self.failures or self.failures[-1].paragraph != cause.paragraph:
            _append(self.failures, cause)
            self._round.failures += 1
            if self.action != "raise" and self._round.failures <= _WARNED:
                warnings.warn(text, FocalGuardWarning, stacklevel=3)
        return FocalGuardError(text, cause, path)

    def _raise_late(self, _: Tensor) -> None:
        """At the beginning of a backward pass: what was found since the last one.

        Not before, in the forward pass: training loops expect no error there, and nothing is lost.
        """
        late, self._round.late = self._round.late, None
        if late is not None:
            raise late

    def _save(self, call: LossCall, cause: Diagnosis) -> Path | None:
        """Write a capture, if there is a folder for it that isn't full."""
        if self.capture is None:
            return None
        if self._captured >= _CAPTURES:
            self._voice.notice("captures", notices.of_captures(_CAPTURES))
            return None
        self.__dict__["_captured"] = self._captured + 1
        name = f"failure-step{call.step}-rank{call.rank}.safetensors"
        form = self._measures.form(call)
        return save_capture(self.capture / name, call, cause, form, keep_data=self.keep_data)

    # A reading

    def _read(self) -> Reading | None:
        """Fetch the statistics, look at the trend, begin anew."""
        call = self._tally.last
        if call is not None:
            self._voice.safely("measure the loss", self._measure, call)  # then count
            if self.step == 1 and self._tally.form is not None:
                self._voice.safely("look at the prior", self._look_at_prior, call)
        last: Reading | None = self._tally.read()
        if last is None:
            return None
        _append(self.readings, last)
        if call is not None and self._tally.form is not None:  # else others alone have samples
            self._outlook.look(
                last, call, near=self.near, horizon=self.horizon, has_failed=bool(self.failures)
            )
            self._tally.form = self._measures.form(call)
        if self.writer is not None:
            self._voice.safely("write its scalars", self._write)
        return last

    def _look_at_prior(self, call: LossCall) -> None:
        text = forgotten_prior(call, self._measures.form(call))
        if text:
            self._voice.notice("prior", text)

    def _write(self) -> None:
        for name, value in self.scalars().items():
            self.writer.add_scalar(name, value, self.step)

    def _measure(self, call: LossCall) -> None:
        """What the targets mean, and where the loss breaks, as it is called now."""
        key = key_of(call)
        if key == self._measured or not call.logits.numel():
            return  # nothing can be measured with a batch of no samples
        self.__dict__["_measured"] = key
        limits = self._measures.limits(call)
        self._tally.form = form = self._measures.form(call)
        self._tally.measure_by(limits, call)
        if form.kind == "unknown" or limits is None:
            self._voice.notice("unknown", notices.UNKNOWN)


def _is_of_parameter(explanation: tuple[Diagnosis, Path | None]) -> bool:
    return explanation[0].cause == "parameter"


def _has_numbers(argument: Tensor) -> bool:
    """Whether it is a tensor with a gradient whose numbers can be read."""
    is_abstract = argument.device.type == "meta" or is_functorch_wrapped_tensor(argument)
    return argument.requires_grad and not is_abstract


def _cut(argument: Any) -> Any:
    """Without its graph, which may be large."""
    is_of_graph = isinstance(argument, Tensor) and argument.requires_grad
    return argument.detach() if is_of_graph else argument


def _pair(
    places: Places, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """The logits and the targets of a call; None if these are none, or have no gradient."""
    at, to = places
    logits = arguments[at] if isinstance(at, int) else keywords[at]
    targets = arguments[to] if isinstance(to, int) else keywords[to]
    if not (isinstance(logits, Tensor) and logits.requires_grad and isinstance(targets, Tensor)):
        return None
    return logits, targets.detach() if targets.requires_grad else targets


def _append(kept: list[Any], new: Any) -> None:
    """To a list that doesn't grow for ever."""
    kept.append(new)
    if len(kept) > _KEPT:
        del kept[: _KEPT // 2]
