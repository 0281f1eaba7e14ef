"""Demo, report and study in a real browser: what they show, and that all can read it."""

import io

import pytest
from PIL import Image

from experiments.made_up import run_of, spec_of, write
from experiments.made_up_study import comparison_of
from parfocal.experiments.gradient_study import gradient_study
from parfocal.experiments.show.page import write_demo_page, write_report_page
from parfocal.experiments.show.published import PublishedRun
from parfocal.experiments.show.report import make_report
from parfocal.experiments.spec import LOSS_NAMES
from parfocal.experiments.study.page import study_page
from parfocal.experiments.study.report import page as study_markdown

COMMANDS = {"demo": "parfocal demo", "report": "parfocal report RUNS", "study": "parfocal study"}


def write_demo(path):
    """The original dies in epoch 7; the others have the same loss, and go on."""
    runs = []
    for name in LOSS_NAMES:
        run = run_of(spec_of(0.5, 0, loss=name, epochs=12), 7 if name == "original" else None)
        runs.append(run)
    file = io.BytesIO()
    Image.new("L", (28, 28), 200).save(file, "PNG")
    write_demo_page(path, gradient_study(), runs, file.getvalue(), COMMANDS["demo"])


def write_report(path):
    """Two seeds of four cells, beside the published; and a run that is alone."""
    runs = path.parent / "runs"
    beside = {}
    for gamma, threshold, epoch in ((0.1, 0, 4), (0.1, 1, 9), (0.5, 0, 2), (0.5, 1, None)):
        for seed in (0, 1):
            write(runs, run_of(spec_of(gamma, threshold, seed=seed, epochs=10), epoch))
        beside[spec_of(gamma, threshold, epochs=10).digest] = PublishedRun(epoch, 0.1, 0.01, 10)
    session = {"event": "began", "began": "2026-01-31T12:00:00Z", "versions": {"torch": "2"}}
    write(runs, run_of(spec_of(0.5, 0, source="mnist5k", epochs=1), None), sessions=[session])
    write_report_page(path, make_report(runs, beside), COMMANDS["report"])


def write_study(path):
    """Three exponents, of which one is shown to raise the average precision."""
    comparison = comparison_of(
        {0.5: (0.01, 0.002, 0.02), 2: (-0.001, -0.01, 0.004), 5: (-0.03, -0.05, 0.01)}
    )
    text = study_markdown("small", comparison, (), ())
    path.write_text(study_page(text, comparison, COMMANDS["study"], ()), encoding="utf-8")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in COMMANDS}
    for name, writer in (("demo", write_demo), ("report", write_report), ("study", write_study)):
        writer(found[name])
    return found


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser, paths, name, width):
    for dark in (False, True):
        page = browser.open(paths[name], width, 900, dark)
        assert page.violations(only_colours=dark) == []
        assert page.overflow() == 0
        assert page.errors() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_foot_has_the_command(browser, paths, name):
    page = browser.open(paths[name])
    assert page.text("footer p").startswith(f"Made by {COMMANDS[name]}")
    assert "parfocal 0." in page.text("footer p")


def test_demo_shows_the_digit_and_tells_it(browser, paths):
    """The image is loaded, at six times its size; its text has label, logit and step."""
    page = browser.open(paths["demo"])
    image = "document.querySelector('img')"
    assert page.evaluate(f"[{image}.naturalWidth, {image}.clientWidth]") == [28, 166]
    assert page.evaluate(f"{image}.alt") == (
        "A handwritten 7: sample 12 of the training digits. Its logit was -17.50 at step 73, when "
        "the gradient was no number any more."
    )
    assert page.evaluate("[...document.querySelectorAll('h2')].at(-1).innerText") == (
        "What to do next"
    )


def test_demo_says_in_words_what_its_curves_show(browser, paths):
    page = browser.open(paths["demo"])
    labels = page.evaluate("[...document.querySelectorAll('.plot')].map(p => p.ariaLabel)")
    assert len(labels) == 4
    assert "3 runs, of which 1 failed. At the end: original" in labels[0]
    assert "the original one's is NaN at" in labels[2]
    page.evaluate("document.querySelector('.plot').focus()")
    page.press("Home")
    assert page.text(".readout") == "epoch, from 0 0: original = 0.2; smoothed = 0.2; exact = 0.2"


def test_keys_go_through_the_heat_map_of_a_report(browser, paths):
    """Each cell says what became of its runs."""
    page = browser.open(paths["report"])
    page.evaluate("document.querySelector('.heat td').focus()")
    page.press("ArrowRight", "ArrowDown", "ArrowLeft")
    assert page.text("output").startswith(
        "gamma 0.5, threshold 0: seed 0: gradient not finite in epoch 2, step 23"
    )


def test_report_reads_the_line_that_is_chosen(browser, paths):
    """Of eight in a chart all are told; of the others one, and how many more there are."""
    page = browser.open(paths["report"])
    page.evaluate("document.querySelector('.plot').focus()")
    page.press("Home")
    told = page.text(".readout")
    assert told.count("gamma ") == 8
    assert "gamma 0.1, threshold 0, seed 1 = 0.2" in told


def test_report_is_the_same_whenever_it_is_made(tmp_path):
    """Its day is that of the last session."""
    path = tmp_path / "report.html"
    write_report(path)
    first = path.read_bytes()
    write_report_page(path, make_report(path.parent / "runs", None), COMMANDS["report"])
    assert b", 2026-01-31, with" in first
    assert b", 2026-01-31, with" in path.read_bytes()


def test_study_has_all_of_its_markdown(paths):
    """Each heading, and each cell of each table."""
    html = paths["study"].read_text(encoding="utf-8")
    comparison = comparison_of({0.5: (0.01, 0.002, 0.02)})
    for line in study_markdown("small", comparison, (), ()).splitlines():
        if line.startswith("#"):
            assert f">{line.lstrip('# ')}</h" in html
        if line.startswith("| focal 0.5"):
            assert all(f">{cell}</t" in html for cell in line.strip("| ").split(" | "))


def test_study_draws_its_intervals(browser, paths):
    """By gamma; the text alternative names those that don't hold 0."""
    page = browser.open(paths["study"])
    label = page.evaluate("document.querySelector('.plot').ariaLabel")
    assert "It doesn't hold 0: without alpha at gamma 0.5 (+1.00)." in label
    page.evaluate("document.querySelector('.plot').focus()")
    page.press("Home")
    assert page.text(".readout") == "gamma 0.5: without alpha = 1 (0.2 to 2)"
