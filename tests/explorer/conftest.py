"""The explorer, built once, in one browser."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pages.browser import CHROMIUM, Browser

BUILD = Path(__file__).parents[2] / "docs" / "explorer" / "build.py"


@pytest.fixture(scope="session")
def build():
    """The script that builds the page, as a module."""
    spec = importlib.util.spec_from_file_location("explorer_build", BUILD)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def path(build, tmp_path_factory):
    """The built page."""
    return build.build(tmp_path_factory.mktemp("explorer") / "explorer.html")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; without one the tests of the page are skipped."""
    if CHROMIUM is None:
        pytest.skip("chromium isn't installed")
    with Browser() as started:
        yield started


@pytest.fixture(scope="module")
def arithmetic(browser, path):
    """The page, of which a module calls functions alone."""
    return browser.open(path)


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    """What torch gives, by a process that computes with AVX2, also where there is AVX-512."""
    out = tmp_path_factory.mktemp("torch") / "references.pt"
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("libraries.py"), out],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": path},
        check=True,
        timeout=300,
    )
    vectors, found = torch.load(out)
    if vectors != "AVX2" or not torch.backends.mkl.is_available():
        pytest.skip(
            f"the page's bits are those of AVX2 and MKL; this torch computes with {vectors}"
        )
    return found
