"""How often each class occurs, and the alpha that evens that out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from parfocal.losses import checks, numbers

# Under which name a batch that is a mapping has its labels.
_LABELS = ("labels", "label", "targets", "target", "y")


def label_counts(
    labels: Tensor | Iterable[Any],
    classes: int | None = None,
    *,
    ignore_index: int | Iterable[int] = -100,
    labels_of: Callable[[Any], Tensor] | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""How often each class occurs in a tensor, or in all batches of a DataLoader, over all ranks.

    ::

        counts_c = sum of [labels = c]                  with `classes`
        counts = sum of (1 - labels), sum of labels     without, over all but dim 1

    Args:
        labels: A tensor, or an iterable of batches: labels alone, sequences with the labels last,
            or mappings or named tuples with ``labels``, ``label``, ``targets``, ``target`` or
            ``y``.
        classes: Number of exclusive classes; labels are then indices, of any shape. None for labels
            in [0, 1], of shape (N, ...) or, a column per label, (N, L, ...); soft ones count in
            part.
        ignore_index: Indices that don't count, one or several; with `classes`, or of an integer
            dtype.
        labels_of: Function that takes the labels out of a batch, if they are elsewhere.
        group: Process group; the default one if torch.distributed is initialised, else this process
            alone. All its processes must call this. A sampler that pads the parts of all ranks to
            equal length repeats some samples, which count twice.

    Returns:
        Counts in float64: (C,) of classes, (2,) of negatives and positives, or (2, L).

    Raises:
        TypeError: labels that aren't a tensor of a real dtype, or indices that aren't of an integer
            dtype.
        ValueError: labels out of [0, 1], batches with other numbers of labels, or no batch.
        IndexError: an index that is no class and isn't ignored.

    Example:
        >>> import torch
        >>> from parfocal import label_counts
        >>> label_counts(torch.tensor([0, 2, 2, -100]), 3)
        tensor([1., 0., 2.], dtype=torch.float64)
        >>> inputs = torch.zeros(2, 8)
        >>> label_counts([(inputs, torch.tensor([0.0, 1.0])), (inputs[:1], torch.tensor([0.0]))])
        tensor([2., 1.], dtype=torch.float64)
    """
    call = "label_counts"
    ignored = checks.ignore_index(call, ignore_index)
    if classes is not None and numbers.integer(call, "classes", classes) < 1:
        raise ValueError(f"{call}: expected `classes` to be positive, got {classes}")
    batches = [labels] if isinstance(labels, Tensor) else labels
    counts: Tensor | None = None
    for batch in batches:
        y = _labels_in(call, batch) if labels_of is None else labels_of(batch)
        checks.real_targets(call, y)
        y = y.detach() if y.ndim else y.detach().unsqueeze(0)
        part = _binary(call, y, ignored) if classes is None else _indices(call, y, classes, ignored)
        if counts is not None and part.shape != counts.shape:
            raise ValueError(
                f"{call}: expected batches with {counts.shape[1:].numel()} labels each, got one "
                f"with {part.shape[1:].numel()}"
            )
        counts = part if counts is None else counts + part
    is_alone = not (dist.is_available() and dist.is_initialized())
    if counts is None:
        if is_alone or classes is None:
            raise ValueError(f"{call}: expected labels, got no batch")
        counts = torch.zeros(classes, dtype=torch.float64)  # others may have some
    if not is_alone:
        if dist.get_backend(group) == "nccl":
            counts = counts.to("cuda")
        dist.all_reduce(counts, group=group)
    return counts


def alpha_from_counts(
    counts: Tensor | Iterable[float],
    method: Literal["balanced", "effective"] = "balanced",
    *,
    beta: float = 0.999,
    head: Literal["softmax", "sigmoid"] = "softmax",
) -> Tensor:
    r"""The `alpha` that balances class frequencies.

    ::

        w_c = N / (C n_c)                              "balanced": inverse frequency
        w_c = (1 - beta) / (1 - beta ** n_c) / mean    "effective": inverse number of samples that
                                                       aren't covered by others
        alpha = w_c                                    of a softmax
        alpha = w_1 / (w_0 + w_1)                      of a sigmoid; negatives have 1 - alpha

    Args:
        counts: How often each class occurs, > 0: (C,) of a softmax; negatives and positives, (2,)
            or a column per label, (2, L), of a sigmoid, as `label_counts` gives them.
        method: As above. Effective weights are 1 at beta 0, and at beta 1 in the ratios of the
            balanced ones.
        beta: In [0, 1]; (N - 1) / N assumes that the data have N different samples per class. Cui
            et al. tried 0.9, 0.99, 0.999 and 0.9999. For ``"effective"``.
        head: ``"softmax"`` for `softmax_focal_loss`, ``"sigmoid"`` for `sigmoid_focal_loss`.

    Returns:
        `alpha` in the default dtype: of a softmax (C,), the balanced ones 1 on average over the
        samples, the effective ones over the classes; of a sigmoid in (0, 1), a scalar or (L,).

    Raises:
        TypeError: a mapping, whose order needn't be that of the classes.
        ValueError: a class without a sample, whose weight would be infinite
            (``counts.clamp(min=1)`` gives it one); another shape, method or head; `beta` out of
            [0, 1].

    About the initial bias of a head (`init_prior_bias_`): with balanced weights every class has the
    same share in the loss of a constant answer, and the best answer is 1 / 2, or 1 / C, at every
    gamma. A bias of 0 is right then, and log(prior) is not.

    Accuracy: that of float64, rounded to the default dtype; ``1 - beta ** n`` is
    ``-expm1(n log(beta))``.

    Example:
        >>> import torch
        >>> from parfocal import alpha_from_counts, softmax_focal_loss
        >>> alpha_from_counts([900, 90, 10])
        tensor([ 0.3704,  3.7037, 33.3333])
        >>> alpha_from_counts([900, 90, 10], "effective", beta=0.99)
        tensor([0.2284, 0.3836, 2.3880])
        >>> alpha_from_counts([990, 10], head="sigmoid")
        tensor(0.9900)

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
    section 4; balanced weights as in scikit-learn's ``class_weight="balanced"``.
    """
    call = "alpha_from_counts"
    if isinstance(counts, Mapping):
        raise TypeError(f"{call}: expected `counts` in the order of the classes, got a mapping")
    counts = counts.detach() if isinstance(counts, Tensor) else list(counts)
    n = torch.as_tensor(counts, dtype=torch.float64)
    checks.word(call, "method", method, ("balanced", "effective"))
    checks.word(call, "head", head, ("softmax", "sigmoid"))
    beta = numbers.fraction(call, "beta", beta)
    _check_counts(call, n, head)
    if method == "balanced":
        weights = n.sum(0) / (len(n) * n)
    else:
        # 1 / (1 - beta ** n), up to a factor of all; 1 / n in the limit.
        log_beta = torch.log1p(torch.tensor(beta - 1.0, dtype=n.dtype))
        weights = 1 / n if beta == 1 else -1 / torch.expm1(n * log_beta)
        weights = weights / weights.mean(0)
    alpha = weights if head == "softmax" else weights[1] / (weights[0] + weights[1])
    return alpha.to(torch.get_default_dtype())


