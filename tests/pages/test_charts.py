"""Charts of a page in a real browser: they are drawn, they answer, and their numbers are there."""

import json
import math
import re

import pytest

from parfocal.pages.assets import asset
from parfocal.pages.charts import Axis, Band, Chart, Interval, Level, Line, Mark
from parfocal.pages.page import Made, render

MINUS = "\N{MINUS SIGN}"
MADE = Made("parfocal demo", "2026-01-31", {"parfocal": "0.1", "Python": "3.11"})

# Two lines under each other, of which one ends; the gradient of the cross-entropy, that of a loss
# that has none from 16 on, and what float16 rounds to 0; intervals; sixteen lines of eight groups.
EPOCHS = range(60)
TRAININGS = Chart(
    "The loss of both trainings falls; that of the original ends.",
    "Training loss by epoch.",
    Axis("epoch"),
    Axis("training loss", "log"),
    [
        Line("original", {e: math.exp(-e / 9) for e in EPOCHS[:40]}, colour="--of-original"),
        Line("exact", {e: math.exp(-e / 9) for e in EPOCHS}, colour="--of-exact"),
    ],
    marks=[Mark(40, math.exp(-40 / 9), 0)],
)
LOGITS = [n / 4 for n in range(-160, 161)]
GRADIENT = Chart(
    "The gradient, which the loss doesn't have from a logit of 16 on.",
    "Gradient by logit.",
    Axis("logit"),
    Axis("gradient", "symlog", 6e-8),
    [
        Line("true", {x: -1 / (1 + math.exp(x)) for x in LOGITS}, style="broad"),
        Line("given", {x: math.nan if x >= 16 else -1 / (1 + math.exp(x)) for x in LOGITS}),
    ],
    bands=[Band("x", 16, None, "not finite"), Band("y", -6e-8, 6e-8, "rounds to 0")],
    levels=[Level(-0.5, "half")],
)
DIFFERENCES = Chart(
    "Differences by gamma.",
    "Differences.",
    Axis("gamma", "category"),
    Axis("points"),
    [Line("plain", {f"{g:g}": Interval(g, g - 1, g + 1) for g in (0, 0.5, 2)}, style="interval")],
)
MANY = Chart(
    "Sixteen lines.",
    "Many lines.",
    Axis("epoch"),
    Axis("largest |logit|"),
    [
        Line(f"gamma {g}, seed {s}", {e: 1 + e * g + s for e in range(9)}, group=f"gamma {g}")
        for g in range(8)
        for s in range(2)
    ],
)
CHARTS = (TRAININGS, GRADIENT, DIFFERENCES, MANY)

COUNT = """c => {
  const found = {}, { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] < 255) continue;
    const colour = `rgb(${data[i]}, ${data[i + 1]}, ${data[i + 2]})`;
    found[colour] = (found[colour] || 0) + 1;
  }
  return found;
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("lines") / "lines.html"
    found.write_text(render("pages", "lines.html", MADE, charts=CHARTS), encoding="utf-8")
    return found


@pytest.fixture
def page(browser, path):
    return browser.open(path, 1280, 900)


def readout(page, figure):
    return page.evaluate(f"document.querySelectorAll('.readout')[{figure}].textContent")


def focus(page, figure):
    page.evaluate(f"document.querySelectorAll('.plot')[{figure}].focus()")


def colours(page, figure):
    """How many pixels of the canvas have each colour."""
    canvas = f"document.querySelectorAll('.plot canvas')[{figure}]"
    return page.evaluate(f"({COUNT})({canvas})")


def test_pointer_reads_every_line(page):
    """In the middle of the plot, which is epoch 29.5."""
    page.point("figure:nth-of-type(1) .u-over")
    assert page.text(".readout") in (
        f"epoch {e}: original = {math.exp(-e / 9):.5g}; exact = {math.exp(-e / 9):.5g}"
        for e in (29, 30)
    )
    assert page.errors() == []


def test_keys_read_and_zoom(page):
    """Along x, to the ends, to another line; plus, minus, and all again."""
    focus(page, 0)
    page.press("ArrowRight", "ArrowRight")
    assert readout(page, 0) == "epoch 1: original = 0.89484; exact = 0.89484"
    page.press("End")
    assert readout(page, 0) == f"epoch 59: exact = {math.exp(-59 / 9):.5g}"
    focus(page, 1)
    page.press("End")
    assert readout(page, 1) == f"logit 40: true = {MINUS}4.2484·10⁻¹⁸; given = not finite"
    focus(page, 2)
    page.press("Home", "ArrowRight")
    assert readout(page, 2) == f"gamma 0.5: plain = 0.5 ({MINUS}0.5 to 1.5)"
    focus(page, 3)
    page.press("Home")
    first = readout(page, 3)
    page.press("ArrowDown")
    assert {first, readout(page, 3)} == {
        f"epoch 0: gamma 0, seed {s} = {1 + s} (↑ ↓: 15 more)" for s in range(2)
    }


def test_zoom_by_keys_is_seen_and_undone(page):
    """Half of x is shown twice as wide: fewer names at the axis can be the same."""
    before = colours(page, 0)
    focus(page, 0)
    page.press("ArrowRight", "+", "+")
    page.settle()
    assert colours(page, 0) != before
    page.press("0")
    page.settle()
    assert colours(page, 0) == before


@pytest.mark.parametrize("dark", [False, True])
def test_lines_under_each_other_are_both_seen(browser, path, dark):
    """The last that is drawn doesn't cover the markers of the first."""
    page = browser.open(path, 390, 844, dark)
    theirs = (
        ("rgb(255, 122, 112)", "rgb(79, 195, 208)")
        if dark
        else ("rgb(193, 18, 31)", "rgb(10, 126, 140)")
    )
    seen = colours(page, 0)
    assert all(seen.get(colour, 0) > 60 for colour in theirs), seen


