"""Sweeps can be killed anywhere and go on anywhere, and say what happened to their workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock
from rich.console import Console

from parfocal.cli import cli
from parfocal.experiments.engines import Processes
from parfocal.experiments.errors import BusySweepError
from parfocal.experiments.events import Epoch, Failure
from parfocal.experiments.grid_display import grid
from parfocal.experiments.progress import read_progress
from parfocal.experiments.record import read_lines, read_run
from parfocal.experiments.run import Settings
from parfocal.experiments.session import Session
from parfocal.experiments.specs import read_grid
from parfocal.experiments.states import scan, state_of
from parfocal.experiments.sweep import prepare, sweep

# Two runs of a few seconds: one that fails on the way, one that doesn't.
SETTINGS = {
    "loss": ["original", "exact"],
    "logits": ["bfloat16"],
    "noise": [0.25],
    "images": [600],
    "batch_size": [20],
    "learning_rate": [0.003],
    "epochs": [50],
}
RUNS = read_grid("mnist-quick").with_axes(SETTINGS).runs()
COMMAND = [sys.executable, "-m", "parfocal", "sweep", "mnist-quick", "--checkpoint-seconds", "0.5"]
COMMAND += [f"--set={name}={value[0]}" for name, value in SETTINGS.items() if name != "loss"]
COMMAND += ["--set=loss=original,exact"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The metrics of each run of a sweep that nothing happened to."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with Processes(2) as engine:
        sweep(RUNS, directory, engine, Settings(), Session())
    return metrics_of(directory)


def metrics_of(directory):
    return {p.parent.name: p.read_bytes() for p in directory.glob("*/metrics.jsonl")}


def start(directory, *options):
    """The command, in a process group of its own."""
    return subprocess.Popen(
        # A relative folder, as people give it.
        [*COMMAND, "--out", os.path.relpath(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_all(process):
    """SIGKILL to the sweep and to all that it has started, wherever Ray has put it."""
    for pid in descendants(process.pid) | {process.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def descendants(pid):
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = set(), [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(directory):
    """Steps of all runs together, as far as they say."""
    told = [read_progress(path) for path in directory.glob("*/")]
    return sum(progress.step for progress in told if progress is not None)


def wait_until_it_moves(directory, process):
    before = steps(directory)
    wait_until(lambda: steps(directory) > before or process.poll() is not None)


def finish(directory, *options):
    with start(directory, *options) as process:
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("engines", [("processes", "ray"), ("ray", "processes")])
def test_killed_sweep_goes_on_to_the_same_bytes(engines, uninterrupted, tmp_path):
    """SIGKILL to everything, at a random moment; it goes on on the other engine."""
    first, last = (["--ray", "local"] if name == "ray" else [] for name in engines)
    moments = random.Random(engines[0])
    process = start(tmp_path, "--jobs", "2", *first)
    wait_until_it_moves(tmp_path, process)
    time.sleep(moments.uniform(0, 0.8))
    kill_all(process)
    output = finish(tmp_path, "--jobs", "2", *last)
    assert "2 runs: 1 finished, 1 failed" in output
    assert metrics_of(tmp_path) == uninterrupted
    sessions = [read_lines(path) for path in tmp_path.glob("*/sessions.jsonl")]
    began = [line for lines in sessions for line in lines if line["event"] == "began"]
    assert any(line["from_step"] > 0 for line in began)
    assert {line["engine"] for line in began} == set(engines)
    if last:
        return
    untouched = [path.read_bytes() for path in tmp_path.glob("*/sessions.jsonl")]
    assert CliRunner().invoke(cli, [*COMMAND[3:], "--out", str(tmp_path)]).exit_code == 0
    assert [path.read_bytes() for path in tmp_path.glob("*/sessions.jsonl")] == untouched


def test_dead_worker_is_replaced_and_its_run_goes_on(uninterrupted, tmp_path):
    """The other run isn't disturbed."""
    process = start(tmp_path, "--jobs", "2")
    # A checkpoint comes every half a second, progress every second.
    wait_until(lambda: len(list(tmp_path.glob("*/progress.json"))) == 2)
    victim, other = (state_of(path.parent) for path in tmp_path.glob("*/progress.json"))
    os.kill(victim.progress.pid, signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert metrics_of(tmp_path) == uninterrupted
    assert len(read_lines(victim.directory / "sessions.jsonl")) == 3
    assert len(read_lines(other.directory / "sessions.jsonl")) == 2


def test_run_whose_process_always_dies_is_named(uninterrupted, tmp_path):
    """After two attempts; the other run goes on to its end."""
    dying, living = RUNS

    class Deadly(Processes):
        attempts = 0

        def submit(self, function, *arguments):
            if arguments[0] != dying:
                return super().submit(function, *arguments)
            self.attempts += 1
            return super().submit(os._exit, 3)

    ends = []
    with Deadly(2) as engine:
        sweep(RUNS, tmp_path, engine, Settings(), Session(), ended=ends.append)
    assert engine.attempts == 2
    dead, alive = sorted(ends, key=lambda end: end.directory.name != dying.digest)
    assert dead.error.startswith("DeadWorkerError: the process died")
    assert (alive.directory.name, alive.outcome) == (living.digest, "finished")
    metrics = (alive.directory / "metrics.jsonl").read_bytes()
    assert metrics == uninterrupted[living.digest]


def test_ctrl_c_ends_a_sweep_cleanly(uninterrupted, tmp_path):
    """Each run writes a checkpoint and says so; status 130; the same command goes on."""
    process = start(tmp_path, "--jobs", "2")
    wait_until(lambda: len(list(tmp_path.glob("*/progress.json"))) == 2)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "goes on from here" in output
    assert [state.kind for state in scan(tmp_path)] == ["interrupted"] * 2
    assert not list(tmp_path.glob("*/progress.json"))
    finish(tmp_path)
    assert metrics_of(tmp_path) == uninterrupted


def test_orphans_of_a_killed_sweep_end_by_themselves(tmp_path):
    """They see that their parent is gone, so that the next sweep finds the runs free."""
    process = start(tmp_path, "--jobs", "2")
    wait_until(lambda: len(list(tmp_path.glob("*/progress.json"))) == 2)
    workers = {state.progress.pid for state in scan(tmp_path)}
    process.kill()
    process.communicate()
    wait_until(lambda: all(state.kind != "running" for state in scan(tmp_path)), seconds=20)
    assert {state.kind for state in scan(tmp_path)} <= {"interrupted", "failed"}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=20)


