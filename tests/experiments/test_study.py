"""A study: its spec, its data, its trainings, how it goes on after a kill, and what it says."""

import csv
import io
import json
import shutil
import tomllib

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import average_precision_score
from torch.nn import functional

from experiments.made_up_study import SPEC, comparison_of
from experiments.processes import Command, wait_until
from parfocal.cli import cli
from parfocal.experiments.data import Sources
from parfocal.experiments.errors import ChangedDataError
from parfocal.experiments.run.engines import Processes
from parfocal.experiments.run.record import read_lines
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.sessions import read_sessions
from parfocal.experiments.study.bootstrap import Interval
from parfocal.experiments.study.comparison import Comparison, Difference
from parfocal.experiments.study.conduct import Folder, chosen_rate, run_study
from parfocal.experiments.study.losses import objective_loss
from parfocal.experiments.study.metrics import Predictions, mean_average_precision, once
from parfocal.experiments.study.problems import load_problem, prepare
from parfocal.experiments.study.report import page
from parfocal.experiments.study.scenes import (
    CLASSES,
    decoded_boxes,
    detections,
    scenes,
    truth_counts,
)
from parfocal.experiments.study.spec import (
    LongTail,
    Objective,
    Shapes,
    Table,
    read_study,
    study_of,
)
from parfocal.experiments.study.words import conclusion


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that nothing happened to: its spec's path, and its folder."""
    path = tmp_path_factory.mktemp("study") / "small.toml"
    path.write_text(SPEC)
    run("study", path, "--out", path.parent / "whole")
    return path, path.parent / "whole"


def run(*arguments, status=0):
    """What a command prints, in one line."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def lines_of(directory):
    return read_lines(directory / "trainings.jsonl")


# The spec.


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("width = 2", "widht = 2", "datasets.shapes: .*`widht`"),
        ("gamma = 0.5, l", "gamma = -1, l", r"objectives.exact: .*`\$.gamma`, got -1"),
        ('weighted = { weights = "balanced" }', "again = { gamma = 0 }", "cross-entropy and again"),
        ("rates = [3e-3, 1e-2]", "rates = [1e-2, 3e-3]", "datasets.digits: .*`rates` to ascend"),
        ("seeds = [0, 1]", "seeds = [0, 9]", "without `search_seed`"),
        ('["original", "exact"]', '["original", "exalt"]', "got 'exalt'"),
        ("draws = 50", "", "draws"),
        ('task = "shapes"', 'task = "shape"', "datasets.shapes: .*'shape'"),
    ],
)
def test_spec_that_means_nothing_is_refused_with_its_place(old, new, words):
    """And the name of the data set or the objective."""
    assert old in SPEC
    with pytest.raises(ValueError, match=words):
        study_of(tomllib.loads(SPEC.replace(old, new)))


def test_shipped_study_has_what_it_promises():
    """Nine data sets, 25 objectives, four rates and five seeds each; every reference exists."""
    _, study = read_study("gamma-and-alpha")
    assert (len(study.datasets), len(study.objectives), len(study.seeds)) == (9, 25, 5)
    assert study.size == 9 * 25 * (4 + 5)
    with pytest.raises(ValueError, match="gamma-and-alpha-quick"):
        read_study("gamma")


def test_training_is_named_by_what_its_numbers_depend_on():
    """Another objective in the spec leaves it, another epoch doesn't."""
    base = study_of(tomllib.loads(SPEC))
    more = study_of(tomllib.loads(SPEC.replace("weighted = {", "new = { gamma = 3,")))
    other = study_of(tomllib.loads(SPEC.replace("epochs = 6", "epochs = 7")))
    first = [study.search("digits", "exact")[0].digest for study in (base, more, other)]
    assert first[0] == first[1] != first[2]
    assert base.digest != more.digest


# The losses.


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [-2.0, 4.0, 1.0], [1.0, 1.5, 0.0]])
LABELS = torch.tensor([0, 2, 1, 1])
COUNTS = torch.tensor([60.0, 30.0, 10.0])
BALANCED = 100 / (3 * COUNTS)
DATASET = Shapes(epochs=1, batch_size=1, rates=(1.0,), alpha=0.25)


