"""Run by `make test-wheel` where parfocal's wheel and torch are installed and nothing else is."""

import importlib.util
import math
import subprocess
import sys
import warnings
from importlib.resources import files
from pathlib import Path

import torch

# Ours are errors; torch's own, without NumPy and with its older parts, are not our business.
warnings.filterwarnings("error", module="parfocal")

import parfocal  # noqa: E402 - the filter has to be there first
from parfocal.extras import COMMANDS, install  # noqa: E402
from parfocal.guard import FocalGuard  # noqa: E402


def _run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


def main() -> None:
    """Import, differentiate, and meet a command that needs more."""
    assert "site-packages" in parfocal.__file__, parfocal.__file__
    for name in ("click", "flint", "matplotlib", "torchvision"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed: this is no bare wheel"

    # What pages are made of is in the wheel; without its extra it is read as text alone.
    pages = files("parfocal.pages")
    for name in ("chart.js", "style.css", "templates/base.html", "vendor/LICENSE"):
        assert pages.joinpath(name).is_file(), name
    for room in ("audit.output", "experiments.show", "experiments.study"):
        folder = Path(parfocal.__file__).parent.joinpath(*room.split("."), "templates")
        assert list(folder.glob("*.html")), room

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
    for name, (extra, *_) in COMMANDS.items():
        done = _run(command, name)
        assert done.returncode == 2, done
        assert done.stderr.endswith(f"needs the module click: {install(extra)}\n"), done.stderr
    version, listed = _run(command, "--version"), _run(command)
    assert (version.returncode, listed.returncode) == (0, 0), (version, listed)
    assert version.stdout == f"parfocal, version {parfocal.__version__}\n"
    for name, (extra, *_) in COMMANDS.items():
        assert f"  {name:<10} [{extra}] " in listed.stdout, listed.stdout
    modules = {"audit": "audit", "testing": "audit", "jax": "jax", "boosting": "boosting"}
    for module, extra in modules.items():
        done = _run(sys.executable, "-c", f"import parfocal.{module}")
        assert f"[{extra}]'" in done.stderr, done.stderr
    guard = FocalGuard(parfocal.sigmoid_focal_loss)
    guard(logits, torch.ones(1), gamma=0.5, reduction="sum").backward()
    assert guard.check()
    print(f"bare wheel of parfocal {parfocal.__version__} with torch {torch.__version__}: fine")


if __name__ == "__main__":
    main()
