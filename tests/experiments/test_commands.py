"""The command line, as a user meets it."""

import io
import json
import re
import time
from importlib import import_module

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from experiments.processes import Command, audit_in_short, wait_until
from parfocal.cli import cli
from parfocal.experiments.data import mnist5k
from parfocal.experiments.demo import SPEC, SideBySideError, culprit, side_by_side
from parfocal.experiments.gradient_study import gradient_study
from parfocal.experiments.losses import LOSS_NAMES
from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.record import Recorder, Run, read_run, write_json
from parfocal.experiments.show.page import write_demo_page
from parfocal.experiments.spec import RunSpec
from parfocal.extras import COMMANDS

EPOCH = Epoch(0, 79, 0.25, 0.9, 3.5)
FAILURE = Failure(1, 100, "gradient", float("nan"), 17.5, 12, 12, "7", None, -17.5)


@pytest.fixture
def run():
    """Call a command and check its exit status."""

    def invoke(*arguments, status=0):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == status, result.output
        return result.output

    return invoke


def test_gradients_prints_the_cliffs_and_leaves_both_figures(run, tmp_path):
    """In bfloat16 the original's gradient stops at 6.25."""
    output = run("gradients", "--dtype", "bfloat16", "--gamma", "0.1", "--out", tmp_path)
    assert re.search(r"original │ +1 │ +6\.25 │", output)
    assert re.search(r"exact +│ +0 │ +none │ +0 │", output)
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "gradients.svg").read_text()


def test_specs_are_listed(run):
    """With the number of their runs."""
    assert re.search(r"mnist +│ 1215 │", run("specs"))


def test_training_leaves_a_whole_record(run, tmp_path):
    """Spec, sessions, one line an epoch, the outcome and a figure; again: nothing left to do."""
    options = ("--set", "loss=exact", "--set", "epochs=1", "--set", "images=500")
    output = run("train", "mnist-quick", *options, "--out", tmp_path)
    assert "none" in output
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert (spec["objective"]["loss"], spec["objective"]["gamma"], spec["schema"]) == (
        "exact",
        0.1,
        2,
    )
    began, ended = map(json.loads, (tmp_path / "sessions.jsonl").read_text().splitlines())
    assert began["versions"]["torch"]
    assert len(began["data"]) == 64
    assert ended["outcome"] == "finished"
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["event"] for line in lines.splitlines()] == ["epoch", "end"]
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    run("train", "mnist-quick", *options, "--out", tmp_path)
    assert len((tmp_path / "sessions.jsonl").read_text().splitlines()) == 2
    run("train", "mnist-quick", *options, "--out", tmp_path, "--overwrite")
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    assert json.loads((tmp_path / "sessions.jsonl").read_text().splitlines()[0])["from_step"] == 0


def test_failed_training_exits_with_1_and_records_what_failed(run, tmp_path):
    """float16 logits overflow at such a learning rate, at once."""
    options = ("--set", "loss=original", "--set", "learning_rate=1e4", "--set", "logits=float16")
    output = run("train", "mnist-quick", *options, "--out", tmp_path, status=1)
    failure = read_run(tmp_path).failure
    assert f"{failure.quantity}, step {failure.step}, epoch" in output
    assert read_run(tmp_path).outcome == "failed"


def test_a_guarded_training_is_the_same_and_explains_its_failure(run, tmp_path):
    """bfloat16 logits reach the cliff within seconds; the capture fails again when replayed."""
    options = ("--set", "loss=original", "--set", "learning_rate=0.02", "--set", "logits=bfloat16")
    bare, guarded = tmp_path / "bare", tmp_path / "guarded"
    run("train", "mnist-quick", *options, "--out", bare, status=1)
    output = run("train", "mnist-quick", *options, "--guard", "--out", guarded, status=1)
    assert "the gradient of this loss isn't finite" in " ".join(output.split())
    assert "the factor (1 - p_t) ** (-0.9)" in output
    assert read_run(guarded).failure == read_run(bare).failure
    (capture,) = guarded.glob("captures/*.safetensors")
    assert "isn't finite" in run("replay", capture, status=1)


