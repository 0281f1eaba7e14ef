"""Sweeps where time and room are short: on a machine that is lent, and as jobs of a queue."""

import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from concurrent.futures import CancelledError
from itertools import product

import pytest
from click.testing import CliRunner
from filelock import FileLock

from parfocal.cli import cli
from parfocal.experiments.errors import DamagedRecordError, DeadWorkerError, OtherRunError
from parfocal.experiments.run import archive as archives
from parfocal.experiments.run.archive import check, pack, unpack
from parfocal.experiments.run.engines import Processes
from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.record import (
    Recorder,
    append_line,
    checkpoints,
    read_lines,
    read_run,
    replacing,
)
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.slurm import Slurm
from parfocal.experiments.run.states import scan, state_of
from parfocal.experiments.run.sweep import sweep
from parfocal.experiments.run.training import RunOptions

SETTINGS = {
    "loss": ["original", "exact"],
    "logits": ["bfloat16"],
    "gamma": [0.1],
    "noise": [0.25],
    "images": [300],
    "batch_size": [20],
    "learning_rate": [0.01],
    "epochs": [40],
}
GRID = read_grid("mnist-quick").with_axes(SETTINGS)
ENDLESS = GRID.with_axes({"epochs": [10**6]})
COMMAND = [f"--set={name}={','.join(map(str, values))}" for name, values in SETTINGS.items()]


def metrics_of(directory):
    return {path.parent.name: path.read_bytes() for path in directory.glob("*/metrics.jsonl")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The metrics of both runs, the one that fails and the other."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with Processes(2) as engine:
        sweep(GRID.runs(), directory, engine, RunOptions(), Session())
    assert [state.status for state in scan(directory)].count("failed") == 1
    return metrics_of(directory)


def test_a_table_is_coarse_before_it_is_fine():
    """Of the paper's 810 runs the first 16 are all corners, and the first 54 a table of 3 x 3."""
    grid = read_grid("mnist").with_axes({"loss": ["original", "smoothed"]})
    runs = grid.coarse_to_fine()
    assert len(runs) == len(grid.runs())
    assert {run.digest for run in runs} == {run.digest for run in grid.runs()}
    for count, gammas, thresholds, noises in (
        (16, (0.0, 5.0), (0, 8), (0.0, 0.75)),
        (54, (0.0, 0.7, 5.0), (0, 4, 8), (0.0, 0.5, 0.75)),
        (150, (0.0, 0.3, 0.7, 1.0, 5.0), (0, 2, 4, 6, 8), (0.0, 0.5, 0.75)),
    ):
        settings = ("loss", "noise", "gamma", "threshold")
        found = {tuple(run.value(name) for name in settings) for run in runs[:count]}
        assert found == set(product(("original", "smoothed"), noises, gammas, thresholds))


def test_a_budget_ends_a_sweep_that_goes_on_elsewhere(uninterrupted, tmp_path):
    """From machine to machine by an archive alone, each run with what it had: the same bytes.

    Each visit is a third longer than the one before: whether a machine is fast or slow, one of them
    ends after the first step and before the last.
    """
    archive = tmp_path / "home" / "runs.zip"
    for visit in range(16):
        directory = tmp_path / str(visit)
        if archive.exists():
            assert unpack(archive, directory) == 2
        began = time.monotonic()
        with Processes(2) as engine:
            deadline = began + (4 / 3) ** visit
            sweep(GRID.runs(), directory, engine, RunOptions(), Session(), deadline=deadline)
            assert time.monotonic() < deadline + 60
        assert pack(directory, archive, limit=10**7) == (2, 0)
        if all(state.done for state in scan(directory)):
            break
    assert visit > 0
    assert metrics_of(directory) == uninterrupted
    starts = [
        line["from_step"]
        for path in directory.glob("*/sessions.jsonl")
        for line in read_lines(path)
        if line["event"] == "began"
    ]
    assert sum(step > 0 for step in starts) > 0


def test_a_deadline_that_is_over_begins_nothing(tmp_path):
    """The folders are there, for the next call."""
    with Processes(1) as engine:
        sweep(GRID.runs(), tmp_path, engine, RunOptions(), Session(), deadline=time.monotonic())
    assert {state.status for state in scan(tmp_path)} <= {"waiting", "interrupted"}


def test_what_was_begun_comes_first(tmp_path):
    """A run that has a checkpoint is nearer to its end than one that hasn't."""
    begun = GRID.runs()[1]
    folder = tmp_path / begun.digest
    folder.mkdir()
    (folder / f"checkpoint-{7:012d}-{'0' * 16}.pt").touch()
    order = []

    class Noting(Processes):
        def submit(self, function, *arguments):
            order.append(arguments[0])
            return super().submit(str)

    with Noting(1) as engine:
        sweep(GRID.runs(), tmp_path, engine, RunOptions(), Session())
    assert order == [begun, GRID.runs()[0]]


def test_records_go_before_checkpoints_where_room_is_short(tmp_path):
    """All records are in the file, the same runs make the same file, and none is overwritten."""
    runs = tmp_path / "runs"
    for budget in (2, 4, 8, 16, 32):  # as long as the machine needs to begin
        with Processes(2) as engine:
            deadline = time.monotonic() + budget
            sweep(ENDLESS.runs(), runs, engine, RunOptions(), Session(), deadline=deadline)
        unfinished = sum(bool(checkpoints(path)) for path in runs.glob("*/"))
        if unfinished:
            break
    assert unfinished
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    assert pack(runs, first, limit=0) == (2, unfinished)
    pack(runs, second, limit=0)
    assert first.read_bytes() == second.read_bytes()
    names = {f"{path.parent.name}/{path.name}" for path in runs.glob("*/*.json*")}
    assert set(zipfile.ZipFile(first).namelist()) == names - {"progress.json"}
    spec = next(iter(runs.glob("*/metrics.jsonl")))
    spec.write_text("mine\n")
    assert unpack(first, runs) == len([s for s in scan(runs) if s.status == "waiting"])
    assert spec.read_text() == "mine\n"


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", f"{'0' * 64}/../../evil", f"{'0' * 64}/run.py", "evil"]
)
def test_an_archive_holds_runs_and_nothing_else(name, tmp_path):
    """Before a byte of it is written."""
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{'1' * 64}/spec.json", "{}")
        file.writestr(name, "evil")
    with pytest.raises(DamagedRecordError, match="which belongs to no run"):
        unpack(archive, tmp_path / "runs")
    assert not list(tmp_path.rglob("spec.json"))
    archive.write_bytes(b"no zip file")
    with pytest.raises(DamagedRecordError, match="no archive of runs"):
        unpack(archive, tmp_path / "runs")


