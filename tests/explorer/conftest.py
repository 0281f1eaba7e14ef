"""The explorer, built once, in one browser."""

import importlib.util
from pathlib import Path

import pytest

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
