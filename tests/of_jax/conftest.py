"""Under what every test of JAX's losses runs."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict():
    """No promotion of ranks or dtypes that isn't written, under which optax's losses run.

    Of float32, whatever another module has made the default.
    """
    no_dtype = jax.numpy_dtype_promotion("strict")
    with jax.enable_x64(False), jax.numpy_rank_promotion("raise"), no_dtype:
        yield
