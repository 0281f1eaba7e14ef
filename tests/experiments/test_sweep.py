"""Sweeps can be killed anywhere and go on anywhere, and say what happened to their workers."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from filelock import FileLock, Timeout
from rich.console import Console

from experiments.processes import Command, wait_until
from parfocal.cli import cli
from parfocal.experiments.errors import BusySweepError, OtherRunError
from parfocal.experiments.run.engines import Processes, check_answers
from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.grid import read_grid
from parfocal.experiments.run.progress import read_progress
from parfocal.experiments.run.record import Recorder, checkpoints, read_lines, read_run
from parfocal.experiments.run.session import Session
from parfocal.experiments.run.states import scan, state_of
from parfocal.experiments.run.sweep import prepare, sweep
from parfocal.experiments.run.training import RunOptions
from parfocal.experiments.show.grid_display import grid

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


def command_of(settings):
    """The sweep of a grid."""
    options = [f"--set={name}={','.join(map(str, values))}" for name, values in settings.items()]
    return ["sweep", "mnist-quick", "--checkpoint-seconds", "0.5", *options]


COMMAND = command_of(SETTINGS)
# At such a rate none fails, and none ends while somebody looks.
ENDLESS = command_of({**SETTINGS, "epochs": [1_000_000], "learning_rate": [1e-9]})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The metrics of each run of a sweep that nothing happened to."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with Processes(2) as engine:
        sweep(RUNS, directory, engine, RunOptions(), Session())
    return metrics_of(directory)


def metrics_of(directory):
    return {p.parent.name: p.read_bytes() for p in directory.glob("*/metrics.jsonl")}


def start(directory, command, *options):
    """In a process of its own, with a relative folder, as people give it."""
    output = directory.with_suffix(".output")
    return Command(*command, "--out", os.path.relpath(directory), *options, output=output)


def finish(directory, *options):
    """In this process; its workers are others."""
    result = CliRunner().invoke(cli, [*COMMAND, "--out", str(directory), *options])
    assert result.exit_code == 0, result.output
    return result.output


def steps(directory):
    """Steps of all runs together, as far as they say."""
    told = [read_progress(path) for path in directory.glob("*/")]
    return sum(progress.step for progress in told if progress is not None)


def wait_until_it_moves(directory, process):
    before = steps(directory)
    wait_until(lambda: steps(directory) > before or process.status is not None)


def is_free(directory):
    """Whether no process works on a run."""
    lock = FileLock(directory / "lock")
    with suppress(Timeout), lock.acquire(blocking=False):
        return True
    return False


def wait_until_both_run(directory):
    wait_until(lambda: len(list(directory.glob("*/progress.json"))) == 2)


def test_killed_sweep_goes_on_to_the_same_bytes(uninterrupted, tmp_path):
    """SIGKILL to everything, at random moments; it goes on on the other engine, and back again."""
    moments = random.Random("moments")
    unfinished = []
    for options in ([], ["--ray", "local"]):
        with start(tmp_path, COMMAND, "--jobs", "2", *options) as process:
            wait_until_it_moves(tmp_path, process)
            time.sleep(moments.uniform(0, 0.8))
            process.kill_all()
        # Ray's workers are no children of it, and end by themselves.
        wait_until(lambda: all(is_free(path.parent) for path in tmp_path.glob("*/lock")))
        states = [state for state in scan(tmp_path) if not state.done]
        unfinished.append({s.directory for s in states if checkpoints(s.directory)})
    said = finish(tmp_path, "--jobs", "2")
    assert "2 runs: 1 finished, 1 failed" in said
    assert f"\nrecords: {tmp_path}\n" in said
    assert metrics_of(tmp_path) == uninterrupted
    resumed = []
    for engine, folders in zip(("ray", "processes"), unfinished, strict=True):
        for folder in folders:
            lines = read_lines(folder / "sessions.jsonl")
            began = [x for x in lines if x["event"] == "began" and x["engine"] == engine]
            # One may have been killed before its turn on this engine.
            resumed += [line["from_step"] for line in began[-1:]]
    assert resumed
    assert all(step > 0 for step in resumed)
    untouched = [path.read_bytes() for path in tmp_path.glob("*/sessions.jsonl")]
    finish(tmp_path)
    assert [path.read_bytes() for path in tmp_path.glob("*/sessions.jsonl")] == untouched


def test_dead_worker_is_replaced_and_its_run_goes_on(uninterrupted, tmp_path):
    """The other run isn't disturbed, nor are both by a second sweep, which is told who is first."""
    other, victim = (tmp_path / spec.digest for spec in RUNS)
    with start(tmp_path, COMMAND, "--jobs", "2") as process:
        wait_until((tmp_path / "sweep.json").exists)
        with (
            pytest.raises(BusySweepError, match=f"process {process.pid} on .*--out"),
            Processes(1) as engine,
        ):
            sweep(RUNS, tmp_path, engine, RunOptions(), Session())
        wait_until(lambda: read_progress(victim) or state_of(victim).done)
        progress = read_progress(victim)
        if progress is not None:  # as always, but where this process is held up for seconds
            os.kill(progress.pid, signal.SIGKILL)
        is_killed = progress is not None and not state_of(victim).done
        output = process.output()
    assert process.status == 0, output
    assert metrics_of(tmp_path) == uninterrupted
    assert len(read_lines(victim / "sessions.jsonl")) == (3 if is_killed else 2)
    assert len(read_lines(other / "sessions.jsonl")) == 2


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
        sweep(RUNS, tmp_path, engine, RunOptions(), Session(), ended=ends.append)
    assert engine.attempts == 2
    dead, alive = sorted(ends, key=lambda end: end.directory.name != dying.digest)
    assert dead.error.startswith("DeadWorkerError: the process died")
    assert (alive.directory.name, alive.outcome) == (living.digest, "finished")
    metrics = (alive.directory / "metrics.jsonl").read_bytes()
    assert metrics == uninterrupted[living.digest]


