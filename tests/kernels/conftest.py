"""What the tests of kernels start from: Triton, and a GPU or its interpreter."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# torch for CPUs, for macOS and for Windows comes without Triton; a GPU may lack torch's support.
if importlib.util.find_spec("triton") is None or not (IS_INTERPRETED or torch.cuda.is_available()):
    collect_ignore_glob = ["*.py"]


@pytest.fixture(autouse=True)
def _a_gpu_does_not_warn():
    """Of an overflow or a NaN, of which NumPy would tell in the interpreter."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="session")
def compile_all(request, tmp_path_factory):
    """`offline.reports` of a table of cases; whichever worker asks first compiles for all."""
    from kernels import offline

    if offline.disassembler() is None:
        pytest.skip("this wheel of Triton has no nvdisasm")
    folder: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    kept = getattr(request.config, "cache", None)
    cache = kept.mkdir("triton") if kept is not None else folder / "triton"

    def reports(cases):
        return offline.reports(cases, folder, cache)

    return reports
