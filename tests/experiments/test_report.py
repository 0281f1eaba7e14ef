"""Reports say what is in the records, and how far it agrees with what was published."""

import csv
import json
import math
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from experiments.made_up import CELLS, run_of, spec_of, write
from parfocal.cli import cli
from parfocal.experiments.errors import UnreadableResultsError
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.states import state_of
from parfocal.experiments.show.conclusion import headline, sentences
from parfocal.experiments.show.naming import experiment_of
from parfocal.experiments.show.provenance import session_start
from parfocal.experiments.show.published import PublishedRun, published_of, read_published
from parfocal.experiments.show.report import make_report
from parfocal.experiments.show.tabulation import blocks, label, varying_settings
from parfocal.experiments.spec import RunSpec

OF_RUNS = "loss,noise,gamma,threshold,first_nonfinite_epoch,first_epoch_loss,last_finite_loss"


@pytest.fixture(scope="module")
def runs():
    return [run_of(spec_of(*place), ours) for place, (ours, _) in CELLS.items()]


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
        ("cifar10_cnn.csv", "", "cifar10_cnn.csv: expected the columns"),
        ("mnist_classification.csv", "first_nonfinite_epoch,loss\n1,original\n", "noise"),
        ("mnist_classification.csv", f"{OF_RUNS}\noriginal,0.0\n", "row 2 has another length"),
        ("mnist_classification.csv", f"{OF_RUNS}\n", "expected a row"),
        ("mnist_classification.csv", OF_RUNS.replace(",", ";"), "expected the columns loss"),
        (
            "mnist_classification.csv",
            f"{OF_RUNS}\noriginal,0,0.1,0,-3,1,1\n",
            "0 to 99, got -3",
        ),
        (
            "mnist_classification.csv",
            f"{OF_RUNS}\noriginal,0,0.1,a,3,1,1\n",
            "invalid literal",
        ),
        ("mnist_classification.csv", f"{OF_RUNS}\noriginal,0,0.1,0,100,1,1\n", "0 to 99, got 100"),
        ("mnist_classification.csv", f"{OF_RUNS}\noriginal,0,0.1,0,3,nan,1\n", "finite .* got nan"),
        ("mnist_classification.csv", f"{OF_RUNS}\noriginal,0,0.1,0,3,1,-1\n", "negative, got -1"),
        ("cifar10_cnn.csv", "loss,epoch,train_loss\noriginal,0,\n", "at epoch 0 of each"),
        ("cifar10_cnn.csv", "loss,epoch,train_loss\noriginal,0,1\noriginal,0,1\n", "there twice"),
        ("cifar10_cnn.csv", "loss,epoch,train_loss\n\xe9\n", "cifar10_cnn.csv: .*utf-8"),
        ("other.csv", "a\n", "none of mnist_classification.csv"),
    ],
)
def test_unreadable_results_are_named(name, text, words, tmp_path):
    """With their file, and what is missing."""
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(UnreadableResultsError, match=words):
        read_published(tmp_path)


@pytest.mark.parametrize("failed", ["", "nan", "inf"])
@pytest.mark.parametrize("order", [1, -1])
def test_published_curve_ends_before_its_first_loss_without_a_number(failed, order, tmp_path):
    """However that is written, and in whichever order the epochs stand."""
    rows = ["original,0,0.3", "original,1,0.2", f"original,2,{failed}", "original,3,0.1"]
    text = "\n".join(["loss,epoch,train_loss", *rows[::order]])
    (tmp_path / "cifar10_cnn.csv").write_text(f"{text}\n")
    found = published_of(read_grid("cifar10-cnn").runs()[0], read_published(tmp_path))
    assert (found.first_failure, found.losses) == (2, (0.3, 0.2))


def test_published_loss_of_zero_has_no_ratio(tmp_path):
    """It may have been rounded."""
    write(tmp_path, run_of(spec_of(0.1, 0), 2))
    for losses in ((0.0, 0.1), (0.1, 0.0)):
        beside = {spec_of(0.1, 0).digest: PublishedRun(3, *losses, 100)}
        assert len(make_report(tmp_path, beside).ratios) == 1


