"""The losses in the Trainer of transformers, as `compute_loss_func`, and a schedule of gamma."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from parfocal.guard import FocalGuard
from parfocal.losses.schedule import GammaSchedule

_CALL = "trainer_loss"


def trainer_loss(
    loss: Callable[..., Tensor],
    *,
    shift: bool = False,
    logits: str | int = "logits",
    ignore_index: int = -100,
) -> Callable[..., Tensor]:
    r"""A loss as the transformers Trainer calls it, exact when gradients are accumulated.

    The result is called as ``compute_loss_func(outputs, labels, num_items_in_batch=None)``::

        L = sum of the losses of labels that count / num_items_in_batch

    The Trainer counts the items of all batches of a step, on all processes, and adds up the
    gradients: four batches of two samples equal one of eight, even if the sequences differ in
    length. Without `num_items_in_batch` the labels of this batch are counted.

    Args:
        loss: A function of this package with `targets`, `mask` and `normalizer`, a ``partial`` of
            one, its module with ``reduction="sum"``, or a `FocalGuard` around any of these.
        shift: Whether position t predicts label t + 1, as in a causal language model.
        logits: The name of the logits in the outputs of the model, or their index. In a tuple they
            come first, since the Trainer doesn't pass the labels to the model.
        ignore_index: The label of positions that don't count. When the Trainer counts, it leaves
            out only -100.

    Shape:
        logits (..., C), classes last. Labels (...) are class indices, for a sigmoid loss too, and
        an item is one of them. Labels (..., C) are those of C separate problems for a sigmoid loss,
        where each is an item; for a softmax loss they are class probabilities, and a row of them is
        an item. With a single logit, a sigmoid loss takes labels (...) of 0 and 1. For
        `linear_softmax_focal_loss` the logits are the features (..., D).

    Returns:
        The function. Its result is 0 where no label counts. A class weight doesn't change the
        divisor, unlike in the mean of ``F.cross_entropy``.

    Raises:
        TypeError: a loss of the wrong type.
        ValueError: a module that doesn't return the sum, a ``partial`` with its own reduction, mask
            or normalizer; from the function, missing labels or labels of another shape.

    Accuracy: that of the loss, and one division.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from parfocal import softmax_focal_loss
        >>> from parfocal.integrations.transformers import trainer_loss
        >>> loss = trainer_loss(partial(softmax_focal_loss, gamma=0.5), shift=True)
        >>> outputs = {"logits": torch.zeros(1, 3, 2)}
        >>> loss(outputs, torch.tensor([[0, 1, -100]]))
        tensor(0.4901)
        >>> loss(outputs, torch.tensor([[0, 1, -100]]), num_items_in_batch=4)
        tensor(0.1225)

    Source: ``Trainer.compute_loss`` and ``Trainer.training_step`` of transformers 5.24.
    """
    inner, bound = _unwrap(loss)
    names = _parameters(inner)
    if not {"targets", "mask", "normalizer"} <= names:
        raise TypeError(
            f"{_CALL}: expected a loss with `targets`, `mask` and `normalizer`, such as "
            f"softmax_focal_loss, got {_name(inner)}"
        )
    stored = getattr(inner, "reduction", "sum")
    if stored != "sum":
        raise ValueError(
            f"{_CALL}: expected a module that returns the sum, to divide by the number of items, "
            f"got {_name(inner)} with reduction={stored!r}; make it with reduction='sum'"
        )
    for name in sorted({"mask", "normalizer", "reduction"} & bound):
        raise ValueError(
            f"{_CALL}: expected a loss without `{name}`, which each step of the Trainer sets, got "
            f"one with it"
        )
    options = {} if isinstance(inner, nn.Module) else {"reduction": "sum"}
    is_softmax = "position_weight" in names

    def compute_loss(
        outputs: Any, labels: Tensor | None, num_items_in_batch: int | Tensor | None = None
    ) -> Tensor:
        x, y = _logits(outputs, logits), _labels(labels)
        if shift:
            if x.ndim != y.ndim + 1 or x.ndim < 3:
                raise ValueError(
                    f"{_CALL}: expected logits (B, T, C) and labels (B, T) with shift=True, got "
                    f"{tuple(x.shape)} and {tuple(y.shape)}"
                )
            x, y = x[..., :-1, :], y[..., 1:]
        y = y.to(x.device)
        counts = y != ignore_index
        items = counts.sum() if num_items_in_batch is None else _sum(num_items_in_batch, x)
        items = items.clamp(min=1)
        if is_softmax and y.shape == x.shape:
            # The Trainer counts each of the C probabilities.
            items = items / x.shape[-1]
            counts = counts.all(-1)
        x, y, counts = _flatten(x, y, counts, is_softmax=is_softmax)
        return loss(x, targets=y, mask=counts, normalizer=items, **options)

    return compute_loss


class GammaScheduleCallback(TrainerCallback):
    """Sets the gamma of a loss before each optimizer step, and adds it to the logs.

    The Trainer calls its own reporters, such as TensorBoard's, before the callbacks you pass. To
    have them report gamma too, use ``trainer.callback_handler.callbacks.insert(0, callback)``.

    Args:
        loss: The module passed to `trainer_loss`, or a `FocalGuard` around it.
        schedule: Over the optimizer's steps, ``state.global_step``: a training that resumes from a
            checkpoint resumes with its gamma.

    Example::

        loss = SoftmaxFocalLoss(reduction="sum")
        schedule = GammaSchedule({0: 0.0, 1000: 2.0})
        Trainer(
            ...,
            compute_loss_func=trainer_loss(loss),
            callbacks=[GammaScheduleCallback(loss, schedule)],
        )
    """

    def __init__(self, loss: nn.Module, schedule: GammaSchedule) -> None:
        self.loss, self.schedule = loss, schedule

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the batches of a step."""
        self.schedule.set_gamma(self.loss, state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add the gamma of the last step to what is logged, and to the history."""
        gamma = self.schedule(max(0, state.global_step - 1))
        for record in ({} if logs is None else logs, *state.log_history[-1:]):
            record["gamma"] = gamma


def _unwrap(loss: Any) -> tuple[Any, set[str]]:
    """The function or module under guards, compilers and partials, and what these have named."""
    names = set[str]()
    while True:
        if isinstance(loss, FocalGuard):
            loss = loss.loss
        elif hasattr(loss, "_orig_mod"):  # of torch.compile
            loss = loss._orig_mod
        elif isinstance(loss, partial):
            names |= loss.keywords.keys()
            loss = loss.func
        else:
            return loss, names


def _parameters(loss: Callable[..., Any]) -> set[str]:
    """The names of what it is called with; none if it can't be called."""
    function = loss.forward if isinstance(loss, nn.Module) else loss
    return set(inspect.signature(function).parameters) if callable(function) else set()


def _name(loss: Any) -> str:
    """A function or module as its user calls it."""
    return str(getattr(loss, "__name__", type(loss).__name__))


def _logits(outputs: Any, name: str | int) -> Tensor:
    """The logits among what a model gives: a mapping, a tuple, or the tensor itself."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and name not in outputs:
        raise ValueError(
            f"{_CALL}: expected {name!r} among the outputs of the model, got {sorted(outputs)}; "
            "name them with `logits=`"
        )
    is_place = isinstance(outputs, Mapping) or isinstance(name, int)
    result: Tensor = outputs[name if is_place else 0]
    return result


def _labels(labels: Tensor | None) -> Tensor:
    """The labels, without which there is no loss."""
    if labels is None:
        raise ValueError(
            f"{_CALL}: expected `labels`, got None; the Trainer reads them from the key 'labels' "
            "of a batch"
        )
    return labels


def _sum(items: int | Tensor, x: Tensor) -> Tensor:
    """The items as one number beside the logits.

    Under DataParallel the Trainer gives one number a device, and multiplies the loss by how many
    devices there are, or has divided the items by that. The logits are those of all devices, so
    that the sum of these numbers is right in both.
    """
    return torch.as_tensor(items, device=x.device).sum()


def _flatten(
    x: Tensor, y: Tensor, counts: Tensor, *, is_softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of logits with their labels, and a mask that broadcasts as the loss has it."""
    if y.shape == x.shape:
        if is_softmax:
            return x.flatten(0, -2), y.flatten(0, -2), counts.flatten()
        return x, y, counts
    if x.ndim < 2 or y.shape != x.shape[:-1]:
        raise ValueError(
            f"{_CALL}: expected labels of shape {tuple(x.shape[:-1])} or {tuple(x.shape)}, "
            f"got {tuple(y.shape)}"
        )
    if is_softmax:
        return x.flatten(0, -2), y.flatten(), counts.flatten()
    if x.shape[-1] == 1:
        return x.squeeze(-1), y, counts
    return x.flatten(0, -2), y.flatten(), counts.flatten().unsqueeze(1)
