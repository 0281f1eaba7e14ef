"""One browser for all pages of a worker."""

import pytest

from pages.browser import CHROMIUM, Browser


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; without one the tests of pages are skipped."""
    if CHROMIUM is None:
        pytest.skip("chromium isn't installed")
    with Browser() as started:
        yield started
