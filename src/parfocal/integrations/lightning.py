"""A schedule of gamma in PyTorch Lightning, `pytorch-lightning` 2.6.6 or newer."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from parfocal.losses.schedule import GammaSchedule


class GammaScheduleCallback(Callback):
    """Sets the gamma of a module's loss at each step, and logs it.

    Args:
        schedule: Over the optimizer's steps, ``trainer.global_step``: a training that resumes from
            a checkpoint resumes with its gamma.
        loss: The loss, or the name of the module's attribute that holds it.

    Example::

        class Classifier(LightningModule):
            def __init__(self):
                super().__init__()
                self.loss = SoftmaxFocalLoss()

        Trainer(callbacks=[GammaScheduleCallback(GammaSchedule({0: 0.0, 1000: 2.0}))])
    """

    def __init__(self, schedule: GammaSchedule, loss: nn.Module | str = "loss") -> None:
        self.schedule, self.loss = schedule, loss

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the loss of a batch."""
        loss = getattr(pl_module, self.loss) if isinstance(self.loss, str) else self.loss
        pl_module.log("gamma", self.schedule.set_gamma(loss, trainer.global_step))
