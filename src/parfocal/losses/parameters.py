"""Numbers and tensors as hyper-parameters of a module."""

from torch import Tensor, nn


def store(module: nn.Module, name: str, given: float | Tensor | None) -> None:
    """A tensor as a buffer, so that it moves with the module; an nn.Parameter is learned."""
    if isinstance(given, Tensor) and not isinstance(given, nn.Parameter):
        module.register_buffer(name, given)
    else:
        setattr(module, name, given)


def shown(given: float | Tensor | None) -> str:
    """A number as itself, a tensor by its shape alone: printing must not read a device."""
    if not isinstance(given, Tensor):
        return str(given)
    kind = "Parameter" if isinstance(given, nn.Parameter) else "Tensor"
    return f"{kind}(shape={tuple(given.shape)})"