def _check_counts(call: str, n: Tensor, head: str) -> None:
    if head == "softmax" and (n.ndim != 1 or not len(n)):
        raise ValueError(f"{call}: expected `counts` of shape (C,), got {tuple(n.shape)}")
    if head == "sigmoid" and (n.ndim not in (1, 2) or len(n) != 2):
        raise ValueError(
            f"{call}: expected `counts` of negatives and positives, of shape (2,) or (2, L), got "
            f"{tuple(n.shape)}"
        )
    is_there = n.isfinite() & (n > 0)
    if not bool(is_there.all()):
        place = tuple((~is_there).nonzero()[0].tolist())
        raise ValueError(
            f"{call}: expected finite `counts` above 0, got {n[place].item():g} at {place}; "
            "`counts.clamp(min=1)` counts at least one sample of each class"
        )


def _labels_in(call: str, batch: Any) -> Tensor:
    """The labels of a batch as most DataLoaders have them."""
    fields = getattr(batch, "_fields", batch if isinstance(batch, Mapping) else None)
    if fields is not None:
        name = next((name for name in _LABELS if name in fields), None)
        if name is None:
            raise TypeError(
                f"{call}: expected a batch with {', '.join(_LABELS[:-1])} or {_LABELS[-1]}, got "
                f"{', '.join(map(str, fields))}; `labels_of` extracts labels from other batches"
            )
        labels = batch[name] if isinstance(batch, Mapping) else getattr(batch, name)
    else:
        labels = batch[-1] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{call}: expected the labels of a batch to be a tensor, got {type(labels).__name__}; "
            "`labels_of` extracts labels from other batches"
        )
    return labels


def _indices(call: str, y: Tensor, classes: int, ignored: tuple[int, ...]) -> Tensor:
    if y.is_floating_point():
        raise TypeError(
            f"{call}: expected labels to be indices of {classes} classes, of an integer dtype, got "
            f"{y.dtype}"
        )
    y = y.long()
    if y.ndim == 2 and len(y) > 1 and y.shape[1] == classes > 1 and _is_one_hot(y):
        raise ValueError(
            f"{call}: expected indices of {classes} classes, got one-hot labels; "
            "`labels.argmax(1)` are indices"
        )
    y = _counted(y.flatten(), ignored)
    is_class = (y >= 0) & (y < classes)
    if not bool(is_class.all()):
        raise IndexError(
            f"{call}: expected indices of {classes} classes, got {y[~is_class][0].item()}"
        )
    return torch.bincount(y, minlength=classes).double()


def _binary(call: str, y: Tensor, ignored: tuple[int, ...]) -> Tensor:
    """Negatives and positives of each column, or of all."""
    columns = (y.unsqueeze(1) if y.ndim < 2 else y).unbind(1)
    shape = (2,) if y.ndim < 2 else (2, y.shape[1])
    if not columns:
        raise ValueError(f"{call}: expected labels, got the shape {tuple(y.shape)}")
    parts = []
    for column in columns:
        values = column if column.is_floating_point() else _counted(column.long(), ignored)
        values = values.double()
        is_label = (values >= 0) & (values <= 1)
        if not bool(is_label.all()):
            raise ValueError(
                f"{call}: expected labels in [0, 1], got {values[~is_label][0].item():g}; for "
                "class indices, pass `classes`"
            )
        parts.append(torch.stack([(1 - values).sum(), values.sum()]))
    return torch.stack(parts, 1).view(shape)


def _is_one_hot(y: Tensor) -> bool:
    """Whether each row is 1 at one place and 0 at all others."""
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def _counted(y: Tensor, ignored: tuple[int, ...]) -> Tensor:
    """Without the ignored ones."""
    for index in ignored:
        y = y[y != index]
    return y