def test_what_rounds_to_0_is_under_all_that_does_not(page):
    """A scale of two strips: linear under the smallest number, logarithmic above it."""
    axis = json.dumps({"scale": "symlog", "threshold": 2**-24, "zone": 2})
    values = [-1, 0, 1e-20, 2**-24, 1e-3, 1]
    places = page.evaluate(f"{values}.map(scales.scaleOf({axis}).place)")
    assert places == sorted(places)
    # The strip is as high as two of the decades above it.
    decades = 24 * math.log10(2)
    assert places == pytest.approx([-2 - decades, 0, 0, 2, decades - 1, 2 + decades], abs=1e-9)
    back = page.evaluate(f"{places}.map(scales.scaleOf({axis}).value)")
    assert back == pytest.approx(values, rel=1e-9, abs=1e-25)


def test_legend_takes_a_line_away(page):
    page.evaluate("document.querySelector('.legend button').click()")
    page.settle()
    assert page.evaluate("document.querySelector('.legend button').ariaPressed") == "false"
    focus(page, 0)
    page.press("ArrowRight")
    assert readout(page, 0) == "epoch 0: exact = 1"


def test_colours_follow_the_scheme_at_once(page):
    """Whoever sets the attribute redraws nothing."""
    before = colours(page, 0)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.settle()
    assert "rgb(79, 195, 208)" in colours(page, 0)
    assert "rgb(79, 195, 208)" not in before


def test_numbers_are_there_without_scripts(browser, path):
    """In the tables, to six digits; none is written twice."""
    page = browser.open(path, scripts=False)
    assert page.evaluate("document.querySelectorAll('canvas').length") == 0
    rows = page.evaluate(
        "[...document.querySelector('table').rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows[0] == ["epoch", "original", "exact"]
    assert rows[1 + 59] == ["59", "", f"{math.exp(-59 / 9):.6g}"]
    assert len(rows) == 61


def test_drawing_again_shows_other_numbers(page):
    """As a page does whose reader chooses; the table has them too."""
    spec = {"label": "x", "x": {"title": "x"}, "y": {"title": "y"}, "lines": [{}]}
    columns = {"names": ["x", "one"], "x": [0, 1, 2], "lines": [[5, None, 7]]}
    page.evaluate(
        "const figure = document.querySelector('figure');"
        "figure.querySelector('details').open = true;"
        f"chart.draw(figure, {json.dumps(spec)}, {json.dumps(columns)}); 0"
    )
    focus(page, 0)
    page.press("ArrowRight", "ArrowRight")
    assert readout(page, 0) == "x 1: one = not finite"
    assert page.evaluate("document.querySelector('table').innerText").split() == [
        "x", "one", "0", "5", "1", "NaN", "2", "7"
    ]  # fmt: skip
    assert page.evaluate("document.querySelectorAll('figure:first-of-type .plot').length") == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser, path, width):
    for dark in (False, True):
        page = browser.open(path, width, 900, dark)
        assert page.violations(only_colours=dark) == []
        assert page.overflow() == 0


def test_page_takes_nothing_from_elsewhere(path):
    """Its policy forbids it; and each script that it names is there."""
    html = path.read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in html
    assert not re.search(r"\b(src|href)=\"(?!#)|@import|\burl\(", html)
    assert "Permission is hereby granted" in html


def test_foot_says_how_the_page_was_made(page):
    assert page.text("footer") == (
        "Made by parfocal demo, 2026-01-31, with parfocal 0.1, Python 3.11."
    )


def test_chart_is_json_that_has_no_infinity():
    """A band without an end, a line without a style: what isn't said is left out."""
    spec = json.loads(GRADIENT.spec)
    assert spec["bands"][0] == {"axis": "x", "low": 16, "words": "not finite"}
    assert spec["lines"] == [{"style": "broad"}, {}]
    assert "marks" not in spec


def test_vendored_files_are_uplot_and_its_licence():
    assert "uPlot (v1.6.32)" in asset("vendor/uPlot.iife.min.js")[:80]
    assert "MIT" in asset("vendor/LICENSE")
