"""Sweeps where time and room are short: on a machine that is lent, and as jobs of a queue."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import CancelledError
from itertools import product

import pytest
from click.testing import CliRunner

from parfocal.cli import cli
from parfocal.experiments.errors import DamagedRecordError, DeadWorkerError
from parfocal.experiments.run.archive import pack, unpack
from parfocal.experiments.run.engines import Processes
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.record import checkpoints, read_lines, replacing
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.slurm import Slurm
from parfocal.experiments.run.states import scan
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


def test_the_command_takes_and_leaves_an_archive(uninterrupted, tmp_path):
    """With a budget that is too small, and then with one that isn't; status 0 both times."""
    archive = tmp_path / "runs.zip"
    said = []
    for budget in ("0.01", "600"):
        words = ["sweep", "mnist-quick", *COMMAND, "--jobs", "2", "--budget", budget]
        words += ["--archive", str(archive), "--out", str(tmp_path / budget)]
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
