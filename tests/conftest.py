"""What every test starts from."""

import os
import signal
from pathlib import Path

# Without a GPU, Triton's kernels run in its interpreter, on the CPU: it reads this when it is first
# imported, which torch may do. /dev has a GPU of NVIDIA, of AMD, or either under Windows.
DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
if not any(any(Path("/dev").glob(name)) for name in DEVICES):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest  # noqa: E402 - torch comes after the variable
import torch  # noqa: E402
from sampled import mark_all_but_a_cover  # noqa: E402

# Where tests are run in the background of a shell, Ctrl-C is ignored, also by what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """What JAX compiles is kept in pytest's cache: its key is the program, so it is never stale."""
    cache = getattr(config, "cache", None)
    if cache is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Before pytest deselects what is exhaustive."""
    mark_all_but_a_cover(items)


@pytest.fixture(autouse=True)
def _one_thread_and_no_compiled_code():
    """Two workers share two cores; a function may be compiled for eight sets of numbers only."""
    torch.set_num_threads(1)
    torch.compiler.reset()
