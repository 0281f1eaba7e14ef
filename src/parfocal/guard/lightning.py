"""The guard in PyTorch Lightning, `pytorch-lightning` 2.6.6 or newer."""

from contextlib import suppress
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from parfocal.guard import FocalGuard


class FocalGuardCallback(Callback):
    """Checks the guarded losses of a module before each step of an optimizer.

    Args:
        guard: The guard; None for all guards among the module's own submodules.

    Example::

        class Classifier(LightningModule):
            def __init__(self):
                self.loss = FocalGuard(partial(sigmoid_focal_loss, reduction="mean"))

        Trainer(callbacks=[FocalGuardCallback()]).fit(Classifier(), loader)

    The last reading goes to the trainer's loggers.
    """

    def __init__(self, guard: FocalGuard | None = None) -> None:
        self.guard = guard

    def guards(self, module: LightningModule) -> list[FocalGuard]:
        """Those that are checked."""
        if self.guard is not None:
            return [self.guard]
        return [part for part in module.modules() if isinstance(part, FocalGuard)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is something to guard."""
        if not self.guards(pl_module):
            raise ValueError(
                "FocalGuardCallback: expected a FocalGuard, passed or in the module, got none"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A step calls for the loss itself, and only the optimizer can leave it out then."""
        for guard in self.guards(pl_module):
            for optimizer in trainer.optimizers:
                with suppress(TypeError):  # one that isn't of torch is checked here alone
                    guard.attach(optimizer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Between the backward passes and the step."""
        for guard in self.guards(pl_module):
            before = len(guard.readings)
            guard.check(optimizer)
            if len(guard.readings) > before:
                for logger in trainer.loggers:
                    logger.log_metrics(guard.scalars(), step=guard.step)