def record(directory, epochs, outcome="interrupted", saved=None, spec=None):
    """The folder of a run of so many epochs, which goes on from the checkpoint of another one."""
    spec = GRID.runs()[0] if spec is None else spec
    folder = directory / spec.digest
    with Recorder(folder, spec) as recorder:
        for number in range(epochs):
            recorder.epoch(Epoch(number, 15 * (number + 1), 0.5, 0.5, 1.0))
        if outcome == "failed":
            step = 15 * epochs + 1
            recorder.failure(Failure(epochs, step, "gradient", 0.1, 17.0, 3, 3, "4", None, 17.0))
        recorder.ended(outcome)
    append_line(folder / "sessions.jsonl", "began", {"run": spec.digest, "from_step": epochs})
    if saved is not None:
        contents = f"{saved} epochs".encode()
        name = f"checkpoint-{15 * saved:012d}-{hashlib.sha256(contents).hexdigest()[:16]}.pt"
        (folder / name).write_bytes(contents)
    return folder


def files_of(folder):
    """Contents by name, without those that processes leave."""
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("lock", "sweep.json")
    }


NEARER_AND_FURTHER = {
    "a later checkpoint": ((22, "interrupted", 22), (37, "interrupted", 37)),
    "finished": ((30, "interrupted", 30), (40, "finished", None)),
    "failed": ((39, "interrupted", 39), (31, "failed", None)),
    "the same epochs with a checkpoint": ((22, "interrupted", None), (22, "interrupted", 22)),
    "less that can go on": ((37, "interrupted", None), (22, "interrupted", 22)),
    "later without any": ((22, "interrupted", None), (37, "interrupted", None)),
}


@pytest.mark.parametrize(("nearer", "further"), NEARER_AND_FURTHER.values(), ids=NEARER_AND_FURTHER)
def test_of_a_run_in_two_places_the_further_is_kept(nearer, further, tmp_path):
    """Wherever it is: it takes the other's place in a folder, and keeps its own in the archive."""
    archive, behind = tmp_path / "runs.zip", record(tmp_path / "behind", *nearer)
    ahead = record(tmp_path / "ahead", *further)
    expected = files_of(ahead)
    assert pack(ahead.parent, archive, limit=10**7) == (1, 0)
    packed = archive.read_bytes()
    assert pack(behind.parent, archive, limit=10**7) == (1, 0)
    assert archive.read_bytes() == packed
    assert unpack(archive, behind.parent) == 1
    assert {name: files_of(behind).get(name) for name in expected} == expected
    assert checkpoints(behind)[:1] == [behind / path.name for path in checkpoints(ahead)]
    assert unpack(archive, behind.parent) == 0
    old = tmp_path / "old.zip"
    pack(record(tmp_path / "again", *nearer).parent, old, limit=10**7)
    assert unpack(old, ahead.parent) == 0
    assert files_of(ahead) == expected
    pack(ahead.parent, old, limit=10**7)
    assert old.read_bytes() == packed