def test_softmax_objectives_are_pytorchs_cross_entropy_and_its_powers():
    """Weights as in torch; the original and the smoothed loss as their formulas."""
    tail = LongTail(epochs=1, batch_size=1, rates=(1.0,))

    def value(reduction="mean", **fields):
        loss = objective_loss(Objective(**fields), tail, "softmax", COUNTS, reduction)
        return loss(LOGITS.double(), LABELS).item()

    ce = functional.cross_entropy(LOGITS.double(), LABELS, reduction="none")
    weight = BALANCED.double()[LABELS]
    focal = (1 - torch.exp(-ce)) ** 2 * ce
    assert value() == pytest.approx(ce.mean().item(), rel=1e-12)
    truth = (weight * ce).sum() / weight.sum()
    assert value(weights="balanced") == pytest.approx(truth.item(), rel=1e-6)
    truth = (weight * focal).sum() / weight.sum()
    for loss in ("original", "exact"):
        found = value(loss=loss, gamma=2, weights="usual")
        assert found == pytest.approx(truth.item(), rel=1e-6)
        assert value("sum", loss=loss, gamma=2) == pytest.approx(focal.sum().item(), rel=1e-12)
    smoothed = (1 - torch.exp(-ce) + 1e-3) ** 0.5 * ce
    assert value(loss="smoothed", gamma=0.5) == pytest.approx(smoothed.mean().item(), rel=1e-12)


def test_sigmoid_objectives_are_pytorchs_binary_cross_entropy_with_the_data_sets_alpha():
    """The usual alpha of detection is a number, the balanced one that of the counts."""
    x, y = LOGITS, functional.one_hot(LABELS, 3).float()
    bce = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    for weights, alpha in (("usual", 0.25), ("balanced", 0.9)):
        loss = objective_loss(
            Objective(weights=weights), DATASET, "boxes", torch.tensor([90.0, 10.0]), "sum"
        )
        truth = ((y * alpha + (1 - y) * (1 - alpha)) * bce).sum()
        assert loss(x, y).item() == pytest.approx(truth.item(), rel=1e-6)
    plain = objective_loss(Objective(), DATASET, "boxes", torch.tensor([90.0, 10.0]), "mean")
    assert plain(x, y).item() == pytest.approx(bce.mean().item(), rel=1e-6)


# The data.


def test_long_tail_sets_aside_first_and_shares_no_image(tmp_path):
    """Three classes of 12 images, no two alike; 6, 3 and 2 are left for training."""
    for kind in range(3):
        (tmp_path / f"class{kind}").mkdir()
        for i in range(12):
            colour = (80 * kind, 20 * i, 7)
            Image.new("RGB", (16, 16), colour).save(tmp_path / f"class{kind}" / f"{i:02}.png")
    dataset = LongTail(
        epochs=1, batch_size=1, rates=(1.0,), head=6, imbalance=4, validation=2, test=4, pixels=16
    )
    problem = prepare(dataset, Sources(image_folder=tmp_path))
    assert problem.counts.tolist() == [6, 3, 2]
    for split, each in ((problem.validation, 2), (problem.test, 4)):
        assert split.targets.bincount().tolist() == [each] * 3
    splits = (problem.train, problem.validation, problem.test)
    colours = [set(map(tuple, split.inputs[:, :, 0, 0].tolist())) for split in splits]
    assert sum(map(len, colours)) == len(set().union(*colours)) == 11 + 6 + 12


