"""The page of an audit in a real browser: verdict first, and figures that answer."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal.audit import audit
from parfocal.audit.output.page import page as page_of

LOOK = "document.querySelector('.look')"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A loss that loses its gradient, in a dtype that has no number for most true ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARFOCAL_CACHE", str(tmp_path_factory.mktemp("truths")))
        target = f"{Path(__file__).parents[1] / 'audit' / 'planted.py'}:plain"
        yield audit(
            target,
            quick=True,
            gammas=(0.5, 2.0),
            dtypes=[torch.float32, torch.float16],
            quantities=("gradient",),
            modes=(),
        )


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    found = tmp_path_factory.mktemp("audit") / "audit.html"
    found.write_text(page_of([report], "parfocal audit planted.py:plain"), encoding="utf-8")
    return found


@pytest.fixture
def page(browser, path):
    return browser.open(path)


def select(page, key, value):
    page.evaluate(
        f"(s => {{ s.value = {json.dumps(json.dumps(value))};"
        "s.dispatchEvent(new Event('change')); })"
        f"({LOOK}.querySelector('select[data-key={key}]'))"
    )


def test_verdict_and_replacement_are_on_top(page, report):
    """Before anything else; and the button gives what can be run."""
    top = page.text(".verdict")
    assert "At gamma < 1 its gradient becomes NaN from a logit of 16.64 in float32" in top
    assert page.evaluate("document.querySelector('h1').nextElementSibling.className").startswith(
        "verdict"
    )
    code = page.evaluate("document.querySelector('.verdict pre').textContent").strip()
    assert code == f"import parfocal\n\n{report.instead}"
    page.evaluate("document.querySelector('.verdict .copy').click()")
    page.settle()
    assert page.text(".verdict .copy") in ("copied", "marked")


def test_keys_go_through_the_heat_map(page):
    """One stop of Tab; arrows to the cells beside; Enter shows the curve of that gamma."""
    assert page.evaluate(f"{LOOK}.querySelectorAll('.heat td[tabindex=\"0\"]').length") == 1
    page.evaluate(f"{LOOK}.querySelector('.heat td[tabindex=\"0\"]').focus()")
    first = page.text(".look output")
    assert re.fullmatch(r"gamma 0\.5, logit up to -90: .*", first)
    page.press("ArrowRight")
    assert page.text(".look output").startswith("gamma 0.5, logit up to -60: ")
    page.press("ArrowDown")
    assert page.text(".look output").startswith("gamma 2, logit up to -60: ")
    page.press("Enter")
    assert "target 1, gamma 2: " in page.text(".look .cell")
    # What was at the keys still is.
    assert page.evaluate("document.activeElement.dataset.gamma") == "2"
    assert page.evaluate(f"{LOOK}.querySelector('tr.chosen th').textContent") == "2"


def test_curve_says_where_it_is_not_finite_and_what_rounds_to_0(page, report):
    """In the text alternative, from the cliff on; and the strip of what float16 hasn't."""
    label = f"{LOOK}.querySelector('.curve .plot').getAttribute('aria-label')"
    assert re.search(r"Not finite: logits 16\.63\d* to 44\.\d+\.", page.evaluate(label))
    page.evaluate(f"{LOOK}.querySelector('.curve .plot').focus()")
    page.press("End")
    shown = page.text(".curve .readout")
    assert re.fullmatch(r"logit 44\.\d+: .true = \S+10⁻³⁰; .given = not finite", shown)
    select(page, "d", "float16")
    assert re.search(r"At the bottom a strip: under the smallest float16, 6·", page.evaluate(label))
    axis = page.text(".curve .axis-title")
    assert axis == "↑ \N{MINUS SIGN}gradient"
    page.press("End")
    assert "\N{MINUS SIGN}true = " in page.text(".curve .readout")


def test_errors_have_the_limit_and_every_logit(page, report):
    """Their table is what is drawn."""
    page.evaluate(f"{LOOK}.querySelector('.ulp details').open = true")
    page.settle()
    rows = page.evaluate(
        f"[...{LOOK}.querySelectorAll('.ulp tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.innerText))"
    )
    (cell,) = [
        c
        for c in report.cells
        if (c.quantity, c.dtype, c.target, c.gamma) == ("gradient", "float32", 1.0, 0.5)
    ]
    assert [float(logit) for logit, _ in rows] == pytest.approx([p[0] for p in cell.curve], 1e-5)
    assert sum(error == "NaN" for _, error in rows) == sum(p[3] == float("inf") for p in cell.curve)


def test_worst_errors_are_there_without_scripts(browser, path, report):
    """A row a gamma, a column a dtype; what isn't drawn isn't announced."""
    page = browser.open(path, scripts=False)
    rows = page.evaluate(
        "(t => [t.caption.innerText, ...[...t.rows].map(r => [...r.cells].map(c => c.innerText))])"
        "(document.querySelector('table'))"
    )
    assert rows[:3] == [
        "gradient",
        ["gamma", "float32", "float16"],
        ["0.5", "from 16.64", "from 8.32"],
    ]
    assert page.evaluate(f"getComputedStyle({LOOK}).display") == "none"


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser, path, width):
    for dark in (False, True):
        page = browser.open(path, width, 900, dark)
        assert page.violations(only_colours=dark) == []
        assert page.overflow() == 0
        assert page.errors() == []


def test_page_of_many_begins_with_all_verdicts(browser, report, tmp_path):
    """One that couldn't be judged among them; headings in their order."""
    lost = replace(report, name="lost", error="<no such module>", cells=(), findings=())
    path = tmp_path / "many.html"
    path.write_text(page_of([report, lost], "parfocal audit --installed"), encoding="utf-8")
    page = browser.open(path)
    assert "lost: could not be audited: <no such module>" in page.text("ul")
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.violations() == []


def test_nothing_is_loaded_from_elsewhere(report):
    html = page_of([report])
    assert not re.search(r"\b(src|href)=\"(?!#)|@import|\burl\(|fetch\(", html)
