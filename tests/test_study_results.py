"""The committed records of the studies are whole, and the pages say what their tables have."""

import csv
import math
import re
from pathlib import Path

import pytest

from parfocal.experiments.run.record import read_lines
from parfocal.experiments.study.bootstrap import Interval
from parfocal.experiments.study.comparison import Comparison, Difference, Row, comparisons
from parfocal.experiments.study.conduct import Folder, chosen_rate, read_trainings
from parfocal.experiments.study.metrics import METRICS
from parfocal.experiments.study.page import html
from parfocal.experiments.study.spec import read_study
from parfocal.experiments.study.words import conclusion

DOCS = Path(__file__).parents[1] / "docs"
LESS = "average_precision less cross-entropy"

# The folder of each spec's record and table, beside its page; how many trainings it has.
FOLDERS = {"gamma-and-alpha": DOCS / "study", "gamma-in-detection": DOCS / "detection"}
SIZES = {"gamma-and-alpha": 9 * 25 * (4 + 5), "gamma-in-detection": 16 * (4 + 5)}

# The data sets of each column of the first table of `choosing.md`; the last is the other study's.
COLUMNS = {
    "digits and ink (4)": ("mnist-0", "mnist-4", "mnist-8", "ink"),
    "long tail, 10": ("cifar10-10",),
    "long tail, 100": ("cifar10-100",),
    "tables (2)": ("caravan", "randhie"),
    "detection, 30 epochs": ("shapes",),
    "detection, 90": ("shapes-90",),
}


