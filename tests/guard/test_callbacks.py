"""The guard in real, short trainings of transformers and of PyTorch Lightning."""

import csv
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import sigmoid_focal_loss as original

from parfocal import sigmoid_focal_loss
from parfocal.guard import FocalGuard, FocalGuardError, FocalGuardWarning

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's trainers warn of


def samples():
    """Two sure classes; a linear layer with a high rate is soon at the cliff."""
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) > 0).float()


def layer():
    made = nn.Linear(4, 1)
    with torch.no_grad():
        made.weight.fill_(0.1)
        made.bias.zero_()
    return made


class Model(nn.Module):
    """As transformers' models: a dictionary with logits."""

    def __init__(self):
        super().__init__()
        self.layer = layer()

    def forward(self, x, labels=None):
        """The logits."""
        return {"logits": self.layer(x).squeeze(1)}


def train_transformers(guard, folder, steps=300):
    """A Trainer's own loop; what it logged."""
    from transformers import Trainer, TrainingArguments

    from parfocal.guard.transformers import FocalGuardCallback

    x, y = samples()

    def loss_of(outputs, labels, num_items_in_batch=None):
        return guard(outputs["logits"], labels)

    trainer = Trainer(
        Model(),
        TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=0.2,
            lr_scheduler_type="constant",
            logging_steps=20,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
        compute_loss_func=loss_of,
        callbacks=[FocalGuardCallback(guard)],
    )
    trainer.train()
    return trainer.state.log_history


def train_lightning(guard, folder, steps=300):
    """The same in Lightning; what its logger got."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger

    from parfocal.guard.lightning import FocalGuardCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss = layer(), guard

        def training_step(self, batch, index):
            x, y = batch
            return self.loss(self.model(x).squeeze(1), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.2)

    logger = CSVLogger(folder)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        callbacks=[FocalGuardCallback()],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = DataLoader(TensorDataset(*samples()), 32, shuffle=True)
    trainer.fit(Module(), loader)
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


@pytest.mark.parametrize("train", [train_transformers, train_lightning])
def test_a_training_is_warned_and_stopped(train, tmp_path):
    """By the original loss at gamma 0.5: a warning, an error before the step, a file."""
    guard = FocalGuard(partial(original, gamma=0.5, reduction="mean"), every=1, capture=tmp_path)
    with pytest.raises(FocalGuardError) as raised:
        train(guard, tmp_path)
    assert raised.value.diagnosis.cause == "focal term"
    assert raised.value.capture.exists()
    ahead = [notice.step for notice in guard.warnings if notice.is_ahead]
    assert ahead
    assert ahead[0] < guard.step


@pytest.mark.parametrize("train", [train_transformers, train_lightning])
def test_a_training_with_the_exact_loss_ends_and_is_logged(train, tmp_path):
    """No warning of a cliff, and the readings are among the metrics."""
    guard = FocalGuard(partial(sigmoid_focal_loss, gamma=0.5, reduction="mean"), every=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FocalGuardWarning)
        logged = train(guard, tmp_path, steps=60)
    assert guard.step == 60
    assert guard.failures == []
    name = "focal_guard/largest_margin"
    margins = [row[name] for row in logged if name in row]
    assert margins[-1] == pytest.approx(guard.readings[-1].largest_margin)
    assert margins[-1] > 3


def test_lightning_says_when_there_is_no_guard():
    """A module without one."""
    from parfocal.guard.lightning import FocalGuardCallback

    with pytest.raises(ValueError, match="expected a FocalGuard"):
        FocalGuardCallback().on_fit_start(None, nn.Linear(1, 1))
