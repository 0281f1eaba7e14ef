"""The page of a report can be read: by everybody, on a phone, in the dark, without a network."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from experiments.made_up import run_of, spec_of, write
from parfocal.experiments.run.events import Epoch
from parfocal.experiments.show.charts import curves, thinned
from parfocal.experiments.show.heat_map import heat_map
from parfocal.experiments.show.page import write_report_page
from parfocal.experiments.show.published import PublishedRun
from parfocal.experiments.show.report import make_report
from parfocal.pages.assets import style

# By gamma and threshold: the epochs of the first failures with seeds 0 and 1; None: none in 100.
EPOCHS = {(0.1, 0): (4, 5), (0.1, 1): (70, None), (0.5, 0): (9, 12), (0.5, 1): (None, None)}
PAPER = {(0.1, 0): 3, (0.1, 1): 60, (0.5, 0): 10, (0.5, 1): None}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two seeds of four cells, and an experiment of one run that had one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    beside = {}
    for place, epochs in EPOCHS.items():
        for seed, epoch in enumerate(epochs):
            write(folder, run_of(spec_of(*place, seed=seed), epoch))
        beside[spec_of(*place).digest] = PublishedRun(PAPER[place], 0.1, 0.01, 100)
    write(folder, run_of(spec_of(0.5, 0, source="mnist5k", epochs=1), None))
    return make_report(folder, beside)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report_page(path, report, "parfocal report DIRECTORY --published FOLDER")
    return path.read_text(encoding="utf-8")


class _Elements(HTMLParser):
    """All elements of a page, in their order, with their attributes and the texts within them."""

    def __init__(self, page):
        super().__init__()
        self.found, self._open = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.found.append(element)
        if tag not in ("meta", "br"):
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag, tag

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def of(self, tag):
        return [
            (attributes, "".join(texts).strip())
            for name, attributes, texts in self.found
            if name == tag
        ]


def test_page_is_whole_and_brings_all_that_it_needs(page):
    """Each element is closed in its turn; nothing is fetched from elsewhere."""
    assert not _Elements(page)._open
    assert not re.search(r"\bsrc=|\bhref=\"(?!#)|@import|\burl\(", page)
    content = page.partition("<main")[2].partition("</main>")[0]
    assert not re.search(r"\bnan\b|\binf\b|None", content)
    assert len(content) < 60_000


def test_page_can_be_heard(page):
    """Headings in their order; headers with a scope; each table and figure named; a language."""
    elements = _Elements(page)
    levels = [int(tag[1]) for tag, _, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert elements.of("html")[0][0]["lang"] == "en"
    assert all(attributes.get("scope") in ("row", "col") for attributes, _ in elements.of("th"))
    assert all(words for _, words in elements.of("caption") + elements.of("figcaption"))
    # One heat map, two charts; the table in a figure has the figure's caption.
    assert len(elements.of("figure")) == len(elements.of("figcaption")) == 3
    assert len(elements.of("table")) == len(elements.of("caption")) + 3
    # What scrolls can be scrolled by keys, and is named.
    scrolled = [a for a, _ in elements.of("div") if a.get("class") == "scroll"]
    assert len(scrolled) == len(elements.of("table"))
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_page_opens_with_the_conclusion_and_ends_with_its_origin(page):
    """Before any table; and the command at the end."""
    elements = _Elements(page)
    assert elements.of("h1")[0][1].startswith("Training failed in 5 of 9 runs with the original")
    assert elements.of("title")[0][1] == elements.of("h1")[0][1]
    order = [tag for tag, _, _ in elements.found if tag in ("h1", "li", "table", "dl")]
    assert order[:2] == ["h1", "li"]
    assert order[-1] == "dl"
    assert ({}, "parfocal report DIRECTORY --published FOLDER") in elements.of("code")


def test_cells_show_every_seed_and_the_published_run(page, report):
    """A line each, with its words, on the colour of the earliest."""
    (block,) = report.sections[0].blocks
    found = heat_map(report, block).cells
    for (gamma, threshold), epochs in EPOCHS.items():
        cell = found[gamma, threshold]
        shown = ["100+" if e is None else str(e) for e in (*epochs, PAPER[gamma, threshold])]
        assert [*cell.lines, cell.published] == shown
        assert cell.words.startswith(f"gamma {gamma:g}, threshold {threshold}: seed 0: ")
        for seed, epoch in enumerate(epochs):
            text = "no failure in 100 epochs" if epoch is None else f"not finite in epoch {epoch},"
            assert re.search(f"seed {seed}: [^;]*{text}", cell.words)
        # The earliest failure counts, in sevenths of 71 epochs.
        first = min((e for e in epochs if e is not None), default=None)
        assert cell.colour == ("unharmed" if first is None else f"heat-{7 * first // 71}")
        shown[-1] = f"<small>{shown[-1]}</small>"
        assert f'"{cell.colour}" data-words="{cell.words}">{"<br>".join(shown)}</td>' in page
    # A row alone, or a column alone, is no map.
    assert heat_map(report, report.sections[1].blocks[0]) is None


def test_curves_are_the_records(report):
    """Both charts: each run a line, from the first epoch to the last; a cross where it failed."""
    (block,) = report.sections[0].blocks
    loss, logit = curves(report, block)
    assert (loss.y.scale, logit.y.scale) == ("log", "linear")
    run = report.rows[block.cells[0.1, 1][0]].run
    assert run.failure.epoch == 70
    for chart, of, failed in (
        (loss, lambda e: e.loss, run.epochs[-1].loss),
        (logit, lambda e: e.largest_logit, 17.5),
    ):
        (index,) = [
            i for i, line in enumerate(chart.lines) if line.name == "gamma 0.1, threshold 1, seed 0"
        ]
        line = chart.lines[index]
        assert (line.group, line.colour) == ("gamma 0.1", "--line-0")
        assert line.values == {e.epoch: of(e) for e in run.epochs}
        assert (70, failed, index) in chart.marks
        assert len(chart.lines) == len(block.members)
        assert "8 runs, of which 5 failed" in chart.label


def test_legend_names_the_rows_of_each_colour(tmp_path):
    """Two where there are more rows than colours; each row once."""
    gammas = [n / 10 for n in range(15)]
    for gamma in gammas:
        write(tmp_path, run_of(spec_of(gamma, 0, epochs=2), None))
    report = make_report(tmp_path)
    lines = curves(report, report.sections[0].blocks[0])[0].lines
    groups = {line.colour: line.group for line in lines}
    assert len(groups) == len({line.group for line in lines}) == 8
    named = [v for words in groups.values() for v in words.removeprefix("gamma ").split(", ")]
    assert named == [f"{gamma:g}" for gamma in gammas]


def test_no_plot_of_a_single_point(page, report):
    """It is left out, and the page says why."""
    assert curves(report, report.sections[1].blocks[0]) == []
    assert page.count("No curves: no run of this table has had two epochs.") == 1


def test_numbers_that_no_axis_has_are_left_out(tmp_path):
    """A loss of 0 on a logarithmic scale, and what isn't finite."""
    run = run_of(spec_of(0.5, 0, epochs=4), 3, largest_logit=float("nan"))
    last = Epoch(2, 30, 0.0, 1.0, float("inf"))
    write(tmp_path, run._replace(epochs=(*run.epochs[:2], last)))
    report = make_report(tmp_path)
    for chart in curves(report, report.sections[0].blocks[0]):
        assert chart.marks == [mark for mark in chart.marks if math.isfinite(mark.y)]
        assert "NaN" not in chart.spec
    assert [row[1] for row in chart.rows] == ["1", "2", "inf"]


