"""A schedule of gamma in real, short trainings: each step has the loss of its own gamma."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainer_ranks import step, tagged_sequences, tagger

from parfocal import GammaSchedule, SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss
from parfocal.guard import FocalGuard
from parfocal.integrations import lightning, transformers

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's trainers warn of

SCHEDULE = GammaSchedule({0: 0.0, 4: 2.0})


class Classifier(LightningModule):
    """A linear layer whose gradients can be said by the formula."""

    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = nn.Linear(3, 1), loss
        nn.init.constant_(self.layer.weight, 0.3)
        nn.init.zeros_(self.layer.bias)

    def training_step(self, batch, _):
        """Logits and labels."""
        x, y = batch
        return self.loss(self.layer(x).squeeze(1), y)

    def configure_optimizers(self):
        """Gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.mark.parametrize("is_guarded", [False, True])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_steps_with_the_gamma_of_the_step(is_guarded, accumulated, tmp_path):
    """Beside a loop of one's own, to the bit; a step of two batches has one gamma."""
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).float()
    loss = SigmoidFocalLoss()
    model = Classifier(FocalGuard(loss) if is_guarded else loss)
    expected = Classifier(None)
    trainer = Trainer(
        max_epochs=1,
        accumulate_grad_batches=accumulated,
        callbacks=[lightning.GammaScheduleCallback(SCHEDULE)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=4))

    optimizer = expected.configure_optimizers()
    for count, rows in enumerate(torch.arange(24).split(4 * accumulated)):
        optimizer.zero_grad()
        for part in rows.split(4):
            logits = expected.layer(x[part]).squeeze(1)
            one = sigmoid_focal_loss(logits, y[part], gamma=SCHEDULE(count), reduction="mean")
            (one / accumulated).backward()
        optimizer.step()
    assert trainer.global_step == 6 // accumulated
    torch.testing.assert_close(model.layer.weight, expected.layer.weight, rtol=0, atol=0)
    assert trainer.callback_metrics["gamma"] == SCHEDULE(trainer.global_step - 1)


@pytest.mark.parametrize("is_guarded", [False, True])
def test_transformers_steps_with_the_gamma_of_the_step(is_guarded, tmp_path):
    """The first of a schedule that begins at 1, beside a loss that was made with 1."""
    schedule = GammaSchedule({0: 1.0, 1: 5.0})
    scheduled, fixed = SoftmaxFocalLoss(reduction="sum"), SoftmaxFocalLoss(gamma=1, reduction="sum")
    models = []
    for loss, callbacks in (
        (scheduled, [transformers.GammaScheduleCallback(scheduled, schedule)]),
        (fixed, []),
    ):
        models.append(tagger())
        inner = FocalGuard(loss) if is_guarded else loss
        compute = transformers.trainer_loss(inner)
        logged = step(models[-1], tagged_sequences(), compute, tmp_path, callbacks=callbacks)
        assert logged.get("gamma") == (1.0 if callbacks else None)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert scheduled.gamma == 1.0