EXACT = ("train", "mnist-quick", "--set", "loss=exact")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*EXACT, "--set", "threshold=9"), "`$.data.threshold`, got 9"),
        ((*EXACT, "--set", "gamma=-1"), "`$.objective.gamma`, got -1"),
        ((*EXACT, "--set", "gama=1"), "got 'gama'; did you mean 'gamma'?"),
        ((*EXACT, "--set", "gamma"), "NAME=VALUE"),
        ((*EXACT, "--image-folder", "."), "photographs for --image-folder, got mnist-quick"),
        ((*EXACT, "--out", "/proc/nowhere"), "/proc/nowhere"),
        (("train", "mnist-quick"), "has 3 runs; fix loss with --set"),
        (
            ("train", "mnist-quick", "--set", "loss=focal"),
            "original, smoothed, exact, asymmetric_loss, gaussian",
        ),
        (("train", "mnist-quick", "--set", "loss=exat"), "did you mean 'exact'?"),
        (("train", "mnsit-quick"), "did you mean 'mnist-quick'?"),
        (("train", "MNIST-quick"), "got 'MNIST-quick'; did you mean 'mnist-quick'?"),
        (("tarin", "mnist-quick"), "No such command 'tarin'; did you mean 'train'?"),
        (("train", "mnist-quick", "--set", "loss=original", "--set", "options={a=1}"), "without"),
        (("train", "nothing"), "or a path to a .toml; got 'nothing'"),
        (("train", "nowhere.toml"), "Expected a spec's file, got 'nowhere.toml'"),
        ((*EXACT, "--set", "source=mnist", "--data-dir", "/nowhere"), "--download"),
        (("sweep", "cifar10-cnn", "--image-folder", "/nowhere"), "--image-folder"),
        (("sweep", "mnist-quick", "--out", "/proc/nowhere"), "/proc/nowhere"),
        ((*EXACT, "--device", "meta"), "`device` that torch can use here"),
        ((*EXACT, "--device", "hpu"), "`device` that torch can use here"),
        ((*EXACT, "--device", "privateuseone"), "`device` that torch can use here"),
        ((*EXACT, "--threads", "100000"), "'--threads': 100000 is not in the range"),
        ((*EXACT, "--set", f"images={'[' * 100_000}"), "nested too deeply"),
        (("train", "cifar10-vit", "--set", "pixels=100000"), "`$.data.pixels`, got 100000"),
        (("status", "src"), "no runs in src"),
        (("report", "src"), "no runs in src"),
        (("gradients", "--dtype", "int8"), "'int8' is not one of"),
        (("gradients", "--gamma", "nan"), "'--gamma': expected a number, got nan"),
        (("gradients", "--gamma", "inf"), "'--gamma': inf is not in the range"),
        (("gradients", "--alpha", "nan"), "'--alpha': expected a number, got nan"),
        (("sweep", "mnist-quick", "--budget", "nan"), "'--budget': expected a number, got nan"),
        (("audit", "math:sqrt", "--gamma", "nan"), "'--gamma': expected a number, got nan"),
        (("gradients", "--out", "/proc/nowhere"), "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, run):
    """No traceback; the line names what was expected."""
    output = run(*arguments, status=2)
    assert words in " ".join(output.split())
    assert "Traceback" not in output


def test_the_name_that_was_given_is_no_hint(run):
    """`original` is a loss, but takes no options."""
    output = run("train", "mnist-quick", "--set", "loss=original", "--set", "options={a=1}",
                 status=2)  # fmt: skip
    assert "got 'original'" in output
    assert "did you mean" not in output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_takes(name, run):
    """In the list of all commands and in its own help; the folders in it needn't be there."""
    example = COMMANDS[name].example
    assert f"  parfocal {example}\n" in run("--help")
    assert f"  parfocal {example}\n" in run(name, "--help")
    first, *arguments = example.split()
    assert first == name
    command = getattr(import_module(f"parfocal.cli.{name}"), name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def test_any_loss_of_the_package_can_be_named(run, tmp_path):
    """With its options; the smoothing constant makes it the smoothed loss."""
    common = ("--set", "epochs=2", "--set", "images=300", "--set", "batch_size=30")
    named = ("--set", "loss=sigmoid_focal_loss", "--set", "options={epsilon=1e-3}")
    run("train", "mnist-quick", *common, *named, "--out", tmp_path / "named")
    run("train", "mnist-quick", *common, "--set", "loss=smoothed", "--out", tmp_path / "smoothed")
    assert read_run(tmp_path / "named").epochs == read_run(tmp_path / "smoothed").epochs


def test_folder_of_images_takes_cifars_place(run, tmp_path):
    """Its checksum becomes part of the spec; classes are chosen by name."""
    for name, colour in (("cat", "red"), ("dog", "blue"), ("owl", "green")):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (40, 30), colour).save(tmp_path / name / f"{i}.png")
    out = tmp_path.with_name("out")
    options = ("--image-folder", tmp_path, "--positive", "cat,owl", "--set", "epochs=2")
    run("train", "cifar10-cnn", *options, "--set", "loss=exact", "--out", out)
    data = read_run(out).spec.data
    assert (data.source, data.positive) == ("folder", ("cat", "owl"))
    assert json.loads((out / "sessions.jsonl").read_text().splitlines()[0])["data"] == data.checksum


def test_ctrl_c_leaves_the_files_whole_and_the_run_goes_on(tmp_path):
    """SIGINT in the middle of an epoch: exit status 130, a checkpoint, and the end as without."""
    settings = ("--set", "loss=exact", "--set", "epochs=1000000", "--set", "images=500")
    arguments = ("train", "mnist-quick", *settings, "--out", tmp_path / "run")
    with Command(*arguments, output=tmp_path / "output") as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text())
        process.interrupt()
        output = process.output()
    assert process.status == 130, output
    assert "Traceback" not in output
    assert "resumes from here" in output
    run = read_run(tmp_path / "run")
    assert run.outcome == "interrupted"
    assert run.epochs
    assert run.steps >= run.epochs[-1].step
    assert (tmp_path / "run" / "curve.png").exists()
    assert any((tmp_path / "run").glob("checkpoint-*.pt"))