def test_a_run_that_only_the_archive_has_stays_there(tmp_path):
    """Even if it came there after the sweep began."""
    first, second = GRID.runs()
    archive = tmp_path / "runs.zip"
    pack(record(tmp_path / "first", 5, saved=5, spec=first).parent, archive, limit=10**7)
    pack(record(tmp_path / "second", 5, saved=5, spec=second).parent, archive, limit=10**7)
    assert unpack(archive, tmp_path / "both") == 2


def test_a_copy_without_its_checkpoint_takes_no_longer_ones_place(tmp_path):
    """Where its checkpoint doesn't fit, it could as little go on as the one in the archive."""
    archive = tmp_path / "runs.zip"
    pack(record(tmp_path / "long", 37).parent, archive, limit=0)
    packed = archive.read_bytes()
    begun = record(tmp_path / "begun", 22, saved=22)
    assert pack(begun.parent, archive, limit=0) == (1, 1)
    assert archive.read_bytes() == packed
    assert unpack(archive, begun.parent) == 0


def test_a_damaged_checkpoint_is_no_progress(tmp_path):
    """Its name says a later step; the run couldn't go on from there."""
    folder = record(tmp_path / "damaged", 37, saved=37)
    (damaged,) = checkpoints(folder)
    damaged.write_bytes(b"cut")
    archive = tmp_path / "runs.zip"
    pack(record(tmp_path / "whole", 22, saved=22).parent, archive, limit=10**7)
    assert unpack(archive, folder.parent) == 1
    assert len(read_run(folder).epochs) == 22


