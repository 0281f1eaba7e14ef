"""What importing the room brings with it."""

import subprocess
import sys
from pathlib import Path

import parfocal

FRAMEWORKS = {
    "accelerate",
    "ignite",
    "mmengine",
    "monai",
    "segmentation_models_pytorch",
    "timm",
    "transformers",
}


def test_no_framework_is_imported():
    """All files of the room, in a process of their own."""
    room = Path(parfocal.__file__).parent / "integrations"
    names = ", ".join(f"parfocal.integrations.{path.stem}" for path in room.glob("[!_]*.py"))
    assert names.count(",") >= 4
    code = f"import sys, {names}; print({FRAMEWORKS!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
