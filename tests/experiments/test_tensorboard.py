"""What a report writes for TensorBoard is what the records hold."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from experiments.made_up import run_of, spec_of, write
from parfocal.cli import cli

BEGAN = {"event": "began", "began": "2026-01-02T10:00:00+00:00"}


@pytest.fixture
def exported(tmp_path):
    """A run that failed, with a session, and one that didn't, without; and their events."""
    runs = [run_of(spec_of(0.1, 3), 4), run_of(spec_of(0.5, 3, loss="exact", epochs=3), None)]
    write(tmp_path / "runs", runs[0], sessions=[BEGAN])
    write(tmp_path / "runs", runs[1])
    folder = tmp_path / "events"
    command = ["report", str(tmp_path / "runs"), "--tensorboard", str(folder)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    found = {}
    for path in folder.glob("*/*/*tfevents*"):
        digest = path.parent.name.split()[-1]
        found[digest] = EventAccumulator(str(path.parent)).Reload()
    return {run.spec.digest[:8]: run for run in runs}, found, folder, command


def test_events_are_the_records(exported):
    """Each epoch's numbers at its step, the failure as text, the date of the session or none."""
    runs, found, _, _ = exported
    assert runs.keys() == found.keys()
    for digest, run in runs.items():
        events = found[digest]
        for tag, field in (
            ("loss", "loss"), ("accuracy", "accuracy"), ("largest |logit|", "largest_logit"),
        ):  # fmt: skip
            got = [(e.step, e.value) for e in events.Scalars(tag) if e.step]
            expected = [(e.step, pytest.approx(getattr(e, field), rel=1e-7)) for e in run.epochs]
            assert got == expected
        (text,) = events.Tensors("outcome/text_summary")
        words = text.tensor_proto.string_val[0].decode()
        if run.failure is None:
            assert (text.step, words) == (30, "no failure in 3 epochs")
            assert text.wall_time == 0
        else:
            assert text.step == 43
            assert words == ("gradient not finite in epoch 4, step 43, at largest |logit| 17.50")
            assert text.wall_time == datetime(2026, 1, 2, 10, tzinfo=UTC).timestamp()


def test_hyperparameters_are_what_varies(exported):
    """And nothing else."""
    runs, found, _, _ = exported
    for digest, run in runs.items():
        content = found[digest].summary_metadata["_hparams_/session_start_info"].plugin_data.content
        data = plugin_data_pb2.HParamsPluginData.FromString(content)
        values = {
            name: value.string_value or value.number_value
            for name, value in data.session_start_info.hparams.items()
        }
        objective = run.spec.objective
        assert values == {"objective.loss": objective.loss, "objective.gamma": objective.gamma}


def test_two_exports_are_the_same_bytes(exported):
    """Also the second into the folder of the first."""
    _, _, folder, command = exported
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) == 2
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
