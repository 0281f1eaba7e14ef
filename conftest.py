"""What examples in pages and docstrings are run under."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest


@pytest.fixture(autouse=True)
def width_of_jax(request: pytest.FixtureRequest) -> Iterator[None]:
    """An example of JAX shows float32, whatever a test in this process has made the default."""
    jax = sys.modules.get("jax")
    is_example = isinstance(request.node, pytest.DoctestItem)
    with jax.enable_x64(False) if jax and is_example else nullcontext():
        yield
