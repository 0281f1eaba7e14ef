"""The pictures of the explanations show what their captions say."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("why-it-breaks.md", "why-it-is-exact.md")


@pytest.fixture(scope="module")
def draw():
    """The program, which is in no package."""
    path = DOCS / "derivations" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw_derivations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_what_the_program_draws(draw, tmp_path):
    draw.main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    shown = "".join((DOCS / page).read_text() for page in PAGES)
    assert set(re.findall(r"\(derivations/([\w-]+\.svg)\)", shown)) == drawn
    for name in drawn:
        assert "margin u" in (tmp_path / name).read_text()
        assert (DOCS / "derivations" / name).is_file()


def test_factors_multiply_to_the_true_gradient_until_one_is_infinite(draw):
    """In float64 the chain rule's sum is right: the product and the term of the logarithm."""
    u = draw.margins(0, 24).double()
    power, slope, surprisal = draw.usual_factors(u, 0.5).values()
    q = 1 - u.sigmoid()
    torch.testing.assert_close(
        power * slope * surprisal + q**1.5, draw.true_gradient(u, 0.5), rtol=1e-4, atol=0
    )
    u = draw.margins(0, 24)
    power, slope, surprisal = draw.usual_factors(u, 0.5).values()
    saturated = u > draw.SATURATED
    assert torch.equal(power.isinf(), saturated)
    assert torch.equal(slope * surprisal == 0, saturated)


def test_closed_form_keeps_its_bound_where_the_others_lose_theirs(draw):
    u = draw.margins(-2, 14, 361)
    truth = draw.true_gradient(u, 5.0)
    worst = [draw.ulps(found, truth).max().item() for found in draw.gradients(u, 5.0).values()]
    usual, by_logarithm, closed = worst
    assert closed <= 4 + 2 * 5 < by_logarithm < 100
    assert usual > 1e6


def test_complement_of_an_index_is_lost_when_it_is_subtracted(draw):
    """Beside the definition of Dice's index, in float64."""
    u = torch.tensor([6.0, 9.0, 20.0])
    subtracted, computed = draw.region_complements(u).values()
    torch.testing.assert_close(computed, torch.ones_like(computed), rtol=1e-6, atol=0)
    assert subtracted[2] == 0
    p = u[:2].double().sigmoid()
    hits, missed, wrong = 333 * p, 333 * (1 - p), 667 * (1 - p)
    dice = 2 * hits / (2 * hits + missed + wrong)
    complement = 1 - hits.float() / (hits + (missed + wrong) / 2).float()
    torch.testing.assert_close(subtracted[:2], complement / (1 - dice), rtol=1e-2, atol=0)
