"""The benchmarks' own code, where it is more than a clock: pages, and what runs on a GPU."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def program(monkeypatch):
    """A file of benchmarks by name; they import each other by theirs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def session(program):
    """A dry run on a CPU, at small shapes."""
    return program("gpu_session").Session("cpu", program("gpu_report").TINY, None)


def verdicts(found):
    """Of each check whether what was found is within what is allowed."""
    for value in found["correct"].values():
        yield value[1] if isinstance(value, list) else value["slope"] <= value["allowed"]


@pytest.mark.parametrize(
    ("file", "check", "count"),
    [("gpu_linear", "linear_is_right", 6), ("gpu_checks", "compositions_are_right", 6)],
)
def test_checks_of_a_gpu_tell_right_from_wrong(file, check, count, program, session, monkeypatch):
    """They find our losses right; and wrong with logits that are off by a hundredth."""
    session.run(getattr(program(file), check))
    assert session.found["failed"] == {}
    assert list(verdicts(session.found)) == [True] * count
    module = program(file)
    for name in {"ours", "likelihood", "softmax_asymmetric"} & vars(module).keys():
        loss = getattr(module, name)
        monkeypatch.setattr(module, name, lambda x, *rest, loss=loss: loss(_off(x), *rest))
    session.run(getattr(module, check))
    assert list(verdicts(session.found)) == [False] * count


def _off(x):
    """What is a hundredth too large where float64, the truth of some checks, is what it is."""
    return x if x.dtype == torch.float64 else x * 1.01


def test_times_of_a_linear_map_end_with_their_own_budget(program, session, monkeypatch):
    """What is asked for later has no time left, and the session goes on."""
    gpu_linear = program("gpu_linear")
    session.run(gpu_linear.linear_times)
    measured = set(session.found["ms"])
    names = {f"{way} linear bfloat16 {session.size.linear}" for way in ("parfocal", "composed")}
    assert names <= measured
    monkeypatch.setattr(gpu_linear, "SECONDS", -1.0)
    session.run(gpu_linear.linear_times)
    assert set(session.found["failed"].values()) == {"no time was left"}
    assert set(session.found["failed"]) == measured
    assert not session.is_over


def test_rows_of_a_linear_map_divide_times_and_peaks(program):
    """Each row of the report finds the numbers of its kind."""
    gpu_report = program("gpu_report")
    size = gpu_report.Size()
    name = f"linear bfloat16 {size.linear}"
    found = {
        "ms": {f"parfocal {name}": 50.0, f"composed {name}": 100.0},
        "peak": {f"parfocal {name}": 1.5, f"composed {name}": 6.0},
    }
    text = gpu_report.report(found, size)
    assert f"| {name} / softmax_focal_loss of all logits | at most 1.35 | 0.5 | yes |" in text
    assert (
        f"| {name}, memory / softmax_focal_loss of all logits | at most 0.4 | 0.25 | yes |" in text
    )
    assert "in gradients | at most 1.55 | 1.5 | yes |" in text
    assert "| largest peak of a sum, above the inputs, in gradients | at most 1.05 | unmeas" in text


def test_lines_measured_by_themselves_take_their_place(program, tmp_path):
    """Old ones where they stood, new ones at the end, and the day of both; kept as they were."""
    results = program("results")

    def comparison(what, ratio, date):
        return results.Comparison(what, "x", 0.5, ratio, 0.25, 0.75, 12.0, None, date, "a machine")

    old = [comparison(*row, "old") for row in (("a", 0.3), ("b", 0.6), ("c", 0.5), ("d", 0.5))]
    new = [comparison("a", 0.123456, "new"), comparison("e", 0.5, "new")]
    results.write(results.update(old, new), tmp_path)
    again = results.read(tmp_path / "results.csv")
    assert [(row.what, row.ratio, row.date) for row in again] == [
        ("a", 0.1235, "new"), ("b", 0.6, "old"), ("c", 0.5, "old"), ("d", 0.5, "old"),
        ("e", 0.5, "new"),
    ]  # fmt: skip
    assert again[1] == old[1]
    page = (tmp_path / "results.md").read_text()
    assert "\n\na machine, old.\n\n" in page
    assert "| a | x | 0.5 | 0.12 (0.25 to 0.75) | 12 |  | yes |\n| b | x |" in page
    assert "| 0.60 (0.25 to 0.75) | 12 |  | **no** |" in page
    assert "Measured by themselves, new, a machine: a / x; e / x.\n" in page


def test_ratios_are_of_rounds(program):
    """Quartiles beside NumPy's of the same kind (Weibull's)."""
    results = program("results")
    ours, theirs = [1.0, 2.0, 4.0, 3.0, 9.0], [2.0, 2.0, 2.0, 2.0, 3.0]
    row = results.compare("a", "b", 1.0, results.Rounds(ours, theirs), "today", "here")
    ratios = np.array(ours) / np.array(theirs)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75], method="weibull")
    assert (row.low, row.ratio, row.high) == pytest.approx((low, middle, high), rel=1e-12)
    assert (row.ours_ms, row.theirs_ms) == (3.0, 2.0)


def test_the_page_of_results_is_that_of_its_record(program):
    results = program("results")
    assert results.PAGE.read_text(encoding="utf-8") == results.page(results.read())


def test_the_recipe_has_the_measured_table():
    """docs/recipes.md repeats the table of benchmarks/linear.md."""
    page = (ROOT / "benchmarks" / "linear.md").read_text(encoding="utf-8")
    table = page[page.index("| way |") :].strip()
    assert table in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