def test_second_sweep_of_a_folder_is_refused(tmp_path):
    """It is told who the first one is; the first one isn't disturbed."""
    process = start(tmp_path, "--jobs", "1")
    wait_until(
        lambda: (tmp_path / "sweep.json").exists() and list(tmp_path.glob("*/progress.json"))
    )
    with (
        pytest.raises(BusySweepError, match=f"process {process.pid} on .*--out"),
        Processes(1) as engine,
    ):
        sweep(RUNS, tmp_path, engine, Settings(), Session())
    kill_all(process)


def test_error_of_one_run_stops_no_other(tmp_path):
    """One that another process works on: it is named, the others end, the exit status is 1."""
    prepare(RUNS, tmp_path)
    blocked, _ = sorted(tmp_path.glob("*/"))
    with FileLock(blocked / "lock"), start(tmp_path) as process:
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 1, output
    assert f"{blocked.name[:12]}: BusyRunError: another process works on" in output
    assert sum(state.kind in ("finished", "failed") for state in scan(tmp_path)) == 1


def test_status_shows_every_kind_of_run(tmp_path):
    """Waiting, finished, failed with its epoch, damaged with its line, lost with its process."""
    common = {"loss": "exact", "epochs": 40}
    specs = [RUNS[0].with_settings({"threshold": t, **common}) for t in range(6)]
    prepare(specs, tmp_path)
    folders = [tmp_path / spec.digest for spec in specs]
    epoch = json.dumps({"event": "epoch", **Epoch(0, 9, 0.1, 0.9, 2.0)._asdict()}) + "\n"
    failure = Failure(7, 70, "gradient", 0.1, 17.0, 3, 3, "4", None, 17.0)
    end = '{"event": "end", "outcome": "%s", "step": 9}\n'
    (folders[0] / "metrics.jsonl").write_text(epoch + end % "finished")
    failed = json.dumps({"event": "failure", **failure._asdict()}) + "\n"
    (folders[1] / "metrics.jsonl").write_text(failed + end % "failed")
    (folders[2] / "metrics.jsonl").write_text(epoch + "{")
    (folders[3] / "metrics.jsonl").write_text(epoch + end % "interrupted")
    (folders[4] / "metrics.jsonl").write_text(epoch)
    progress = {
        "host": "there", "pid": 4711, "engine": "ray", "time": time.time() - 1000, "epochs": 40,
        "epoch": 0, "step": 12, "steps_per_epoch": 10, "loss": 0.1, "accuracy": 0.9,
        "largest_logit": 2.0, "images_per_second": 100.0, "epochs_per_second": 0.5,
    }  # fmt: skip
    (folders[4] / "progress.json").write_text(json.dumps(progress))
    kinds = [state_of(folder).kind for folder in folders]
    assert kinds == ["finished", "failed", "damaged", "interrupted", "lost", "waiting"]
    output = CliRunner().invoke(cli, ["status", str(tmp_path)]).output
    for words in (
        "✓",
        "✗7",
        "·",
        "line 2 is damaged",
        "process 4711 on there",
        "6 runs: 1 waiting",
    ):
        assert words in " ".join(output.split()), words
    running = {**progress, "time": time.time()}
    (folders[4] / "progress.json").write_text(json.dumps(running))
    console = Console(record=True, width=200)
    console.print(grid(scan(tmp_path), console))
    text = console.export_text()
    assert "epoch 0 of 40, step 12" in text
    # 40 epochs of the waiting run, 39 of the interrupted, 38.8 of the running; two seconds each.
    assert "0.5 epochs/s, at most 0:03:56 left" in text


def test_failed_run_is_read_back_from_a_sweep(uninterrupted, tmp_path):
    """In bfloat16 at this rate the original fails at |logit| 6.25 or a little more."""
    for digest, contents in uninterrupted.items():
        (tmp_path / digest).mkdir()
        (tmp_path / digest / "metrics.jsonl").write_bytes(contents)
    prepare(RUNS, tmp_path)
    original, exact = (read_run(tmp_path / spec.digest) for spec in RUNS)
    assert 6.25 <= abs(original.failure.logit) < 8
    assert (exact.outcome, exact.steps) == ("finished", 1500)
