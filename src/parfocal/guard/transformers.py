"""The guard in the Trainer of transformers."""

from contextlib import suppress
from typing import Any

from transformers import TrainerCallback

from parfocal.guard import FocalGuard


class FocalGuardCallback(TrainerCallback):
    """Checks a guarded loss before each step of the optimizer, and logs its readings.

    Args:
        guard: The loss. Pass it to the Trainer too, as ``compute_loss_func``, in a function that
            extracts the logits from the model's outputs.

    Example::

        guard = FocalGuard(partial(sigmoid_focal_loss, reduction="mean"))

        def loss_of(outputs, labels, num_items_in_batch=None):
            return guard(outputs["logits"], labels)

        Trainer(..., compute_loss_func=loss_of, callbacks=[FocalGuardCallback(guard)])

    The Trainer can't skip a step that has begun, but a guard with the action ``"skip"`` removes the
    gradients, so the optimizer changes nothing.
    """

    def __init__(self, guard: FocalGuard) -> None:
        self.guard = guard

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """The optimizer's own gradients are looked at right before its step."""
        with suppress(TypeError):  # one that isn't of torch is checked here alone
            self.guard.attach(optimizer)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Between the backward passes and the step."""
        self.guard.check(optimizer)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add the last reading to what is logged, and to the history."""
        scalars = self.guard.scalars()
        for record in ({} if logs is None else logs, *state.log_history[-1:]):
            record.update(scalars)
