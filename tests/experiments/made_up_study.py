"""A small study, and comparisons that no training made."""

import tomllib

from parfocal.experiments.study.bootstrap import Interval
from parfocal.experiments.study.comparison import Comparison, Difference, Row
from parfocal.experiments.study.spec import Objective, study_of

SPEC = """
title = "Two trainings of each objective on few digits and fewer scenes"
search_seed = 9
seeds = [0, 1]
draws = 50
references = ["cross-entropy"]
pairs = [["original", "exact"]]
[datasets.digits]
task = "digits"
source = "mnist5k"
images = 200
validation = 200
epochs = 6
batch_size = 10
rates = [3e-3, 1e-2]
[datasets.shapes]
task = "shapes"
images = 12
validation = 10
test = 12
width = 2
alpha = 0.25
epochs = 1
batch_size = 6
rates = [1e-2]
[objectives]
cross-entropy = {}
weighted = { weights = "balanced" }
exact = { gamma = 0.5, logits = "bfloat16" }
original = { loss = "original", gamma = 0.5, logits = "bfloat16" }
"""


def comparison_of(intervals):
    """A comparison of focal losses by name, of the given intervals on one data set."""
    objectives = {"cross-entropy": Objective()}
    objectives |= {f"focal {gamma}": Objective(gamma=gamma) for gamma in intervals}
    parts = {**tomllib.loads(SPEC), "pairs": [], "objectives": {}}
    parts["objectives"] = {name: {"gamma": one.gamma} for name, one in objectives.items()}
    study = study_of(parts).only(("digits",))
    means = dict.fromkeys(("average_precision", "ece", "ece_scaled", "balanced_accuracy"), 0.5)
    searched = {0.003: 0.5, 0.01: 0.4}
    rows = [Row("digits", name, 0.003, searched, means, 0, 10, 5.0, 0.0) for name in objectives]
    differences = [
        Difference(place, f"focal {gamma}", "cross-entropy", metric, Interval(*found))
        for gamma, found in intervals.items()
        for place in ("digits", None)
        for metric in ("average_precision", "ece", "ece_scaled")
    ]
    return Comparison(study, tuple(rows), tuple(differences))