def test_ctrl_c_ends_a_sweep_cleanly(tmp_path):
    """Each run writes a checkpoint and says so; status 130; it is said that the command goes on."""
    with start(tmp_path, ENDLESS, "--jobs", "2") as process:
        wait_until_both_run(tmp_path)
        process.interrupt()
        output = process.output()
    assert process.status == 130, output
    assert "Traceback" not in output
    assert "resumes from here" in output
    states = scan(tmp_path)
    assert [state.status for state in states] == ["interrupted"] * 2
    assert all(checkpoints(state.directory) for state in states)
    assert not list(tmp_path.glob("*/progress.json"))


def test_orphans_of_a_killed_sweep_end_by_themselves(tmp_path):
    """They see that their parent is gone, so that the next sweep finds the runs free."""
    with start(tmp_path, ENDLESS, "--jobs", "2") as process:
        wait_until_both_run(tmp_path)
        workers = {state.progress.pid for state in scan(tmp_path)}
        process.kill()
        wait_until(lambda: all(state.status != "running" for state in scan(tmp_path)))
        assert {state.status for state in scan(tmp_path)} == {"interrupted"}
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_error_of_one_run_stops_no_other(tmp_path):
    """One that another process works on: it is named, the others end, the exit status is 1."""
    settings = {**SETTINGS, "epochs": [2]}
    prepare(read_grid("mnist-quick").with_axes(settings).runs(), tmp_path)
    blocked, _ = sorted(tmp_path.glob("*/"))
    command = [*command_of(settings), "--out", str(tmp_path)]
    with FileLock(blocked / "lock"):
        result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1, result.output
    words = f"{blocked.name[:12]}: BusyRunError: another process is working on"
    assert words in " ".join(result.output.split())
    assert sum(state.status in ("finished", "failed") for state in scan(tmp_path)) == 1