def test_published_results_may_come_from_a_spreadsheet(tmp_path):
    """Which writes a mark of the encoding first."""
    text = f"{OF_RUNS}\noriginal,0,0.1,0,3,0.2,0.1\n"
    (tmp_path / "mnist_classification.csv").write_text(text, encoding="utf-8-sig")
    assert published_of(spec_of(0.1, 0), read_published(tmp_path)).first_failure == 3


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
    narrow = CliRunner().invoke(cli, [str(word) for word in command], env={"COLUMNS": "80"})
    lines = narrow.output.partition("Failure rates")[2].splitlines()
    assert [cell.strip() for cell in lines[4].strip("│").split("│")] == [
        "original", "0", "0.1", "100", "3 of 3", "29.2 to 100.0 %", "3 of 3",
    ]  # fmt: skip
    output = " ".join(result.output.split())
    # One of the four at gamma 0.1 is damaged.
    assert output.startswith(
        "Training failed in 6 of 7 runs with the original loss, and in none of 4 runs with the "
        "exact loss. - The original loss failed in 6 of 7 runs with 0 < gamma < 1 (95 % interval "
        "42.1 to 99.6 %; published: 6 of 7)."
    )
    assert "Not counted, since it can't be read: 1 record" in output
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
    assert re.search(r"epoch 44, [^<]*>44<br><small>100\+</small>", page)
    assert "line 9 is damaged" in page
    assert str(tmp_path) not in page


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
            cells = [cell for block in blocks(some) for cell in block.cells.values()]
            assert sorted(cells) == [(index,) for index in range(len(some))], name
            varying = varying_settings(some)
            assert len({label(spec, varying) for spec in some}) == len(some), name
    # Records of one spec in two folders.
    cells = [cell for block in blocks([base, base]) for cell in block.cells.values()]
    assert sorted(cells) == [(0,), (1,)]


def test_seeds_share_a_cell_in_their_order():
    """What differs in anything else too doesn't; nor does a second record of the same."""
    specs = [
        spec_of(gamma, threshold, seed=seed)
        for gamma, threshold, seed in [(0.1, 0, 1), (0.1, 0, 0), (0.1, 1, 0), (0.5, 1, 1)]
    ]
    (block,) = blocks(specs, seeds_together=True)
    assert block.cells == {(0.1, 0): (1, 0), (0.1, 1): (2,), (0.5, 1): (3,)}
    assert (block.row, block.column) == ("objective.gamma", "data.threshold")
    first, second = blocks([*specs, specs[0]], seeds_together=True)
    assert first.cells == block.cells
    assert (second.title, second.cells) == ("record 2 of the same", {(0.1, 0): (4,)})


NAMES = {
    "mnist": "MNIST, digits up to the threshold, CNN",
    "mnist-quick": "MNIST (5,000 digits), digits up to the threshold, CNN",
    "cifar10-cnn": "CIFAR-10, animals and vehicles, CNN",
    "cifar10-vit": "CIFAR-10, animals and vehicles, ViT-B/16",
    "cifar10-vit-quick-bfloat16": "CIFAR-10, animals and vehicles, ViT-Ti/8 on 32 pixels (width "
    "48, depth 4, heads 3), 300 images, logits in bfloat16",
    "segmentation": "MNIST segmentation, U-Net",
    "segmentation-quick-bfloat16": "MNIST (5,000 digits) segmentation, U-Net of width 4, "
    "500 images, logits in bfloat16",
}


@pytest.mark.parametrize("spec", NAMES)
def test_experiment_has_the_name_that_people_say(spec):
    """Of the shipped specs."""
    assert experiment_of(read_grid(spec).base) == NAMES[spec]


def test_other_experiments_have_other_names():
    """Whatever differs in data, network or type of the logits; and nothing else does."""
    vit = {"variant": "vit_base_patch16_224", "input_size": 32, "patch": 8}
    masks = read_grid("segmentation").base
    photographs = read_grid("cifar10-cnn").base
    transformer = read_grid("cifar10-vit").base.with_settings({"crop": None, **vit})
    others = [
        (RunSpec(), ({"source": "mnist5k"}, {"images": 5000}, {"logits": "float16"},
                     {"logits": "autocast"})),
        (masks, ({"width": 4}, {"source": "mnist5k"})),
        (photographs, ({"source": "folder"}, {"positive": ["cat"]},
                       {"source": "folder", "positive": ["cat"]})),
        (transformer, ({"patch": 4}, {"width": 96}, {"depth": 4}, {"heads": 4},
                       {"variant": "vit_small_patch16_224"}, {"variant": "deit_tiny_patch16"})),
    ]  # fmt: skip
    specs = [
        spec.with_settings(settings) for spec, changes in others for settings in ({}, *changes)
    ]
    names = [experiment_of(spec) for spec in specs]
    assert len(set(names)) == len(names), names
    same = {"threshold": 3, "noise": 0.5, "gamma": 2.0, "loss": "exact", "epochs": 3, "seed": 4}
    assert experiment_of(RunSpec().with_settings(same)) == experiment_of(RunSpec())


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
    assert {s.heading.partition(",")[0] for s in report.sections} == {"CIFAR-10", "MNIST"}
    assert [rate.experiment for rate in report.rates] == [s.heading for s in report.sections]
    assert not report.comparisons
    assert not report.compared
    assert math.isfinite(report.rates[0].gamma)
    assert json.dumps([rate._asdict() for rate in report.rates])


