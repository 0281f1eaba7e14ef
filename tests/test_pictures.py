"""The pictures of the pages: what is drawn, that the pages show it, and that it is right."""

import re
from pathlib import Path

import pytest
import torch

import choosing
import derivations
from drawing import draw
from parfocal.boosting.start import best_constants

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("program", "pages", "words"),
    [
        (choosing, ["choosing.md"], "gamma 0.5"),
        (derivations, ["why-it-breaks.md", "why-it-is-exact.md"], "margin u"),
    ],
    ids=["choosing", "derivations"],
)
def test_pages_show_what_a_program_draws(program, pages, words, tmp_path):
    draw(program.FIGURES, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    shown = "".join((DOCS / page).read_text() for page in pages)
    assert set(re.findall(r"\(pictures/([\w-]+\.svg)\)", shown)) == drawn
    for name in drawn:
        assert words in (tmp_path / name).read_text()
        assert (DOCS / "pictures" / name).is_file()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_answers_drawn_have_the_smallest_loss(gamma):
    """Beside the constants from which boosting begins, which are found by bisection."""
    for place in (20, 90, 200):
        truth = choosing.truths(gamma)[place]
        best = best_constants(torch.stack([1 - truth, truth]), gamma).softmax(0)[1]
        torch.testing.assert_close(choosing.margins()[place].sigmoid(), best)


def test_factors_multiply_to_the_true_gradient_until_one_is_infinite():
    """In float64 the chain rule's sum is right: the product and the term of the logarithm."""
    u = derivations.margins(0, 24).double()
    power, slope, surprisal = derivations.usual_factors(u, 0.5).values()
    q = 1 - u.sigmoid()
    torch.testing.assert_close(
        power * slope * surprisal + q**1.5, derivations.true_gradient(u, 0.5), rtol=1e-4, atol=0
    )
    u = derivations.margins(0, 24)
    power, slope, surprisal = derivations.usual_factors(u, 0.5).values()
    saturated = u > derivations.SATURATED
    assert torch.equal(power.isinf(), saturated)
    assert torch.equal(slope * surprisal == 0, saturated)


def test_closed_form_keeps_its_bound_where_the_others_lose_theirs():
    u = derivations.margins(-2, 14, 361)
    truth = derivations.true_gradient(u, 5.0)
    worst = [
        derivations.ulps(found, truth).max().item()
        for found in derivations.gradients(u, 5.0).values()
    ]
    usual, by_logarithm, closed = worst
    assert closed <= 4 + 2 * 5 < by_logarithm < 100
    assert usual > 1e6


def test_complement_of_an_index_is_lost_when_it_is_subtracted():
    """Beside the definition of Dice's index, in float64."""
    u = torch.tensor([6.0, 9.0, 20.0])
    subtracted, computed = derivations.region_complements(u).values()
    torch.testing.assert_close(computed, torch.ones_like(computed), rtol=1e-6, atol=0)
    assert subtracted[2] == 0
    p = u[:2].double().sigmoid()
    hits, missed, wrong = 333 * p, 333 * (1 - p), 667 * (1 - p)
    dice = 2 * hits / (2 * hits + missed + wrong)
    complement = 1 - hits.float() / (hits + (missed + wrong) / 2).float()
    torch.testing.assert_close(subtracted[:2], complement / (1 - dice), rtol=1e-2, atol=0)
