"""Run by `make test-wheel` where parfocal's wheel and torch are installed and nothing else is."""

import importlib.util
import math
import subprocess
import sys
import warnings
from pathlib import Path

import torch

# Ours are errors; torch's own, without NumPy and with its older parts, are not our business.
warnings.filterwarnings("error", module="parfocal")

import parfocal  # noqa: E402 - the filter has to be there first
from parfocal.monitor import FocalGuard  # noqa: E402


def main() -> None:
    """Import, differentiate, and meet a command that needs more."""
    assert "site-packages" in parfocal.__file__, parfocal.__file__
    for name in ("click", "flint", "matplotlib", "torchvision"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed: this is no bare wheel"

    # d/dx of sqrt(q) ce at p_t = 1 - q: -sqrt(q) (p ce / 2 + q), at a saturated logit.
    logits = torch.tensor([20.0], requires_grad=True)
    parfocal.sigmoid_focal_loss(logits, torch.ones(1), alpha=None, gamma=0.5).sum().backward()
    q = math.exp(-20.0)
    truth = -math.sqrt(q) * 1.5 * q
    assert abs(logits.grad.item() / truth - 1) < 1e-6, (logits.grad, truth)

    hessian = torch.func.hessian(
        lambda x: parfocal.sigmoid_focal_loss(x, torch.ones(()), gamma=0.5)
    )
    assert hessian(torch.tensor(90.0)).isfinite()

    command = Path(sys.executable).with_name("parfocal")
    done = subprocess.run([command, "gradients"], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "pip install 'parfocal[experiments]'" in done.stderr, done.stderr
    for module, extra in (("jax", "jax"), ("boosting", "boosting")):
        done = subprocess.run(
            [sys.executable, "-c", f"import parfocal.{module}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"pip install 'parfocal[{extra}]'" in done.stderr, done.stderr
    guard = FocalGuard(parfocal.sigmoid_focal_loss)
    guard(logits, torch.ones(1), gamma=0.5, reduction="sum").backward()
    assert guard.check()
    print(f"bare wheel of parfocal {parfocal.__version__} with torch {torch.__version__}: fine")


if __name__ == "__main__":
    main()