def test_thinned_curve_keeps_its_peaks_and_its_ends():
    """One spike up and one down among 10,000 points."""
    points = [(float(i), 0.0) for i in range(10_000)]
    points[1234], points[7777] = (1234.0, 5.0), (7777.0, -5.0)
    kept = thinned(points, 300)
    assert len(kept) < 310
    assert {points[0], points[1234], points[7777], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:300], 300) == points[:300]


def _luminance(colour):
    """WCAG 2.2, relative luminance of sRGB."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(a, b):
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _schemes():
    """The colours of both schemes, by their names."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style())
    return [{name: pair[scheme] for name, *pair in pairs} for scheme in (0, 1)]


def test_contrast_is_that_of_wcag_aa_in_both_schemes():
    """Text 4.5 on all that it stands on, the heat map's on its own cell; lines and edges 3.

    axe-core doesn't see what is drawn on a canvas.
    """
    schemes = _schemes()
    surfaces = ("back", "card")
    letters = ("ink", "dim", "bad", "good", "warning", "note", "problem", "link")
    cells = [name.removeprefix("on-") for name in schemes[0] if name.startswith("on-")]
    drawn = [name for name in schemes[0] if name.startswith(("line-", "of-"))]
    assert len(cells) == 9
    assert len(drawn) == 12
    for colours in schemes:
        for surface in surfaces:
            for name in letters:
                assert _contrast(colours[name], colours[surface]) >= 4.5, (name, surface)
        for cell in cells:
            assert _contrast(colours[f"on-{cell}"], colours[cell]) >= 4.5, cell
        for name in (*drawn, "edge"):
            assert _contrast(colours[name], colours["back"]) >= 3, name
    for cell in cells:
        rule = f".{cell} {{ background: var(--{cell}); color: var(--on-{cell}); }}"
        assert rule in style()


def test_letters_are_at_least_eleven_pixels():
    sizes = re.findall(r"(?:font|font-size): ([\d.]+)(px|rem)", style().partition(":root {")[2])
    assert len(sizes) > 5
    assert min(float(size) * (16 if unit == "rem" else 1) for size, unit in sizes) >= 11
