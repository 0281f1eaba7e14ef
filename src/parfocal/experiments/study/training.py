"""One training of a study, from prepared data to a line of numbers and predictions.

The same training, data, machine and software give the same line, to the byte, and the same
predictions. A step whose gradient isn't finite is left out, as an AMP scaler does, and counted.
"""

import math
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from parfocal.experiments.errors import DamagedRecordError
from parfocal.experiments.losses import Loss
from parfocal.experiments.run.record import replacing
from parfocal.experiments.run.trainer import parameter_vector
from parfocal.experiments.spec import seed_of
from parfocal.experiments.study.losses import objective_loss
from parfocal.experiments.study.metrics import Predictions, fitted_temperature, measure, once
from parfocal.experiments.study.networks import study_network
from parfocal.experiments.study.problems import Problem, Split, load_problem, network_inputs
from parfocal.experiments.study.scenes import CLASSES, detections, truth_counts
from parfocal.experiments.study.spec import Training
from parfocal.losses.setup import positive_count

_EVALUATED = 500  # inputs at once
_OF_DETECTIONS = ("targets", "samples", "classes")  # which depend on the logits
_MOMENTUM = 0.9

_loaded = lru_cache(maxsize=1)(load_problem)


class _Trained(NamedTuple):
    """A network, and what happened on the way."""

    model: nn.Module
    steps: int
    skipped_steps: int
    largest_logit: float


def train_and_measure(training: Training, data: Path, predictions: Path | None) -> dict[str, Any]:
    """Train, and judge.

    Args:
        training: what to do.
        data: the prepared data.
        predictions: where the test's are written; None for a training of the search, which doesn't
            look at the test.

    Returns:
        Numbers by name: of the steps, of the validation split, and of the test.
    """
    torch.set_num_threads(1)
    problem = _loaded(data)
    trained = _train(training, problem)
    validation = _predictions(trained.model, problem, problem.validation)
    temperature = fitted_temperature(validation)
    found = {
        "steps": trained.steps,
        "skipped_steps": trained.skipped_steps,
        "largest_logit": trained.largest_logit,
        "dead_share": _dead_share(training, problem, trained.model),
        "temperature": temperature,
        **_measured("validation", validation, temperature),
    }
    if predictions is not None:
        test = _predictions(trained.model, problem, problem.test)
        found |= _measured("test", test, temperature)
        _save(test, predictions)
    return found


def read_predictions(path: Path, split: Split, head: str) -> Predictions:
    """Predictions that were written, beside what was true.

    Raises:
        DamagedRecordError: the file isn't what was written; with its path.
    """
    names = ("logits", *_OF_DETECTIONS) if head == "boxes" else ("logits",)
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in names}
        if not all(values.dtype.kind in "bif" for values in found.values()):
            raise ValueError("expected arrays of numbers")
        if head != "boxes" and len(found["logits"]) != split.targets.numel():
            raise ValueError("expected a logit, or a row of them, for each target")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedRecordError(
            f"{path} is damaged; remove it, and the next run makes it again"
        ) from error
    if head == "boxes":
        return Predictions(**found, truths=truth_counts(split.targets).numpy())
    return Predictions(found["logits"], *_targets_and_samples(split))


def _save(predictions: Predictions, path: Path) -> None:
    """The logits; of detections, which depend on them, also the rest."""
    arrays: dict[str, Any] = {"logits": predictions.logits}
    if predictions.classes is not None:
        arrays |= {name: getattr(predictions, name) for name in _OF_DETECTIONS}
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def _train(training: Training, problem: Problem) -> _Trained:
    dataset, objective = training.dataset, training.objective
    features = problem.train.inputs.shape[1]
    seed = seed_of(training.seed, "parameters")
    model = study_network(dataset, features, problem.classes, seed)
    vector = parameter_vector(model)
    assert vector.grad is not None
    optimizer = _optimizer(dataset.optimizer, vector, training.rate)
    dtype = getattr(torch, objective.logits)
    loss = objective_loss(
        objective,
        dataset,
        problem.head,
        problem.counts,
        "sum" if problem.head == "boxes" else "mean",
    )
    order = torch.Generator().manual_seed(seed_of(training.seed, "order"))
    noise = torch.Generator().manual_seed(seed_of(training.seed, "noise"))
    count = len(problem.train.inputs)
    steps = dataset.epochs * math.ceil(count / dataset.batch_size)
    skipped, step, largest = 0, 0, 0.0
    model.train()
    for _ in range(dataset.epochs):
        for indices in torch.randperm(count, generator=order).split(dataset.batch_size):
            inputs = network_inputs(problem.train.inputs[indices], problem.noise, noise)
            outputs = model(inputs)
            vector.grad.zero_()
            _batch_loss(loss, problem, outputs, problem.train.targets[indices], dtype).backward()
            largest = max(largest, _class_logits(problem, outputs).detach().abs().max().item())
            optimizer.param_groups[0]["lr"] = _rate(training.rate, step, steps)
            step += 1
            if bool(vector.grad.isfinite().all()):
                optimizer.step()
            else:
                skipped += 1
    return _Trained(model, steps, skipped, largest)


