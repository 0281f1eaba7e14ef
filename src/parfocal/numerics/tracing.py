"""Who else looks at a call: tracers, transforms, and stand-ins for tensors.

A form that looks at values, or makes its gradient by itself, is right for plain numbers alone: a
tracer would record what the numbers of its example were, and a transform would differentiate the
form where it means the loss.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_PLAIN = (Tensor, nn.Parameter)
_is_batched = torch._C._functorch.is_batchedtensor
_is_legacy_batched = torch._C._functorch.is_legacy_batchedtensor


def is_readable(*arguments: object) -> bool:
    """Whether the values of all tensors among the arguments may be looked at, at no cost.

    They are dense and plain, on the CPU, and nothing traces or transforms the call.
    """
    if is_traced():
        return False
    for argument in arguments:
        if isinstance(argument, Tensor) and not (
            type(argument) in _PLAIN and argument.is_cpu and argument.layout is torch.strided
        ):
            return False
    return True


def is_plain(*arguments: object) -> bool:
    """Whether all tensors among the arguments are dense and plain, and nothing looks at the call.

    They may be on any device, and plain reverse mode may differentiate them.
    """
    if is_traced() or is_watched(*arguments):
        return False
    for argument in arguments:
        if isinstance(argument, Tensor) and not (
            type(argument) in _PLAIN and argument.layout is torch.strided
        ):
            return False
    return True


def is_autocast(inputs: Tensor) -> bool:
    """Whether autocast is on for the device of the inputs; some, such as meta, have none."""
    device = inputs.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def gpu_of(*arguments: object) -> torch.device | None:
    """The GPU on which all tensors among the arguments are, dense and plain; None if they aren't.

    Nothing traces or transforms the call. A single number may be on the CPU.
    """
    if is_traced():
        return None
    device = None
    for argument in arguments:
        if not isinstance(argument, Tensor) or (argument.is_cpu and argument.ndim == 0):
            continue
        is_plain = type(argument) in _PLAIN and argument.layout is torch.strided
        if not (is_plain and argument.is_cuda and device in (None, argument.device)):
            return None
        device = argument.device
    return device


def is_traced() -> bool:
    """Whether the operations of this call are recorded, transformed, or run on stand-ins.

    By torch.compile and torch.export, with ONNX behind it; by torch.func; by torch.jit.trace; by a
    dispatch mode, such as that of fake tensors or of make_fx.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def is_watched(*arguments: object) -> bool:
    """Whether something other than plain reverse mode looks at this call, inside a compiler or not.

    There a custom Function is the wrong binding, and silently so: torch.compile differentiates
    its forward formula when torch.func.grad is inside, and nested forward mode takes its second
    derivative for zero (pytorch#197867).
    """
    if torch._C._are_functorch_transforms_active():
        return True
    if not torch.compiler.is_compiling() and forward_ad._current_level < 0:  # no forward mode
        return False
    return any(
        isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None
        for argument in arguments
    )


def replicate_beside(x: Tensor, constant: Tensor) -> Tensor:
    """A constant that can be computed with beside x: a DTensor is, with its like alone."""
    if type(x) in _PLAIN or not hasattr(x, "device_mesh"):
        return constant
    from torch.distributed.tensor import DTensor, Replicate

    mesh = x.device_mesh
    return DTensor.from_local(constant, mesh, [Replicate()] * mesh.ndim, run_check=False)


def is_batched(grad: Tensor) -> bool:
    """Whether an incoming gradient stands for many, which then multiply a slope as a whole."""
    return _is_batched(grad) or _is_legacy_batched(grad)


def varies(*arguments: object) -> bool:
    """Whether autograd differentiates in one of the arguments."""
    for argument in arguments:  # noqa: SIM110 - in a loop of small calls a generator is felt
        if isinstance(argument, Tensor) and argument.requires_grad:
            return True
    return False
