"""The extras of the package: what each brings, which commands need it, what to say without it.

Nothing is imported here, so that the command line can answer before anything else is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

_AUDIT = frozenset({"click", "flint", "jinja2", "numpy", "rich"})
_GUARD = frozenset({"click", "numpy", "safetensors"})
_EXPERIMENTS = frozenset(
    {"filelock", "matplotlib", "mlxtend", "msgspec", "scipy", "timm", "torchvision"}
)

# The modules that each extra brings: its requirements, under the names by which they are imported.
MODULES: dict[str, frozenset[str]] = {
    "audit": _AUDIT,
    "guard": _GUARD,
    "experiments": _AUDIT | _GUARD | _EXPERIMENTS,
    "cluster": _AUDIT | _GUARD | _EXPERIMENTS | {"ray"},
    "slurm": _AUDIT | _GUARD | _EXPERIMENTS | {"submitit"},
    "boosting": frozenset({"numpy"}),
    "jax": frozenset({"jax"}),
    "tensorboard": _AUDIT | _GUARD | _EXPERIMENTS | {"tensorboard"},
}


class Command(NamedTuple):
    """A command of the command line: the extra that it needs, what it does, and one call of it."""

    extra: str
    summary: str
    example: str


# The command NAME is the function NAME of the module `parfocal.cli.NAME`.
COMMANDS = {
    "audit": Command(
        "audit",
        "Audit a focal loss, with proof.",
        "audit torchvision.ops:sigmoid_focal_loss --quick",
    ),
    "demo": Command(
        "experiments", "Watch the original loss fail on real digits.", "demo --out demo"
    ),
    "gradients": Command(
        "experiments",
        "Compare the gradient of each loss with the true one.",
        "gradients --dtype bfloat16",
    ),
    "replay": Command(
        "guard",
        "Reproduce the failure in a guard's capture FILE, and say what causes it.",
        "replay failures/failure-step178-rank0.safetensors",
    ),
    "report": Command(
        "experiments",
        "Make tables, figures and a page from the records in a folder.",
        "report runs/mnist-quick",
    ),
    "specs": Command("experiments", "List the specs that ship with the package.", "specs"),
    "status": Command(
        "experiments", "Show the progress of the runs in a folder.", "status runs/mnist-quick"
    ),
    "study": Command(
        "experiments",
        "Compare objectives: which gamma, which alpha.",
        "study gamma-and-alpha-quick --out runs/study",
    ),
    "sweep": Command(
        "experiments",
        "Make all runs of a spec that aren't done.",
        "sweep mnist-quick --set gamma=0.1,0.5 --jobs 2",
    ),
    "train": Command(
        "experiments",
        "Make one run, to the last epoch or the first number that isn't finite.",
        "train mnist-quick --set loss=original --guard",
    ),
}


class MissingExtraError(ModuleNotFoundError):
    """A module isn't installed; the message names the extra that brings it, and how to get it."""


def install(extra: str) -> str:
    """The command that installs an extra; there is no release yet, so from a clone.

    >>> install("audit")
    "pip install '.[audit]' in a clone of parfocal"
    """
    return f"pip install '.[{extra}]' in a clone of parfocal"


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be found; none is imported."""
    return all(find_spec(name) is not None for name in MODULES[extra])


@contextmanager
def needs(extra: str, user: str) -> Iterator[None]:
    """Say which extra is needed where an import fails for want of one of its modules.

    Args:
        extra: a key of `MODULES`.
        user: what needs it, as the message names it.

    Raises:
        MissingExtraError: a module of the extra isn't installed. Another module that is missing
            stays a ModuleNotFoundError.

    Example:
        >>> try:
        ...     with needs("jax", "parfocal.jax"):
        ...         raise ModuleNotFoundError(name="jax.numpy")
        ... except MissingExtraError as error:
        ...     print(error)
        parfocal.jax needs the module jax: pip install '.[jax]' in a clone of parfocal
    """
    try:
        yield
    except MissingExtraError:
        raise  # a part of it needs another extra, and has said so
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in MODULES[extra]:
            raise
        words = f"{user} needs the module {module}: {install(extra)}"
        raise MissingExtraError(words, name=module) from error
