"""Optimizers as a guard meets them: wrapped, and with gradients that may be broken."""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

# The dtypes in which a sum of gradients may overflow where these don't.
_WIDER = {torch.float16: torch.float32}


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer of torch within wrappers, such as those of accelerate and Lightning.

    Raises:
        TypeError: there is none.
    """
    inner = optimizer
    for _ in range(8):
        known = getattr(inner, "__dict__", {})
        deeper = known.get("optimizer", known.get("_optimizer"))
        if deeper is None or deeper is inner:
            break
        inner = deeper
    if not hasattr(inner, "register_step_pre_hook"):
        raise TypeError(f"FocalGuard: expected a torch optimizer, got {type(optimizer)}")
    return inner  # type: ignore[no-any-return]


def closure_of(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What a step was given to call for the loss; None if nothing."""
    return keywords.get("closure", arguments[1] if len(arguments) > 1 else None)


def with_closure(
    arguments: Sequence[Any], keywords: Mapping[str, Any], closure: Callable[[], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a step with another closure."""
    if "closure" in keywords:
        return tuple(arguments), {**keywords, "closure": closure}
    return (arguments[0], closure, *arguments[2:]), dict(keywords)


def leaves_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer takes no step, by what a GradScaler has told it."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and found.item() > 0


def without_gradients(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Parameters and the gradients taken from them: a step without changes nothing at all."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    withheld = [(p, p.grad) for p in parameters if p.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    return withheld


def broken_parameters(optimizer: torch.optim.Optimizer) -> tuple[str, int, int] | None:
    """The name of the first parameter whose gradient isn't finite, how many are so, and of all.

    None if all are finite, which one number read from the device tells.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    every = [p.grad for p in parameters if p.grad is not None]
    values = [g._values() if g.is_sparse else g for g in every]
    gradients = [g for g in values if g.numel()]
    if not gradients or math.isfinite(_total(gradients)):
        return None
    broken = [p for p in parameters if p.grad is not None and not _is_finite(p.grad)]
    if not broken:  # huge
        return None
    return _name_of(broken[0], optimizer), len(broken), len(parameters)


def _total(gradients: list[Tensor]) -> float:
    """A number that isn't finite if one of the gradients isn't, or if they are huge."""
    if all(g.is_cpu for g in gradients):  # a sum takes a third of the time of a norm there
        return sum(g.sum(dtype=_WIDER.get(g.dtype)).abs().item() for g in gradients)
    norms = torch._foreach_norm(gradients)  # that of the largest takes ten times as long on a CPU
    return float(torch.stack([norm.float().to(norms[0].device) for norm in norms]).sum())


def _is_finite(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(values.isfinite().all())


def _name_of(parameter: Tensor, optimizer: torch.optim.Optimizer) -> str:
    """The longest name that a module has for a parameter; else its place in the optimizer."""
    names: list[str] = []
    for thing in gc.get_objects():
        if issubclass(type(thing), nn.Module):
            with suppress(Exception):  # one that is half made, or of another's making
                names += [name for name, one in thing.named_parameters() if one is parameter]
    if names:
        return "parameter " + max(names, key=len)
    for i, group in enumerate(optimizer.param_groups):
        for j, one in enumerate(group["params"]):
            if one is parameter:
                return f"parameter {j} of group {i}, of shape {tuple(parameter.shape)},"
    return "a parameter"
