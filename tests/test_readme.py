"""README: its length, and its numbers, which are those of the benchmarks and of the auditor."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(text, start):
    """The cells of the lines of a table that begin so."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_it_is_read_in_a_few_minutes():
    assert len(README.split()) <= 900


@pytest.mark.parametrize(
    ("shown", "measured"),
    [
        (("`sigmoid_focal_loss`, mean of 2^24", 0), ("sigmoid, float32, mean, 2^24, gamma 0.5", 0)),
        (("the same |", 0), ("sigmoid, float32, mean, 2^24, gamma 0.5", 1)),
        (("the same in bfloat16", 0), ("sigmoid, bfloat16, mean, 2^24", 0)),
        (("mean of 2^20", 0), ("sigmoid, float32, mean, 2^20", 0)),
        (("under `torch.compile`", 0), ("sigmoid, compiled, 2^24", 0)),
        (("`softmax_focal_loss`, (65536, 1000)", 0), ("softmax, mean, (65536, 1000)", 0)),
        (("segmentation maps", 0), ("softmax, mean, (4, 21, 512, 512)", 0)),
    ],
    ids=lambda pair: pair[0],
)
def test_times_are_those_of_the_benchmarks(shown, measured):
    """The ratio of each line."""
    results = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
    ratio = rows(results, measured[0])[measured[1]][3].split()[0]
    assert rows(README, shown[0])[shown[1]][-1] == ratio


# The auditor's lines of each library in the README's table.
AUDITED = {
    "torchvision": ["torchvision"],
    "MONAI": ["MONAI, sigmoid |", "MONAI, softmax |", "MONAI, softmax_focal_loss"],
    "kornia": ["kornia, binary", "kornia, multiclass"],
    "smp": ["segmentation_models_pytorch, binary", "segmentation_models_pytorch, multiclass"],
    "optax": ["optax"],
    "imbalanced-losses": ["imbalanced-losses, sigmoid", "imbalanced-losses, softmax"],
    "parfocal": ["parfocal, sigmoid", "parfocal, softmax"],
}


@pytest.mark.parametrize("library", AUDITED)
@pytest.mark.parametrize(
    ("start", "column", "what"),
    [
        ("NaN at gamma 0.5, float32", 3, "not finite from"),
        ("NaN at gamma 0.5, bfloat16", 5, "not finite from"),
        ("off by 1 % at gamma 2", 4, "> 1 % from"),
    ],
)
def test_faults_are_those_of_the_auditor(library, start, column, what):
    """The smallest logit over the library's losses; a word before it says which of them has it."""
    page = (ROOT / "docs" / "ecosystem.md").read_text(encoding="utf-8")
    audited = [rows(page, name)[0][column] for name in AUDITED[library]]
    logits = [
        float(number)
        for cell in audited
        if what in cell
        for number in re.findall(r"\d+\.?\d*", cell.partition(what)[2])
    ]
    names = next(row for row in rows(README, "") if "torchvision 0.29" in row)
    (shown,) = rows(README, start)
    cell = shown[next(i for i, name in enumerate(names) if name.startswith(library))]
    if not logits:
        assert cell == "never"
        return
    number = float(re.search(r"\d+\.?\d*", cell)[0])
    assert number == pytest.approx(min(logits), abs=0.06)