@pytest.mark.parametrize("outcome", ["finished", "interrupted"])
def test_a_folder_of_another_run_is_refused(outcome, tmp_path):
    """A copy of a run that is done isn't taken for another one that was never made."""
    made, never = RUNS
    with Recorder(tmp_path / made.digest, made) as recorder:
        recorder.ended(outcome)
    shutil.copytree(tmp_path / made.digest, tmp_path / never.digest)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(cli, [*COMMAND, "--out", str(tmp_path)])
    assert result.exit_code == 2, result.output
    *_, last = result.output.splitlines()
    folder = tmp_path / never.digest
    assert last.startswith(f"Error: Expected the run {never.digest[:12]} in {folder}, got ")
    assert sorted(tmp_path.rglob("*")) == before
    third = made.with_settings({"threshold": 3})
    with pytest.raises(OtherRunError, match=never.digest):
        prepare([third, *RUNS], tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@contextmanager
def server(answer):
    """The port of a server on this machine that answers once with these bytes, or never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connected, _ = listening.accept()
            with connected:
                connected.recv(4096)
                if answer is None:
                    connected.recv(4096)  # which comes when the client has gone
                else:
                    connected.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


SETTINGS_FRAME = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes(6)


def test_ray_of_this_machine_is_not_asked_for_more_gpus_than_it_has(tmp_path):
    """Its runs would wait for ever. In a process of its own, since Ray forks."""
    options = ["--ray", "local", "--ray-gpus", "1000", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "parfocal", *COMMAND, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"at most the \d+ GPUs of this machine a run, got 1000", done.stderr)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_answers_as_grpc_does_may_be_a_cluster(scheme, monkeypatch):
    """Also where the environment names it; of what is no host and port Ray says what is wrong."""
    with server(SETTINGS_FRAME) as port:
        check_answers(f"{scheme}127.0.0.1:{port}")
    with server(SETTINGS_FRAME) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{port}")
        check_answers("auto")
    with server(b"220 smtp.example.org\r\n") as port:
        monkeypatch.setenv("RAY_USE_TLS", "1")  # what is encrypted can't be looked into
        check_answers(f"{scheme}127.0.0.1:{port}")
    check_answers("nonsense")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "timed out"), (b"", "something else"), (b"HTTP/1.1 400 Bad", "something else")],
)
def test_what_answers_otherwise_is_none(answer, words):
    """Nothing, an end, another protocol."""
    with server(answer) as port, pytest.raises(ConnectionError, match=f"{port}.*{words}"):
        check_answers(f"127.0.0.1:{port}", seconds=0.2)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}", "auto"])
def test_dead_address_is_said_at_once(address, tmp_path, monkeypatch):
    """What is tried, then one line and status 2; Ray, which tries for minutes, isn't asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setitem(sys.modules, "ray", None)
    address = address.format(port)
    result = CliRunner().invoke(cli, [*COMMAND, "--out", str(tmp_path), "--ray", address])
    assert result.exit_code == 2
    first, *_, last = result.output.splitlines()
    assert first == f"connecting to {address} ..."
    assert last.startswith("Error: Expected the address of a Ray cluster")
    assert "doesn't answer" in last


def test_what_answers_nobody_is_given_up():
    """Whatever Python or Ray wait for: the process ends, with a line."""
    code = """
import time
from parfocal.cli.sweep import _given_up_after
with _given_up_after(60, "there:1"):
    pass
with _given_up_after(0.01, "here:1"):
    time.sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: no Ray cluster answered at here:1 in 0.01 s\n"


def test_status_shows_every_kind_of_run(tmp_path):
    """Waiting, finished, failed with its epoch, damaged with its line, lost with its process."""
    common = {"loss": "exact", "epochs": 40}
    specs = [RUNS[0].with_settings({"threshold": t, **common}) for t in range(6)]
    prepare(specs, tmp_path)
    folders = [tmp_path / spec.digest for spec in specs]
    epoch, *more = (
        json.dumps({"event": "epoch", **Epoch(e, 10 * e + 9, 0.1, 0.9, 2.0)._asdict()}) + "\n"
        for e in range(40)
    )
    failure = Failure(7, 70, "gradient", 0.1, 17.0, 3, 3, "4", None, 17.0)
    end = '{"event": "end", "outcome": "%s", "step": 9}\n'
    (folders[0] / "metrics.jsonl").write_text("".join((epoch, *more, end % "finished")))
    failed = json.dumps({"event": "failure", **failure._asdict()}) + "\n"
    (folders[1] / "metrics.jsonl").write_text("".join((epoch, *more[:6], failed, end % "failed")))
    (folders[2] / "metrics.jsonl").write_text(epoch + "{")
    (folders[3] / "metrics.jsonl").write_text(epoch + end % "interrupted")
    (folders[4] / "metrics.jsonl").write_text(epoch)
    progress = {
        "host": "there", "pid": 4711, "engine": "ray", "time": time.time() - 1000, "epochs": 40,
        "epoch": 0, "step": 12, "steps_per_epoch": 10, "loss": 0.1, "accuracy": 0.9,
        "largest_logit": 2.0, "images_per_second": 100.0, "epochs_per_second": 0.5,
    }  # fmt: skip
    (folders[4] / "progress.json").write_text(json.dumps(progress))
    kinds = [state_of(folder).status for folder in folders]
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
