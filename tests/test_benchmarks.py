"""The benchmarks' own code, where it is more than a clock: pages, and what runs on a GPU."""

import importlib.util
import sys
from pathlib import Path

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


def test_lines_measured_by_themselves_take_their_place(monkeypatch):
    """Old ones where they stood, new ones at the table's end, and the day of both."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / "losses.py"
    spec = importlib.util.spec_from_file_location("benchmarks_losses", path)
    losses = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, losses)
    spec.loader.exec_module(losses)
    page = "| a | b | old |\n| a | c | kept |\n| extra memory | d | kept |\n"
    rows = [("a", "b", "new"), ("e", "f", "new")]
    assert losses.with_rows(page, rows, "today") == (
        "| a | b | new |\n| a | c | kept |\n| e | f | new |\n| extra memory | d | kept |\n"
        "\nMeasured by themselves, today: a / b; e / f.\n"
    )


def test_the_recipe_has_the_measured_table():
    """docs/recipes.md repeats the table of benchmarks/linear.md."""
    page = (ROOT / "benchmarks" / "linear.md").read_text(encoding="utf-8")
    table = page[page.index("| way |") :].strip()
    assert table in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
