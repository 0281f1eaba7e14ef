"""What the tests of kernels start from: Triton, and a GPU or its interpreter."""

import importlib.util
import os

import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# torch for CPUs, for macOS and for Windows comes without Triton; a GPU may lack torch's support.
if importlib.util.find_spec("triton") is None or not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["*.py"]