def _conclusion(tmp_path, runs, published=None):
    for run in runs:
        write(tmp_path, run)
    report = make_report(tmp_path, published)
    return headline(report), " ".join(sentences(report))


def test_conclusion_of_one_run_without_a_failure(tmp_path):
    """It claims no more than that."""
    assert _conclusion(tmp_path, [run_of(spec_of(0.5, 0, loss="exact", epochs=3), None)]) == (
        "Training failed in none of 1 run with the exact loss",
        "The exact loss failed in 0 of 1 run with 0 < gamma < 1 (95 % interval 0.0 to 97.5 %).",
    )


def test_conclusion_names_when_and_what_failed_and_spares_no_loss(tmp_path):
    """Of the exact loss too, and at any gamma."""
    logits = (16.64, 18.06, 17.0)
    original = [
        run_of(spec_of(0.5, threshold), epoch, largest_logit=logit)
        for threshold, epoch, logit in zip(range(3), (4, 68, 12), logits, strict=True)
    ]
    exact = run_of(spec_of(2.0, 0, loss="exact"), 7)
    exact = exact._replace(failure=exact.failure._replace(quantity="loss", largest_logit=math.inf))
    first, rest = _conclusion(tmp_path, [*original, exact])
    assert first == (
        "Training failed in 3 of 3 runs with the original loss and 1 of 1 run with the exact loss"
    )
    assert "The exact loss failed in 1 of 1 run with gamma 0 or at least 1" in rest
    name = "MNIST, digits up to the threshold, CNN"
    assert (
        f"{name}: the original loss failed first in epochs 4 to 68 (median 12); what was not "
        "finite first was the gradient, at a largest |logit| of 16.64 to 18.06."
    ) in rest
    assert (
        f"{name}: the exact loss failed first in epoch 7; what was not finite first was the loss."
    ) in rest


def test_conclusion_of_what_has_not_ended(tmp_path):
    """It says that, and counts none of it."""
    interrupted = run_of(spec_of(0.5, 0, epochs=3), None)._replace(outcome="interrupted")
    first, rest = _conclusion(tmp_path, [interrupted])
    assert first == "No run has ended yet"
    assert rest == "0 of 1 run have ended; 1 interrupted."
    first, rest = _conclusion(tmp_path, [run_of(spec_of(0.5, 1, epochs=3), 1)])
    assert first == "Training failed in 1 of 1 run with the original loss"
    assert rest.endswith("1 of 2 runs have ended; 1 interrupted.")


def test_cells_where_nothing_can_fail_say_nothing_of_agreement(tmp_path, published_folder):
    """Gamma 0 and 2, which fail neither here nor in the paper, would raise the correlation."""
    path = published_folder / "mnist_classification.csv"
    for gamma, threshold in ((0, 0), (2, 0), (2, 1)):
        write(tmp_path / "more", run_of(spec_of(gamma, threshold), None))
        path.write_text(f"{path.read_text()}original,0.0,{gamma},{threshold},,0.1,0.01,100\n")
    for place, (ours, _) in CELLS.items():
        write(tmp_path / "cells", run_of(spec_of(*place), ours))
    alone, all_of_it = (
        make_report(folder, read_published(published_folder))
        for folder in (tmp_path / "cells", tmp_path)
    )
    assert len(all_of_it.rows) == len(CELLS) + 3
    assert all_of_it.comparisons == alone.comparisons
    assert alone.comparisons[0].cells == len(CELLS)


