"""Reports say what is in the records, and how far it agrees with what was published."""

import csv
import json
import math
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from scipy import stats

from parfocal.cli import cli
from parfocal.experiments.errors import UnreadableResultsError
from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.record import Recorder, Run
from parfocal.experiments.show.comparison import (
    Pair,
    failure_rates,
    loss_ratios,
    rank_correlations,
)
from parfocal.experiments.show.published import PublishedRun, published_of, read_published
from parfocal.experiments.show.report import make_report
from parfocal.experiments.show.tabulation import blocks, label, varying_settings
from parfocal.experiments.spec import RunSpec

# First failures' epochs here and in the paper, by gamma and threshold; None: none in 100 epochs.
CELLS = {
    (0.1, 0): (4, 3), (0.1, 1): (7, 4), (0.1, 2): (6, 8), (0.1, 3): (21, 21), (0.5, 0): (9, 9),
    (0.5, 1): (8, 10), (0.5, 2): (None, 14), (0.5, 3): (44, None),
}  # fmt: skip


def spec_of(gamma, threshold, **settings):
    return RunSpec().with_settings({"gamma": gamma, "threshold": threshold, **settings})


def run_of(spec, failure_epoch, first_loss=0.2):
    """A run that failed at an epoch, or went to its end."""
    count = spec.training.epochs if failure_epoch is None else failure_epoch
    epochs = tuple(Epoch(e, 10 * e + 10, first_loss / (e + 1), 0.9, 1.0 + e) for e in range(count))
    failure = None
    if failure_epoch is not None:
        step = 10 * failure_epoch + 3
        failure = Failure(failure_epoch, step, "gradient", 0.1, 17.5, 12, 12, "7", None, -17.5)
    outcome = "finished" if failure is None else "failed"
    return Run(spec, epochs, failure, outcome, 10 * count)


@pytest.fixture(scope="module")
def runs():
    return [run_of(spec_of(*place), ours) for place, (ours, _) in CELLS.items()]


@pytest.fixture(scope="module")
def pairs(runs):
    published = [PublishedRun(theirs, 0.1, 0.01, 100) for _, theirs in CELLS.values()]
    return [Pair(run, beside) for run, beside in zip(runs, published, strict=True)]


def test_rank_correlation_is_spearmans(pairs):
    """A run without a failure ranks last; the interval is that of the textbook."""
    (found,) = rank_correlations(pairs)
    ours, theirs = zip(
        *((a if a is not None else 101, b if b is not None else 101) for a, b in CELLS.values()),
        strict=True,
    )
    assert found.rho == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    assert (found.loss, found.noise, found.cells) == ("original", 0.0, 8)
    half = 1.959964 * math.sqrt((1 + found.rho**2 / 2) / 5)
    expected = [math.tanh(math.atanh(found.rho) + sign * half) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-6)
    assert rank_correlations(pairs[:2]) == []


def test_run_that_was_stopped_early_says_nothing_about_the_order(pairs):
    """30 epochs without a failure don't tell where the failure would have been."""
    early = run_of(spec_of(0.3, 0, epochs=30), None)
    more = [*pairs, Pair(early, PublishedRun(42, 0.1, 0.01, 100))]
    assert rank_correlations(more) == rank_correlations(pairs)


def test_failure_rates_count_the_same_cells(runs, pairs):
    """By gamma; where the runs were shorter than the paper's, its failures in as many epochs."""
    low, high = failure_rates(runs, pairs)
    assert (low.gamma, low.runs, low.failed) == (0.1, 4, 4)
    assert (low.published_runs, low.published_failed) == (4, 4)
    assert (high.gamma, high.runs, high.failed) == (0.5, 4, 3)
    assert (high.published_runs, high.published_failed) == (4, 3)
    short = run_of(spec_of(0.3, 3, epochs=30), None)
    (rate,) = failure_rates([short], [Pair(short, PublishedRun(42, 0.1, 0.01, 100))])
    assert (rate.epochs, rate.failed, rate.published_failed) == (30, 0, 0)
    (rate,) = failure_rates([short], [])
    assert rate.published_runs == 0


def test_loss_ratios_compare_like_with_like(pairs):
    """First epochs always; last ones of runs that both failed, or both went to the end."""
    found = {(r.what): r for r in loss_ratios(pairs)}
    assert found["first epoch"].median == pytest.approx(2.0)
    assert found["first epoch"].cells == 8
    assert found["last before the failure"].cells == 6
    assert found["last before the failure"].high == pytest.approx(0.2 / 4 / 0.01)
    assert "last of all epochs" not in found


