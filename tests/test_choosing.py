"""The pictures of docs/choosing.md: what is drawn, and that the page shows it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from parfocal.boosting.start import best_constants

PAGE = Path(__file__).parents[1] / "docs" / "choosing.md"


@pytest.fixture(scope="module")
def draw():
    """The program, which is in no package."""
    spec = importlib.util.spec_from_file_location("draw", PAGE.parent / "choosing" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_program_draws(draw, tmp_path):
    draw.main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert set(re.findall(r"\(choosing/(\w+\.svg)\)", PAGE.read_text())) == drawn
    for name in drawn:
        svg = (tmp_path / name).read_text()
        assert "gamma 0.5" in svg
        assert (PAGE.parent / "choosing" / name).is_file()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_answers_drawn_have_the_smallest_loss(draw, gamma):
    """Beside the constants from which boosting begins, which are found by bisection."""
    for place in (20, 90, 200):
        truth = draw.truths(gamma)[place]
        best = best_constants(torch.stack([1 - truth, truth]), gamma).softmax(0)[1]
        torch.testing.assert_close(draw.margins()[place].sigmoid(), best)