def _table(folder):
    with (folder / "study.csv").open(newline="") as file:
        return {(row["dataset"], row["objective"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def table():
    """Of the nine data sets."""
    return _table(FOLDERS["gamma-and-alpha"])


@pytest.fixture(scope="module")
def detection():
    """Of the detection with 90 epochs."""
    return _table(FOLDERS["gamma-in-detection"])


def of_each_study(test):
    return pytest.mark.parametrize("name", FOLDERS)(test)


@of_each_study
def test_record_has_each_training_of_the_spec(name):
    """For each objective and data set the search at each rate, and five seeds at the best."""
    _, study = read_study(name)
    lines = read_trainings(Folder(FOLDERS[name]))
    expected = set()
    for dataset in study.datasets:
        for objective in study.objectives:
            rate = chosen_rate(study, dataset, objective, lines)
            trainings = study.search(dataset, objective)
            expected |= {
                one.digest for one in trainings + study.trainings(dataset, objective, rate)
            }
    assert set(lines) == expected
    assert len(expected) == SIZES[name]


@of_each_study
def test_table_has_the_means_of_the_record(name):
    """Average precision and skipped steps of the five seeds."""
    lines = read_trainings(Folder(FOLDERS[name])).values()
    tests = [line for line in lines if "test_average_precision" in line]
    for (dataset, objective), row in _table(FOLDERS[name]).items():
        of = [one for one in tests if (one["dataset"], one["objective"]) == (dataset, objective)]
        if dataset == "all":
            continue
        assert len(of) == 5
        mean = sum(one["test_average_precision"] for one in of) / 5
        assert float(row["average_precision"]) == pytest.approx(mean, rel=1e-5)
        assert int(row["skipped_steps"]) == sum(one["skipped_steps"] for one in of)


def _is_apart(row):
    return float(row[f"{LESS}, low"]) > 0 or float(row[f"{LESS}, high"]) < 0


def test_choosing_shows_the_numbers_of_the_tables(table, detection):
    """Means over the data sets of a column, in points; a star where it is one that differs."""
    text = (DOCS / "choosing.md").read_text(encoding="utf-8")
    header, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()
    )
    assert header == ["objective", *COLUMNS]
    shown = rows[1:]
    assert len(shown) == 10
    both = {**table, **detection}
    for objective, *cells in shown:
        for cell, datasets in zip(cells, COLUMNS.values(), strict=True):
            found = [both[name, objective] for name in datasets if (name, objective) in both]
            if not found:
                assert cell == ""
                continue
            mean = sum(float(row[LESS]) for row in found) / len(found)
            star = "*" if len(found) == 1 and _is_apart(found[0]) else ""
            assert cell == f"{100 * mean:+.2f}{star}"


def _less(row, other, end=""):
    """A difference of average precision in points, or an end of its interval."""
    return 100 * float(row[f"average_precision less {other}{end}"])


def test_pages_conclude_what_the_tables_say(table, detection):
    """No choice is above the cross-entropy on average, nor in the detection with more epochs."""
    _, study = read_study("gamma-and-alpha")
    exact = [name for name, one in study.objectives.items() if one.loss == "exact"]
    for name in exact[1:]:
        assert _less(table["all", name], "cross-entropy", ", low") <= 0
        if ("all", name) in detection:
            assert _less(detection["all", name], "cross-entropy", ", low") <= 0
    choosing = (DOCS / "choosing.md").read_text(encoding="utf-8")
    weighted = [name for name in exact if study.objectives[name].weights != "none"]
    tail = [float(table["cifar10-100", name][LESS]) for name in weighted]
    assert f"cost up to {-100 * min(tail):.1f} points" in choosing
    assert not any(
        _less(table[dataset, name], "cross-entropy", ", low") > 0
        for dataset in study.datasets
        for name in weighted
    )
    up_to_2 = [f"focal {gamma}" for gamma in ("0.1", "0.25", "0.5", "1", "2")]
    assert not any(_is_apart(detection["all", name]) for name in up_to_2)
    assert _is_apart(detection["all", "focal 5"])


def test_pages_say_what_skipped_steps_cost(table, detection):
    """In the detection much, elsewhere little; where nothing is NaN nothing that shows."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    choosing = (DOCS / "choosing.md").read_text(encoding="utf-8")
    pairs = {"original 0.5": "focal 0.5", "original 0.5, bfloat16": "focal 0.5, bfloat16"}
    _, study = read_study("gamma-and-alpha")
    places = [place for place in study.datasets if place != "shapes"]
    elsewhere = [
        math.fsum(_less(table[place, name], other) for place in places) / len(places)
        for name, other in pairs.items()
    ]
    assert (
        "without the detection it is {:.2f} and {:.2f}".format(*(-x for x in elsewhere)) in choosing
    )
    for name, other in pairs.items():
        for row in (table["all", name], detection["all", name]):
            assert _less(row, other, ", high") < 0
            assert f"{-_less(row, other):.1f}" in choosing
        assert f"{-_less(detection['all', name], other):.0f}" in readme
        skipped, steps = (
            int(detection["shapes-90", name][key]) for key in ("skipped_steps", "steps")
        )
        assert f"{100 * skipped / steps:.0f}" in choosing
    for name, other in (
        ("original 1, bfloat16", "focal 1, bfloat16"),
        ("original 2, bfloat16", "focal 2, bfloat16"),
    ):
        assert _less(table["all", name], other, ", high") >= 0


def test_choosing_compares_losses_at_the_same_rate():
    """Exact and original at gamma 0.5, in the search of the detection with 90 epochs."""
    lines = read_trainings(Folder(FOLDERS["gamma-in-detection"])).values()
    found = {
        (line["objective"], line["rate"]): line["validation_average_precision"]
        for line in lines
        if line["seed"] == 1000
    }
    choosing = (DOCS / "choosing.md").read_text(encoding="utf-8")
    words = []
    for rate in (0.001, 0.003, 0.01):
        exact, original = (100 * found[name, rate] for name in ("focal 0.5", "original 0.5"))
        words.append(f"{exact:.1f} and {original:.1f} at {rate}")
    assert ", ".join(words) in choosing


def _number(cell):
    return float(cell or "nan")


def _row(cells):
    """A row of the table, without the search, which it doesn't have."""
    means = {metric: _number(cells[metric]) for metric in METRICS}
    steps = int(cells["skipped_steps"]), int(cells["steps"])
    last = float(cells["largest_logit"]), float(cells["dead_share"])
    return Row(cells["dataset"], cells["objective"], float(cells["rate"]), {}, means, *steps, *last)


def _difference(cells, reference, metric):
    """A difference of the table, on a data set or over all."""
    place = None if cells["dataset"] == "all" else cells["dataset"]
    column = f"{metric} less {reference}"
    found = Interval(*(float(cells[f"{column}{end}"]) for end in ("", ", low", ", high")))
    return Difference(place, cells["objective"], reference, metric, found)


@of_each_study
def test_pages_open_with_the_conclusion_of_the_table(name):
    """Word for word: what the code says now of the numbers that are committed."""
    _, study = read_study(name)
    table, folder = _table(FOLDERS[name]), FOLDERS[name]
    rows = [_row(cells) for (dataset, _), cells in table.items() if dataset != "all"]
    differences = [
        _difference(cells, reference, metric)
        for cells in table.values()
        for objective, reference in comparisons(study)
        if objective == cells["objective"]
        for metric in METRICS
        if cells[f"{metric} less {reference}"]
    ]
    text = "\n\n".join(conclusion(Comparison(study, tuple(rows), tuple(differences))))
    notes = "\n".join(f"- {note}" for note in study.notes)
    for part in (text, notes):
        assert part in folder.with_suffix(".md").read_text(encoding="utf-8")
        page = (folder / "study.html").read_text(encoding="utf-8")
        assert all(str(block) in page for block in html(part))


@of_each_study
def test_page_names_no_place_of_a_machine(name):
    """Nor do the sessions."""
    folder = FOLDERS[name]
    for path in (folder.with_suffix(".md"), folder / "study.html", folder / "sessions.jsonl"):
        assert not re.search(
            r"(?<!<)/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8")
        )
    assert {line["event"] for line in read_lines(folder / "sessions.jsonl")} == {"begin", "end"}