@pytest.mark.parametrize("further", [(37, "interrupted", 37), (40, "finished", None)])
def test_an_unpacking_that_is_killed_is_done_by_the_next(further, tmp_path, monkeypatch):
    """Before each of its files; what it leaves can go on, and is less far than the archive."""
    archive, ahead = tmp_path / "runs.zip", record(tmp_path / "ahead", *further)
    expected = files_of(ahead)
    pack(ahead.parent, archive, limit=10**7)
    for count in range(len(expected)):
        behind = record(tmp_path / f"behind{count}", 22, saved=22)
        left = iter(range(count))

        def killed(path, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replacing(path)

        monkeypatch.setattr(archives, "replacing", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, behind.parent)
        monkeypatch.undo()
        assert state_of(behind).status == "interrupted"
        assert checkpoints(behind)
        assert unpack(archive, behind.parent) == 1
        assert {name: files_of(behind).get(name) for name in expected} == expected


def test_a_run_that_is_worked_on_is_left_to_its_process(tmp_path):
    """Though the archive is further; nothing of it is touched, and packing keeps the further."""
    archive = tmp_path / "runs.zip"
    pack(record(tmp_path / "ahead", 37, saved=37).parent, archive, limit=10**7)
    behind = record(tmp_path / "behind", 22, saved=22)
    before = files_of(behind)
    with FileLock(behind / "lock"):
        assert unpack(archive, behind.parent) == 0
    assert files_of(behind) == before


def test_what_is_damaged_is_set_aside_for_what_is_whole(tmp_path):
    """Its bytes stay, under a name that nothing reads."""
    archive = tmp_path / "runs.zip"
    pack(record(tmp_path / "ahead", 37, saved=37).parent, archive, limit=10**7)
    folder = record(tmp_path / "damaged", 22, saved=22)
    (folder / "metrics.jsonl").write_text("mine\n")
    assert unpack(archive, folder.parent) == 1
    assert len(read_run(folder).epochs) == 37
    (aside,) = folder.glob("metrics.jsonl.*.damaged")
    assert aside.read_text() == "mine\n"


def test_a_folder_of_another_run_is_neither_unpacked_nor_packed(tmp_path):
    """A copy under the wrong digest would pass for a run that was never made."""
    made, never = GRID.runs()
    folder = record(tmp_path / "runs", 40, "finished", spec=made)
    archive = tmp_path / "runs.zip"
    pack(folder.parent, archive, limit=0)
    shutil.copytree(folder, folder.parent / never.digest)
    packed = archive.read_bytes()
    assert pack(folder.parent, archive, limit=0) == (1, 0)
    assert archive.read_bytes() == packed
    for refusing in (check, unpack):
        with pytest.raises(OtherRunError, match=f"in .*{never.digest}, got .* {made.digest[:12]}"):
            refusing(archive, folder.parent)


@pytest.mark.parametrize("name", ["spec.json", "metrics.jsonl"])
def test_an_archive_with_files_of_another_run_is_refused(name, tmp_path):
    """As a folder of a sweep is; nothing is unpacked."""
    made, other = GRID.runs()
    folder = record(tmp_path / "other", 40, "finished", spec=other)
    right = record(tmp_path / "right", 40, "finished", spec=made)
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (
            folder / name,
            *(right / n for n in ("spec.json", "metrics.jsonl") if n != name),
        ):
            file.write(path, f"{made.digest}/{path.name}")
    words = f"{archive} holds {made.digest} with files of another run"
    with pytest.raises(OtherRunError, match=words):
        unpack(archive, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("contents", [None, "{}", "no JSON"])
def test_an_archive_of_a_run_without_a_spec_is_refused(contents, tmp_path):
    """It can't be known whose metrics these are."""
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(f"{'1' * 64}/metrics.jsonl", "")
        if contents is not None:
            file.writestr(f"{'1' * 64}/spec.json", contents)
    with pytest.raises(DamagedRecordError, match=f"{archive} holds {'1' * 64} without a spec"):
        unpack(archive, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def flip(data, at):
    """Bytes in the middle of what was compressed, so that it is no stream."""
    data[at + 100 : at + 140] = b"\xff" * 40


def cut(data, at):
    """Bytes of the checkpoint, which is stored as it is."""
    del at
    place = data.index(b"22 epochs")
    data[place : place + 2] = b"99"


def encrypt(data, at):
    """The flag of an encrypted member, in both of its headers."""
    for place in (at + 6, data.index(b"PK\x01\x02") + 8):
        struct.pack_into("<H", data, place, 1)


def compress_otherwise(data, at):
    """A method that no zip file has, in both headers."""
    for place in (at + 8, data.index(b"PK\x01\x02") + 10):
        struct.pack_into("<H", data, place, 77)


@pytest.mark.parametrize("damage", [flip, cut, encrypt, compress_otherwise])
def test_a_damaged_archive_is_one_line_before_anything_is_made(damage, tmp_path):
    """Whatever zipfile calls it."""
    archive, out = tmp_path / "runs.zip", tmp_path / "runs"
    pack(record(tmp_path / "whole", 22, saved=22).parent, archive, limit=10**7)
    data = bytearray(archive.read_bytes())
    damage(data, data.index(b"PK\x03\x04"))
    archive.write_bytes(data)
    words = ["sweep", "mnist-quick", *COMMAND, "--archive", str(archive), "--out", str(out)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2, result.output
    *_, last = result.output.splitlines()
    assert last.startswith(f"Error: {archive} ")
    assert not out.exists()
    with pytest.raises(DamagedRecordError, match=str(archive)):
        pack(tmp_path / "whole", archive, limit=0)
    assert archive.read_bytes() == data


@pytest.mark.parametrize("name", ["file/runs.zip", "/proc/runs.zip", f"{'x' * 250}.zip"])
def test_an_archive_that_cannot_be_written_is_said_before_the_first_run(name, tmp_path):
    """In a file, in a folder of the system, and under a name that has no room beside it."""
    (tmp_path / "file").touch()
    archive, out = tmp_path / name, tmp_path / "runs"
    words = ["sweep", "mnist-quick", *COMMAND, "--archive", str(archive), "--out", str(out)]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2, result.output
    expected = f"Expected a path where an archive can be written, got {archive}: "
    assert expected in result.output
    assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *product(
            ("--archive-megabytes", "--budget", "--checkpoint-seconds", "--ray-cpus", "--ray-gpus"),
            ("nan", "inf", "-inf", "-1", "many"),
        ),
        *product(("--ray-cpus", "--ray-gpus"), ("1e308",)),
        *product(
            ("--ray-resource",),
            ("x=nan", "x=inf", "x=-1", "x=", "x", "=1", " =1"),
        ),
    ],
)
def test_a_number_that_is_none_is_said_before_anything_is_asked(option, value, tmp_path):
    """With the option's name: neither Ray nor the data are looked for."""
    words = ["sweep", "mnist-quick", "--ray", "127.0.0.1:1", "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli, [*words, option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}': " in result.output
    assert "connecting" not in result.output
    assert not (tmp_path / "runs").exists()


def test_a_ray_that_is_started_here_has_no_resources_of_its_own(tmp_path, monkeypatch):
    """A run that asks for one would wait for ever."""
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["sweep", "mnist-quick", "--ray", "local", "--ray-resource", "x=1"]
    result = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert "expected --ray-resource with the address of a cluster" in result.output


def test_the_command_takes_and_leaves_an_archive(uninterrupted, tmp_path):
    """With a budget that is too small, and then with one that isn't; status 0 both times."""
    archive = tmp_path / "runs.zip"
    said = []
    for budget in ("0.01", "600"):
        words = ["sweep", "mnist-quick", *COMMAND, "--jobs", "2", "--budget", budget]
        words += ["--archive", str(archive), "--out", str(tmp_path / budget)]
        words += ["--archive-megabytes", "1e308"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, result.output
        said.append(result.output)
    assert "the budget is used up; the same command resumes from here" in said[0]
    assert "2 runs unpacked from" in said[1]
    assert "2 runs: 1 finished, 1 failed" in said[1]
    assert metrics_of(tmp_path / "600") == uninterrupted
    assert archive.stat().st_size < 20_000


def slurm(directory, jobs=2):
    """Jobs of submitit's own processes in place of a cluster's."""
    return Slurm(directory / "slurm", jobs=jobs, parameters={"timeout_min": 5}, local=True)


def test_jobs_of_a_queue_make_the_same_bytes(uninterrupted, tmp_path):
    """The engine is named in the sessions; the grid can be watched."""
    words = ["sweep", "mnist-quick", *COMMAND, "--slurm", "local", "--jobs", "2"]
    result = CliRunner().invoke(cli, [*words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "2 runs: 1 finished, 1 failed" in result.output
    assert metrics_of(tmp_path) == uninterrupted
    sessions = [read_lines(path)[0] for path in tmp_path.glob("*/sessions.jsonl")]
    assert [session["engine"] for session in sessions] == ["slurm", "slurm"]


def fail(error):
    raise error


def test_a_job_that_fails_or_dies_says_so(tmp_path):
    """An exception comes as itself; a process that is gone as a dead worker; a call withdrawn."""
    with slurm(tmp_path) as engine:
        wrong = engine.submit(fail, ValueError("told"))
        dead = engine.submit(os._exit, 3)
        with pytest.raises(ValueError, match=r"^told$"):
            wrong.result()
        with pytest.raises(DeadWorkerError, match="died"):
            dead.result()
        engine.withdraw()
        with pytest.raises(CancelledError):
            engine.submit(os.getpid).result()


def first_process(folder):
    """The first call waits for ever, as if its time were short; the second says whose it was."""
    begun = folder / "begun"
    if begun.exists():
        return begun.read_text()
    with replacing(begun) as temporary:
        temporary.write_text(str(os.getpid()))
    time.sleep(600)
    return None


@pytest.mark.exhaustive
def test_a_job_that_is_out_of_time_is_called_again(tmp_path):
    """With the same arguments, by submitit, once the queue has said that its time is over."""
    with slurm(tmp_path, jobs=1) as engine:
        future = engine.submit(first_process, tmp_path)
        deadline = time.monotonic() + 120
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process = (tmp_path / "begun").read_text()
        os.kill(int(process), signal.SIGUSR2)  # as Slurm does a while before the end
        assert future.result(timeout=120) == process


def test_other_loggers_stay_as_they_are(tmp_path):
    """A handler of somebody else isn't closed, as it would be where logging is set up anew."""
    program = f"""
import logging, os
from pathlib import Path
from parfocal.experiments.run.slurm import Slurm
closed = []
class Handler(logging.Handler):
    def close(self):
        closed.append(self)
logging.getLogger().addHandler(Handler())
Slurm(Path({str(tmp_path)!r}), jobs=1, parameters={{}}, local=True)
assert not closed
assert "SUBMITIT_LOG_LEVEL" not in os.environ
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_queue_that_is_not_there_is_told_in_a_line(tmp_path):
    """Without Slurm, with a parameter that it hasn't, with words that are none, and beside Ray."""
    for words, expected in (
        (["--slurm", "partition=gpu"], "Expected a Slurm that takes these parameters"),
        (["--slurm", "gpu"], "Expected local, or NAME=VALUE,...; got 'gpu'"),
        (["--slurm", "local", "--ray", "local"], "give one of --ray and --slurm"),
    ):
        result = CliRunner().invoke(
            cli, ["sweep", "mnist-quick", *words, "--out", str(tmp_path / "runs")]
        )
        assert result.exit_code == 2
        assert expected in " ".join(result.output.split())
    with pytest.raises(ValueError, match="takes these parameters"):
        Slurm(tmp_path, jobs=1, parameters={"no_such": 1}, local=True)
