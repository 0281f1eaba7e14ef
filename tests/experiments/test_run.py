"""A run goes on from wherever it was, to the bit, and says what is wrong with its folder."""

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from filelock import FileLock

from experiments.processes import DEADLINE, Command
from parfocal.experiments.data import Images
from parfocal.experiments.errors import (
    BusyRunError,
    ChangedDataError,
    DamagedRecordError,
    OtherRunError,
)
from parfocal.experiments.run import checkpoint, trainer, training
from parfocal.experiments.run.engines import process_context
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.progress import read_progress
from parfocal.experiments.run.record import read_lines, read_run
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.states import scan, state_of
from parfocal.experiments.run.training import RunOptions, run_training
from parfocal.experiments.spec import RunSpec

SPEC = RunSpec().with_settings(
    {
        "source": "mnist5k",
        "images": 300,
        "batch_size": 30,
        "noise": 0.5,
        "epochs": 3,
        "loss": "exact",
    }
)
EAGER = RunOptions(checkpoint_seconds=0)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The metrics of the run that nothing happened to."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    assert run_training(SPEC, directory, RunOptions(), Session()) == "finished"
    return (directory / "metrics.jsonl").read_bytes()


@pytest.fixture
def every_step(monkeypatch):
    """Look and listen after each step, not each second."""
    monkeypatch.setattr(training, "HEARTBEAT", 0.0)
    monkeypatch.setattr(trainer, "LOOK_SECONDS", 0.0)


def stop_at(step):
    """A wish to stop that comes after so many steps."""
    looks = iter(range(1, 10**6))
    return lambda: next(looks) >= step


