"""What every test starts from."""

import signal

import pytest
import torch

# Where tests are run in the background of a shell, Ctrl-C is ignored, also by what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread_and_no_compiled_code():
    """Two workers share two cores; a function may be compiled for eight sets of numbers only."""
    torch.set_num_threads(1)
    torch.compiler.reset()
