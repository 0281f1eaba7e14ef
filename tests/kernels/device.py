"""Where the kernels of a test run: on the GPU, or in Triton's interpreter on the CPU."""

import os

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def round_fma_once():
    """Let the interpreter's fma round as a GPU's does; it takes x * y + z, which is rounded twice.

    float64 holds the product of two float32 exactly. The sum is rounded to float64 and then to
    float32, which is off by 2 ** -30 of an ULP beside a single rounding.
    """

    def fma(self, x, y, z):
        exact = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(exact.astype(z.data.dtype), z.dtype.scalar)

    InterpreterBuilder.create_fma = fma


def round_bfloat16_to_nearest():
    """Let the interpreter round float32 to bfloat16 as a GPU does: it cuts off, and loses digits.

    Its bfloat16 is held in the bits of uint16. Below 2 ** -126 its own conversions are wrong.
    """
    its_own = InterpreterBuilder.cast_impl

    def cast_impl(self, source, to):
        names = source.dtype.scalar, to.scalar
        if names == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            return TensorHandle(rounded.view(torch.uint16).numpy(), to.scalar)
        if names == (tl.bfloat16, tl.float32):
            wide = source.data.astype(np.uint32) << np.uint32(16)
            return TensorHandle(wide.view(np.float32), to.scalar)
        return its_own(self, source, to)

    InterpreterBuilder.cast_impl = cast_impl


if DEVICE == "cpu":
    round_fma_once()
    round_bfloat16_to_nearest()
