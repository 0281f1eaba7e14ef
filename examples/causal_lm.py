"""A causal language model
=======================

A small causal language model learns to write words backwards, in a vocabulary of 32768.

    python examples/causal_lm.py [EPOCHS]

The loss of transformers' models takes the logits of all positions, (batch, length, vocabulary),
which are most of a step's memory. Here the last hidden states and the weight of the head, tied to
the embedding, go to `linear_softmax_focal_loss`: it makes logits of the answers alone, as prompts
are labelled -100, and of 128 positions at a time. Half of the words are one and the same, soon sure
to be written; with gamma 0.5 the rare ones have the most to say. Needs transformers.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from transformers import GPT2Config, GPT2LMHeadModel

from parfocal import linear_softmax_focal_loss

VOCABULARY, LENGTH = 32768, 4
COLON = VOCABULARY - 1  # between a prompt and its answer
BATCH, STEPS = 48, 10

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def exact(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Of hidden states (..., D), the weight of a head (C, D), and the words that are to come."""
    return linear_softmax_focal_loss(hidden, weight, labels, gamma=0.5)


def language_model() -> GPT2LMHeadModel:
    """One layer with random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        **{"vocab_size": VOCABULARY, "n_positions": 2 * LENGTH + 1, "n_embd": 32},
        **{"n_layer": 1, "n_head": 4, "initializer_range": 0.2},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), COLON),
    )
    return GPT2LMHeadModel(config)


def texts(count: int, generator: torch.Generator) -> Tensor:
    """Words of sixteen, a colon, and the words backwards, (N, 2 LENGTH + 1)."""
    words = torch.randint(0, 16, (count, LENGTH), generator=generator)
    words[torch.rand(words.shape, generator=generator) < 0.5] = 0
    return torch.cat([words, words.new_full((count, 1), COLON), words.flip(1)], 1)


def epoch(
    model: GPT2LMHeadModel, optimizer: Optimizer, loss: Loss, generator: torch.Generator
) -> float:
    """The mean loss of some steps, each on texts of its own."""
    losses = []
    for _ in range(STEPS):
        batch = texts(BATCH, generator)
        labels = batch.clone()
        labels[:, : LENGTH + 1] = -100
        hidden = model.base_model(batch[:, :-1]).last_hidden_state
        value = loss(hidden, model.lm_head.weight, labels[:, 1:])  # of each position, the next word
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return sum(losses) / len(losses)


def written(model: GPT2LMHeadModel, batch: Tensor) -> float:
    """The share of answers without a mistake, of words that the model finds likeliest."""
    prompts = batch[:, : LENGTH + 1]
    answers = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=LENGTH
    )
    return (answers == batch).all(1).float().mean().item()


def train(epochs: int) -> Iterator[tuple[float, float]]:
    """The loss, and the share of right answers to prompts kept aside, after each epoch."""
    model, generator = language_model(), torch.Generator().manual_seed(0)
    kept = texts(128, generator)
    optimizer = Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        yield epoch(model, optimizer, exact, generator), written(model, kept)


def main(epochs: int = 5) -> None:
    """A line an epoch."""
    for number, (loss, right) in enumerate(train(epochs)):
        print(f"epoch {number}   loss {loss:.4f}   right answers {right:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
