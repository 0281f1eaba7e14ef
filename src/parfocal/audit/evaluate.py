"""What a loss gives: its value and derivatives at many logits, by its own framework."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parfocal.audit.subject import Subject, SubjectError

# The logit of a class that has a probability of 0 in every dtype, beside others of up to 100.
NOTHING = -1e4

# That of a positive that is right and sure: its loss is 0 beside any other.
SURE = 1e4

# Of arrays of JAX, which compiles each operation for each length.
JAX_LENGTHS = (1, 4096, 1 << 16)

# One number at a time, of a loss that gives a mean; more would take minutes.
SINGLE = 400


class Evaluated(NamedTuple):
    """Results at each logit, in the dtype of the logits; None where there is none.

    dtype: in which the loss gave its value.
    """

    value: Tensor | None
    gradient: Tensor | None
    curvature: Tensor | None
    dtype: str = ""

    def of(self, quantity: str) -> Tensor | None:
        """A result by its name."""
        found = getattr(self, quantity)
        assert found is None or isinstance(found, Tensor)
        return found


def evaluate(
    subject: Subject, logits: Tensor, target: float, gamma: float, *, second: bool = True
) -> Evaluated:
    """Value, gradient and second derivative at logits (N), one target for all.

    Of class logits the rows are (x, 0), and the target 1 is class 0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if subject.framework == "jax":
            runs = logits.split(JAX_LENGTHS[-1])
            return _together([_jax(subject, x, target, gamma, second) for x in runs])
        if subject.framework == "numpy":
            return _numpy(subject, logits, target, gamma)
        if subject.reduced == "mean":
            singles = logits.split(1)
            return _together([_torch(subject, x, target, gamma, second) for x in singles])
        return _torch(subject, logits, target, gamma, second)


def _together(parts: Sequence[Evaluated]) -> Evaluated:
    """Results of runs of logits as those of all."""
    value, gradient, curvature = (
        _joined([part.of(name) for part in parts]) for name in ("value", "gradient", "curvature")
    )
    return Evaluated(value, gradient, curvature, parts[0].dtype)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None


def arguments(subject: Subject, x: Tensor, target: float | Tensor) -> tuple[Tensor, Tensor]:
    """Logits or probabilities, and one target or each its own, in the shapes that the loss takes.

    Of class logits the rows are (x, 0), and the target 1 is class 0.
    """
    y = target.to(x) if isinstance(target, Tensor) else torch.full_like(x, target)
    y = y.detach()
    if subject.companion and not bool(y.any()):
        x, y = torch.cat([x, x.new_full((1,), SURE)]), torch.cat([y, y.new_ones(1)])
    if subject.kind == "multiclass":
        others = [torch.full_like(x, NOTHING)] * (subject.classes - 2)
        rows = torch.stack([x, torch.zeros_like(x), *others], 1)
        return of_rows(subject, rows, (y == 0).long())
    given = _given(subject, x, torch.sigmoid, torch.nn.functional.logsigmoid)
    if subject.long:
        y = y.long()
    ones = 3 if subject.maps else int(subject.column)
    return _with_ones(given, ones), _with_ones(y, ones)


