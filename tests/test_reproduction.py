"""The committed records are whole, give the committed tables, and show what the text says."""

import csv
import math
import re
from pathlib import Path

import pytest

from parfocal.experiments.run.record import read_lines, read_run
from parfocal.experiments.show.conclusion import headline
from parfocal.experiments.show.report import make_report, write_csv

ROOT = Path(__file__).parents[1] / "docs" / "reproduction"
RECORDS = ROOT / "records"

# Runs of the original loss on MNIST: with gamma in (0, 1), which failed but for those at these
# gammas and thresholds, and with another gamma.
BELOW_ONE, OTHERS = 135, 6
SURVIVED = {(0.8, 3), (0.9, 3), (0.9, 4)}


@pytest.fixture(scope="module")
def runs():
    return {path.parent: read_run(path.parent) for path in RECORDS.glob("*/*/spec.json")}


def test_records_are_named_by_their_digests_and_done(runs):
    """Each ended, at the last epoch or at a failure; none is damaged."""
    assert len(runs) == BELOW_ONE + OTHERS + 12 + 4 * 3
    for directory, run in runs.items():
        assert directory.name == run.spec.digest
        assert run.outcome in ("finished", "failed")


def test_committed_tables_are_made_from_the_records(tmp_path):
    """The same bytes."""
    write_csv(make_report(RECORDS), tmp_path)
    assert (tmp_path / "runs.csv").read_bytes() == (ROOT / "runs.csv").read_bytes()
    with (tmp_path / "failure_rates.csv").open() as file:
        ours = list(csv.DictReader(file))
    with (ROOT / "failure_rates.csv").open() as file:
        committed = list(csv.DictReader(file))
    # The published columns are those of the report that was made beside the paper's results.
    keys = [key for key in ours[0] if not key.startswith("published")]
    assert [[row[k] for k in keys] for row in ours] == [[row[k] for k in keys] for row in committed]


def test_committed_page_is_of_the_records():
    """It opens with their conclusion, has all of their commits, and names no place of a machine."""
    report = make_report(RECORDS)
    page = (ROOT / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{headline(report)}</h1>" in page
    assert ", ".join(report.provenance.commits) in page
    assert re.search(
        r"<code>parfocal report docs/reproduction/records --published FOLDER --out [\w/]+</code>",
        page,
    )
    assert not re.search(r"(?<!<)/(home|root|work|tmp|Users)/", page)


def test_original_failed_below_one_past_the_cliff_and_nothing_else_did(runs):
    """By the gradient, at each gamma in (0, 1); those that didn't had not come to the cliff."""
    mnist = [run for path, run in runs.items() if path.parent.name == "mnist"]
    original = [run for run in mnist if run.spec.objective.loss == "original"]
    below_one = [run for run in original if 0 < run.spec.objective.gamma < 1]
    assert len(below_one) == BELOW_ONE
    unfailed = [run for run in below_one if run.failure is None]
    assert {(run.spec.objective.gamma, run.spec.data.threshold) for run in unfailed} == SURVIVED
    assert len(unfailed) == len(SURVIVED)
    cliff = 24 * math.log(2)  # where 1 + exp(-x) rounds to 1 in float32
    for run in unfailed:
        assert run.largest_logit < cliff
    for failure in [run.failure for run in below_one if run.failure is not None]:
        assert failure.quantity == "gradient"
        assert cliff <= abs(failure.logit) <= failure.largest_logit < 19
    others = [run for run in runs.values() if run.spec.objective.loss != "original"]
    assert len(others) == 12 + 4 * 2
    of_other_gammas = [run for run in original if not 0 < run.spec.objective.gamma < 1]
    assert len(of_other_gammas) == OTHERS
    assert not any(run.failure for run in (*others, *of_other_gammas))


def test_first_failures_in_the_text_are_those_of_the_records(runs):
    """Cell by cell, in the order of the seeds; 100+ where none came."""
    expected = {}
    for path, run in sorted(runs.items(), key=lambda item: item[1].spec.training.seed):
        spec = run.spec
        is_original = spec.objective.loss == "original"
        if path.parent.name == "mnist" and 0 < spec.objective.gamma < 1 and is_original:
            place = (spec.data.noise, spec.objective.gamma, spec.data.threshold)
            epoch = f"{run.failure.epoch}" if run.failure else f"{spec.training.epochs}+"
            expected.setdefault(place, []).append(epoch)
    found = {}
    text = (ROOT.parent / "reproduction.md").read_text(encoding="utf-8")
    for noise, table in re.findall(r"noise ([\d.]+)[^\n]*:\n\n((?:\|.*\n)+)", text):
        (_, *thresholds), _, *rows = [line.strip("|").split("|") for line in table.split("\n")[:-1]]
        for gamma, *cells in rows:
            for threshold, cell in zip(thresholds, cells, strict=True):
                if cell.strip():
                    place = (float(noise), float(gamma), int(threshold))
                    found[place] = cell.replace(" ", "").split(",")
    assert found == expected


def test_a_sweep_changed_its_engine(runs):
    """Killed among processes and finished on Ray, from its checkpoints."""
    sweep = [path for path in runs if path.parent.name == "cifar10-cnn-quick"]
    assert len(sweep) == 3
    for directory in sweep:
        sessions = read_lines(directory / "sessions.jsonl")
        began = [line for line in sessions if line["event"] == "began"]
        assert [line["engine"] for line in began] == ["processes", "ray"]
        assert began[1]["from_step"] > 0
