"""The committed record of the study is whole, and the pages say what its table has."""

import csv
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

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "docs" / "study"
LESS = "average_precision less cross-entropy"

# The data sets of each column of the first table of `choosing.md`.
COLUMNS = {
    "digits and ink (4)": ("mnist-0", "mnist-4", "mnist-8", "ink"),
    "long tail, 10": ("cifar10-10",),
    "long tail, 100": ("cifar10-100",),
    "tables (2)": ("caravan", "randhie"),
    "detection, 30 epochs": ("shapes",),
}


@pytest.fixture(scope="module")
def table():
    with (STUDY / "study.csv").open(newline="") as file:
        return {(row["dataset"], row["objective"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def lines():
    return read_trainings(Folder(STUDY))


def test_record_has_each_training_of_the_spec(lines):
    """Nine data sets, 25 objectives: the search at four rates, and five seeds at the best."""
    _, study = read_study("gamma-and-alpha")
    expected = set()
    for dataset in study.datasets:
        for objective in study.objectives:
            rate = chosen_rate(study, dataset, objective, lines)
            trainings = study.search(dataset, objective)
            expected |= {
                one.digest for one in trainings + study.trainings(dataset, objective, rate)
            }
    assert set(lines) == expected
    assert len(expected) == 9 * 25 * (4 + 5)


def test_table_has_the_means_of_the_record(lines, table):
    """Average precision and skipped steps of the five seeds."""
    tests = [line for line in lines.values() if "test_average_precision" in line]
    for (dataset, objective), row in table.items():
        of = [one for one in tests if (one["dataset"], one["objective"]) == (dataset, objective)]
        if dataset == "all":
            continue
        assert len(of) == 5
        mean = sum(one["test_average_precision"] for one in of) / 5
        assert float(row["average_precision"]) == pytest.approx(mean, rel=1e-5)
        assert int(row["skipped_steps"]) == sum(one["skipped_steps"] for one in of)


def _is_apart(row):
    return float(row[f"{LESS}, low"]) > 0 or float(row[f"{LESS}, high"]) < 0


def test_choosing_shows_the_numbers_of_the_table(table):
    """Means over the data sets of a column, in points; a star where it is one that differs."""
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    header, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()
    )
    assert header == ["objective", *COLUMNS]
    shown = rows[1:]
    assert len(shown) == 10
    for objective, *cells in shown:
        for cell, datasets in zip(cells, COLUMNS.values(), strict=True):
            found = [table[name, objective] for name in datasets]
            mean = sum(float(row[LESS]) for row in found) / len(found)
            star = " *" if len(found) == 1 and _is_apart(found[0]) else ""
            assert cell == f"{100 * mean:+.2f}{star}"


def test_pages_conclude_what_the_table_says(table):
    """No choice is above the cross-entropy on average; the usual formula's loss at gamma 0.5."""
    _, study = read_study("gamma-and-alpha")
    exact = [name for name, one in study.objectives.items() if one.loss == "exact"]
    for name in exact[1:]:
        assert float(table["all", name][f"{LESS}, low"]) <= 0
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    choosing = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    for name, other, points in (
        ("original 0.5", "focal 0.5", "3.4"),
        ("original 0.5, bfloat16", "focal 0.5, bfloat16", "5.1"),
    ):
        row = table["all", name]
        assert float(row[f"average_precision less {other}, high"]) < 0
        assert f"{-100 * float(row[f'average_precision less {other}']):.1f}" == points
        assert points in readme
        assert points in choosing
    for name, other in (
        ("original 1, bfloat16", "focal 1, bfloat16"),
        ("original 2, bfloat16", "focal 2, bfloat16"),
    ):
        assert float(table["all", name][f"average_precision less {other}, high"]) >= 0
    weighted = [name for name in exact if study.objectives[name].weights != "none"]
    tail = [float(table["cifar10-100", name][LESS]) for name in weighted]
    assert f"cost up to {-100 * min(tail):.1f} points" in choosing
    assert not any(
        float(table[dataset, name][f"{LESS}, low"]) > 0
        for dataset in study.datasets
        for name in weighted
    )


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


def test_pages_open_with_the_conclusion_of_the_table(table):
    """Word for word: what the code says now of the numbers that are committed."""
    _, study = read_study("gamma-and-alpha")
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
        assert part in (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
        page = (STUDY / "study.html").read_text(encoding="utf-8")
        assert all(str(block) in page for block in html(part))


def test_page_names_no_place_of_a_machine():
    """Nor do the sessions."""
    for path in (ROOT / "docs" / "study.md", STUDY / "study.html", STUDY / "sessions.jsonl"):
        assert not re.search(
            r"(?<!<)/(home|root|work|tmp|Users)/", path.read_text(encoding="utf-8")
        )
    assert {line["event"] for line in read_lines(STUDY / "sessions.jsonl")} == {"begin", "end"}
