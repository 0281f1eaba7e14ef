"""The record of guarded trainings: whole, what was promised of it, and what the page says of it."""

import csv
from itertools import product
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GAMMAS = ("0.1", "0.2", "0.3", "0.4", "0.5")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def failing():
    """The runs of the original loss below gamma 1."""
    rows = read(DOCS / "guard" / "runs.csv")
    return [row for row in rows if row["loss"] == "original" and float(row["gamma"]) < 1]


@pytest.fixture(scope="module")
def in_float32(failing):
    return {(row["threshold"], row["gamma"]): row for row in failing if row["logits"] == "float32"}


def test_each_failure_was_told_at_least_50_steps_before(failing):
    """And explained by the focal term, with a capture of a few kilobytes."""
    for row in failing:
        early = int(row["failed"]) - int(row["warned"])
        assert early == int(row["early"]) >= 50
        assert row["cause"] == "focal term"
        assert 0 < int(row["captured"]) < 4096


def test_all_thresholds_and_gammas_are_there(in_float32):
    """Of the paper's MNIST runs."""
    assert set(in_float32) == set(product("012345678", GAMMAS))


def test_the_others_were_never_warned():
    """The exact loss, and gamma of 1 and more."""
    rows = read(DOCS / "guard" / "runs.csv")
    calm = [row for row in rows if row["loss"] == "exact" or float(row["gamma"]) >= 1]
    assert len(calm) == 4
    assert all(row["failed"] == row["warned"] == row["cause"] == "" for row in calm)


def test_guarded_runs_failed_where_those_without_a_guard_did(in_float32):
    """Beside the records of the reproduction, of another processor: most of them to the step."""
    bare = {
        (row["threshold"], row["gamma"]): int(row["first_failure_step"])
        for row in read(DOCS / "reproduction" / "runs.csv")
        if (row["source"], row["loss"], row["noise"]) == ("mnist", "original", "0")
        and row["seed"] == "0"
        and row["first_failure_step"]
    }
    ratios = [int(row["failed"]) / bare[key] for key, row in in_float32.items()]
    assert 0.9 < min(ratios) <= max(ratios) < 1.1
    assert f"{ratios.count(1.0)} of the 45" in (DOCS / "guard.md").read_text()


def test_the_page_shows_the_record(in_float32, failing):
    """Each cell of its table, and the smallest and largest numbers that it names."""
    page = (DOCS / "guard.md").read_text()
    for threshold in "012345678":
        cells = [in_float32[threshold, gamma] for gamma in GAMMAS]
        shown = " | ".join(f"{row['failed']} ({row['early']})" for row in cells)
        assert f"| {threshold} | {shown} |" in page
    of = {True: [], False: []}
    for row in failing:
        of[row["logits"] == "float32"].append(int(row["early"]))
    assert f"{min(of[True])} to {max(of[True])} steps" in page
    assert f"{min(of[False])} and {max(of[False])} steps" in page
