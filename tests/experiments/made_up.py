"""Records that no training made: runs that end where a test says."""

import json

from parfocal.experiments.run.events import Epoch, Failure
from parfocal.experiments.run.record import Recorder, Run
from parfocal.experiments.spec import RunSpec

# First failures' epochs here and in the paper, by gamma and threshold; None: none in 100 epochs.
CELLS = {
    (0.1, 0): (4, 3), (0.1, 1): (7, 4), (0.1, 2): (6, 8), (0.1, 3): (21, 21), (0.5, 0): (9, 9),
    (0.5, 1): (8, 10), (0.5, 2): (None, 14), (0.5, 3): (44, None),
}  # fmt: skip


def spec_of(gamma, threshold, **settings):
    """A run of the paper's MNIST classification."""
    return RunSpec().with_settings({"gamma": gamma, "threshold": threshold, **settings})


def run_of(spec, failure_epoch, first_loss=0.2, largest_logit=17.5):
    """A run that failed at an epoch, or went to its end."""
    count = spec.training.epochs if failure_epoch is None else failure_epoch
    epochs = tuple(Epoch(e, 10 * e + 10, first_loss / (e + 1), 0.9, 1.0 + e) for e in range(count))
    failure = None
    if failure_epoch is not None:
        step = 10 * failure_epoch + 3
        failure = Failure(
            failure_epoch, step, "gradient", 0.1, largest_logit, 12, 12, "7", None, -17.5
        )
    outcome = "finished" if failure is None else "failed"
    return Run(spec, epochs, failure, outcome, 10 * count)


def write(directory, run, *, sessions=()):
    """Its record, in a folder named by its digest; `sessions` are the lines of that file."""
    folder = directory / run.spec.digest
    with Recorder(folder, run.spec) as recorder:
        for epoch in run.epochs:
            recorder.epoch(epoch)
        if run.failure is not None:
            recorder.failure(run.failure)
        if run.outcome in ("interrupted", "stopped"):
            recorder.ended(run.outcome)
    if sessions:
        (folder / "sessions.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sessions))
    return folder