@pytest.mark.parametrize("step", [1, 10, 17, 29])
def test_interrupted_run_ends_with_the_same_bytes(step, uninterrupted, tmp_path, every_step):
    """In the first step, at the end of an epoch, in the middle of one, before the last."""
    assert run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(step)) == "interrupted"
    interrupted = read_run(tmp_path)
    assert (interrupted.outcome, interrupted.steps) == ("interrupted", step)
    assert state_of(tmp_path).status == "interrupted"
    torch.rand(3)
    assert run_training(SPEC, tmp_path, EAGER, Session()) == "finished"
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted
    began = [line for line in read_lines(tmp_path / "sessions.jsonl") if line["event"] == "began"]
    assert [line["from_step"] for line in began] == [0, step]
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["segmentation-quick-bfloat16", "cifar10-cnn"])
def test_other_tasks_go_on_to_the_same_bytes_too(name, tmp_path, every_step, monkeypatch):
    """Statistics of batch normalisation are part of the state, and so are the draws of crops."""
    spec = read_grid(name).base.with_settings({"epochs": 2, "batch_size": 16, "images": 50})
    if name == "cifar10-cnn":
        spec = spec.with_settings({"crop": 24})
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (50, 3, 32, 32), generator=generator, dtype=torch.uint8)
        classes = ("airplane", "bird", "automobile", "ship", "truck")
        images = Images(pixels, torch.arange(50) % 5, classes)
        monkeypatch.setattr(training, "load", lambda *_: images)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(spec, whole, RunOptions(), Session()) == "finished"
    assert run_training(spec, parts, EAGER, Session(), stop=stop_at(3)) == "interrupted"
    assert run_training(spec, parts, EAGER, Session(), stop=stop_at(2)) == "interrupted"
    assert run_training(spec, parts, EAGER, Session()) == "finished"
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_failure_after_a_resumption_is_the_same_failure(tmp_path, every_step):
    """Step, sample and logit; the run is done then, and isn't begun again."""
    spec = SPEC.with_settings(
        {"loss": "original", "logits": "bfloat16", "gamma": 0.1, "learning_rate": 0.1, "epochs": 60}
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(spec, whole, RunOptions(), Session()) == "failed"
    failure = read_run(whole).failure
    assert failure.quantity == "gradient"
    while run_training(spec, parts, EAGER, Session(), stop=stop_at(failure.step // 3)) != "failed":
        pass
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    sessions = (parts / "sessions.jsonl").read_bytes()
    assert run_training(spec, parts, EAGER, Session()) == "failed"
    assert (parts / "sessions.jsonl").read_bytes() == sessions


def test_checkpoint_is_plain_tensors_and_numbers(tmp_path, every_step):
    """torch.load takes it with weights_only; both generators' states are in it; two are kept."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(13))
    files = sorted(tmp_path.glob("checkpoint-*.pt"))
    assert len(files) == 2
    contents = torch.load(files[-1], weights_only=True)
    assert contents["trainer"]["step"] == 13
    generator = torch.Generator()
    for name in ("epoch_order", "draws"):
        generator.set_state(contents["trainer"][name])
    assert len(contents["epochs"]) == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_checkpoint_costs_an_interval(damage, uninterrupted, tmp_path, every_step):
    """The one before it is used; the damaged one is kept under another name."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(13))
    *_, last = sorted(tmp_path.glob("checkpoint-*.pt"))
    contents = bytearray(last.read_bytes())
    contents[len(contents) // 2] ^= 1
    last.write_bytes({"flipped": contents, "cut": contents[:-9], "empty": b""}[damage])
    assert run_training(SPEC, tmp_path, EAGER, Session()) == "finished"
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted
    *_, began, _ = read_lines(tmp_path / "sessions.jsonl")
    assert began["from_step"] == 12
    assert began["damaged"] == [last.with_suffix(".damaged").name]


@pytest.mark.parametrize("damage", [b'{"event": "epo', b"\x00\xff\n", b'{"event": "epoch"}\n'])
def test_damaged_metrics_of_an_unfinished_run_are_made_whole(
    damage, uninterrupted, tmp_path, every_step
):
    """From the checkpoint, which holds them; until then the damage is named, with its line."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(25))
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(lines[0] + damage)
    state = state_of(tmp_path)
    assert state.status == "damaged"
    assert "metrics.jsonl, line 2 is damaged" in state.problem
    assert run_training(SPEC, tmp_path, EAGER, Session()) == "finished"
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted


def test_damaged_metrics_of_a_finished_run_are_kept_and_made_again(uninterrupted, tmp_path):
    """There is nothing to make them from but the run."""
    run_training(SPEC, tmp_path, RunOptions(), Session())
    path = tmp_path / "metrics.jsonl"
    damaged = path.read_bytes().replace(b"epoch", b'ep"och', 1)
    path.write_bytes(damaged)
    with pytest.raises(DamagedRecordError, match="line 1"):
        read_run(tmp_path)
    assert run_training(SPEC, tmp_path, RunOptions(), Session()) == "finished"
    assert path.read_bytes() == uninterrupted
    (kept,) = tmp_path.glob("metrics.jsonl.*.damaged")
    assert kept.read_bytes() == damaged


def test_run_is_one_processs_at_a_time(tmp_path):
    """A second one is refused, and changes nothing."""
    with (
        FileLock(tmp_path / "lock"),
        process_context().Pool(1) as pool,
        pytest.raises(BusyRunError, match="another process is working on"),
    ):
        pool.apply(run_training, (SPEC, tmp_path, RunOptions(), Session()))
    assert not (tmp_path / "spec.json").exists()


def test_overwriting_begins_anew_and_spares_what_is_not_the_runs(tmp_path, every_step):
    """Of any spec; a file of the user's stays."""
    run_training(SPEC.with_settings({"gamma": 0.2}), tmp_path, EAGER, Session(), stop=stop_at(5))
    (tmp_path / "notes.txt").write_text("mine")
    run_training(SPEC, tmp_path, EAGER, Session(), overwrite=True, stop=stop_at(3))
    assert read_run(tmp_path).spec.digest == SPEC.digest
    began, _ = read_lines(tmp_path / "sessions.jsonl")
    assert began["from_step"] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_at_work_is_not_overwritten(tmp_path, every_step):
    """It is refused before anything is removed."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    with (
        FileLock(tmp_path / "lock"),
        process_context().Pool(1) as pool,
        pytest.raises(BusyRunError, match="another process is working on"),
    ):
        pool.apply(run_training, (SPEC, tmp_path, EAGER, Session()), {"overwrite": True})
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    assert after == before


def test_other_data_are_refused(tmp_path, every_step, monkeypatch):
    """A run that began with other images doesn't go on."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(5))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    loaded = training.load(SPEC.data, RunOptions().sources)
    changed = loaded._replace(pixels=loaded.pixels + 1)
    monkeypatch.setattr(training, "load", lambda *_: changed)
    with pytest.raises(ChangedDataError, match=loaded.checksum()):
        run_training(SPEC, tmp_path, EAGER, Session())
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_folder_of_another_run_is_refused(tmp_path, every_step):
    """Done or not, it isn't taken for this one; nothing is changed."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OtherRunError, match="use another folder"):
        run_training(SPEC.with_settings({"gamma": 0.2}), tmp_path, EAGER, Session())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_checkpoint_of_another_run_is_refused(tmp_path, every_step):
    """With the same network and images; by the run that the file names."""
    other, mixed = tmp_path / "other", tmp_path / "mixed"
    spec = SPEC.with_settings({"gamma": 2.0})
    run_training(spec, other, EAGER, Session(), stop=stop_at(13))
    mixed.mkdir()
    *_, last = sorted(other.glob("checkpoint-*.pt"))
    shutil.copy(last, mixed)
    with pytest.raises(OtherRunError, match=f"{last.name} is of the run {spec.digest[:12]}, and"):
        run_training(SPEC, mixed, EAGER, Session())
    assert (mixed / last.name).exists()
    assert not (mixed / "spec.json").exists()
    # The run that it is of goes on from it.
    assert run_training(spec, mixed, EAGER, Session(), stop=stop_at(1)) == "interrupted"
    assert read_run(mixed).steps == 14


def test_checkpoint_that_names_no_run_is_refused(tmp_path, every_step):
    """As one of an older version would be."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(3))
    checkpoint.save(tmp_path, None, 4, {"trainer": {}, "epochs": []})
    with pytest.raises(OtherRunError, match="names no run"):
        run_training(SPEC, tmp_path, EAGER, Session())


@pytest.mark.parametrize("name", ["metrics.jsonl", "sessions.jsonl"])
@pytest.mark.parametrize("has_spec", [True, False])
def test_metrics_and_sessions_of_another_run_are_refused(name, has_spec, tmp_path):
    """Of one that is done, at that; they aren't taken for this run's, and aren't written over."""
    own, other = tmp_path / "own", tmp_path / "other"
    spec = SPEC.with_settings({"gamma": 2.0})
    for each, directory in ((SPEC, own), (spec, other)):
        run_training(each.with_settings({"epochs": 1}), directory, RunOptions(), Session())
    foreign = (other / name).read_bytes()
    (own / name).write_bytes(foreign)
    if name == "sessions.jsonl":
        (own / "metrics.jsonl").unlink()
    if not has_spec:
        (own / "spec.json").unlink()
    digest = spec.with_settings({"epochs": 1}).digest
    with pytest.raises(OtherRunError, match=f"{name} is of the run {digest[:12]}"):
        run_training(SPEC.with_settings({"epochs": 1}), own, RunOptions(), Session())
    assert (own / name).read_bytes() == foreign
    if has_spec and name == "metrics.jsonl":
        assert state_of(own).status == "damaged"


def test_checkpoint_that_is_newer_than_the_metrics_has_all_that_they_lack(
    uninterrupted, tmp_path, every_step
):
    """Metrics that were put back to an older state, emptied or lost are made whole from it."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(25))
    metrics = tmp_path / "metrics.jsonl"
    for step, contents in enumerate((metrics.read_bytes().split(b"\n")[0] + b"\n", b"", None)):
        if contents is None:
            metrics.unlink()
        else:
            metrics.write_bytes(contents)
        stop = stop_at(1) if contents is not None else lambda: False
        outcome = run_training(SPEC, tmp_path, EAGER, Session(), stop=stop)
        assert outcome == ("interrupted" if contents is not None else "finished"), step
    assert metrics.read_bytes() == uninterrupted


@pytest.mark.parametrize("contents", [b"no file of torch's", [1, 2], {"trainer": {}, "epochs": []}])
def test_checkpoint_that_cannot_be_read_is_named(contents, tmp_path, every_step):
    """What is as it was written, and isn't what a run can go on from, is no damage to pass over."""
    run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(3))
    for path in tmp_path.glob("checkpoint-*"):
        path.unlink()
    if isinstance(contents, dict):
        path = checkpoint.save(tmp_path, SPEC.digest, 3, contents)
    else:
        buffer = io.BytesIO()
        if isinstance(contents, bytes):
            buffer.write(contents)
        else:
            torch.save(contents, buffer)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        path = tmp_path / f"checkpoint-{3:012d}-{digest[:16]}.pt"
        path.write_bytes(data)
    with pytest.raises(DamagedRecordError, match=r"is no checkpoint that torch|doesn't fit"):
        run_training(SPEC, tmp_path, EAGER, Session())
    assert path.exists()


def test_file_that_only_looks_like_a_checkpoint_is_the_users(tmp_path, every_step):
    """It is neither read nor removed, and makes no damaged record look as if it could go on."""
    run_training(SPEC, tmp_path, RunOptions(), Session())
    (tmp_path / "checkpoint-best.pt").write_bytes(b"mine")
    (tmp_path / "metrics.jsonl").write_bytes(b"{")
    assert run_training(SPEC, tmp_path, EAGER, Session(), stop=stop_at(3)) == "interrupted"
    assert len(list(tmp_path.glob("metrics.jsonl.*.damaged"))) == 1
    run_training(SPEC, tmp_path, EAGER, Session(), overwrite=True, stop=stop_at(3))
    assert (tmp_path / "checkpoint-best.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["[1]", "null", "5", "{", '{"schema": 2, "digest": [1]}'])
def test_spec_that_is_none_is_damage(text, tmp_path):
    """JSON of another kind too: it is said of this run, and the others are shown."""
    run_training(SPEC, tmp_path / "good", RunOptions(), Session())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "spec.json").write_text(text)
    bad, good = scan(tmp_path)
    assert bad.status == "damaged"
    assert "spec.json" in bad.problem
    assert good.status == "finished"


def test_full_disk_is_named_and_loses_nothing(uninterrupted, tmp_path):
    """On a real disk of one megabyte, filled in the middle of the run; then there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    filler = disk / "filler"

    def fill(progress):
        if progress.step > 10 and not filler.exists():
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "HEARTBEAT", 0.0)
            with pytest.raises(OSError, match="No space left") as caught:
                run_training(SPEC, disk / "run", EAGER, Session(), watch=fill)
        assert caught.value.errno == errno.ENOSPC
        assert not [p for p in (disk / "run").iterdir() if p.name.startswith(".")]
        assert state_of(disk / "run").status in ("interrupted", "damaged")
        filler.unlink()
        assert run_training(SPEC, disk / "run", RunOptions(), Session()) == "finished"
        assert (disk / "run" / "metrics.jsonl").read_bytes() == uninterrupted
        *_, began, _ = read_lines(disk / "run" / "sessions.jsonl")
        assert began["from_step"] >= 10
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_progress_says_how_far_a_run_is(tmp_path, every_step):
    """While it goes; afterwards there is none."""
    seen = []
    run_training(SPEC, tmp_path, RunOptions(), Session("here"), watch=seen.append)
    assert [p.step for p in seen] == list(range(1, 31))
    assert (seen[0].engine, seen[0].pid, seen[0].epochs) == ("here", os.getpid(), 3)
    assert seen[-1].images_per_second == pytest.approx(300 * seen[-1].epochs_per_second)
    assert read_progress(tmp_path) is None


def test_two_processes_give_the_curve_of_one(tmp_path):
    """torchrun and DistributedDataParallel, also when the last batch can't be shared evenly."""
    settings = {"images": 290, "batch_size": 33, "noise": 0.5, "epochs": 3, "loss": "exact"}
    spec = read_grid("mnist-quick").base.with_settings(settings)
    one, two = tmp_path / "one", tmp_path / "two"
    run_training(spec, one, RunOptions(), Session())
    arguments = ["train", "mnist-quick", "--out", str(two)]
    arguments += [f"--set={name}={value}" for name, value in settings.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    done = subprocess.run(
        [*torchrun, "-m", "parfocal", *arguments],
        check=False, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = read_run(one), read_run(two)
    assert json.loads((two / "sessions.jsonl").read_text().splitlines()[0])["ranks"] == 2
    assert found.steps == expected.steps == 27
    for ours, theirs in zip(found.epochs, expected.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
        assert ours.largest_logit == pytest.approx(theirs.largest_logit, rel=1e-5)
        assert ours.accuracy == theirs.accuracy
    # Again: nothing is left to do, on all ranks.
    before = (two / "sessions.jsonl").read_bytes()
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        Command(*arguments, output=tmp_path / f"output-{i}", environment={**group, "RANK": str(i)})
        for i in range(2)
    ]
    with ranks[0], ranks[1]:
        outputs = [rank.output() for rank in ranks]
    assert [rank.status for rank in ranks] == [0, 0], outputs
    assert (two / "sessions.jsonl").read_bytes() == before


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