def _optimizer(name: str, vector: nn.Parameter, rate: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD([vector], rate, momentum=_MOMENTUM)
    return torch.optim.Adam([vector], rate)


def _rate(rate: float, step: int, steps: int) -> float:
    """Half a cosine, from the rate to 0."""
    return rate * (1 + math.cos(math.pi * step / steps)) / 2


def _class_logits(problem: Problem, outputs: Tensor) -> Tensor:
    """What the objective is about: of a detector the classes, and not the boxes."""
    return outputs[:, :CLASSES] if problem.head == "boxes" else outputs


def _batch_loss(
    loss: Loss, problem: Problem, outputs: Tensor, targets: Tensor, dtype: torch.dtype
) -> Tensor:
    """The objective; of a detector divided by the positives, beside a smooth L1 loss of boxes."""
    if problem.head == "softmax":
        return loss(outputs.to(dtype), targets)
    if problem.head == "sigmoid":
        return loss(outputs.to(dtype), targets.to(dtype))
    classes, boxes = targets[:, :CLASSES], targets[:, CLASSES:]
    positives = positive_count(classes)
    has_object = classes.sum(dim=1, keepdim=True)
    distance = functional.smooth_l1_loss(outputs[:, CLASSES:], boxes, reduction="none")
    total = loss(outputs[:, :CLASSES].to(dtype), classes.to(dtype))
    return (total + (distance * has_object).sum()) / positives


@torch.no_grad()
def _outputs(model: nn.Module, problem: Problem, inputs: Tensor) -> Tensor:
    """Of the trained network; one that is lost answers 0 where it has no number."""
    model.eval()
    noise = torch.Generator().manual_seed(seed_of(0, "evaluation"))
    parts = [model(network_inputs(part, problem.noise, noise)) for part in inputs.split(_EVALUATED)]
    return torch.cat(parts).nan_to_num(0.0, 0.0, 0.0)


def _predictions(model: nn.Module, problem: Problem, split: Split) -> Predictions:
    outputs = _outputs(model, problem, split.inputs)
    if problem.head == "boxes":
        found = detections(outputs, split.targets)
        return Predictions(
            logits=found.logits.numpy(),
            targets=found.hits.numpy(),
            samples=found.scenes.numpy(),
            classes=found.classes.numpy(),
            truths=truth_counts(split.targets).numpy(),
        )
    logits = outputs if problem.head == "softmax" else outputs.flatten()
    return Predictions(logits.numpy(), *_targets_and_samples(split))


def _targets_and_samples(split: Split) -> tuple[Any, Any]:
    """A row each, also of the pixels of an image."""
    each = split.targets.numel() // len(split.groups)
    return split.targets.flatten().numpy(), split.groups.repeat_interleave(each).numpy()


def _measured(split: str, predictions: Predictions, temperature: float) -> dict[str, float]:
    found = measure(predictions, temperature, once(predictions))
    return {f"{split}_{name}": float(values[0]) for name, values in found.items()}


def _dead_share(training: Training, problem: Problem, model: nn.Module) -> float:
    """The part of all logits of the training split from which the loss has no gradient at the end.

    None is 0, or no number. Of a softmax the part of rows of which no logit has one.
    """
    objective, dtype = training.objective, getattr(torch, training.objective.logits)
    loss = objective_loss(objective, training.dataset, problem.head, problem.counts, "sum")
    outputs = _outputs(model, problem, problem.train.inputs)
    logits = _class_logits(problem, outputs).to(dtype).requires_grad_()
    targets = problem.train.targets
    if problem.head == "boxes":
        targets = targets[:, :CLASSES]
    targets = targets if problem.head == "softmax" else targets.to(dtype)
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    dead = (gradient == 0) | ~gradient.isfinite()
    dead = dead.all(dim=1) if problem.head == "softmax" else dead
    return dead.double().mean().item()