@pytest.mark.parametrize("name", ["o/[test]", "o[/x]", ":smile:"])
def test_paths_are_printed_as_they_are(name, run, tmp_path, monkeypatch):
    """They aren't taken for marks of bold or of an emoji."""
    monkeypatch.chdir(tmp_path)
    options = ("--set", "loss=exact", "--set", "images=64", "--set", "epochs=1")
    assert f"record: {name}" in run("train", "mnist-quick", *options, "--out", name)
    assert f"written: {name}/report" in run("report", name)


def test_side_by_side_stops_the_others_half_as_long_again(tmp_path):
    """At twenty times the paper's rate the original dies within seconds; the others don't."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    spec = SPEC.with_settings({"learning_rate": 0.02})
    original, smoothed, exact = side_by_side(spec, tmp_path, console)
    assert (original.outcome, original.failure.quantity) == ("failed", "gradient")
    assert 16.6 < abs(original.failure.logit) < 25
    for run in (smoothed, exact):
        assert (run.outcome, run.failure) == ("stopped", None)
        # A run that was ahead already when the original died has gone a little farther.
        assert run.steps >= original.steps * 3 // 2
        assert run.epochs[-1].largest_logit > original.failure.largest_logit
    assert f"step {original.steps}: sample" in console.file.getvalue()


def test_side_by_side_says_which_run_died(tmp_path):
    """A worker that ends without a word, here for want of its folder, is an error by name."""
    (tmp_path / "smoothed").write_text("in the way")
    with pytest.raises(SideBySideError, match="the smoothed run ended with exit code 1"):
        side_by_side(SPEC, tmp_path, Console(file=io.StringIO()))


def test_ctrl_c_ends_the_demo_with_whole_records(tmp_path):
    """Pressed twice, as people do: three readable records, each of which says interrupted."""
    output = tmp_path / "output"
    with Command("demo", "--out", tmp_path, output=output, prepare=audit_in_short) as process:
        files = [tmp_path / name / "metrics.jsonl" for name in LOSS_NAMES]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files))
        process.interrupt()
        time.sleep(0.3)
        process.interrupt()
        output = process.output()
    assert process.status == 130, output
    assert "Traceback" not in output
    assert [read_run(tmp_path / name).outcome for name in LOSS_NAMES] == ["interrupted"] * 3


def test_record_reads_back_what_was_written(tmp_path):
    """NaN and infinity included; an unfinished record reads as far as it goes."""
    spec = RunSpec().with_settings({"gamma": 0.3})
    with Recorder(tmp_path, spec) as recorder:
        recorder.epoch(EPOCH)
        unfinished = read_run(tmp_path)
        recorder.failure(FAILURE)
    assert (unfinished.epochs, unfinished.outcome) == ((EPOCH,), None)
    run = read_run(tmp_path)
    assert (run.spec, run.epochs, run.outcome, run.steps) == (spec, (EPOCH,), "failed", 100)
    assert repr(run.failure) == repr(FAILURE)


def test_file_is_written_whole_or_not_at_all(tmp_path):
    """An error while writing leaves the old file, and nothing beside it."""
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_page_is_self_contained_and_says_what_happened(tmp_path):
    """No address outside the page; the numbers are those of the records; markup is escaped."""
    runs = []
    for name in LOSS_NAMES:
        with Recorder(tmp_path / name, RunSpec().with_settings({"loss": name})) as recorder:
            recorder.epoch(EPOCH)
            if name == "original":
                recorder.failure(FAILURE)
            else:
                recorder.step = 150
                recorder.ended("stopped")
        runs.append(read_run(tmp_path / name))
    write_demo_page(tmp_path / "index.html", gradient_study(), runs, b"png", "parfocal demo")
    page = " ".join((tmp_path / "index.html").read_text().partition("<main")[2].split())
    assert not re.search(r"src=\"(?!data:)|<link|@import|\burl\(", page)
    for words in ("died at step 100", "to step 150", "Sample 12, a picture of a 7", "-17.50"):
        assert words in page, words
    (picture,) = re.findall(r'<img [^>]*src="data:image/png;base64,cG5n"[^>]*>', page)
    assert "A handwritten 7: sample 12 of" in picture
    assert "logit was -17.50 at step 100, when the gradient was no number" in picture
    # What to do is the end of it.
    assert "sigmoid_focal_loss" in page.partition("<h2>What to do next</h2>")[2]


def test_culprit_is_the_sample_that_the_record_names():
    """Its pixels, as PNG; nothing if there was no failure."""
    run = Run(SPEC, (), FAILURE, "failed", 100)
    picture = Image.open(io.BytesIO(culprit(run)))
    assert np.array_equal(np.asarray(picture), mnist5k().pixels[12, 0].numpy())
    assert culprit(run._replace(failure=None)) is None