def of_rows(subject: Subject, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The same of rows of class logits (N, C) and indices (N)."""
    ones = 2 if subject.maps else 0
    given = _given(subject, rows, lambda x: x.softmax(1), lambda x: x.log_softmax(1))
    if subject.one_hot:
        classes = torch.arange(rows.shape[1], device=rows.device)
        index = (index[:, None] == classes).to(rows.dtype)  # as vmap takes it
    return _with_ones(given, ones), _with_ones(index, ones)


def tensor_of(result: Any) -> Tensor | None:
    """The loss in what a loss returned: a tensor, or the first with a gradient in a collection.

    Without gradients it is the first of floating-point numbers.
    """
    if isinstance(result, Tensor):
        return result
    if isinstance(result, Mapping):
        named = [value for name, value in result.items() if "loss" in str(name).lower()]
        values = [*named, *result.values()]
    else:
        values = list(result) if isinstance(result, tuple | list) else []
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    return next((v for v in tensors if v.requires_grad), tensors[0] if tensors else None)


def _given(
    subject: Subject,
    x: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    logarithms: Callable[[Tensor], Tensor],
) -> Tensor:
    """What it takes, of logits; logarithms are no logarithm of a probability that is rounded."""
    if subject.takes == "logits":
        return x
    return (probabilities if subject.takes == "probabilities" else logarithms)(x)


def _with_ones(x: Tensor, count: int) -> Tensor:
    """With so many dimensions of one at its end."""
    return x.reshape(*x.shape, *(1,) * count)


def losses_of_rows(subject: Subject, rows: Tensor, index: Tensor, gamma: float) -> Tensor:
    """The loss of each row (N, C); one after another, if it gives one number."""
    call = subject.at(gamma)

    def of(rows: Tensor, index: Tensor) -> Tensor:
        loss = tensor_of(call(*of_rows(subject, rows, index)))
        if loss is None:
            raise SubjectError("expected a tensor from the loss")
        return loss

    if subject.reduced == "none":
        loss = of(rows, index)
        if loss.numel() in (rows.numel(), len(rows)):
            return loss.reshape(len(rows), -1).sum(1)
    parts = [of(row[None], y[None]).sum() for row, y in zip(rows, index, strict=True)]
    return torch.stack(parts)


def torch_loss(subject: Subject, target: float, gamma: float) -> Callable[[Tensor], Tensor]:
    """From logits (N) to losses (N), or to one number."""
    call = subject.at(gamma)

    def of_logits(x: Tensor) -> Tensor:
        result = call(*arguments(subject, x, target))
        loss = tensor_of(result)
        if loss is None:
            raise SubjectError(f"expected a tensor from the loss, got {type(result).__name__}")
        if loss.numel() == x.numel():
            return loss.reshape(-1)
        if subject.kind == "multiclass" and loss.numel() == 2 * x.numel():
            return loss.reshape(len(x), 2).sum(1)  # a loss of each class
        if loss.numel() == 1:
            return loss.reshape(())
        raise SubjectError(f"a loss of shape {tuple(loss.shape)} for logits {tuple(x.shape)}")

    return of_logits


def _torch(
    subject: Subject, logits: Tensor, target: float, gamma: float, second: bool
) -> Evaluated:
    x = logits.detach().to(subject.device, copy=True).requires_grad_()
    loss = torch_loss(subject, target, gamma)(x)
    dtype = str(loss.dtype).removeprefix("torch.")
    value = loss.detach().to(logits) if loss.numel() == x.numel() and loss.ndim else None
    if not loss.requires_grad:
        return Evaluated(value, None, None, dtype)
    total = loss.sum()
    if not second:
        (gradient,) = torch.autograd.grad(total, x)
        return Evaluated(value, gradient.to(logits), None, dtype)
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    curvature = None
    if gradient.requires_grad:
        try:
            (curvature,) = torch.autograd.grad(gradient.sum(), x)
            curvature = curvature.to(logits)
        except (RuntimeError, NotImplementedError):  # once differentiable
            curvature = None
    return Evaluated(value, gradient.detach().to(logits), curvature, dtype)


def _jax(subject: Subject, logits: Tensor, target: float, gamma: float, second: bool) -> Evaluated:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    count = len(logits)
    rest = next(length for length in JAX_LENGTHS if length >= count) - count
    logits = torch.cat([logits, logits[-1:].expand(rest) if count else logits.new_zeros(rest)])
    dtype = getattr(jnp, str(logits.dtype).removeprefix("torch."))
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    x = jnp.asarray(wide.numpy()).astype(dtype)
    call = subject.at(gamma)
    share = len(logits) if subject.reduced == "mean" else 1

    def losses(x: Any) -> Any:
        if subject.kind == "multiclass":
            rows = jnp.stack([x, jnp.zeros_like(x)], 1)
            return share * call(rows, jnp.full(len(x), 0 if target else 1))
        return share * call(x, jnp.full_like(x, target))

    def back(given: Any) -> Tensor:
        numbers = torch.tensor(jax.device_get(given.astype(wide.numpy().dtype)))
        return numbers[:count].to(logits.dtype)

    def slope(x: Any) -> Any:
        return jax.grad(lambda x: losses(x).sum())(x)

    loss = losses(x)
    value = back(loss) if loss.shape == x.shape else None
    curvature = back(jax.grad(lambda x: slope(x).sum())(x)) if second else None
    return Evaluated(value, back(slope(x)), curvature, str(loss.dtype))


def _numpy(subject: Subject, logits: Tensor, target: float, gamma: float) -> Evaluated:
    if logits.dtype.itemsize < 4:
        raise SubjectError("NumPy pairs are judged only in float64 and float32")
    x = logits.numpy()
    result = subject.at(gamma)(x, torch.full_like(logits, target).numpy())
    gradient, curvature = result
    return Evaluated(
        None,
        torch.as_tensor(gradient).reshape(-1).to(logits.dtype),
        torch.as_tensor(curvature).reshape(-1).to(logits.dtype),
        str(getattr(gradient, "dtype", "")),
    )
