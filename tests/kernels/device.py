"""Where the kernels of a test run: on the GPU, or in Triton's interpreter on the CPU."""

import os

import numpy as np

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def round_fma_once():
    """Let the interpreter's fma round as a GPU's does: in float32 it takes x * y + z, rounded twice.

    float64 holds the product of two float32 exactly. The sum is rounded to float64 and then to
    float32, which is off by 2 ** -30 of an ULP beside a single rounding.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def fma(self, x, y, z):
        exact = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    InterpreterBuilder.create_fma = fma


if DEVICE == "cpu":
    round_fma_once()