@pytest.mark.parametrize(
    ("second", "paper", "words"),
    [
        (
            (3, 5, 8, 9, 20, 25), (3, 5, 9, 8, 25, 20),
            "in rank no better than with the paper: the reproduction is as good as it can be.",
        ),
        (
            (5, 3, 8, 9, 25, 20), (3, 5, 8, 9, 20, 25),
            "a little better than with the paper, but within the interval: these runs don't tell",
        ),
        (
            (4, 3, 9, 8, 24, 21), (25, 8, 20, 3, 9, 5),
            "in rank better than with the paper: the paper's runs differ from ours in more than",
        ),
        (
            (5, 3, 9, 8, 20, 25), (5, 3, 8, 9, 20, 25),
            "in rank neither better nor worse than with the paper: the reproduction is as good as",
        ),
        # Ranks agree as well as they can, and all failures come later than in the paper.
        (
            (5, 3, 9, 8, 21, 26), (4, 2, 8, 7, 19, 18),
            "no better than with the paper, and both fail later than published in 6 of 6 and 6 of "
            "6 unequal cells: the paper's runs differ from ours in more than the seed.",
        ),
        (
            (5, 3, 9, 8, 21, 26), (7, 5, 11, 10, 27, 28),
            "no better than with the paper, and both fail earlier than published in 6 of 6 and 6",
        ),
        # Those of one seed alone.
        (
            (25, 20, 9, 8, 5, 3), (6, 4, 10, 9, 26, 21),
            "no better than with the paper: the reproduction is as good as it can be.",
        ),
    ],
)  # fmt: skip
def test_conclusion_says_whether_seeds_agree_better_than_the_paper(second, paper, words, tmp_path):
    """In rank, and whether they are earlier or later."""
    first = (5, 3, 9, 8, 25, 20)
    beside = {}
    for threshold, epochs in enumerate(zip(first, second, paper, strict=True)):
        for seed in (0, 1):
            write(tmp_path, run_of(spec_of(0.5, threshold, seed=seed), epochs[seed]))
        beside[spec_of(0.5, threshold).digest] = PublishedRun(epochs[2], 0.1, 0.01, 100)
    report = make_report(tmp_path, beside)
    assert words in " ".join(sentences(report))


SESSION = {
    "event": "began", "began": "2026-01-02T10:00:00+00:00", "python": "3.11.7",
    "git": {"commit": "0123456789abcdef", "changed": True}, "device": "cpu", "machine": "x86_64",
    "processor": "Some Processor", "versions": {"parfocal": "0.1.0", "torch": "2.14.1"},
}  # fmt: skip


def test_provenance_has_every_version_date_and_machine_once(tmp_path):
    """A session that was killed has no end; records may lack all of it, or be damaged."""
    later = SESSION | {
        "began": "2026-01-03T10:00:00+00:00", "device": "cuda", "git": None,
        "versions": {"parfocal": "0.2.0", "torch": "2.14.1"},
    }  # fmt: skip
    ended = {"event": "ended", "ended": "2026-01-04T00:00:00+00:00", "outcome": "failed"}
    write(tmp_path, run_of(spec_of(0.1, 0), 2), sessions=[SESSION, later, ended])
    write(tmp_path, run_of(spec_of(0.1, 1), 2), sessions=[SESSION])
    write(tmp_path, run_of(spec_of(0.1, 2), 2))
    damaged = write(tmp_path, run_of(spec_of(0.1, 3), 2), sessions=[SESSION]) / "sessions.jsonl"
    damaged.write_text(damaged.read_text()[:-9])
    found = make_report(tmp_path).provenance
    assert (found.sessions, found.runs) == (3, 2)
    assert (found.first, found.last) == ("2026-01-02T10:00:00+00:00", "2026-01-04T00:00:00+00:00")
    assert found.software == {
        "parfocal": ("0.1.0", "0.2.0"), "torch": ("2.14.1",), "Python": ("3.11.7",),
    }  # fmt: skip
    assert found.machines == ("cpu (Some Processor, x86_64)", "cuda (Some Processor, x86_64)")
    assert found.commits == ("0123456789ab+",)
    (problem,) = found.problems
    assert problem.startswith(f"{damaged.parent.name}/sessions.jsonl, line 1 is damaged")


