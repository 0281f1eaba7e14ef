"""Runs as TensorBoard reads them: a folder of events a run, made from records alone.

The same records give the same bytes. An event has no date of its own in a record, so that all of a
run bear that of its first session, or none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parfocal.experiments.run.record import Run, replacing
from parfocal.experiments.show.naming import experiment_of
from parfocal.experiments.show.provenance import session_start
from parfocal.experiments.show.report import Report, Row, outcome_text
from parfocal.experiments.show.tabulation import label, value_of, varying_settings
from parfocal.extras import needs

with needs("tensorboard", "parfocal report --tensorboard"):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard.summary import hparams, scalar, text

# TensorBoard reads files of any name that holds `tfevents`.
_FILE = "events.out.tfevents.parfocal"

# The longest name of a run's folder, with the beginning of its digest.
_NAME, _DIGEST = 120, 8


def write_events(report: Report, folder: Path) -> list[Path]:
    """Write the events of all runs: `folder`/EXPERIMENT/RUN, each named by what tells it apart.

    Scalars `loss`, `accuracy` and `largest |logit|` at the last step of each epoch; what became of
    the run as text; as hyperparameters the settings in which the runs of its experiment differ, and
    as metrics the last epoch's numbers.

    Args:
        report: what is known of the runs.
        folder: where to; a file of a former export is replaced.

    Returns:
        The files, in the order of the report's rows.

    Raises:
        DamagedRecordError: the sessions of a run can't be read.
    """
    experiments: dict[str, list[Row]] = {}
    for row in report.rows:
        experiments.setdefault(experiment_of(row.run.spec), []).append(row)
    varying = {
        name: varying_settings([row.run.spec for row in rows]) for name, rows in experiments.items()
    }
    written = []
    for row in report.rows:
        name = experiment_of(row.run.spec)
        path = folder / _portable(name) / _name(row.run, varying[name]) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, row, varying[name])
        written.append(path)
    return written


def _write(path: Path, row: Row, varying: list[str]) -> None:
    start = session_start(row.directory)
    time = start.timestamp() if start is not None else 0.0
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in _events(row, varying):
            event.wall_time = time
            writer.write(event.SerializeToString(deterministic=True))
        writer.flush()


def _events(row: Row, varying: list[str]) -> Iterator[Any]:
    run = row.run
    yield Event(file_version="brain.Event:2")
    for epoch in run.epochs:
        for name, value in _scalars(epoch.loss, epoch.accuracy, epoch.largest_logit).items():
            yield Event(step=epoch.step, summary=scalar(name, value))
    yield Event(step=run.steps, summary=text("outcome", outcome_text(row)))
    settings = {name: _plain(value_of(run.spec, name)) for name in varying}
    last = run.epochs[-1:]
    metrics = _scalars(last[0].loss, last[0].accuracy, last[0].largest_logit) if last else {}
    for summary in hparams(settings, metrics):
        yield Event(summary=summary)


def _scalars(loss: float, accuracy: float, largest_logit: float) -> dict[str, float]:
    return {"loss": loss, "accuracy": accuracy, "largest |logit|": largest_logit}


def _plain(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard takes it."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _name(run: Run, varying: list[str]) -> str:
    digest = run.spec.digest[:_DIGEST]
    return f"{_portable(label(run.spec, varying))[: _NAME - _DIGEST - 1]} {digest}"


def _portable(name: str) -> str:
    """A name of a folder on every system."""
    return re.sub(r"[^\w.,+() -]", "-", name)[:_NAME].strip()