@pytest.fixture
def published_folder(tmp_path):
    """In the form of the published tables, with a row of each kind."""
    folder = tmp_path / "published"
    folder.mkdir()
    head = "loss,noise,gamma,threshold,first_nonfinite_epoch,"
    head += "first_epoch_loss,last_finite_loss,epochs_run\n"
    rows = [
        f"original,0.0,{gamma},{threshold},{'' if theirs is None else theirs},0.1,0.01,100\n"
        for (gamma, threshold), (_, theirs) in CELLS.items()
    ]
    (folder / "mnist_classification.csv").write_text(head + "".join(rows))
    (folder / "cifar10_cnn.csv").write_text(
        "loss,epoch,train_loss,train_accuracy\n"
        "original,0,0.24,0.6\noriginal,1,0.2,0.7\noriginal,2,,0.6\n"
        "smoothed,0,0.24,0.6\n"
    )
    (folder / "mnist_segmentation.csv").write_text(
        "loss,noise,epoch,train_loss\noriginal,0.5,0,0.03\noriginal,0.5,1,0.01\n"
    )
    return folder


def test_published_results_are_found_by_settings(published_folder):
    """Whatever the seed and the number of epochs; not where anything else differs."""
    published = read_published(published_folder)
    spec = spec_of(0.1, 2, epochs=30, seed=5)
    assert published_of(spec, published) == PublishedRun(8, 0.1, 0.01, 100)
    for other in ({"batch_size": 32}, {"source": "mnist5k"}, {"logits": "bfloat16"}):
        assert published_of(spec.with_settings(other), published) is None
    assert published_of(spec.with_settings({"loss": "exact"}), published) is None
    cifar = published_of(read_grid("cifar10-cnn").runs()[0], published)
    assert (cifar.first_failure, cifar.losses, cifar.epochs) == (2, (0.24, 0.2), 1000)
    masks = read_grid("segmentation").base.with_settings({"noise": 0.5, "loss": "original"})
    assert published_of(masks, published).first_failure == 2


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cifar10_cnn.csv", "loss,epoch\noriginal,0\n", "train_loss"),
        ("cifar10_cnn.csv", "", "cifar10_cnn.csv"),
        ("mnist_classification.csv", "first_nonfinite_epoch,loss\n1,original\n", "noise"),
        ("other.csv", "a\n", "none of mnist_classification.csv"),
    ],
)
def test_unreadable_results_are_named(name, text, words, tmp_path):
    """With their file, and what is missing."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UnreadableResultsError, match=words):
        read_published(tmp_path)


def write(directory, run):
    with Recorder(directory / run.spec.digest, run.spec) as recorder:
        for epoch in run.epochs:
            recorder.epoch(epoch)
        if run.failure is not None:
            recorder.failure(run.failure)


def test_report_is_made_from_records_alone(runs, published_folder, tmp_path):
    """Terminal, tables and page agree with the records; a damaged one is named, not hidden."""
    folder = tmp_path / "runs" / "mnist"
    for run in runs:
        write(folder, run)
    for place in ((0.1, 0), (0.5, 0), (0.1, 1), (0.5, 1)):
        write(folder, run_of(spec_of(*place, loss="exact", epochs=30), None))
    broken = folder / spec_of(0.1, 1).digest / "metrics.jsonl"
    broken.write_text(broken.read_text()[:-5])
    out = tmp_path / "report"
    command = ["report", folder.parent, "--published", published_folder, "--out", out]
    result = CliRunner().invoke(cli, [str(word) for word in command], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "4 (3)" in output
    assert "30+" in output
    assert re.search(r"not read: .*line 9 is damaged", output)
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(CELLS) - 1 + 4
    found = {
        (float(r["gamma"]), int(r["threshold"])): r["first_failure_epoch"]
        for r in rows
        if r["loss"] == "original"
    }
    expected = {p: "" if ours is None else str(ours) for p, (ours, _) in CELLS.items()}
    expected.pop((0.1, 1))
    assert found == expected
    with (out / "failure_rates.csv").open() as file:
        rates = {
            (r["loss"], float(r["gamma"])): (r["failed"], r["runs"]) for r in csv.DictReader(file)
        }
    assert rates == {
        ("original", 0.1): ("3", "3"), ("original", 0.5): ("3", "4"),
        ("exact", 0.1): ("0", "2"), ("exact", 0.5): ("0", "2"),
    }  # fmt: skip
    with (out / "comparison.csv").open() as file:
        beside = list(csv.DictReader(file))
    assert len(beside) == len(CELLS) - 1
    for row in beside:
        ours, theirs = CELLS[float(row["gamma"]), int(row["threshold"])]
        assert row["first_failure_epoch"] == ("" if ours is None else str(ours))
        assert row["published_first_failure_epoch"] == ("" if theirs is None else str(theirs))
    page = (out / "report.html").read_text()
    assert not re.search(r"https?://|src=\"(?!data:)|href=", page)
    assert page.count("data:image/png;base64,") == 4
    assert re.search(r'class="failed">44\s*<small>100\+</small>', page)
    assert "line 9 is damaged" in page
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", page))


CHANGES = {
    "source": "mnist5k", "images": 10, "threshold": 1, "noise": 0.5, "loss": "exact",
    "gamma": 0.5 + 1e-9, "alpha": 0.4, "options": {"epsilon": 0.1}, "logits": "bfloat16",
    "epochs": 2, "batch_size": 32, "learning_rate": 1e-3 + 1e-12, "momentum": 0.0, "seed": 1,
}  # fmt: skip


def test_runs_that_differ_in_any_setting_have_cells_and_names_of_their_own():
    """One setting, however little, or its number of epochs; beside others that differ too."""
    base = RunSpec()
    assert {name.rpartition(".")[2] for name in base.settings()} == set(CHANGES)
    more = [base.with_settings({"gamma": gamma}) for gamma in (0.1, 0.2)]
    for name, value in CHANGES.items():
        specs = [base, base.with_settings({name: value}), *more]
        for some in (specs[:2], specs):
            cells = [index for block in blocks(some) for index in block.cells.values()]
            assert sorted(cells) == list(range(len(some))), name
            varying = varying_settings(some)
            assert len({label(spec, varying) for spec in some}) == len(some), name
    # Records of one spec in two folders.
    cells = [index for block in blocks([base, base]) for index in block.cells.values()]
    assert sorted(cells) == [0, 1]


def test_runs_of_two_lengths_are_both_in_status_and_report(tmp_path):
    """With their lengths in the table of runs, and a failure rate each."""
    for epochs, failure in ((30, None), (100, 44)):
        write(tmp_path, run_of(spec_of(0.5, 0, epochs=epochs), failure))
    status = CliRunner().invoke(cli, ["status", str(tmp_path)]).output
    assert re.search(r"30 +│ +✓ ", status)
    assert re.search(r"100 +│ ✗44 ", status)
    out = tmp_path / "report"
    output = CliRunner().invoke(cli, ["report", str(tmp_path)]).output
    assert re.search(r"30 +30\+", output)
    assert re.search(r"100 +44", output)
    with (out / "runs.csv").open() as file:
        rows = {(r["training.epochs"], r["epochs"]) for r in csv.DictReader(file)}
    assert rows == {("30", "30"), ("100", "44")}
    with (out / "failure_rates.csv").open() as file:
        rates = {(r["epochs"], r["failed"], r["runs"]) for r in csv.DictReader(file)}
    assert rates == {("30", "0", "1"), ("100", "1", "1")}


def test_records_are_shown_without_what_makes_them(runs, published_folder, tmp_path):
    """Neither trainer nor torch is loaded for `status`, `report` and `specs`."""
    write(tmp_path / "runs", runs[0])
    code = """