def _changed(line, **values):
    return json.dumps({**json.loads(line), **values})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda lines: [_changed(lines[0], loss=None), *lines[1:]],
            "line 1 .*got `null` - at `loss`",
        ),
        (lambda lines: [_changed(lines[0], loss="abc"), *lines[1:]], "line 1 .*got `str`"),
        (lambda lines: [_changed(lines[0], step="7"), *lines[1:]], "line 1 .*got `str`"),
        (lambda lines: [_changed(lines[0], epoch=-5), *lines[1:]], "line 1 "),
        (lambda lines: [_changed(lines[0], epoch=0.5), *lines[1:]], "line 1 .*got `float`"),
        (lambda lines: [_changed(lines[0], more=1), *lines[1:]], "line 1 .*more"),
        (lambda lines: [lines[0], *lines], "line 2 .*expected epoch 1, got 0"),
        (lambda lines: [*lines, lines[-1]], "line 5 .*nothing after"),
        (lambda lines: [*lines[:3], lines[0], lines[3]], "line 4 .*nothing after a failure"),
        (lambda lines: [*lines[:2], _changed(lines[2], epoch="x"), lines[3]], "line 3 .*got `str`"),
        (lambda lines: [*lines[:3], _changed(lines[3], outcome="foo")], "line 4 .*'foo'"),
        (lambda lines: [*lines[:3], _changed(lines[3], outcome=[1])], "line 4 .*got `array`"),
        (lambda lines: [_changed(lines[0], event="pause"), *lines[1:]], "line 1 .*got 'pause'"),
        (lambda lines: [*lines[:2], lines[3]], "line 3 .*outcome of the lines before, got failed"),
        (lambda lines: [*lines[:3], _changed(lines[3], outcome="finished")], "line 4 .*finished"),
        (
            lambda lines: [*lines[:2], _changed(lines[3], outcome="finished")],
            "line 3 .*expected 100 epochs, got 2",
        ),
        (lambda lines: [*lines[:2], _changed(lines[2], epoch=99), lines[3]], "line 3 .*epoch 2"),
        (lambda lines: [lines[0], _changed(lines[1], step=3), *lines[2:]], "line 2 .*step 10"),
        (lambda lines: [*lines[:2], _changed(lines[2], label=5), lines[3]], "line 3 .*got `int`"),
        (
            lambda lines: [*lines[:2], lines[2].replace('"label": "7", ', ""), lines[3]],
            "line 3 .*unknown: label",
        ),
        (lambda lines: ["[" * 100_000, *lines], "line 1 .*recursion"),
    ],
)
def test_line_that_no_run_writes_costs_its_run_alone(change, words, tmp_path):
    """The report names file and line, and has the other runs."""
    damaged, whole = (write(tmp_path, run_of(spec_of(0.1, t), 2)) for t in (0, 1))
    path = damaged / "metrics.jsonl"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    report = make_report(tmp_path)
    assert [row.directory for row in report.rows] == [whole]
    (problem,) = report.problems
    assert re.match(rf"{damaged.name}/metrics.jsonl, {words}", problem)


@pytest.mark.parametrize(
    "values",
    [
        {"versions": 5},
        {"git": 5},
        {"git": {"commit": 5}},
        {"python": ["3"]},
        {"began": "2020"},
        {"began": "2026-01-02T10:00:00"},
    ],
)
def test_session_that_no_run_writes_is_a_problem_of_its_own(values, tmp_path):
    """Also for TensorBoard, whose events then have no date."""
    folder = write(tmp_path, run_of(spec_of(0.1, 0), 2), sessions=[SESSION | values])
    report = make_report(tmp_path)
    assert len(report.rows) == 1
    (problem,) = report.provenance.problems
    assert problem.startswith(f"{folder.name}/sessions.jsonl, line 1 is damaged")
    assert session_start(folder) is None


def test_sessions_of_another_run_are_refused(tmp_path):
    """They say which run they are of."""
    for threshold, of in ((0, 0), (1, 0)):
        session = SESSION | {"run": spec_of(0.1, of).digest}
        write(tmp_path, run_of(spec_of(0.1, threshold), 2), sessions=[session])
    report = make_report(tmp_path)
    assert [row.run.spec.data.threshold for row in report.rows] == [0]
    (problem,) = report.problems
    assert re.search(r"sessions.jsonl is of the run \w{12}, and this one is", problem)


@pytest.mark.parametrize("values", [{"steps_per_epoch": 0}, {"pid": 2**40}, {"pid": -1}])
def test_progress_that_no_run_writes_is_passed_over(values, tmp_path):
    """The run is taken for interrupted, since nothing says that a process works on it."""
    folder = write(tmp_path, run_of(spec_of(0.1, 0), 2))
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    progress = {
        "host": socket.gethostname(), "pid": os.getpid(), "engine": "alone", "time": time.time(),
        "epochs": 3, "epoch": 2, "step": 20, "steps_per_epoch": 10, "loss": 0.1, "accuracy": 0.9,
        "largest_logit": 3.0, "images_per_second": 1.0, "epochs_per_second": 1.0,
    }  # fmt: skip
    for changed, status in (({}, "running"), (values, "interrupted")):
        (folder / "progress.json").write_text(json.dumps(progress | changed))
        assert state_of(folder).status == status


def test_status_shows_what_a_report_reads(tmp_path):
    """Also of sweeps beside each other."""
    for sweep in ("a", "b"):
        write(tmp_path / sweep, run_of(spec_of(0.1, 0), 2))
    result = CliRunner().invoke(cli, ["status", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(make_report(tmp_path).rows) == 2
