"""What importing the room brings with it."""

import subprocess
import sys
from pathlib import Path

import pytest

import parfocal

FRAMEWORKS = {
    "accelerate",
    "ignite",
    "mmengine",
    "monai",
    "pytorch_lightning",
    "segmentation_models_pytorch",
    "timm",
    "transformers",
}

# Those whose callbacks have a base class.
NEEDED = {"transformers": "transformers", "lightning": "pytorch_lightning"}
FILES = sorted(
    path.stem for path in (Path(parfocal.__file__).parent / "integrations").glob("[!_]*.py")
)


@pytest.mark.parametrize("name", [name for name in FILES if name not in NEEDED])
def test_no_framework_is_imported(name):
    """In a process of its own."""
    code = f"import sys, parfocal.integrations.{name}; print({FRAMEWORKS!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", NEEDED)
def test_a_file_imports_no_framework_but_its_own(name):
    """By its import statements."""
    text = (Path(parfocal.__file__).parent / "integrations" / f"{name}.py").read_text()
    imported = {
        line.split()[1].split(".")[0]
        for line in text.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported & FRAMEWORKS == {NEEDED[name]}