import sys
from parfocal.cli import cli
for words in sys.argv[1:]:
    cli(words.split(), standalone_mode=False)
heavy = ("torch", "torchvision", "timm", "ray", "parfocal.losses")
heavy += ("parfocal.experiments.run.trainer",)
print(sorted(set(heavy) & set(sys.modules)))
"""
    folder = tmp_path / "runs"
    commands = [f"status {folder}", f"report {folder} --published {published_folder}", "specs"]
    done = subprocess.run(
        [sys.executable, "-c", code, *commands], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert (folder / "report" / "report.html").exists()


def test_report_of_several_experiments_keeps_them_apart(runs, tmp_path):
    """Each has a section; without published results nothing is compared."""
    write(tmp_path / "mnist", runs[0])
    cifar = read_grid("cifar10-cnn").base.with_settings({"loss": "exact", "epochs": 2})
    write(tmp_path / "cifar", run_of(cifar, None))
    report = make_report(tmp_path)
    assert {s.heading.partition(" ")[0] for s in report.sections} == {"Photographs", "Digits"}
    assert [rate.experiment for rate in report.rates] == [s.heading for s in report.sections]
    assert not report.correlations
    assert not report.compared
    assert math.isfinite(report.rates[0].gamma)
    assert json.dumps([rate._asdict() for rate in report.rates])