def test_rows_with_the_same_features_are_in_one_split(tmp_path):
    """A person of several years is one sample; features are scaled by the training split's."""
    columns = ("mdvis", "lncoins", "idp")
    rows = [(10 * (i % 3 == 0), i // 4, i // 4 % 2) for i in range(400)]
    text = "\n".join(",".join(map(str, row)) for row in [columns, *rows])
    (tmp_path / "randhie.csv").write_text(text + "\n")
    dataset = Table(epochs=1, batch_size=1, rates=(1.0,), table="randhie")
    problem = prepare(dataset, Sources(data_dir=tmp_path))
    splits = (problem.train, problem.validation, problem.test)
    assert [len(split.targets) for split in splits] == [160, 80, 160]
    features = [set(map(tuple, split.inputs.tolist())) for split in splits]
    assert sum(map(len, features)) == len(set().union(*features)) == 100
    assert sum(split.targets.sum().item() for split in splits) == 134
    for split, kinds in zip(splits, features, strict=True):
        assert sorted(set(split.groups.tolist())) == list(range(len(kinds)))
        of_group = {
            (g, *x) for g, x in zip(split.groups.tolist(), split.inputs.tolist(), strict=True)
        }
        assert len(of_group) == len(kinds)
    mean = problem.train.inputs.double().mean(0)
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_boxes_of_scenes_hold_all_that_is_bright():
    """Noise stays below 0.5: what is above is in an object's box, and each box has some."""
    images, targets = scenes(20, seed=0)
    cells = targets[:, :CLASSES].sum(1) > 0
    boxes = decoded_boxes(targets[:, CLASSES:])
    pixels = torch.arange(64) + 0.5
    for image, has_object, all_boxes in zip(images, cells, boxes, strict=True):
        covered = torch.zeros(64, 64, dtype=torch.bool)
        for x0, y0, x1, y1 in all_boxes[has_object].tolist():
            across = (pixels > x0 - 1e-3) & (pixels < x1 + 1e-3)
            down = (pixels > y0 - 1e-3) & (pixels < y1 + 1e-3)
            box = down.unsqueeze(1) & across
            assert bool((image[0][box] > 0.5).any())
            covered |= box
        assert not bool((image[0] > 0.5)[~covered].any())


def test_detector_that_answers_the_truth_finds_all_objects():
    """With boxes of three times the width and the height, whose IoU is 1/9, it finds none."""
    _, targets = scenes(40, seed=1)
    outputs = targets.clone()
    outputs[:, :CLASSES] = 8 * targets[:, :CLASSES] - 4

    def precision(answers):
        found = detections(answers, targets)
        p = Predictions(
            logits=found.logits.numpy(),
            targets=found.hits.numpy(),
            samples=found.scenes.numpy(),
            classes=found.classes.numpy(),
            truths=truth_counts(targets).numpy(),
        )
        return mean_average_precision(p, once(p))[0]

    assert precision(outputs) == 1
    outputs[:, CLASSES + 2 :] += np.log(3)
    assert precision(outputs) == 0


def test_second_detection_of_an_object_is_wrong():
    """One 5 pixels to the left, one to the right of a square of 16: an IoU of 11/21 with it each.

    With each other it is 6/26, so that neither takes the other's place.
    """
    targets, outputs = torch.zeros(2, 1, CLASSES + 4, 8, 8)
    targets[0, 1, 4, 4] = 1
    outputs[0, :CLASSES] = -9
    outputs[0, CLASSES, 4, 4], outputs[0, CLASSES, 4, 5] = -5 / 8, 5 / 8 - 1
    for surer in (4, 5):
        outputs[0, 1, 4, 4:6] = 1
        outputs[0, 1, 4, surer] = 2
        found = detections(outputs, targets)
        assert found.logits[:2].tolist() == [2, 1]
        assert found.hits.tolist() == [True] + [False] * (len(found.hits) - 1)


# The trainings.


def test_every_training_has_its_line_and_the_search_sees_no_test(whole):
    """In the order of the study: two rates and two seeds on digits, one rate on scenes."""
    path, folder = whole
    _, study = read_study(str(path))
    lines = lines_of(folder)
    assert len({line["training"] for line in lines}) == len(lines) == 28
    for line in lines:
        of_test = [key for key in line if key.startswith("test_")]
        assert bool(of_test) == (line["seed"] != study.search_seed)
    assert lines[4:6] == [line for line in lines if line["objective"] == "weighted"][:2]
    digests = [training.digest for training in study.search("digits", "weighted")]
    assert [line["training"] for line in lines[4:6]] == digests
    sessions = read_lines(folder / "sessions.jsonl")
    assert [session["event"] for session in sessions] == ["begin", "end"]
    assert sessions[0]["study"] == study.digest


def test_rate_is_the_best_of_the_validation_split(whole):
    """By the record; of equals the smallest."""
    path, folder = whole
    _, study = read_study(str(path))
    lines = {line["training"]: line for line in lines_of(folder)}
    search = study.search("digits", "exact")
    key = "validation_average_precision"
    for values, rate in (((0.2, 0.9), 1e-2), ((0.9, 0.2), 3e-3), ((0.5, 0.5), 3e-3)):
        for training, value in zip(search, values, strict=True):
            lines[training.digest][key] = value
        assert chosen_rate(study, "digits", "exact", lines) == rate
    del lines[search[1].digest]
    assert chosen_rate(study, "digits", "exact", lines) is None


def test_test_scores_are_scikit_learns_of_the_predictions(whole):
    """The average precision of a line, from the logits that were kept and the labels of digits."""
    path, folder = whole
    _, study = read_study(str(path))
    labels = load_problem(Folder(folder).data(study.datasets["digits"])).test.targets.numpy()
    lines = [line for line in lines_of(folder) if line["dataset"] == "digits"]
    lines = [line for line in lines if line["seed"] != 9]
    assert len(lines) == 8
    for line in lines:
        with np.load(folder / "cache" / f"{line['training']}.npz") as file:
            truth = average_precision_score(labels, file["logits"])
        assert line["test_average_precision"] == pytest.approx(truth, rel=1e-9)


def test_steps_without_a_finite_gradient_are_skipped_and_counted(whole):
    """The original in bfloat16 has some once it is sure, the exact loss none; both go on."""
    lines = [line for line in lines_of(whole[1]) if line["dataset"] == "digits"]
    skipped = dict.fromkeys(("original", "exact"), 0)
    for line in lines:
        assert line["steps"] == 120
        if line["objective"] in skipped:
            skipped[line["objective"]] += line["skipped_steps"]
            assert np.isfinite(line["largest_logit"])
    assert skipped["original"] > 10
    assert skipped["exact"] == 0
    dead = [line["dead_share"] for line in lines if line["objective"] == "original"]
    assert max(dead) > 0.05


def test_killed_study_goes_on_to_the_same_bytes(whole, tmp_path):
    """SIGKILL to all of it in the middle, a torn line behind, predictions that got lost."""
    path, folder = whole
    record = tmp_path / "trainings.jsonl"

    def count():
        return record.read_bytes().count(b"\n") if record.exists() else 0

    command = ("study", path, "--out", tmp_path)
    with Command(*command, output=tmp_path / "output") as process:
        wait_until(lambda: count() >= 3 or process.status is not None)
        process.kill_all()
    assert 3 <= count() < 28
    with record.open("ab") as file:
        file.write(b'{"event": "training", "rate": 0.')
    with Command(*command, output=tmp_path / "output") as process:
        wait_until(lambda: list(tmp_path.glob("cache/*.npz")) or process.status is not None)
        process.kill_all()
    next(tmp_path.glob("cache/*.npz")).unlink(missing_ok=True)
    run(*command)
    assert record.read_bytes() == (folder / "trainings.jsonl").read_bytes()
    names = {file.name for file in (folder / "cache").glob("*.npz")}
    for name in names:
        assert (tmp_path / "cache" / name).read_bytes() == (folder / "cache" / name).read_bytes()


def test_done_study_trains_nothing_and_makes_the_same_page(whole, tmp_path):
    """Nor does --report, which needs no data."""
    path, folder = whole
    before = (folder / "trainings.jsonl").read_bytes()
    output = run("study", path, "--out", folder, "--report", "--page", tmp_path / "study.md")
    assert "of 28" not in output
    assert (folder / "trainings.jsonl").read_bytes() == before
    for name in ("study/study.csv", "study/differences.svg"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "study.md").read_text() == (folder / "study.md").read_text()


def test_notes_of_a_spec_are_on_its_page(whole, tmp_path):
    """They change no training, so the page is made from the record that is there."""
    path, folder = whole
    noted = tmp_path / path.name
    noted.write_text('notes = ["Few scenes.", "Few digits."]\n' + path.read_text())
    run("study", noted, "--out", folder, "--report", "--page", tmp_path / "study.md")
    page, before = ((place / "study.md").read_text() for place in (tmp_path, folder))
    assert "## What has to be known\n\n- Few scenes.\n- Few digits.\n" in page
    assert "What has to be known" not in before


def test_page_of_one_data_set_averages_nothing(whole, tmp_path):
    """No columns of counts over data sets, none of what detections don't have; one panel."""
    path, folder = whole
    only = ("--only", "shapes", "--report", "--page", tmp_path / "detection.md")
    output = run("study", path, "--out", folder, *only)
    text = (tmp_path / "detection.md").read_text()
    assert text.startswith("# Two trainings of each objective on few digits and fewer scenes: meas")
    assert "On shapes, 1 choice" in output
    assert "verage" not in text.replace("verage precision", "").replace("verage over the obj", "")
    header = "| objective | average precision | less cross-entropy | calibration error | the same, "
    assert f"## Each objective\n\n{header}scaled |\n" in text
    assert "nan" not in text
    for name in ("detection/study.csv", "detection/differences.svg"):
        assert f"]({name})" in text
        assert (tmp_path / name).is_file()
    assert (tmp_path / "detection" / "differences.svg").read_text().count(">shapes<") == 1
    assert 'href="study.csv"' in (tmp_path / "detection" / "study.html").read_text()
    assert "--report --page docs/detection.md" in text


def test_other_data_are_refused(whole, tmp_path):
    """A record of other data than those that were prepared isn't gone on with."""
    path, folder = whole
    _, study = read_study(str(path))
    line = json.loads((folder / "trainings.jsonl").read_text().splitlines()[0])
    (tmp_path / "trainings.jsonl").write_text(json.dumps({**line, "data": "0"}) + "\n")
    with Processes(1) as engine, pytest.raises(ChangedDataError, match="digits"):
        run_study(study.only(("digits",)), tmp_path, Sources(), engine, Session())


def _saved(logits):
    file = io.BytesIO()
    np.savez(file, logits=logits)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-9],
        lambda _: b"x\n",
        lambda _: b"",
        lambda _: _saved(np.zeros(3)),
        lambda _: _saved(np.array(["a"])),
    ],
)
def test_damaged_predictions_are_named_and_can_be_made_again(damage, whole, tmp_path):
    """Cut short by a full disk, or another file."""
    path, folder = whole
    copy = shutil.copytree(folder, tmp_path / "copy")
    lines = {line["training"]: line["dataset"] for line in lines_of(folder)}
    predictions = min(p for p in copy.glob("cache/*.npz") if lines[p.stem] == "digits")
    before = predictions.read_bytes()
    predictions.write_bytes(damage(before))
    output = run("study", path, "--out", copy, "--report", status=2)
    assert f"{predictions.name} is damaged; remove it" in output
    assert "Traceback" not in output
    assert "pickle" not in output
    predictions.unlink()
    run("study", path, "--out", copy)
    assert predictions.read_bytes() == before


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("trainings.jsonl", "{}", "line 29 is damaged (Object missing required field"),
        ("trainings.jsonl", '{"training": 5}', "line 29 is damaged (Expected `str`"),
        ("sessions.jsonl", '{"event": "begin", "began": 5}', "line 3 is damaged (Expected"),
    ],
)
def test_line_that_no_study_writes_is_named(file, line, words, whole, tmp_path):
    """Of the trainings or of the sessions, in one line."""
    path, folder = whole
    copy = shutil.copytree(folder, tmp_path / "copy")
    with (copy / file).open("a") as opened:
        opened.write(f"{line}\n")
    output = run("study", path, "--out", copy, "--report", status=2)
    assert f"{file}, {words}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gamma-and-alpha", "--only", "mnist"), "got 'mnist'"),
        (("gamma-and-alpha", "--only", "mnist-0", "--data-dir", "/nowhere"), "--download"),
        (("gamma-and-alpha", "--only", "caravan", "--data-dir", "/nowhere"), "islp"),
        (("gamma-and-alpha", "--only", "cifar10-10"), "--image-folder"),
        (("gamma-and-alpha", "--report"), "without --report"),
        (("gamma-and-alpha", "--report", "--page", "results"), "of a page, NAME.md"),
        (("gamma-and-alpha", "--report", "--page", "my page.md"), "got my page.md"),
        (("gamma-and-alpha", "--report", "--jobs", "100000"), "1<=x<=4096"),
        (("nothing",), "or a path to a .toml; got 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path):
    """No traceback; the line names what was expected."""
    output = run("study", *arguments, "--out", tmp_path, status=2)
    assert words in output
    assert "Traceback" not in output


# What it says.


def test_table_has_a_row_a_data_set_and_objective_with_means_of_the_record(whole):
    """And the difference of these means; of detections there is no balanced accuracy."""
    folder = whole[1]
    with (folder / "study" / "study.csv").open(newline="") as file:
        rows = {(row["dataset"], row["objective"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * 4
    means = {}
    for place in rows:
        scores = [
            line["test_average_precision"]
            for line in lines_of(folder)
            if (line["dataset"], line["objective"]) == place and line["seed"] != 9
        ]
        means[place] = np.mean(scores) if scores else np.nan
        assert len(scores) == 2 * (place[0] != "all")
    for dataset in ("digits", "shapes"):
        for objective in ("weighted", "original"):
            row, column = rows[dataset, objective], "average_precision less cross-entropy"
            mean = means[dataset, objective]
            assert float(row["average_precision"]) == pytest.approx(mean, rel=1e-5)
            difference = mean - means[dataset, "cross-entropy"]
            assert float(row[column]) == pytest.approx(difference, rel=1e-5)
            assert float(row[f"{column}, low"]) <= difference <= float(row[f"{column}, high"])
    assert rows["digits", "exact"]["edge"] in ("lowest", "highest")
    assert rows["shapes", "exact"]["balanced_accuracy"] == ""


def test_conclusion_says_what_the_intervals_say():
    """Raised, lowered and not shown; nothing where nothing is."""
    mixed = comparison_of(
        {0.5: (0.01, 0.002, 0.02), 2: (-0.001, -0.01, 0.004), 5: (-0.03, -0.05, -0.01)}
    )
    first = conclusion(mixed)[0]
    assert first.startswith(
        "On digits, 3 choices of gamma and class weights were compared with the "
        "cross-entropy: average precision is higher with 1, lower with 1, and can't be told apart "
        "with 1 (-0.10 points). Focal loss without alpha: higher with gamma 0.5 (+1.00 [0.20, "
        "2.00]); lower with gamma 5 (-3.00 [-5.00, -1.00]); not told apart with gamma 2. Of 3"
    )
    assert "lies above 0 in 1 and below in 1; by chance alone it would in about 0.1" in first
    nothing = comparison_of({0.5: (0.01, -0.002, 0.02), 2: (-0.001, -0.01, 0.004)})
    assert (
        "higher with none, lower with none, and can't be told apart with 2 (-0.10 to +1.00 "
        "points). Focal loss without alpha: not told apart with gamma 0.5 and 2."
        in (conclusion(nothing)[0])
    )


def test_conclusion_says_what_the_original_loss_lost_beside_the_exact_one():
    """A metric that can't be told apart, and one that can."""
    base = comparison_of({2: (-0.001, -0.01, 0.004)})
    original = Objective(loss="original", gamma=2.0, logits="bfloat16")
    study = msgspec.structs.replace(
        base.study,
        objectives={**base.study.objectives, "original 2": original},
        pairs=(("original 2", "focal 2"),),
    )
    row = base.rows[1]._replace(objective="original 2", steps=2000, dead_share=0.125)
    found = {"average_precision": (-0.002, -0.01, 0.004), "ece": (0.01, 0.004, 0.02)}
    differences = [
        Difference(None, "original 2", "focal 2", metric, Interval(*one))
        for metric, one in found.items()
    ]
    whole = Comparison(study, (*base.rows, row), (*base.differences, *differences))
    (text,) = [one for one in conclusion(whole) if "original loss had" in one]
    assert text.endswith(
        "a finite gradient in all 2,000 steps, and at the end up to 12.5 % of a data set's logits "
        "with no gradient. Its average precision can't be told from the exact loss's (up to 0.20 "
        "points apart, every interval holds 0); its calibration error less the exact loss's is "
        "+1.00 [0.40, 2.00] points with original 2."
    )
    skipped = whole._replace(rows=(*base.rows, row._replace(skipped_steps=30)))
    assert "had 30 of 2,000 steps without a finite" in "".join(conclusion(skipped))


def test_conclusion_names_the_data_set_that_moves_the_average_most():
    """And gives the range of the differences without it."""
    base = comparison_of({1: (-0.02, -0.05, 0.01), 2: (-0.02, -0.05, 0.01)})
    digits = base.study.datasets["digits"]
    datasets = {
        name: msgspec.structs.replace(digits, epochs=epochs)
        for name, epochs in zip("abc", (1, 2, 3), strict=True)
    }
    study = msgspec.structs.replace(base.study, datasets=datasets)
    precision = {  # of the cross-entropy, and at gamma 1 and 2
        "a": (0.50, 0.52, 0.49),
        "b": (0.90, 0.70, 0.91),
        "c": (0.60, 0.62, 0.60),
    }
    rows = [
        row._replace(dataset=name, means={**row.means, "average_precision": value})
        for name, values in precision.items()
        for row, value in zip(base.rows, values, strict=True)
    ]
    (first, *_) = conclusion(base._replace(study=study, rows=tuple(rows)))
    assert (
        "b moves the average most: over the other 2 the same choices differ by -0.50 to +2.00 "
        "points."
    ) in first
    assert "moves the average" not in conclusion(base)[0]


def test_conclusion_says_where_a_difference_comes_from_and_at_which_rates():
    """One data set of three, on which the searches chose two rates."""
    base = comparison_of({0.5: (-0.1, -0.2, -0.05)})
    digits = base.study.datasets["digits"]
    datasets = {
        name: msgspec.structs.replace(digits, epochs=epochs)
        for name, epochs in zip("abc", (1, 2, 3), strict=True)
    }
    original = Objective(loss="original", gamma=0.5)
    objectives = {**base.study.objectives, "original": original}
    study = msgspec.structs.replace(
        base.study,
        datasets=datasets,
        objectives=objectives,
        pairs=(("original", "focal 0.5"),),
    )
    precision = {"a": (0.5, 0.5, 0.51), "b": (0.5, 0.9, 0.6), "c": (0.5, 0.5, 0.48)}
    rows = [
        base.rows[0]._replace(
            dataset=dataset,
            objective=name,
            rate=0.01 if (dataset, name) == ("b", "original") else 0.003,
            means={**base.rows[0].means, "average_precision": value},
        )
        for dataset, values in precision.items()
        for name, value in zip(objectives, values, strict=True)
    ]
    apart = Interval(-0.1, -0.2, -0.05)
    pair = Difference(None, "original", "focal 0.5", "average_precision", apart)
    found = Comparison(study, tuple(rows), (*base.differences, pair))
    words = (
        "-10.00 [-20.00, -5.00] points with original (-0.50 without b, where the searches chose "
        "the rates 0.01 and 0.003)"
    )
    assert words in " ".join(conclusion(found))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((0.3, 0.5, 0.3), "inside its grid on every data set."),
        ((0.3, 0.4, 0.5), "inside its grid on 0 of 1 data sets; not on digits (highest)."),
        ((0.5, 0.4, 0.3), "inside its grid on 0 of 1 data sets; not on digits (lowest)."),
    ],
)
def test_page_says_whether_a_grid_of_rates_was_wide_enough(scores, words):
    """By the average over the objectives, though each has its best rate at an end."""
    made_up = comparison_of({0.5: (0.01, 0.002, 0.02)})
    rates = (0.003, 0.01, 0.03)
    digits = msgspec.structs.replace(made_up.study.datasets["digits"], rates=rates)
    study = msgspec.structs.replace(made_up.study, datasets={"digits": digits})
    own = ((0.25, 0.0, 0.0), (0.0, 0.0, 0.25))  # what each objective has besides
    rows = [
        row._replace(searched=dict(zip(rates, np.add(scores, more).tolist(), strict=True)))
        for row, more in zip(made_up.rows, own, strict=True)
    ]
    rows = [row._replace(rate=max(row.searched, key=row.searched.get)) for row in rows]
    text = page("name", made_up._replace(study=study, rows=tuple(rows)), (), [])
    assert "digits: 1 lowest, 1 highest" in text
    assert f"Of the average over the objectives, the best rate was {words}" in text


def test_page_says_that_the_time_of_killed_sessions_is_not_in_its_sum(tmp_path):
    """A killed process leaves no line of its end."""
    begin = {"event": "begin", "began": "2026-01-02T03:04:05+00:00", "processor": "x"}
    seconds = {"a": 3600.0, "b": 1800.0}
    end = {"event": "end", "ended": "2026-01-02T05:04:05+00:00", "seconds": seconds}
    path = tmp_path / "sessions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (begin, end, begin)))
    sessions = read_sessions(path)
    made_up = comparison_of({0.5: (0.01, 0.002, 0.02)})
    text = page("name", made_up, (), sessions)
    assert "Begun 2026-01-02, last 2026-01-02; x," in text
    assert text.endswith("; 1.5 hours of a core in 1 session, not counting 1 killed.\n")
    assert page("name", made_up, (), sessions[:2]).endswith("; 1.5 hours of a core.\n")
