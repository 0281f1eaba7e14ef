"""What every test starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_no_compiled_code():
    """Two workers share two cores; a function may be compiled for eight sets of numbers only."""
    torch.set_num_threads(1)
    torch.compiler.reset()
