"""Where tensors live, and an arithmetic that gives the same bits again there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def find_device(name: str) -> torch.device:
    """The torch device with this name; auto is a GPU if there is one, else the CPU.

    Under torchrun each process of a machine has its own GPU, if there are enough.

    Raises:
        ValueError: torch can't use it here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device == torch.device("cuda"):
            local = int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", local % max(1, torch.cuda.device_count()))
        torch.zeros(1, device=device).tolist()  # meta makes tensors, but without numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"Expected a `device` that torch can use here, such as cpu or auto; got {name!r} "
            f"({reason})"
        ) from error
    return device


def describe_device(device: torch.device) -> str:
    """The device's name; for a GPU, that of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@contextmanager
def reproducible() -> Iterator[None]:
    """Kernels that give the same bits each time, and products of float32 in float32.

    By default cuDNN rounds what it convolves to TF32, of 10 bits, and some kernels add in the order
    in which their threads come. On a CPU nothing changes.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    chosen = torch.are_deterministic_algorithms_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False
    cudnn = torch.backends.cudnn
    try:
        # As a context: torch refuses assignments once its own test suite has been imported.
        with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(chosen)
        deterministic.fill_uninitialized_memory = filled
