"""A step of transformers' Trainer, in this process or in one of a group: see `ranks`."""

import logging
import os
from functools import partial

import torch
from torch import nn

from parfocal import softmax_focal_loss
from parfocal.integrations.transformers import trainer_loss

RATE = 0.5
LENGTHS = (1, 7, 2, 5, 3, 7, 1, 4)  # of the sequences; the rest is padding
WORDS, CLASSES = 11, 5


class Tagger(nn.Module):
    """A class a word, and the features that it is made of."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, input_ids, labels=None):
        """As the models of transformers: a dictionary."""
        features = self.words(input_ids).tanh()
        return {"logits": self.head(features), "last_hidden_state": features}


def tagger():
    """In float64, the same each time."""
    torch.manual_seed(1)
    return Tagger().double()


def tagged_sequences():
    """Eight samples; 30 of their 56 words count."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for length in LENGTHS:
        words = torch.randint(WORDS, (max(LENGTHS),), generator=generator)
        labels = torch.randint(CLASSES, (max(LENGTHS),), generator=generator)
        labels[length:] = -100
        samples.append({"input_ids": words, "labels": labels})
    return samples


def step(
    model,
    samples,
    loss,
    folder,
    *,
    accumulated=1,
    callbacks=(),
    devices=1,
    processes=1,
    average_tokens=True,
):
    """One step of gradient descent over all samples, and what the Trainer logged."""
    from transformers import Trainer, TrainingArguments

    logging.getLogger("transformers").setLevel(logging.ERROR)
    arguments = TrainingArguments(
        str(folder),
        max_steps=1,
        per_device_train_batch_size=len(samples) // (accumulated * devices * processes),
        gradient_accumulation_steps=accumulated,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        average_tokens_across_devices=average_tokens,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    arguments._n_gpu = devices
    trainer = Trainer(
        model,
        arguments,
        train_dataset=samples,
        compute_loss_func=loss,
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer.state.log_history[0]


def step_of_a_group(rank, folder):
    """Two processes of two accumulated batches, beside the step that one process took."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",  # not used: the group is there already
        "ACCELERATE_USE_CPU": "true",
    }
    model = tagger()
    loss = trainer_loss(partial(softmax_focal_loss, gamma=0.5))
    step(model, tagged_sequences(), loss, folder, accumulated=2, processes=2)
    expected = torch.load(f"{folder}/expected.pt")
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-12, atol=1e-14)
